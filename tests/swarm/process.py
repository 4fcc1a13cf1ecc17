"""A node in a process of its own, which can be killed as a machine is that loses its power: without a last word."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from p2pd.demo.process import DaemonProcess, command
from tests.support.client import Reply, ask
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
    daemon = await asyncio.to_thread(DaemonProcess, command("run", settings))
    try:
        await asyncio.to_thread(daemon.wait_for_event, "ready")
        await until_true(lambda: swarm.scheduler.core.statistics().hosts > hosts)
        yield HostProcess(daemon)
    finally:
        daemon.process.kill()
        await asyncio.to_thread(daemon.wait)
