"""Several real nodes in the test's own event loop, around one scheduler that can be stopped, and a registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from p2pd.daemon.node import serve
from peer.store import Store
from scheduler.core.events import Connected, Event, Instruction
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.shell.bounds import Bounds
from scheduler.shell.server import SchedulerServer
from tests.support.client import Reply, ask
from tests.support.node import LOOK_S, admin_headers, settings_for
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S

UPSTREAM = "reg.test"
REPOSITORY = "app"
MIB = 1 << 20


NEVER_S = 10 * PATIENCE_S

PATIENT = SchedulerSettings(opening_s=NEVER_S, lease_s=NEVER_S, orphan_s=15.0)
"""What hosts of a busy machine fetch is waited for: where bytes from the origin are counted, nobody else fetches it. A
lease whose holder is gone, or has not heard of it, is waited for in vain."""


class Apart(Scheduler):
    """Sees each host at an address of its own, as on a network: on loopback all hosts are one witness."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        if isinstance(event, Connected):
            number = sum(event.hello.host.encode()) % 65_536
            event = replace(event, seen_at=f"198.18.{number >> 8}.{number & 255}")
        return super().handle(event, now)


class RunningScheduler:
    """A scheduler at a port that stays the same, and nobody else's, when it is started again."""

    def __init__(
        self,
        settings: SchedulerSettings | None = None,
        bounds: Bounds | None = None,
        kind: type[Scheduler] = Scheduler,
    ) -> None:
        self.settings = settings or PATIENT
        self.bounds = bounds
        self._kind = kind
        self.core = kind(self.settings)
        self.server = SchedulerServer(self.core, bounds)
        self._port = free_port()
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """With nothing of what an earlier one knew."""
        self.core = self._kind(self.settings)
        self.server = SchedulerServer(self.core, self.bounds)
        self._port = await self._stack.enter_async_context(self.server.serving("127.0.0.1", self._port))

    async def stop(self) -> None:
        await self._stack.aclose()


GIVE_UP_S = 2.0
"""How long hosts ask an origin again that fails within a blob."""


@dataclass
class Host:
    """A running node; `peer` is its peer port."""

    mirror: str
    admin: str
    peer: str
    data: Path
    _stack: AsyncExitStack

    async def blob(self, digest: str, repository: str = REPOSITORY, **more: Any) -> Reply:
        return await ask(self.mirror, "GET", f"/v2/{repository}/blobs/{digest}", **more)

    async def manifest(self, reference: str) -> Reply:
        return await ask(self.mirror, "GET", f"/v2/{REPOSITORY}/manifests/{reference}")

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = (await ask(self.admin, "GET", "/status")).json
        return status

    async def cached(self) -> list[dict[str, Any]]:
        """What /cache lists."""
        rows: list[dict[str, Any]] = (await ask(self.admin, "GET", "/cache", admin_headers(self.data))).json
        return rows

    async def remove(self, digest: str) -> Reply:
        return await ask(self.admin, "DELETE", f"/cache/{digest}", admin_headers(self.data))

    async def stop(self) -> None:
        """End it in order."""
        await self._stack.aclose()


class Cluster:
    """Hosts that are added one by one; all end with the block of `cluster`."""

    def __init__(self, directory: Path, registry: ImageRegistry, scheduler: RunningScheduler) -> None:
        self.registry = registry
        self.scheduler = scheduler
        self._directory = directory
        self._stack = AsyncExitStack()
        self._count = 0

    async def add(
        self, *, schedulers: Sequence[str] | None = None, host_id: str | None = None, **options: object
    ) -> Host:
        """One more host; `options` are settings. `schedulers`: URLs instead of the cluster's scheduler."""
        self._count += 1
        data = self._directory / f"host-{self._count}"
        Store.open(data, max_bytes=1, min_free_bytes=0, ttl_s=0).close()
        (data / "host-id").write_text(host_id or f"host-{self._count}")
        urls = [self.scheduler.url] if schedulers is None else schedulers
        settings = settings_for(
            data,
            f"{UPSTREAM}={self.registry.url}",
            **{"scheduler": urls, "shutdown_grace_s": 1, "scheduler_wait_s": 40, **options},
        )
        stack = AsyncExitStack()
        self._stack.push_async_callback(stack.aclose)
        at = await stack.enter_async_context(serve(settings, list, give_up_s=GIVE_UP_S))
        host = Host(at["mirror"], at["admin"], at["peer"], data, stack)
        if schedulers is None:
            async with asyncio.timeout(PATIENCE_S):
                while not (await host.status())["swarm"]["scheduler_connected"]:  # noqa: ASYNC110 # only what it answers tells
                    await asyncio.sleep(LOOK_S)
        return host

    async def add_many(self, count: int, **options: object) -> list[Host]:
        return [await self.add(**options) for _ in range(count)]  # type: ignore[arg-type] # settings

    async def close(self) -> None:
        await self._stack.aclose()
        await self.scheduler.stop()

    def sent_bytes(self, digest: str, kind: str = "blobs") -> int:
        """What has left the origin of a blob."""
        return self.registry.sent[f"/v2/{REPOSITORY}/{kind}/{digest}"]


@asynccontextmanager
async def cluster(
    directory: Path,
    registry: ImageRegistry,
    settings: SchedulerSettings | None = None,
    bounds: Bounds | None = None,
    kind: type[Scheduler] = Scheduler,
) -> AsyncIterator[Cluster]:
    """A scheduler, and room for hosts."""
    scheduler = RunningScheduler(settings, bounds, kind)
    await scheduler.start()
    made = Cluster(directory, registry, scheduler)
    try:
        yield made
    finally:
        await made.close()


async def until_true(holds: Callable[[], bool]) -> None:
    """Wait for what nothing tells of; each look lets the loop turn."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 # there is no event to wait for
            await asyncio.sleep(LOOK_S)


async def together(replies: Sequence[Awaitable[Reply]]) -> list[Reply]:
    """All at once, in bounded time."""
    async with asyncio.timeout(2 * PATIENCE_S):
        return list(await asyncio.gather(*replies))


async def held_bytes(host: Host, digest: str, least: int) -> None:
    """Wait until a host holds that much of a blob; each look is a request, so the loop turns meanwhile."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            blobs = await host.cached()
            if any(blob["digest"] == digest and blob["held_bytes"] >= least for blob in blobs):
                return
