"""`p2pd token` and `p2pd host`, beside a scheduler's data directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pd.cli.app import app
from scheduler.trust.authority import Authority
from scheduler.trust.certificates import new_key, request_certificate
from scheduler.trust.token import parse_token


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    opened = Authority.open(tmp_path / "scheduler", time.time())
    yield opened
    opened.close()


def p2pd(data: Path, *words: str, **environ: str) -> Result:
    return CliRunner().invoke(app, [*words, "--data", str(data), "--config", os.devnull], env=environ or None)


def create(data: Path, *words: str) -> str:
    return p2pd(data, "token", "create", *words).stdout.strip()


def join(authority: Authority, token: str, host: str) -> None:
    authority.enroll(token, host, request_certificate(new_key()), time.time())


def test_a_token_is_printed_once(tmp_path: Path, authority: Authority) -> None:
    result = p2pd(tmp_path, "token", "create", "--ttl", "2h", "--uses", "3", "--note", "rack 7")
    token = parse_token(result.stdout)
    assert result.stdout.count("\n") == 1, "what is printed can be piped"
    assert "Good for 2h, for 3 hosts." in result.stderr
    assert "--join TOKEN" in result.stderr
    join(authority, token.text, "a")
    listed = p2pd(tmp_path, "token", "ls").stdout.splitlines()
    assert listed[0].split() == ["TOKEN", "STATE", "EXPIRES", "LEFT", "AGE", "NOTE"]
    assert listed[1].split()[:3] == [token.id, "good", "in"]
    assert listed[1].endswith("rack 7")
    assert token.text.split("_")[2] not in "".join(listed)


def test_the_defaults_are_a_day_and_any_number(tmp_path: Path, authority: Authority) -> None:
    told = json.loads(p2pd(tmp_path, "token", "create", "--json").stdout)
    assert parse_token(told["token"]).id == told["id"]
    assert told["uses"] is None
    assert 86_300 < told["expires"] - time.time() <= 86_400
    create(tmp_path, "--ttl", "0")
    (first, second) = json.loads(p2pd(tmp_path, "token", "ls", "--json").stdout)
    assert (first["uses_left"], second["expires"]) == (None, None)
    assert authority.cluster


@pytest.mark.parametrize("words", [("--ttl", "soon"), ("--uses", "-1"), ("--note", "a\nb"), ("--note", "a" * 101)])
def test_what_is_wrong_is_used_wrongly(tmp_path: Path, authority: Authority, words: tuple[str, ...]) -> None:
    assert p2pd(tmp_path, "token", "create", *words).exit_code == 2
    assert authority.ledger.tokens() == []


def test_tokens_are_revoked_by_their_id(tmp_path: Path, authority: Authority) -> None:
    token = parse_token(create(tmp_path))
    result = p2pd(tmp_path, "token", "revoke", token.id, "nothere2")
    assert (result.exit_code, result.stdout) == (1, f"revoked {token.id}\n")
    assert result.stderr == "p2pd: there is no join token nothere2: see `p2pd token ls`\n"
    assert "revoked" in p2pd(tmp_path, "token", "ls").stdout
    other = create(tmp_path)
    assert p2pd(tmp_path, "token", "revoke", other).stdout == f"revoked {parse_token(other).id}\n", "pasted whole"
    assert all(each.revoked for each in authority.ledger.tokens())


def test_hosts_are_listed_and_revoked(tmp_path: Path, authority: Authority) -> None:
    token = create(tmp_path)
    for name in ("a-host", "another"):
        join(authority, token, name)
    listed = p2pd(tmp_path, "host", "ls").stdout.splitlines()
    assert listed[0].split()[:3] == ["HOST", "STATE", "ADDRESS"]
    assert [line.split()[:2] for line in listed[1:]] == [["a-host", "away"], ["another", "away"]]
    assert all(line.split()[-3:] == ["24h", "left", "-"] for line in listed[1:])
    result = p2pd(tmp_path, "host", "revoke", "a-host", "stranger")
    assert (result.exit_code, result.stdout) == (1, "revoked a-host\n")
    assert f"Its join token can be used again: p2pd token revoke {parse_token(token).id}" in result.stderr
    assert "there is no host stranger" in result.stderr
    assert p2pd(tmp_path, "host", "revoke", "stranger", "--unknown").exit_code == 0
    assert authority.ledger.revoked(time.time()) == {"a-host", "stranger"}
    told = {each["id"]: each["revoked"] for each in json.loads(p2pd(tmp_path, "host", "ls", "--json").stdout)}
    assert told["a-host"] is not None
    assert told["another"] is None
    assert p2pd(tmp_path, "host", "ls").stdout.splitlines()[1].split()[:2] == ["a-host", "revoked"]


@pytest.mark.parametrize("words", [("token", "create"), ("token", "ls"), ("host", "ls"), ("host", "revoke", "a")])
def test_without_a_scheduler_that_has_run_there_is_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = p2pd(tmp_path / "data", *words)
    assert result.exit_code == 1
    assert "start `p2pd scheduler` with this --data first" in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_join_token_is_never_shown(tmp_path: Path) -> None:
    result = p2pd(tmp_path, "run", P2PD_JOIN="p2pd1_secret with spaces")
    assert result.exit_code == 2
    assert "P2PD_JOIN: expected a join token" in result.stderr
    assert "secret" not in result.stderr
