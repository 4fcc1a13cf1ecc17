"""What tests keep for later runs is made once, whole, and by one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.paths import cache_directory, kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_directory()


def make(workshop: Path) -> Path:
    (made := workshop / "made").mkdir()
    (made / "file").write_text("whole")
    return made


def never(workshop: Path) -> Path:
    raise AssertionError(f"{workshop} is not needed")


def whole(directory: Path) -> bool:
    return (directory / "file").read_text() == "whole"


def test_it_is_made_once(cache: Path) -> None:
    assert kept("name", make) == cache / "name"
    assert whole(kept("name", never, whole))
    assert {path.name for path in cache.iterdir()} == {"name", "name.lock"}


def test_what_is_not_usable_is_made_anew(cache: Path) -> None:
    (kept("name", make) / "file").write_text("half")
    assert whole(kept("name", make, whole))


def test_nothing_is_left_of_what_could_not_be_made(cache: Path) -> None:
    with pytest.raises(AssertionError, match="is not needed"):
        kept("name", never)
    assert [path.name for path in cache.iterdir()] == ["name.lock"]
