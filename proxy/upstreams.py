"""The upstreams that p2pd knows, each with its origin and its threads; those that only clients name are made on demand.

Rules:
1. An upstream that a client named has no credentials of the operator's.
2. At most `MAX_OTHERS` of them are known. The least recently used is retired first, and so is each that nobody has used
   for `UNUSED_S`. Requests to a retired upstream that are under way go on; a new request makes it anew.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakSet

from peer.histogram import Histogram
from peer.oci.reference import UpstreamName
from peer.origin.api import Origin
from peer.origin.client import HttpOrigin
from peer.origin.rates import LATENCY_S, OriginStatistics
from peer.threads import Threads

MAX_THREADS = 16
"""For the requests to one origin, so that an origin that hangs does not delay the requests to the others."""

MAX_OTHERS = 256
UNUSED_S = 300.0

OTHERS = "*"
"""What the upstreams that clients name are called together, in metrics and in the settings."""


def question_threads() -> Threads:
    """The threads for small requests to one origin. A thread is started when it is needed."""
    return Threads(MAX_THREADS, "question", ready=False)


@dataclass(frozen=True, slots=True)
class UpstreamOrigin:
    """An origin, and whether the operator gave p2pd credentials for it, to be used for clients that have none.

    `renames`: its repositories have other names there than for clients (`library/alpine` is `hub/library/alpine`).
    """

    origin: Origin
    has_credentials: bool = False
    renames: bool = False
    threads: Threads = field(default_factory=question_threads, compare=False)

    def retire(self) -> UpstreamOrigin:
        """It takes nothing new; returns what requests that are under way go on with. Threads end when they have."""
        if isinstance(self.origin, HttpOrigin):
            self.origin.retire()
        self.threads.shutdown(wait=False)
        return UpstreamOrigin(self.origin, self.has_credentials, self.renames)

    def close(self) -> None:
        self.origin.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Other:
    upstream: UpstreamOrigin
    origin: HttpOrigin
    used_s: float


class OtherUpstreams:
    """The upstreams that are not configured, by name. `make` makes the origin of one."""

    def __init__(self, make: Callable[[UpstreamName], HttpOrigin], *, clock: Callable[[], float] = time.monotonic):
        self._make = make
        self._clock = clock
        self._known: OrderedDict[UpstreamName, _Other] = OrderedDict()  # the least recently used is the first
        self._retired: WeakSet[HttpOrigin] = WeakSet()
        self._past = _sum(())

    def get(self, name: UpstreamName) -> UpstreamOrigin:
        """The upstream of that name, from now on the most recently used."""
        now = self._clock()
        other = self._known.pop(name, None)
        if other is None:
            origin = self._make(name)
            other = _Other(UpstreamOrigin(origin), origin, now)
        other.used_s = now
        self._known[name] = other
        self._retire_unused(now)
        return other.upstream

    def remake(self, make: Callable[[UpstreamName], HttpOrigin]) -> None:
        """From now on `make` makes them. Those that are known are retired."""
        self._make = make
        while self._known:
            self._retire_oldest()

    def statistics(self) -> OriginStatistics:
        """Of all of them together, without what retired ones have still under way."""
        self._retire_unused(self._clock())
        return _sum((self._past, *(other.origin.statistics() for other in self._known.values())))

    def close(self) -> None:
        """End everything, also what is under way."""
        for other in self._known.values():
            other.upstream.close()
        for origin in tuple(self._retired):
            origin.close()

    def _retire_unused(self, now: float) -> None:
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= MAX_OTHERS and self._known[oldest].used_s >= now - UNUSED_S:
                return
            self._retire_oldest()

    def _retire_oldest(self) -> None:
        _, other = self._known.popitem(last=False)
        other.upstream.retire()
        self._retired.add(other.origin)
        self._past = _sum((self._past, other.origin.statistics()), open_connections=0)


def _sum(parts: Iterable[OriginStatistics], *, open_connections: int | None = None) -> OriginStatistics:
    parts = tuple(parts)
    answers: dict[str, int] = {}
    for part in parts:
        for name, count in part.answers.items():
            answers[name] = answers.get(name, 0) + count
    return OriginStatistics(
        sum(part.requests for part in parts),
        answers,
        sum(part.retries for part in parts),
        sum(part.received_bytes for part in parts),
        sum(part.open_connections for part in parts) if open_connections is None else open_connections,
        sum((part.latency_s for part in parts), start=Histogram(LATENCY_S).statistics()),
        sum(part.refusals for part in parts),
    )
