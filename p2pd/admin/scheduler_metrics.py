"""The metrics of a scheduler."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.core.preheat_job import JobState
from scheduler.core.scheduler import Scheduler


class SchedulerMetrics(Collector):
    """Turns a scheduler's statistics into metrics at each scrape. The scheduler runs alone or inside a node."""

    def __init__(self, core: Scheduler) -> None:
        self._core = core

    def collect(self) -> Iterator[Metric]:
        now = self._core.statistics()
        yield GaugeMetricFamily("p2pd_scheduler_hosts", "Hosts that are connected.", value=now.hosts)
        yield GaugeMetricFamily("p2pd_scheduler_swarms", "Blobs that a host wants or holds.", value=now.swarms)
        yield GaugeMetricFamily("p2pd_scheduler_members", "Memberships of hosts in swarms.", value=now.members)
        yield GaugeMetricFamily("p2pd_scheduler_leases_active", "Leases not fulfilled yet.", value=now.leases)
        yield CounterMetricFamily("p2pd_scheduler_leases", "Leases that were given.", value=now.leases_given)
        yield CounterMetricFamily(
            "p2pd_scheduler_leases_overdue",
            "Leases that brought nothing in time: another host was asked as well, if there was one.",
            value=now.leases_overdue,
        )
        yield GaugeMetricFamily("p2pd_scheduler_quarantined", "Hosts in quarantine.", value=now.quarantined)
        still = GaugeMetricFamily("p2pd_preheats", "Preheats that are not over.", labels=("state",))
        ended = CounterMetricFamily("p2pd_preheats_ended", "Preheats that have ended.", labels=("state",))
        for state in JobState:
            family = still if state in (JobState.PENDING, JobState.RUNNING) else ended
            family.add_metric([state.name.lower()], now.preheats.get(state, 0))
        yield from (still, ended)
