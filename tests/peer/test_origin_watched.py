"""Values made of files that change: looked at now and then, and kept while the files are of no use."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.origin.watched import Watched
from tests.peer.origin_fixtures import StillClock


def text_of(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read") from error
    if not text:
        raise ValueError(f"{path.name} is empty")
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "value"
    file.write_text("one")
    return file


def test_a_change_is_seen_within_a_second(file: Path) -> None:
    clock = StillClock()
    watched = Watched(file, lambda: text_of(file), clock)
    file.write_text("other")
    assert watched.get() == "one"
    clock.pass_s(1.0)
    assert watched.get() == "other"


def test_a_look_is_at_once(file: Path) -> None:
    watched = Watched(file, lambda: text_of(file), StillClock())
    assert not watched.look()
    file.write_text("other")
    assert watched.look()
    assert not watched.look()
    assert watched.get() == "other"


def test_it_stays_while_the_file_is_of_no_use(file: Path) -> None:
    watched = Watched(file, lambda: text_of(file), StillClock())
    with capture_logs() as logs:
        file.write_text("")
        assert not watched.look()
        assert not watched.look()
        file.unlink()
        assert not watched.look()
    assert watched.get() == "one"
    assert [log["reason"] for log in logs] == ["value is empty", "value cannot be read"]
    file.write_text("two")
    assert watched.look()


def test_a_link_that_is_swapped_is_another_file(tmp_path: Path) -> None:
    """As a mounted Secret of Kubernetes is: `value` leads through `..data` to a directory that is replaced."""
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "value").write_text(number)
    (tmp_path / "..data").symlink_to("1")
    file = tmp_path / "value"
    file.symlink_to("..data/value")
    watched = Watched(file, lambda: text_of(file), StillClock())
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert watched.look()
    assert watched.get() == "2"


def test_a_directory_changes_with_its_files(tmp_path: Path) -> None:
    watched = Watched(tmp_path, lambda: sorted(each.read_text() for each in tmp_path.iterdir()), StillClock())
    (tmp_path / "a").write_text("a")
    assert watched.look()
    (tmp_path / "a").write_text("bb")
    assert watched.look()
    assert watched.get() == ["bb"]


def test_the_first_time_must_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Watched(tmp_path / "none", lambda: text_of(tmp_path / "none"), StillClock())
