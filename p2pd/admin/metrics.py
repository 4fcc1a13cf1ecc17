"""The metrics that all daemons have: version, and resource use of the process."""

from __future__ import annotations

import asyncio
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from peer.histogram import Distribution, Histogram

LAG_EVERY_S = 1.0
LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def metrics_of(statistics: Collector, dropped_lines: Callable[[], int], lag: LoopLag) -> CollectorRegistry:
    """A registry with these metrics. At each scrape, `statistics` adds those of the lower packages.

    `dropped_lines` gives the number of lines that the log has lost; somebody runs `lag`.
    """
    registry = CollectorRegistry()
    build = Gauge("p2pd_build_info", "What is running.", ("version", "python"), registry=registry)
    build.labels(metadata.version("p2pd"), platform.python_version()).set(1)
    ProcessCollector(registry=registry)
    registry.register(_LogMetrics(dropped_lines))
    registry.register(lag)
    registry.register(statistics)
    return registry


def add_distribution(family: HistogramMetricFamily, labels: Sequence[str], found: Distribution) -> None:
    """Add one histogram, with the values of its labels, to its family."""
    buckets = [("+Inf" if bound == math.inf else str(bound), float(count)) for bound, count in found.cumulative()]
    family.add_metric(labels, buckets, found.total)


class LoopLag(Collector):
    """How much later than asked for the event loop wakes a task: every client waits that long, too."""

    def __init__(self) -> None:
        self._seen = Histogram(LAG_S)

    async def run(self) -> None:
        """Look once every `LAG_EVERY_S`, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._seen.observe(max(0.0, loop.time() - due))

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "p2pd_event_loop_lag_seconds", "How late the event loop woke a task, seen once a second."
        )
        add_distribution(family, (), self._seen.statistics())
        yield family


class _LogMetrics(Collector):
    def __init__(self, dropped_lines: Callable[[], int]) -> None:
        self._dropped_lines = dropped_lines

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "p2pd_log_lines_dropped",
            "Lines of the log that were dropped: nobody read them, or they could not be written.",
            value=self._dropped_lines(),
        )
