"""A scheduler and a node as processes, for preheats."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.demo.process import command
from tests.support.daemon_process import Daemon, ForkedDaemon
from tests.support.ports import free_port
from tests.support.registry_server import PATIENCE_S


class Scheduler:
    """A scheduler that comes back at its own address. A call is `p2pd preheat` on its machine."""

    def __init__(self, directory: Path, **more: object) -> None:
        self._directory = directory
        self.data = directory / "scheduler"
        self._more = more
        self.listen, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.start()

    def start(self) -> None:
        flags = {"data": self.data, "listen": self.listen, "admin": self.admin}
        flags |= self._more
        self.daemon = ForkedDaemon(self._directory, command("scheduler", flags))
        ready = self.daemon.wait_for_event("ready")
        self.listen, self.admin = ready["listen"], ready["admin"]

    def __call__(self, *words: str) -> Result:
        return self.run("preheat", *words)

    def run(self, *words: str) -> Result:
        """A command on its machine."""
        where = ["--admin", self.admin, "--data", str(self.data)]
        return CliRunner().invoke(app, [*words, *where])

    def job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("--show", name, "--json").output)
        return found

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("--list", "--json").output)
        return found

    def has_hosts(self, count: int) -> bool:
        with self.daemon.get_admin("/hosts") as answer:
            return len(json.load(answer)) == count


def node_of(directory: Path, scheduler: Scheduler | list[str], registry: str, **more: object) -> Daemon:
    """A node of a scheduler, or of several at these URLs, whose upstream `reg.test` is the registry at that URL."""
    (directory / "node").mkdir(mode=0o700, exist_ok=True)
    flags = {
        "data": directory / "node",
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "peer": "127.0.0.1:0",
        "scheduler": scheduler if isinstance(scheduler, list) else f"http://{scheduler.listen}",
        "upstream": f"reg.test={registry}",
        "min-free-bytes": 0,
        **more,
    }
    daemon = ForkedDaemon(directory, command("run", flags))
    daemon.wait_for_event("ready")
    return daemon


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    ends = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends, "in vain"
        time.sleep(0.05)
