"""The counters of an upstream, and its rate limit.

Rules: counts only go up; one lock, held for a few additions.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from peer.histogram import Distribution, Histogram
from peer.pacing import PACED_BYTES, pacing_bucket

if TYPE_CHECKING:
    from peer.origin.clock import Clock

LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The bounds of `latency_s`, in seconds."""


class OriginStatistics(Struct, frozen=True):
    """The counters of one upstream since p2pd started. `open_connections` are the busy and idle connections now.

    `answers` counts by class (`2xx`), over all hosts: registry, token server, redirect targets. `retries` counts
    attempts after a failed attempt, including resumes. `latency_s` is from a request to the headers of its answer, on
    a connection that is open. `refusals` counts requests with the operator's own credential that got 401 or 403.
    """

    requests: int
    answers: Mapping[str, int]
    retries: int
    received_bytes: int
    open_connections: int
    latency_s: Distribution
    refusals: int


class Traffic:
    """The counters and the rate limit of one upstream."""

    def __init__(self, rate_bytes_per_s: int, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = pacing_bucket(rate_bytes_per_s)
        self._requests = 0
        self._retries = 0
        self._received_bytes = 0
        self._answers: dict[str, int] = {}
        self._latency = Histogram(LATENCY_S)
        self._refusals = 0

    def set_rate(self, rate_bytes_per_s: int) -> None:
        """From now on all bodies together keep to this rate, also those under way; 0 is no limit."""
        with self._lock:
            self._bucket = pacing_bucket(rate_bytes_per_s)

    def asked(self) -> None:
        """A request is being sent."""
        with self._lock:
            self._requests += 1

    def answered(self, status: int, after_s: float) -> None:
        """An answer's headers have arrived, `after_s` after the request."""
        name = f"{status // 100}xx"
        with self._lock:
            self._answers[name] = self._answers.get(name, 0) + 1
            self._latency.observe(after_s)

    def refused_us(self) -> None:
        """A request with the operator's own credential got 401 or 403."""
        with self._lock:
            self._refusals += 1

    def retried(self) -> None:
        """Another attempt is made."""
        with self._lock:
            self._retries += 1

    def received(self, amount_bytes: int) -> float:
        """Bytes of a body have arrived. Returns the seconds that the receiver waits before it goes on."""
        with self._lock:
            self._received_bytes += amount_bytes
            return self._bucket.take(amount_bytes, self._clock.monotonic()) if self._bucket else 0.0

    def most_at_once(self, wanted_bytes: int) -> int:
        """The most of `wanted_bytes` to receive before the next `received`."""
        return min(wanted_bytes, PACED_BYTES) if self._bucket else wanted_bytes

    def statistics(self, open_connections: int) -> OriginStatistics:
        """The counters now."""
        with self._lock:
            return OriginStatistics(
                self._requests,
                dict(self._answers),
                self._retries,
                self._received_bytes,
                open_connections,
                self._latency.statistics(),
                self._refusals,
            )
