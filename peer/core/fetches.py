"""Pieces that are being asked of neighbours: how many at a time, how long each may take, and whom to ask a second time.

A piece that takes several times the median is asked of a second neighbour once nothing else is left to ask for (the
tail is what a pull waits for); one that takes much longer marks its neighbour as slow. The first answer counts.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from peer.core.neighbours import Neighbours
from peer.core.swarm_events import Fetch, FetchOutcome, StopFetch

MAX_FETCHES = 6
"""Pieces asked for at a time: enough to hide the round trips, few enough to run each at full speed."""

HEDGE_AFTER = 4.0
HEDGE_LEAST_S = 0.25
SLOW_AFTER = 12.0
SLOW_LEAST_S = 5.0
"""Times the median, and never less than the seconds: a median of milliseconds says little about a loaded neighbour."""


@dataclass(slots=True)
class _Fetch:
    host: str
    index: int
    started: float
    hedged: bool = False


@dataclass(slots=True)
class Fetches:
    """The requests under way to the `neighbours` of one download."""

    neighbours: Neighbours
    _running: dict[int, _Fetch] = field(default_factory=dict)
    _next: int = 0
    _piece_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))

    def __len__(self) -> int:
        return len(self._running)

    @property
    def pieces(self) -> int:
        """What is being asked for, as a set."""
        pieces = 0
        for fetch in self._running.values():
            pieces |= 1 << fetch.index
        return pieces

    def start(self, wanted: int, urgent: int, expected: dict[int, bytes], now: float) -> list[Fetch]:
        """Ask for as many of the pieces `wanted` as may be now, the `urgent` ones first."""
        started: list[Fetch] = []
        while len(self._running) < MAX_FETCHES and wanted:
            choice = self.neighbours.choose(wanted, urgent & wanted, now)
            if choice is None:
                break
            started.append(self._ask(*choice, expected, now))
            wanted &= ~(1 << choice[1])
        return started

    def hedge(self, expected: dict[int, bytes], now: float) -> list[Fetch]:
        """Ask a second neighbour for what takes long; for when nothing else is left to ask for."""
        started: list[Fetch] = []
        for fetch in list(self._running.values()):
            late = now - fetch.started >= self._hedge_after_s()
            if not late or fetch.hedged or len(self._running) >= 2 * MAX_FETCHES:
                continue
            choice = self.neighbours.choose(1 << fetch.index, 0, now, besides=fetch.host)
            if choice is not None:
                fetch.hedged = True
                second = self._ask(*choice, expected, now)
                self._running[second.fetch].hedged = True
                started.append(second)
        return started

    def slow_hosts(self, now: float) -> list[str]:
        """Neighbours that have taken so long for a piece that another is wanted in their place."""
        return [fetch.host for fetch in self._running.values() if now - fetch.started >= self._slow_after_s()]

    def ended(self, number: int, outcome: FetchOutcome, now: float) -> tuple[str, int, list[StopFetch]]:
        """Take a request off the books: its host, its piece, and what need not go on because of it."""
        fetch = self._running.pop(number)
        stops: list[StopFetch] = []
        if outcome is FetchOutcome.LANDED:
            self._piece_s.append(now - fetch.started)
            self.neighbours.answered(fetch.host, now - fetch.started)
            stops = [StopFetch(other) for other, each in self._running.items() if each.index == fetch.index]
        elif outcome is not FetchOutcome.BUSY:
            self.neighbours.let_go(fetch.host)
        return fetch.host, fetch.index, stops

    def stop(self, host: str) -> list[StopFetch]:
        """End what is asked of `host`; each request is still answered by its end."""
        return [StopFetch(number) for number, fetch in self._running.items() if fetch.host == host]

    def deadlines(self) -> Iterator[float]:
        """When a request will have taken too long for one of the rules above."""
        for fetch in self._running.values():
            yield fetch.started + (self._slow_after_s() if fetch.hedged else self._hedge_after_s())
            yield fetch.started + self._slow_after_s()

    def _ask(self, host: str, index: int, expected: dict[int, bytes], now: float) -> Fetch:
        number = self._next
        self._next += 1
        self._running[number] = _Fetch(host, index, now)
        self.neighbours.asked(host)
        return Fetch(number, host, index, expected[index])

    def _hedge_after_s(self) -> float:
        return max(HEDGE_LEAST_S, HEDGE_AFTER * self._median_s())

    def _slow_after_s(self) -> float:
        return max(SLOW_LEAST_S, SLOW_AFTER * self._median_s())

    def _median_s(self) -> float:
        return statistics.median(self._piece_s) if self._piece_s else 0.0
