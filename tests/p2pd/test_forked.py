"""A daemon of the tests that is forked is one that was started: seen from outside, and by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from p2pd.demo.process import DaemonProcess, command
from tests.support.forked import Forked, ForkedProcess
from tests.support.ports import free_port
from tests.support.registry_server import PATIENCE_S

pytestmark = pytest.mark.parametrize("start", [DaemonProcess, ForkedProcess])


def signals_of(process: Path) -> list[str]:
    """Which it blocks, and which it ignores: some are inherited, as in a job of a shell's background."""
    return [line for line in (process / "status").read_text().splitlines() if line.startswith(("SigBlk", "SigIgn"))]


def flags(data: Path) -> dict[str, object]:
    return {"data": data, "mirror": "127.0.0.1:0", "admin": "127.0.0.1:0", "upstream": "reg.test=http://127.0.0.1:1"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_how_it_ends(start: type[DaemonProcess], tmp_path: Path, number: int, code: int) -> None:
    daemon = start(command("run", flags(tmp_path)))
    daemon.wait_for_event("ready")
    assert daemon.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(0)
    daemon.process.send_signal(number)
    assert daemon.wait(PATIENCE_S) == daemon.process.poll() == code
    assert not daemon.other_lines
    daemon.process.kill()  # nobody is hit by that


@pytest.mark.parametrize(("flag", "code"), [({"data": "file"}, 1), ({"dat": ""}, 2)])
def test_its_exit_code_and_what_it_says(
    start: type[DaemonProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: dict[str, object], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    given = command("run", {**flags(tmp_path), **flag})
    daemon = start(given)
    assert daemon.wait(PATIENCE_S) == code
    done = subprocess.run(given, stderr=subprocess.PIPE, text=True, check=False)
    said = [line.strip() for line in done.stderr.splitlines() if not line.startswith("{")]  # lines of its log
    assert (list(daemon.other_lines), code) == (said, done.returncode)


def test_its_parent_group_environment_directory_and_streams(
    start: type[DaemonProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    given = {name: value for name, value in flags(Path("data")).items() if name != "admin"}
    daemon = start(command("run", given), {"P2PD_ADMIN": f"127.0.0.1:{port}"})
    try:
        assert daemon.wait_for_event("ready")["admin"] == f"127.0.0.1:{port}"
        process = Path(f"/proc/{daemon.process.pid}")
        group = (process / "stat").read_text().rpartition(")")[2].split()[1:4]
        assert group == [str(number) for number in (os.getpid(), os.getpgrp(), os.getsid(0))]
        assert (process / "cwd").readlink() == tmp_path
        assert (tmp_path / "data").is_dir()
        assert [(process / f"fd/{number}").readlink() for number in (0, 1)] == [
            Path(f"/proc/self/fd/{number}").readlink() for number in (0, 1)
        ]
        assert signals_of(process) == signals_of(Path("/proc/self"))
    finally:
        daemon.process.kill()
        daemon.wait()


def test_another_path_is_executed(start: type[DaemonProcess], tmp_path: Path) -> None:
    """Of modules, or of libraries."""
    (tmp_path / "p2pd").mkdir()
    (tmp_path / "p2pd/__init__.py").touch()
    (tmp_path / "p2pd/__main__.py").write_text("import sys; sys.exit('another')\n")
    daemon = start(command("run", {}), {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"})
    assert not isinstance(daemon.process, Forked)
    assert daemon.wait(PATIENCE_S) == 1
    assert list(daemon.other_lines) == ["another"]
