"""What goes on with an upstream, in figures, and how fast bytes may come.

Rules: counts only go up; one lock, held for a few additions.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peer.core.token_bucket import TokenBucket

if TYPE_CHECKING:
    from peer.origin.clock import Clock

SLICE_BYTES = 256 * 1024
"""How much is received between two looks at the bucket, where a rate is set."""

_BURST_S = 0.1
"""How much of a pause may be made up for. A tenth of a second is far above a scheduler's delay, far below a burst."""


@dataclass(frozen=True, slots=True)
class OriginStatistics:
    """One upstream since p2pd started; `open_connections` is now, busy and idle ones.

    `answers` counts by class (`2xx`), over all hosts: registry, token server, redirect targets. `retries` counts
    attempts that were made because one before had failed, resumes included.
    """

    requests: int
    answers: Mapping[str, int]
    retries: int
    received_bytes: int
    open_connections: int


class Traffic:
    """The counters and the rate limit of one upstream."""

    def __init__(self, rate_bytes_per_s: int, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        burst_bytes = max(SLICE_BYTES, rate_bytes_per_s * _BURST_S)
        self._bucket = TokenBucket(rate_bytes_per_s, burst_bytes) if rate_bytes_per_s else None
        self._requests = 0
        self._retries = 0
        self._received_bytes = 0
        self._answers: dict[str, int] = {}

    def asked(self) -> None:
        """A request is being sent."""
        with self._lock:
            self._requests += 1

    def answered(self, status: int) -> None:
        """An answer's headers have arrived."""
        name = f"{status // 100}xx"
        with self._lock:
            self._answers[name] = self._answers.get(name, 0) + 1

    def retried(self) -> None:
        """Another attempt is made."""
        with self._lock:
            self._retries += 1

    def received(self, amount_bytes: int) -> float:
        """Bytes of a body have arrived; returns how many seconds their receiver waits before it goes on."""
        with self._lock:
            self._received_bytes += amount_bytes
            return self._bucket.take(amount_bytes, self._clock.monotonic()) if self._bucket else 0.0

    def most_at_once(self, wanted_bytes: int) -> int:
        """How many of so many bytes to receive before the next `received`."""
        return min(wanted_bytes, SLICE_BYTES) if self._bucket else wanted_bytes

    def statistics(self, open_connections: int) -> OriginStatistics:
        """The figures now."""
        with self._lock:
            return OriginStatistics(
                self._requests, dict(self._answers), self._retries, self._received_bytes, open_connections
            )
