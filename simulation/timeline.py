"""Virtual time: what happens next, in order of time and then of when it was put there.

Tasks of trio, on its mock clock, say what the people and machines around the hosts do; what goes on inside of the
network is too fine for a task each, so it is actions in a heap, and one task plays them. That task lets the clock move
in slices of `SLICE_S`: within one, actions still happen each at its own time; other tasks see the time of the slice.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

import trio

SLICE_S: Final = 0.001


class Timeline:
    """Actions that wait for their time. `now` is in seconds from the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self.played = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._put = 0
        self._asleep_until = -math.inf
        self._wake = trio.Event()

    def after(self, seconds: float, action: Callable[..., object], *args: object) -> None:
        """Have `action(*args)` done in so many seconds."""
        self.at(self.now + seconds, action, *args)

    def at(self, when: float, action: Callable[..., object], *args: object) -> None:
        """Have `action(*args)` done at `when`."""
        self._put += 1
        heapq.heappush(self._heap, (when, self._put, action, args))
        if when < self._asleep_until:
            self._wake.set()

    def next(self) -> float | None:
        """When the next action is due."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Do what is due next. Raises IndexError if nothing is."""
        self.now, _, action, args = heapq.heappop(self._heap)
        action(*args)

    def play(self, until: float) -> None:
        """Do all that is due by `until`, and what becomes due by it because of that."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, action, args = pop(heap)
            self.played += 1
            action(*args)
        self.now = max(self.now, until)

    async def drive(self) -> None:
        """Play, in a task of trio whose clock is the time, for as long as nobody cancels it."""
        while True:
            due = self.next()
            self._wake = trio.Event()
            self._asleep_until = math.inf if due is None else due
            with trio.move_on_at(self._asleep_until):
                await self._wake.wait()
            self._asleep_until = -math.inf
            self.play(trio.current_time() + SLICE_S)

    def catch_up(self) -> None:
        """Let it be as late as it is for the task of trio that calls."""
        self.now = max(self.now, trio.current_time())
