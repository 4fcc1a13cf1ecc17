"""What systemd is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from p2pd.daemon.sdnotify import Notifier
from tests.support.registry_server import PATIENCE_S


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's end, and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@p2pd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listening.settimeout(PATIENCE_S)
        yield listening, name


def test_what_is_said(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("12 blobs\n3 clients")
    notifier.alive()
    notifier.stopping()
    said = [listening.recv(4096) for _ in range(4)]
    assert said == [b"READY=1", b"STATUS=12 blobs 3 clients", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize(
    "name", [None, "", "/nonexistent/notify", "vsock:2:1", "@" + "x" * 300, "/" + "x" * 300, "/a\0b"]
)
def test_nobody_listens(name: str | None) -> None:
    notifier = Notifier({} if name is None else {"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("\udcff")


def test_a_manager_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    filler.sendto(b"x", name)
        Notifier({"NOTIFY_SOCKET": name}, send_timeout_s=0.01).alive()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "me"}, None),
    ],
)
def test_how_often_the_watchdog_is_told(environ: dict[str, str], interval_s: float | None) -> None:
    assert Notifier(environ).watchdog_interval_s == interval_s
