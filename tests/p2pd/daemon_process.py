"""A daemon as a process: started as systemd would, with what it logs and what it tells the service manager."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.peer.registry_server import PATIENCE_S


def assert_fails(argv: list[str], pattern: str) -> None:
    """It says in one line that it cannot start, and ends with code 1: no traceback."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(pattern, line), line
    assert (done.returncode, done.stdout) == (1, "")


@dataclass
class Daemon:
    """A command as systemd would start it. What it logs is in `events`; `said` is what it told the service manager."""

    process: subprocess.Popen[str]
    notified: socket.socket
    events: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _logged: threading.Condition = field(default_factory=threading.Condition)
    _reading: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    @classmethod
    def start(cls, tmp_path: Path, argv: list[str]) -> Self:
        """Start `argv`, with the socket of the service manager in `tmp_path`."""
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = tmp_path / f"notify-{len(list(tmp_path.iterdir()))}"
        manager.bind(str(path))
        manager.settimeout(PATIENCE_S)
        environ = {**os.environ, "NOTIFY_SOCKET": str(path)}
        process = subprocess.Popen(argv, env=environ, stderr=subprocess.PIPE, text=True)
        return cls(process, manager)

    def wait_for(self, message: str) -> None:
        """Wait until the service manager is told `message`."""
        while message not in self.said:
            self.said.append(self.notified.recv(4096).decode())

    def wait_for_event(self, name: str) -> dict[str, Any]:
        """Wait until it logs an event of this name, and return that."""
        with self._logged:
            assert self._logged.wait_for(lambda: any(each["event"] == name for each in self.events), PATIENCE_S)
        return next(each for each in self.events if each["event"] == name)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(PATIENCE_S)
        self._reading.join(PATIENCE_S)
        return code

    def address(self, name: str) -> tuple[str, int]:
        host, _, port = self.wait_for_event("ready")[name].rpartition(":")
        return host, int(port)

    def get(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        """An answer of the mirror's, whose body is still to be read."""
        return self._get("mirror", path, headers)

    def get_admin(self, path: str) -> http.client.HTTPResponse:
        return self._get("admin", path)

    def _get(self, name: str, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(*self.address(name), timeout=PATIENCE_S)
        connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
        return connection.getresponse()

    def close(self) -> None:
        self.process.kill()
        self.wait()
        self.notified.close()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._logged:
                self.events.append(json.loads(line))
                self._logged.notify_all()
