"""The metrics of one of several schedulers. There are none of a scheduler by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from scheduler.shared.live import Live


class LiveMetrics(Collector):
    """Of the list of schedulers, at each scrape, once there is one."""

    def __init__(self) -> None:
        self.live: Live | None = None

    def collect(self) -> Iterator[Metric]:
        if self.live is None:
            return
        known = self.live.known
        yield GaugeMetricFamily("p2pd_schedulers", "Schedulers that live, as this one knows.", value=len(known.entries))
        yield GaugeMetricFamily("p2pd_schedulers_epoch", "The epoch of the list of schedulers.", value=known.epoch)
        text = "Whether Redis answered the latest call of this scheduler: 1, or 0."
        yield GaugeMetricFamily("p2pd_redis_reached", text, value=self.live.is_reached)
