"""Nodes and schedulers in processes of their own.

They can be killed as a machine is that loses its power: without a last word.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pd.demo.process import DaemonProcess, command
from tests.support.client import Reply, ask
from tests.support.forked import ForkedProcess
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import REPOSITORY, UPSTREAM, Cluster, until_true


class HostProcess:
    """A running node of a swarm."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self.mirror, self.admin = (str(daemon.wait_for_event("ready")[name]) for name in ("mirror", "admin"))

    async def blob(self, digest: str) -> Reply:
        return await ask(self.mirror, "GET", f"/v2/{REPOSITORY}/blobs/{digest}")

    async def sent_bytes(self) -> int:
        """What it has sent to other hosts."""
        return int((await ask(self.admin, "GET", "/status")).json["swarm"]["sent_bytes"])

    def kill(self) -> None:
        """Its connections end because the system closes them, and nothing is said on any."""
        self._daemon.process.kill()

    def freeze(self) -> None:
        """Its connections stay, and nothing more comes on any: so it looks when its network is gone."""
        self._daemon.process.send_signal(signal.SIGSTOP)


@asynccontextmanager
async def host_process(swarm: Cluster, directory: Path, **options: object) -> AsyncIterator[HostProcess]:
    """One more host of the swarm; `options` are settings."""
    settings = {
        "data": directory / "data",
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "peer": "127.0.0.1:0",
        "scheduler": swarm.scheduler.url,
        "upstream": f"{UPSTREAM}={swarm.registry.url}",
        "min_free_bytes": 0,
        **options,
    }
    hosts = swarm.scheduler.core.statistics().hosts
    daemon = await asyncio.to_thread(ForkedProcess, command("run", settings))
    try:
        await asyncio.to_thread(daemon.wait_for_event, "ready")
        await until_true(lambda: swarm.scheduler.core.statistics().hosts > hosts)
        yield HostProcess(daemon)
    finally:
        daemon.process.kill()
        await asyncio.to_thread(daemon.wait)


@dataclass
class Process:
    """A daemon: `at` has the addresses that it listens on."""

    daemon: DaemonProcess
    at: dict[str, str]

    async def blob(self, digest: str) -> Reply:
        return await ask(self.at["mirror"], "GET", f"/v2/{REPOSITORY}/blobs/{digest}")

    async def swarm(self) -> dict[str, Any]:
        told: dict[str, Any] = (await ask(self.at["admin"], "GET", "/status")).json["swarm"]
        return told

    async def scheduler(self) -> dict[str, Any]:
        """What a scheduler says of itself."""
        told: dict[str, Any] = (await ask(self.at["admin"], "GET", "/status")).json["scheduler"]
        return told

    async def until_connected(self, connected: bool = True) -> None:
        while (await self.swarm())["scheduler_connected"] != connected:  # noqa: ASYNC110 # another process
            await asyncio.sleep(0.05)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.daemon.events if each["event"] == event]


async def started(
    stack: AsyncExitStack,
    argv: list[str],
    environ: Mapping[str, str] | None = None,
    start: type[DaemonProcess] = ForkedProcess,
) -> Process:
    """A daemon that is ready. It ends with `stack`, and all that it has logged are events."""
    daemon = await asyncio.to_thread(start, argv, environ)

    async def end() -> None:
        daemon.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(daemon.wait, PATIENCE_S)
        assert not daemon.other_lines, list(daemon.other_lines)

    stack.push_async_callback(end)
    return Process(daemon, await asyncio.to_thread(daemon.wait_for_event, "ready"))
