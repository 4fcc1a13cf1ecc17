"""The host id: the same after every restart, and never that of another host."""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from p2pd.daemon import host_id as module
from p2pd.daemon.host_id import host_id, renew


@pytest.fixture
def machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "machine-id"
    file.write_text("aaaa\n")
    monkeypatch.setattr(module, "MACHINE_ID", file)
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.mark.usefixtures("machine_id")
def test_it_stays(data: Path) -> None:
    first = host_id(data / "host-id")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", first)
    assert host_id(data / "host-id") == first
    data.rename(data.with_name("moved"))
    assert host_id(data.with_name("moved") / "host-id") == first


@pytest.mark.usefixtures("machine_id")
def test_a_copied_directory_has_another(data: Path) -> None:
    first = host_id(data / "host-id")
    shutil.copytree(data, copy := data.with_name("copy"))
    second = host_id(copy / "host-id")
    assert second != first
    assert host_id(copy / "host-id") == second
    assert host_id(data / "host-id") == first


def test_a_clone_of_the_machine_has_another(data: Path, machine_id: Path) -> None:
    first = host_id(data / "host-id")
    machine_id.write_text("bbbb\n")
    assert host_id(data / "host-id") != first


@pytest.mark.parametrize("how", ["empty", "absent"])
def test_without_a_machine_id_the_host_name_tells(
    data: Path, machine_id: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    machine_id.write_text("") if how == "empty" else machine_id.unlink()
    first = host_id(data / "host-id")
    assert host_id(data / "host-id") == first
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert host_id(data / "host-id").startswith("another-")


@pytest.mark.usefixtures("machine_id")
def test_an_id_without_a_fingerprint_is_kept_and_given_one(data: Path) -> None:
    file = data / "host-id"
    file.write_text("old-id\n")
    assert host_id(file) == "old-id"
    shutil.copytree(data, copy := data.with_name("copy"))
    assert host_id(copy / "host-id") != "old-id"


@pytest.mark.usefixtures("machine_id")
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", bytes(40), b"host \x00\x00", b"x" * 65, b"a b\n", b"\n\n"])
def test_what_is_no_id_is_replaced(data: Path, content: bytes) -> None:
    (data / "host-id").write_bytes(content)
    assert host_id(data / "host-id") == host_id(data / "host-id")


@pytest.mark.usefixtures("machine_id")
def test_an_id_is_renewed_for_good(data: Path) -> None:
    first = host_id(data / "host-id")
    second = renew(data / "host-id")
    assert second != first
    assert host_id(data / "host-id") == second


@pytest.mark.usefixtures("machine_id")
def test_an_id_that_cannot_be_kept_serves(data: Path) -> None:
    (data / "host-id").mkdir()
    assert host_id(data / "host-id")


@pytest.mark.usefixtures("machine_id")
def test_what_is_no_file_is_replaced(data: Path) -> None:
    """A link is not followed, and a pipe is not waited for."""
    (data / "elsewhere").write_text("elsewhere\n")
    (data / "host-id").symlink_to("elsewhere")
    assert host_id(data / "host-id") != "elsewhere"
    (data / "host-id").unlink()
    os.mkfifo(data / "host-id")
    assert host_id(data / "host-id") == host_id(data / "host-id")
