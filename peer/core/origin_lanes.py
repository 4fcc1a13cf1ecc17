"""How many requests at a time fill the line to an origin: as few as do, so that bytes come in order.

The problem: bytes that come in order are hashed while they are in memory, and one long request costs the origin least.
But some origins give each connection 20 to 50 MB/s, and a few connections are faster there. The naive way is always to
have a few: most of a blob is then read back from the disk for its SHA-256.

Rules, for each upstream:
1. It begins with one request. While as many requests run as are known to pay, their bytes per second are measured.
2. Then one more is tried. It pays if they bring GAIN times as much together; then another is tried, and so on.
3. After one that does not pay, none is tried. An origin of which one request brings FAST_BYTES_PER_S does not limit
   connections: nothing is tried. What is known is used for the next blobs, too, and learned anew after `KNOWN_S`.
4. Until it is known whether one is enough, requests are short. A long one would have to be broken off for the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

GAIN: Final = 1.2
"""A fourth connection, where each has the same, brings 1.33 times as much as three."""

WINDOW_PIECES: Final = 3
"""Pieces of each request that are measured, after its first."""

WINDOW_BYTES: Final = 3 * 2**20

FAST_BYTES_PER_S: Final = 256 * 2**20
"""Twice a line of 1 Gbit/s."""

KNOWN_S: Final = 600.0


@dataclass(slots=True)
class _Lanes:
    """Of one upstream. `since` is when the measurement of `running` requests has begun (monotonic, seconds)."""

    paying: int = 1
    rate: float = 0.0
    """What `paying` requests have brought, in bytes per second; 0 before it is known."""
    is_settled: bool = False
    known_until: float = 0.0
    running: int = 0
    since: float = 0.0
    pieces: int = 0
    received_bytes: int = 0

    def received(self, running: int, size_bytes: int, now: float) -> None:
        if now >= self.known_until:
            self.paying, self.rate, self.is_settled, self.known_until = 1, 0.0, False, now + KNOWN_S
        if running != self.running:
            self._measure(running, now)
            return
        self.pieces += 1
        self.received_bytes += size_bytes
        took_s = now - self.since
        if self.pieces >= WINDOW_PIECES * running and self.received_bytes >= WINDOW_BYTES * running and took_s > 0:
            self._measured(self.received_bytes / took_s)
            self._measure(running, now)

    def _measure(self, running: int, now: float) -> None:
        self.running, self.since, self.pieces, self.received_bytes = running, now, 0, 0

    def _measured(self, rate: float) -> None:
        if self.is_settled:
            return
        if self.running == self.paying:
            self.rate, self.is_settled = rate, rate >= FAST_BYTES_PER_S
        elif self.running == self.paying + 1 and self.rate:
            if rate >= GAIN * self.rate:
                self.paying, self.rate = self.running, rate
            else:
                self.is_settled = True


@dataclass(slots=True)
class OriginLanes:
    """Of one host, by upstream. `running` has how many requests to each upstream are under way."""

    running: Mapping[str, int] = field(default_factory=dict)
    _lanes: dict[str, _Lanes] = field(default_factory=dict)

    def received(self, upstream: str, size_bytes: int, now: float) -> None:
        """A piece has come from the upstream."""
        self._lanes.setdefault(upstream, _Lanes()).received(self.running.get(upstream, 0), size_bytes, now)

    def most(self, upstream: str) -> int:
        """How many requests may run at a time, with the one that is tried."""
        lanes = self._lanes.get(upstream)
        return 1 if lanes is None else lanes.paying + (not lanes.is_settled and lanes.rate > 0)

    def is_one_enough(self, upstream: str) -> bool:
        """Whether it is known that one request fills the line."""
        lanes = self._lanes.get(upstream)
        return lanes is not None and lanes.is_settled and lanes.paying == 1
