"""The metrics that all daemons have: version, resource use of the process, and state of a scheduler."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.core.scheduler import Scheduler


def metrics_of(statistics: Collector, dropped_lines: Callable[[], int]) -> CollectorRegistry:
    """A registry with these metrics. At each scrape, `statistics` adds those of the lower packages.

    `dropped_lines` gives the number of lines that the log has lost.
    """
    registry = CollectorRegistry()
    build = Gauge("p2pd_build_info", "What is running.", ("version", "python"), registry=registry)
    build.labels(metadata.version("p2pd"), platform.python_version()).set(1)
    ProcessCollector(registry=registry)
    registry.register(_LogMetrics(dropped_lines))
    registry.register(statistics)
    return registry


class _LogMetrics(Collector):
    def __init__(self, dropped_lines: Callable[[], int]) -> None:
        self._dropped_lines = dropped_lines

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "p2pd_log_lines_dropped",
            "Lines of the log that were dropped: nobody read them, or they could not be written.",
            value=self._dropped_lines(),
        )


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
        yield GaugeMetricFamily("p2pd_scheduler_quarantined", "Hosts in quarantine.", value=now.quarantined)
