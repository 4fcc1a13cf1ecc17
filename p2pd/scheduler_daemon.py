"""The scheduler alone, as a daemon: where hosts join, and an admin port.

It keeps nothing on disk: after a restart the hosts connect again, and tell all that they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import uvloop
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pd.admin_port import admin_runner
from p2pd.config import Settings
from p2pd.life import Daemon, NotReady, live
from p2pd.listening import listening, scheduling
from p2pd.metrics import metrics_of
from scheduler.core.scheduler import Scheduler
from scheduler.shell.server import SchedulerServer


def run(settings: Settings) -> int:
    """Run a scheduler until a signal ends it; the exit code. Raises P2pdError when it cannot start."""
    return live(Daemon("p2pd.scheduler", partial(serve, settings), headline="listen"), uvloop.new_event_loop)


@asynccontextmanager
async def serve(settings: Settings, not_ready: NotReady) -> AsyncIterator[dict[str, str]]:
    """A running scheduler; yields the addresses that it listens on. Raises ListenError."""
    core = Scheduler()
    addresses: dict[str, str] = {}
    admin = admin_runner(
        addresses=addresses,
        status=lambda: {"scheduler": dataclasses.asdict(core.statistics())},
        scrape=partial(generate_latest, metrics_of(_Statistics(core))),
        not_ready=not_ready,
    )
    async with listening(admin, settings.admin) as admin_at, scheduling(SchedulerServer(core), settings.listen) as at:
        addresses |= {"listen": str(at), "admin": str(admin_at)}
        yield addresses


class _Statistics(Collector):
    """Turns the scheduler's statistics into metrics at each scrape."""

    def __init__(self, core: Scheduler) -> None:
        self._core = core

    def collect(self) -> Iterator[Metric]:
        now = self._core.statistics()
        yield GaugeMetricFamily("p2pd_scheduler_hosts", "Hosts that are connected.", value=now.hosts)
        yield GaugeMetricFamily("p2pd_scheduler_swarms", "Blobs that a host wants or holds.", value=now.swarms)
        yield GaugeMetricFamily("p2pd_scheduler_members", "Memberships of hosts in swarms.", value=now.members)
        yield GaugeMetricFamily("p2pd_scheduler_leases_active", "Leases not fulfilled yet.", value=now.leases)
        yield CounterMetricFamily("p2pd_scheduler_leases", "Leases that were given.", value=now.leases_given)
        yield GaugeMetricFamily("p2pd_scheduler_quarantined", "Hosts in quarantine.", value=now.quarantined)
