"""Logins that docker has left behind."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from p2pd.pull.docker_config import Login, docker_login

if TYPE_CHECKING:
    from pathlib import Path


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def write(directory: Path, content: object) -> dict[str, str]:
    (directory / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(directory)}


@pytest.mark.parametrize(
    ("key", "upstream"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("reg.example:5000", "reg.example:5000"),
        ("https://reg.example", "reg.example"),
        ("https://reg.example/v2/", "reg.example"),
    ],
)
def test_a_login_is_found_by_its_registry(tmp_path: Path, key: str, upstream: str) -> None:
    environ = write(tmp_path, {"auths": {key: auth("user:pass:word"), "other.example": auth("x:y")}})

    assert docker_login(upstream, environ) == Login("user", "pass:word")
    assert docker_login("third.example", environ) is None


def test_the_file_is_in_the_home_directory_by_default(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    write(tmp_path / ".docker", {"auths": {"reg.example": auth("user:word")}})

    assert docker_login("reg.example", {"HOME": str(tmp_path)}) == Login("user", "word")


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"auths": None},
        {"auths": []},
        {"auths": {"reg.example": {}}},
        {"auths": {"reg.example": None}},
        {"auths": {"reg.example": {"auth": 5}}},
        {"auths": {"reg.example": {"auth": "?"}}},
        {"auths": {"reg.example": auth("no colon")}},
        {"auths": {"reg.example": auth(":nobody")}},
        {"auths": {"reg.example": {"auth": "/w=="}}},
        {"credsStore": "secretservice"},
    ],
)
def test_a_file_of_another_form_has_no_login(tmp_path: Path, content: object) -> None:
    assert docker_login("reg.example", write(tmp_path, content)) is None


def test_no_file_has_no_login(tmp_path: Path) -> None:
    assert docker_login("reg.example", {"DOCKER_CONFIG": str(tmp_path)}) is None


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Login("user", "secret"))
