"""Pieces that are being asked of neighbours: how many at a time, how long each may take, and whom to ask a second time.

A few at a time, for in a cold swarm everybody is busy, and each request more shares somebody's line with others. Where
pieces come and nobody is busy, there is more to be had: as many at a time as came so of late, within `MOST_FETCHES`.
Each answer that somebody is busy takes back two.

A piece that takes several times the median is asked of a second neighbour once nothing else is left to ask for (the
tail is what a pull waits for); one that takes much longer marks its neighbour as slow. The first answer counts.

Where nothing has landed since the last neighbour was found slow, it may be our own link that is: each time the next one
is given twice as long. Else a host whose link takes longer for a piece than a neighbour is given would never get one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from peer.core.neighbours import Neighbours
from peer.core.swarm_events import Fetch, FetchEnded, FetchOutcome, StopFetch

MAX_FETCHES = 3
"""Pieces asked for at a time: enough to hide the round trips, few enough to run each at full speed. As many as a host
sends at a time (`upload_slots`): with more, somebody is always refused."""

MOST_FETCHES = 2 * MAX_FETCHES
"""Where nobody is busy, and with those that are asked of a second neighbour: each holds memory for its piece."""

BUSY_COSTS = 2

BESIDE_ORIGIN = 1
"""While the origin sends to this host: what it sends is scarce, and would have to share this host's line."""

HEDGE_AFTER = 4.0
HEDGE_LEAST_S = 0.25
SLOW_AFTER = 12.0
SLOW_LEAST_S = 5.0
"""Times the median, and never less than the seconds: a median of milliseconds says little about a loaded neighbour."""

SLOW_MOST_S = 60.0
"""At most, and for a neighbour that holds what no other does: 4 MiB within it are 0.6 Mbit/s."""


@dataclass(slots=True)
class _Fetch:
    host: str
    index: int
    started: float
    hedged: bool = False
    stopped: bool = False


