"""The admin port of a scheduler in the test's own event loop, with its page."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
from aiohttp import web

from p2pd.admin.cluster import Cluster
from p2pd.admin.server import admin_runner
from scheduler.core.overview import Others, Overview
from scheduler.core.roster import HostFacts
from scheduler.core.scheduler import Scheduler
from tests.support.registry_server import PATIENCE_S

SECRET = "s3cret"


class Served:
    """A cluster that is served at `address`."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self.cluster = cluster
        self.address = address
        self.session = aiohttp.ClientSession(f"http://{address}")

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, aiohttp.typedefs.LooseHeaders]:
        async with self.session.get(path, headers=headers) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    async def json(self, path: str) -> Any:
        return json.loads((await self.get(path))[1])


@asynccontextmanager
async def served(core: Scheduler, *, names: frozenset[str] | None = None, **options: float) -> AsyncIterator[Served]:
    cluster = Cluster(core, **{"period_s": 0.01, **options})  # type: ignore[arg-type]
    runner = admin_runner(
        addresses={}, status=dict, scrape=bytes, not_ready=list, cluster=cluster, secret=SECRET, names=names
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(cluster.run())
        here = Served(cluster, f"{host}:{port}")
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield here
        finally:
            cluster.close()
            running.cancel()
            await here.session.close()
            await runner.cleanup()


class Fixed:
    """A scheduler whose overview the test sets."""

    def __init__(self, found: Overview) -> None:
        self.found = found
        self.asked = 0
        self.takes_s = 0.0

    def overview(self, now: float, expiring: frozenset[str], others: Others) -> Overview:  # noqa: ARG002  # as there
        self.asked += 1
        until = time.thread_time() + self.takes_s
        while time.thread_time() < until:
            pass
        return self.found

    def quarantined(self, now: float) -> list[Any]:  # noqa: ARG002
        return []

    def hosts_at(self, *_: object) -> tuple[int, list[HostFacts]]:
        return 0, []

    def as_scheduler(self) -> Scheduler:
        return cast("Scheduler", self)
