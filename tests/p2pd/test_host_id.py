"""The host's id: kept across restarts, and made anew where the file has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from p2pd.daemon.host_id import host_id


def test_it_is_the_same_after_a_restart(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert host_id(tmp_path / "host-id") == host_id(tmp_path / "host-id")
    assert logs == []
    assert [path.name for path in tmp_path.iterdir()] == ["host-id"]


def test_it_is_another_on_another_host(tmp_path: Path) -> None:
    assert host_id(tmp_path / "a") != host_id(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"\n", bytes(40), b"host \x00\x00", b"\xff\xfe", b"two words", b"x" * 2000])
def test_a_file_without_one_gets_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "host-id").write_bytes(content)
    with capture_logs() as logs:
        made = host_id(tmp_path / "host-id")
    assert [log["event"] for log in logs] == ["the file of the host id has none in it, a new one is made"]
    assert host_id(tmp_path / "host-id") == made


def test_one_that_cannot_be_kept_serves_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "host-id").mkdir()
    (tmp_path / "host-id" / "file").touch()
    with capture_logs() as logs:
        assert host_id(tmp_path / "host-id")
    assert [log["event"] for log in logs] == [
        "the file of the host id cannot be read, a new one is made",
        "the host id could not be kept, a restart changes it",
    ]
