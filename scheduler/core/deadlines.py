"""The timers of a core: a core has no clock, so the shell asks for the next deadline and comes back then."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """At most one deadline per key. Due keys come out in order of time, then in the order in which they were set."""

    def __init__(self) -> None:
        self._current: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._set = 0

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, key: K) -> bool:
        return key in self._current

    def set(self, key: K, when: float) -> None:
        """Set the deadline of `key` to `when`. An earlier deadline of `key` is replaced."""
        self._set += 1
        self._current[key] = (when, self._set)
        heapq.heappush(self._heap, (when, self._set, key))
        if len(self._heap) > 2 * len(self._current) + 64:
            self._heap = [(at, order, item) for item, (at, order) in self._current.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Remove the deadline of `key`, if there is one."""
        self._current.pop(key, None)

    def next(self) -> float | None:
        """The time of the earliest deadline."""
        while self._heap:
            when, order, key = self._heap[0]
            if self._current.get(key) == (when, order):
                return when
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Remove and return the key of the earliest deadline, if the deadline is not after `now`."""
        when = self.next()
        if when is None or when > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._current[key]
        return key
