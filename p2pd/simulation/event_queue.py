"""Virtual time: what happens next, in order of time and then of when it was put there.

Tasks of trio, on its mock clock, say what the people and machines around the hosts do; what goes on inside of the
network is too fine for a task each, so it is actions, and one task plays them. That task lets the clock move in steps
of `STEP_S`: within one, actions still happen each at its own time; other tasks see the time of the step.

Actions wait in a list for each slice, and only those of the slice that is played are in a heap: one of all that is to
come has some hundred thousand entries with 10,000 hosts, and each step through it is memory that no cache holds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

import trio

SLICE_S: Final = 0.001
STEP_S: Final = 0.01
"""A turn of trio's loop costs as much as two actions."""


_Entry = tuple[float, int, Callable[..., object], tuple[Any, ...]]
"""When, the how-manieth that was put there, and what to do."""


class EventQueue:
    """Actions that wait for their time. `now` is in seconds from the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[_Entry] = []
        """What is due in the slices up to `_slice`."""
        self._slice = 0
        self._later: dict[int, list[_Entry]] = {}
        self._slices: list[int] = []
        """The keys of `_later`, as a heap."""
        self._put = 0
        self._asleep_until = -math.inf
        self._wake = trio.Event()

    def after(self, seconds: float, action: Callable[..., object], *args: object) -> None:
        """Have `action(*args)` done in so many seconds."""
        self.at(self.now + seconds, action, *args)

    def at(self, when: float, action: Callable[..., object], *args: object) -> None:
        """Have `action(*args)` done at `when`."""
        self._put += 1
        entry = (when, self._put, action, args)
        number = int(when / SLICE_S)
        if number <= self._slice:
            heapq.heappush(self._heap, entry)
        elif (later := self._later.get(number)) is not None:
            later.append(entry)
        else:
            self._later[number] = [entry]
            heapq.heappush(self._slices, number)
        if when < self._asleep_until:
            self._wake.set()

    def next(self) -> float | None:
        """When the next action is due."""
        if not self._heap and self._slices:
            self._slice = heapq.heappop(self._slices)
            self._heap = self._later.pop(self._slice)
            heapq.heapify(self._heap)
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Do what is due next. Raises IndexError if nothing is."""
        self.next()
        self._play_one()

    def play(self, until: float) -> None:
        """Do all that is due by `until`, and what becomes due by it because of that."""
        while (self._heap or self.next() is not None) and self._heap[0][0] <= until:
            self._play_one()
        self.now = max(self.now, until)

    def _play_one(self) -> None:
        self.now, _, action, args = heapq.heappop(self._heap)
        action(*args)

    async def drive(self) -> None:
        """Play, in a task of trio whose clock is the time, for as long as nobody cancels it."""
        while True:
            due = self.next()
            self._wake = trio.Event()
            self._asleep_until = math.inf if due is None else due
            with trio.move_on_at(self._asleep_until):
                await self._wake.wait()
            self._asleep_until = -math.inf
            self.play(trio.current_time() + STEP_S)

    def catch_up(self) -> None:
        """Let it be as late as it is for the task of trio that calls."""
        self.now = max(self.now, trio.current_time())
