"""What the downloads of clients wait for: looked at once a second, rather than timed at each change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from peer.tasks import next_second
from peer.waits import Wait


class DownloadWaits(Collector):
    """Adds up the time by what is waited for. `waits` gives that of each download now."""

    def __init__(self, waits: Callable[[], Sequence[Wait]]) -> None:
        self._waits = waits
        self._seconds = dict.fromkeys(Wait, 0.0)

    async def run(self) -> None:
        """Look once a second, for ever."""
        before = asyncio.get_running_loop().time()
        while True:
            now = await next_second()
            self.look(now - before)
            before = now

    def look(self, seconds: float) -> None:
        """Each download has waited for what it waits for since the last look."""
        for wait in self._waits():
            self._seconds[wait] += seconds

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "p2pd_download_wait_seconds",
            "Time of the downloads that clients wait for, by what the download waits for. `lease`: neither a lease nor "
            "a neighbour that has a piece.",
            labels=("on",),
        )
        for wait, seconds in self._seconds.items():
            family.add_metric([wait.value], seconds)
        yield family
