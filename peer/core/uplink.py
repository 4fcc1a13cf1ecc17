"""Whether what goes out fills the line: what is sent now, against the most that was ever sent.

Nobody tells a host how fast its line is, and it may be another machine's line that is slow. So the highest rate that
was seen stands for it. It fades, for lines change; and once in a while one more piece is let out to see whether that
makes it more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

SPARE_FRACTION = 0.15
"""What part of the line must be unused for another piece."""

WINDOW_S = 0.2
"""What a rate is measured over, or more if it is looked at less often: some pieces of 4 MiB at 1 Gbit/s."""

LEAST_S = 0.05
"""In less time a few packets make any rate, and the highest would stand for the line."""

SETTLE_MIN_S = 0.015
SETTLE_MAX_S = 0.25
ROUND_TRIPS = 4
"""When a piece begins to go out, or is out, all others find new rates. What is unused is measured from then on, and
for this long at least: a dozen packets at 10 Mbit/s, and what TCP needs to come to full speed."""

SHARED_LOOK_S = SETTLE_MIN_S
"""How often a host looks whether a part of its line is unused, while others wait for that and several pieces go out.
What one of them leaves unused changes whenever its receiver's other senders begin or end."""

DECAY_PER_S = 0.1
"""By how much the highest rate fades in a second."""

PROBE_INTERVAL_S = 2.0


STALLED_S: Final = 10.0
STALLED_BYTES: Final = 64 * 1024
"""A receiver is stalled that takes less than this in that time, although it could have more. At 1 Mbit/s one takes 20
times that, and may have as many senders."""


@dataclass(slots=True)
class Progress:
    """Of the receiver of one piece, which had taken `acked_bytes` at `since_s`. Times are monotonic, in seconds."""

    since_s: float
    patience_s: float = STALLED_S
    acked_bytes: int = 0

    def is_stalled(self, now: float, acked_bytes: int, *, waits: bool) -> bool:
        """Whether it has taken next to nothing for too long. `waits`: there is something that it has not taken yet."""
        if not waits or acked_bytes - self.acked_bytes >= STALLED_BYTES:
            self.since_s, self.acked_bytes = now, acked_bytes
        return now - self.since_s > self.patience_s


def settle_s(round_trip_s: float) -> float:
    """How long a piece has to go out before something can be said of the line."""
    return min(SETTLE_MAX_S, max(SETTLE_MIN_S, ROUND_TRIPS * round_trip_s))


@dataclass(slots=True)
class Throughput:
    """`best` is in bytes per second; `total_bytes` is what has gone out since ever. Times are monotonic, in seconds."""

    best: float = 0.0
    _changed: tuple[float, int] = (0.0, 0)
    _settles: float = 0.0
    """From when on something can be said of what is unused."""
    _probed: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, total_bytes: int, now: float, *, first: bool, round_trip_s: float = 0.0) -> None:
        """A piece begins to go out; `first`: nothing else does, nor has just now: what is measured begins anew."""
        if first and self._samples and now > self._samples[-1][0] + LEAST_S:  # pieces of milliseconds are no rate alone
            self._samples.clear()
        if first or self._is_to_probe(now):
            self._probed = now
        self.change(total_bytes, now, round_trip_s)

    def change(self, total_bytes: int, now: float, round_trip_s: float = 0.0) -> None:
        """From now on more pieces share the line, or fewer."""
        self.sample(total_bytes, now)
        self._changed = now, total_bytes
        self._settles = max(self._settles, now + settle_s(round_trip_s))  # one that began may be farther away

    def sample(self, total_bytes: int, now: float) -> None:
        """So many bytes have gone out by now."""
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()
        if self._samples and now >= self._samples[0][0] + LEAST_S:
            before, bytes_before = self._samples[0]
            faded = self.best * (1 - DECAY_PER_S * min(1.0, now - self._samples[-1][0]))
            self.best = max(faded, (total_bytes - bytes_before) / (now - before))
        self._samples.append((now, total_bytes))

    def has_spare(self, total_bytes: int, now: float) -> bool:
        """Whether a part of the line is unused, as far as can be told."""
        if now < self._settles or not self._samples:
            return False
        before, bytes_before = max(self._samples[0], self._changed)
        if now > before and (total_bytes - bytes_before) / (now - before) < (1 - SPARE_FRACTION) * self.best:
            return True
        return self._is_to_probe(now)

    def _is_to_probe(self, now: float) -> bool:
        return now >= self._probed + PROBE_INTERVAL_S
