"""Who is sent a piece now, who waits, and who is told that this host is busy.

1. `at_a_time` pieces go out at once: each more shares the line, and every piece arrives later (sharing a line k ways
   costs a cold swarm k / log2(1 + k) of its ramp; Mundinger, Weber and Weiss, 2008).
2. `waiting` more may wait, first come first served: that hides the round trip after a piece is out. Who comes when they
   are taken is told so at once, and asks another neighbour.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum


class Turn(Enum):
    """What becomes of who asks for a piece."""

    NOW = "now"
    LATER = "later"
    BUSY = "busy"


@dataclass(slots=True)
class Uploads:
    """A request is a number of the shell's."""

    at_a_time: int
    waiting: int
    _going: set[int] = field(default_factory=set)
    _queue: deque[int] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._going)

    def ask(self, request: int) -> Turn:
        """Somebody asks for a piece. LATER: `done` will return it in its turn."""
        if len(self._going) < self.at_a_time and not self._queue:
            self._going.add(request)
            return Turn.NOW
        if len(self._queue) >= self.waiting:
            return Turn.BUSY
        self._queue.append(request)
        return Turn.LATER

    def done(self, request: int) -> list[int]:
        """A piece has gone out, or its request was taken back. Returns those whose turn it is now."""
        if request in self._going:
            self._going.remove(request)
        else:
            self._queue.remove(request)
        turns: list[int] = []
        while self._queue and len(self._going) < self.at_a_time:
            turns.append(self._queue.popleft())
            self._going.add(turns[-1])
        return turns
