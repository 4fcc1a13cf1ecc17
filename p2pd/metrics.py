"""The metrics that every daemon has: what is running, and what it costs."""

from __future__ import annotations

import platform
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.registry import Collector


def metrics_of(statistics: Collector) -> CollectorRegistry:
    """A registry with these, and with what `statistics` makes at each scrape out of the lower packages' statistics."""
    registry = CollectorRegistry()
    build = Gauge("p2pd_build_info", "What is running.", ("version", "python"), registry=registry)
    build.labels(metadata.version("p2pd"), platform.python_version()).set(1)
    ProcessCollector(registry=registry)
    registry.register(statistics)
    return registry
