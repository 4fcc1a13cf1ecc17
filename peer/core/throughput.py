"""Whether what goes out fills the line: what is sent now, against the most that was ever sent.

Nobody tells a host how fast its line is, and it may be another machine's line that is slow. So the highest rate that
was seen stands for it. It fades, for lines change; and once in a while one more piece is let out to see whether that
makes it more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

ROOM = 0.2
"""What part of the line must be unused for another piece."""

WINDOW_S = 0.2
"""What a rate is measured over, or more if it is looked at less often: some pieces of 4 MiB at 1 Gbit/s."""

SETTLES_S = 0.05
"""How long after a piece has begun to go out nothing is said of what it leaves unused."""

FADES = 0.1
"""By how much the highest rate fades in a second."""

PROBES_S = 2.0


@dataclass(slots=True)
class Throughput:
    """`best` is in bytes per second. Times are monotonic, in seconds."""

    best: float = 0.0
    _began: float = 0.0
    _probed: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, now: float, *, first: bool) -> None:
        """A piece begins to go out; `first`: nothing else does, so what is measured begins anew."""
        self._began = now
        if first:
            self._samples.clear()
        if first or self._is_to_probe(now):
            self._probed = now

    def sample(self, total_bytes: int, now: float) -> None:
        """So many bytes have gone out since ever, by now."""
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()
        if self._samples and now >= self._samples[0][0] + SETTLES_S:  # in less time a few packets make any rate
            before, bytes_before = self._samples[0]
            faded = self.best * (1 - FADES * min(1.0, now - self._samples[-1][0]))
            self.best = max(faded, (total_bytes - bytes_before) / (now - before))
        self._samples.append((now, total_bytes))

    def has_room(self, total_bytes: int, now: float) -> bool:
        """Whether a part of the line is unused, as far as can be told."""
        if now < self._began + SETTLES_S or not self._samples:
            return False
        before, bytes_before = self._samples[0]
        if now > before and (total_bytes - bytes_before) / (now - before) < (1 - ROOM) * self.best:
            return True
        return self._is_to_probe(now)

    def _is_to_probe(self, now: float) -> bool:
        return now >= self._probed + PROBES_S
