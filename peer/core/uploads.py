"""Who is sent a piece now, and when who is not is to ask again.

1. `at_a_time` pieces go out at once. More share the line, and every piece arrives later: sharing a line k ways costs a
   cold swarm k / log2(1 + k) of its ramp (Mundinger, Weber and Weiss, 2008). Fewer leave the line unused whenever a
   receiver is slow.
2. Nobody waits in a queue: what a host needs most, and who has it, has changed by the time that a turn comes. Who finds
   this host busy is told when a piece that goes out now will be out, each the next one, and chooses anew then. So few
   come in vain, though nothing is promised: who comes first is served.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

FIRST_S = 0.05
"""What a piece is taken to need before one has gone out: 4 MiB at 670 Mbit/s."""

LEAST_S = 0.005
MOST_S = 1.0
"""Bounds of what is told. A host that is wrong about itself is asked again in time."""

WEIGHT = 0.25
"""Of the last piece in the mean of how long one takes."""


@dataclass(slots=True)
class Uploads:
    """A request is a number of the shell's; times are in seconds."""

    at_least: int
    at_most: int
    _going: dict[int, float] = field(default_factory=dict)
    _told: list[float] = field(default_factory=list)
    """When those that were refused will ask again, sorted."""
    _piece_s: float = 0.0

    def __len__(self) -> int:
        return len(self._going)

    def ask(self, request: int, now: float, *, room: bool) -> float:
        """Somebody asks for a piece: 0.0 if it goes out now (`done` ends it), else in how long to ask again.

        `room`: what goes out now leaves a part of the line unused.
        """
        if len(self._going) < (self.at_most if room else self.at_least):
            self._going[request] = now
            return 0.0
        self._told = [when for when in self._told if when > now]
        piece_s = self._piece_s or FIRST_S
        ends = sorted(max(started + piece_s, now) for started in self._going.values())
        rounds, place = divmod(len(self._told), max(1, len(ends)))
        free = (ends[place] if ends else now) + rounds * piece_s
        again_s = min(MOST_S, max(LEAST_S, free - now))
        insort(self._told, now + again_s)
        return again_s

    def done(self, request: int, now: float, *, whole: bool = True) -> None:
        """A piece has gone out, or (not `whole`) its receiver has gone."""
        took_s = now - self._going.pop(request)
        if whole:
            self._piece_s += (took_s - self._piece_s) * (WEIGHT if self._piece_s else 1.0)
