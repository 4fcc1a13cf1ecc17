"""The connections of one origin that data may use: a bound, and who comes first when it is reached.

Here runs nothing: `want` and `free` call `granted` of whoever has got a connection, at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Waiting:
    background: Callable[[], bool]
    granted: Callable[[], None]


class PrioritySemaphore:
    """At most `limit` at a time. What a client waits for comes before what is fetched ahead, else first come first."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[_Waiting] = deque()

    def want(self, background: Callable[[], bool], granted: Callable[[], None]) -> None:
        """Have `granted` called when there is a slot; `background` is asked each time, for a client may have come."""
        self._waiting.append(_Waiting(background, granted))
        self._serve()

    def free(self) -> None:
        """Give one slot back."""
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free and self._waiting:
            chosen = next((one for one in self._waiting if not one.background()), self._waiting[0])
            self._waiting.remove(chosen)
            self._free -= 1
            chosen.granted()
