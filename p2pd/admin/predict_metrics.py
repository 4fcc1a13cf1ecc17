"""The metrics of predictions. There are none while a scheduler keeps no history of pulls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pd.predict.service import PredictStatistics


class PredictMetrics(Collector):
    """At each scrape; `statistics` gives None while nothing is predicted."""

    def __init__(self, statistics: Callable[[], PredictStatistics | None]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        now = self._statistics()
        if now is None:
            return
        yield GaugeMetricFamily(
            "p2pd_predict_records",
            "Pulls and pushes of the history that this process has read or added.",
            value=now.records,
        )
        yield CounterMetricFamily(
            "p2pd_predict_preheats", "Preheats that predictions have ordered.", value=now.preheats
        )
        text = "The most that hosts may fetch for these preheats."
        yield CounterMetricFamily("p2pd_predict_preheats_bytes", text, value=now.most_bytes)
