"""A daemon as a process: started as systemd would, with what it logs and what it tells the service manager."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

from p2pd.demo.process import DaemonProcess
from tests.support.forked import ForkedProcess
from tests.support.registry_server import PATIENCE_S


def assert_fails(argv: list[str], pattern: str) -> None:
    """It says in one line that it cannot start, and ends with code 1: no traceback."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(pattern, line), line
    assert (done.returncode, done.stdout) == (1, "")


class Daemon(DaemonProcess):
    """A command as systemd would start it, whose socket is in `directory`. `said` is what came there."""

    def __init__(self, directory: Path, argv: list[str]) -> None:
        self.said: list[str] = []
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = directory / f"notify-{len(list(directory.iterdir()))}"
        self._manager.bind(str(path))
        self._manager.settimeout(PATIENCE_S)
        super().__init__(argv, {"NOTIFY_SOCKET": str(path)})

    def wait_for(self, message: str) -> None:
        """Wait until the service manager is told `message`."""
        while message not in self.said:
            self.said.append(self._manager.recv(4096).decode())

    def address(self, name: str) -> tuple[str, int]:
        host, _, port = self.wait_for_event("ready")[name].rpartition(":")
        return host, int(port)

    def get(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        """An answer of the mirror's, whose body is still to be read."""
        return self._get("mirror", path, headers)

    def get_admin(self, path: str) -> http.client.HTTPResponse:
        return self._get("admin", path)

    def admin_json(self, path: str) -> tuple[int, Any]:
        """The status and the object that the admin port answers."""
        with self.get_admin(path) as response:
            return response.status, json.load(response)

    def _get(self, name: str, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(*self.address(name), timeout=PATIENCE_S)
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        return connection.getresponse()

    def wait(self, within_s: float = PATIENCE_S) -> int:
        return super().wait(within_s)

    def close(self) -> None:
        """End it; all that it has logged are events."""
        self.process.kill()
        self.wait()
        self._manager.close()
        assert not self.other_lines


class ForkedDaemon(ForkedProcess, Daemon):
    """For a test that is not about the process itself: it starts twenty times sooner."""