@dataclass(slots=True)
class Fetches:
    """The requests under way to the `neighbours` of one download."""

    neighbours: Neighbours
    _running: dict[int, _Fetch] = field(default_factory=dict)
    _next: int = 0
    _free: int = 0
    """How many pieces came of late of neighbours that were not busy, less what those cost that were."""
    _piece_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    _median_s: float = 0.0
    _slow_least_s: float = SLOW_LEAST_S

    def __len__(self) -> int:
        return len(self._running)

    @property
    def pieces(self) -> int:
        """What is being asked for, as a set."""
        pieces = 0
        for fetch in self._running.values():
            pieces |= 1 << fetch.index
        return pieces

    def asked_of(self, host: str) -> int:
        """How many requests to `host` are under way."""
        return sum(fetch.host == host for fetch in self._running.values())

    def is_full(self, from_origin: int) -> bool:
        """Whether as much is being asked for as may be, while the origin sends the pieces `from_origin`."""
        return len(self._running) >= (BESIDE_ORIGIN if from_origin else max(MAX_FETCHES, self._free))

    def start(self, wanted: int, first: int, expected: dict[int, bytes], from_origin: int, now: float) -> list[Fetch]:
        """Ask for as many of the pieces `wanted` as may be now, and for `first` of them before all others."""
        started: list[Fetch] = []
        while wanted and not self.is_full(from_origin):
            choice = self.neighbours.choose(wanted, first & wanted, now)
            if choice is None:
                break
            started.append(self._ask(*choice, expected, now))
            wanted &= ~(1 << choice[1])
        return started

    def is_late(self, now: float) -> bool:
        """Whether a piece takes long. They stand in the order in which they were asked for."""
        hedge_after_s = self._hedge_after_s()
        for fetch in self._running.values():
            if now < fetch.started + hedge_after_s:
                return False
            if not fetch.stopped:
                return True
        return False

    def hedge(self, expected: dict[int, bytes], now: float) -> list[Fetch]:
        """Ask a second neighbour for what takes long; for when nothing else is left to ask for."""
        started: list[Fetch] = []
        for fetch in list(self._running.values()):
            if not self._may_be_hedged(fetch, now) or len(self._running) >= MOST_FETCHES:
                continue
            choice = self.neighbours.choose(1 << fetch.index, 0, now, besides=fetch.host)
            if choice is not None:
                fetch.hedged = True
                second = self._ask(*choice, expected, now)
                self._running[second.fetch].hedged = True
                started.append(second)
        return started

    def slow_hosts(self, wanted: int, now: float) -> list[str]:
        """Neighbours that have taken so long for a piece that another is wanted in their place; each is named once.

        One that holds pieces of those that are `wanted`, which no other neighbour holds, is given more time.
        """
        slow = {
            fetch.host: None
            for fetch in self._running.values()
            if not fetch.stopped
            and now >= fetch.started + self._slow_after_s()
            and (now >= fetch.started + SLOW_MOST_S or not self.neighbours.held_by_none_but(fetch.host) & wanted)
        }
        if slow:
            self._slow_least_s = min(SLOW_MOST_S, 2 * self._slow_least_s)
        return list(slow)

    def ended(self, event: FetchEnded, now: float) -> tuple[str, int, list[StopFetch]]:
        """Take a request off the books: its host, its piece, and what need not go on because of it."""
        fetch = self._running.pop(event.fetch)
        others = {other: each for other, each in self._running.items() if each.index == fetch.index}
        if event.busy or event.outcome is FetchOutcome.BUSY:
            self._free = max(0, self._free - BUSY_COSTS)
        elif event.outcome is FetchOutcome.LANDED:
            self._free = min(MOST_FETCHES, self._free + 1)
        if event.outcome is FetchOutcome.LANDED:
            self._piece_s.append(now - fetch.started)
            self._median_s = statistics.median(self._piece_s)
            self._slow_least_s = SLOW_LEAST_S
            self.neighbours.answered(fetch.host, now - fetch.started)
            if event.busy:
                self.neighbours.leave_alone(fetch.host, now)
            return fetch.host, fetch.index, self._stop(others)
        for other in others.values():
            other.hedged = False  # it may be asked of yet another neighbour
        if event.outcome is not FetchOutcome.BUSY:
            self.neighbours.let_go(fetch.host)
        return fetch.host, fetch.index, []

    def stop(self, host: str) -> list[StopFetch]:
        """End what is asked of `host`; each request is still answered by its end."""
        return self._stop({number: fetch for number, fetch in self._running.items() if fetch.host == host})

    def next_due(self, now: float) -> float:
        """When a request will have taken too long for one of the rules above, after `now`; infinity if none will."""
        due = math.inf
        hedge_after_s = self._hedge_after_s()
        for fetch in self._running.values():
            if fetch.stopped:
                continue
            if now < fetch.started + hedge_after_s:
                return min(due, fetch.started + hedge_after_s)  # those after it were asked for later
            for after_s in (self._slow_after_s(), SLOW_MOST_S):
                if now < fetch.started + after_s < due:
                    due = fetch.started + after_s
        return due

    def validate(self) -> None:
        """Raise AssertionError if more is asked for than may be, or a piece of more than two."""
        assert 0 <= self._free <= MOST_FETCHES
        assert len(self._running) <= MOST_FETCHES
        going = [fetch for fetch in self._running.values() if not fetch.stopped]
        for fetch in going:
            same = [other.host for other in going if other.index == fetch.index]
            assert len(same) == len(set(same)) <= 2, f"piece {fetch.index} is asked of {same}"
        for host in self.neighbours:
            assert self.neighbours.asked_of(host) == self.asked_of(host)

    def _ask(self, host: str, index: int, expected: dict[int, bytes], now: float) -> Fetch:
        number = self._next
        self._next += 1
        self._running[number] = _Fetch(host, index, now)
        self.neighbours.asked(host)
        return Fetch(number, host, index, expected[index])

    def _stop(self, fetches: dict[int, _Fetch]) -> list[StopFetch]:
        """Each is stopped once, however often it is no longer needed."""
        stops = [StopFetch(number) for number, fetch in fetches.items() if not fetch.stopped]
        for fetch in fetches.values():
            fetch.stopped = True
        return stops

    def _may_be_hedged(self, fetch: _Fetch, now: float) -> bool:
        return not fetch.hedged and not fetch.stopped and now >= fetch.started + self._hedge_after_s()

    def _hedge_after_s(self) -> float:
        return max(HEDGE_LEAST_S, HEDGE_AFTER * self._median_s)

    def _slow_after_s(self) -> float:
        return min(SLOW_MOST_S, max(self._slow_least_s, SLOW_AFTER * self._median_s))
