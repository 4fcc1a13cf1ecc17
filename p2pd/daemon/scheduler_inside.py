"""The scheduler inside a node, where none is named: its port, its preheats, and what the admin port shows of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aiohttp import web
from prometheus_client.registry import Collector

from p2pd.admin.cluster import Cluster
from p2pd.admin.predict_metrics import PredictMetrics
from p2pd.admin.scheduler_metrics import SchedulerMetrics
from p2pd.config.settings import Settings
from p2pd.config.values import Address
from p2pd.daemon.listeners import scheduling
from p2pd.daemon.preheating import SchedulerPreheats
from p2pd.daemon.reach import Reach, reach_of
from p2pd.daemon.wiring import connections_for_blobs
from peer.tasks import BackgroundTasks
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.shell.server import SchedulerServer


class SchedulerInside:
    """A scheduler for hosts without certificates."""

    def __init__(self, settings: Settings) -> None:
        self._core = Scheduler(scheduling_of(settings))
        self._server = SchedulerServer(self._core)
        self.preheats = SchedulerPreheats(settings)
        self.cluster = Cluster(self._core)

    @asynccontextmanager
    async def serving(self, address: Address) -> AsyncIterator[str]:
        """Serve hosts at the address until the block ends; yields the URL for this node. Raises ListenError."""
        async with scheduling(self._server, address) as at:
            if reach_of(at.host) is Reach.NOWHERE:  # it listens at all addresses of one family
                at = Address("::1" if ":" in at.host else "127.0.0.1", at.port)
            yield f"http://{at}"

    def preheating(self, tasks: BackgroundTasks) -> AbstractAsyncContextManager[Sequence[web.RouteDef]]:
        """Take orders of preheats until the block ends; yields the routes of the admin port. Raises P2pdError."""
        return self.preheats.running(self._core, self._server, tasks)

    def collectors(self) -> tuple[Collector, ...]:
        """The metrics that only a scheduler has."""
        return SchedulerMetrics(self._core), PredictMetrics(self.preheats.predict_statistics)


def scheduling_of(settings: Settings) -> SchedulerSettings:
    """The settings of a scheduler, inside a node or alone.

    All hosts together keep to the origin limits that the keys set, and each host to its share for blobs. A host waits
    for the other hosts' words on a tag for `scheduler_wait_s`; they have half of that time to tell.
    """
    return SchedulerSettings(
        leases_per_blob=settings.connections_per_blob,
        leases_per_host=connections_for_blobs(settings),
        leases_per_origin=settings.connections_per_origin,
        tag_tell_s=settings.scheduler_wait_s / 2,
        tag_ttl_s=settings.tag_ttl_s,
        hears_pulls=settings.pull_history > 0,
    )
