"""Pieces that are asked of neighbours: how many at a time, how long each may take, and whom to ask a second time.

As many at a time as fill this host's line, and a few at least. In a cold swarm everybody is busy, and each request more
shares somebody's uplink with others; where this host's line is full, each request more makes all others slower. So the
number follows from what comes: at the speed of the fastest piece so far, so many requests would bring as much as comes
now. `HEADROOM` times as many are made: where more is to be had, the number grows with each round of pieces.

A piece that takes several times the median is asked of a second neighbour once nothing else is left to ask for (the
tail is what a pull waits for); one that takes much longer marks its neighbour as slow. The first answer counts.

Where nothing has been received since the last neighbour was found slow, this host's own link may be the slow one: each
time the next neighbour is given twice as long. Else a host whose link takes longer for a piece than a neighbour is
given would never get one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from peer.core.events import CancelPiece, PeerOutcome, RequestPiece
from peer.core.neighbours import Neighbours
from peer.core.piece_sets import gap
from peer.core.pieces import PeerRequest, PieceTracker

MIN_REQUESTS = 3
"""Pieces asked for at a time: enough to hide the round trips, few enough to run each at full speed. A new piece that
comes slowly is passed on late."""

WARM_REQUESTS = 8
"""At first, where so many neighbours hold everything: their uplinks may well be free, and each round of fewer pieces
leaves some of them idle. With more, a line that is no faster than an uplink brings its first piece later."""

STREAMING_LOOKAHEAD = 6
"""So many pieces that are held behind the first gap make that gap come first. Clients are sent what is contiguous, and
the SHA-256 goes on over it; in a cold swarm new pieces are rarer than an old one that is missing, and both would wait
for the end. In simulations of 16 to 300 hosts it costs nothing."""

MAX_REQUESTS = 16
"""With those that are asked of a second neighbour: as many as a host has neighbours at most."""

HEADROOM = 2.5
"""With 2 or 3, a cold swarm of 1,000 hosts takes 1 % longer."""

ROUNDS = 2
"""What comes is counted over the time of so many pieces: those that were asked for at once also come at once."""

BESIDE_ORIGIN = 2
"""While the origin sends to this host: what it sends is scarce, and shares this host's downlink. With fewer, the hosts
that fetch from the origin are the last ones where downlinks are no faster than uplinks (docs/decisions, 0057)."""

HEDGE_AFTER = 4.0
HEDGE_LEAST_S = 0.25
SLOW_AFTER = 12.0
SLOW_LEAST_S = 5.0
"""Times the median, and never less than the seconds: a median of milliseconds says little about a loaded neighbour."""

FIRST_EACH_S = 0.85
"""The first pieces share this host's line: each has so much time for each of them. A line of 40 Mbit/s brings 4 MiB."""

SLOW_MOST_S = 60.0
"""At most, and for a neighbour that holds what no other does: 4 MiB within it are 0.6 Mbit/s."""


@dataclass(slots=True)
class PeerRequests:
    """The requests to the `neighbours` of one download. `numbers` gives each request of this host a number."""

    digest: bytes
    pieces: PieceTracker
    neighbours: Neighbours
    numbers: Iterator[int]
    _came: deque[float] = field(default_factory=lambda: deque(maxlen=ROUNDS * MAX_REQUESTS))
    """When the pieces of the last `ROUNDS` came."""
    _fastest_s: float = math.inf
    _began: float = math.inf
    _most: int = MIN_REQUESTS
    """So many requests may be under way."""
    _piece_s: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    _median_s: float = 0.0
    _hedge_after_s: float = HEDGE_LEAST_S
    """After how long a piece counts as late."""
    _slow_least_s: float = SLOW_LEAST_S
    _pressed: int = 0
    """The pieces to check that a neighbour was asked for."""

    def asked_of(self, host: str) -> int:
        """How many requests to `host` are under way."""
        return sum(request.host == host for request in self.pieces.peer_requests.values())

    @property
    def piece_bytes_per_s(self) -> int:
        """How fast a piece has come of late, in the median; 0 if none has come."""
        return int(self.pieces.piece_length / self._median_s) if self._median_s else 0

    def is_full(self) -> bool:
        """Whether as much is asked for as may be."""
        return len(self.pieces.peer_requests) >= (BESIDE_ORIGIN if self.pieces.asked_of_origin else self._most)

    def start(self, urgent: int, now: float) -> list[RequestPiece]:
        """Ask for as many of the requestable pieces as may be now, and for the `urgent` ones before all others."""
        started = self._start_checks(now) if self.pieces.samples else []
        if not self._came and self.pieces.requestable:
            seeders = len(self.neighbours) - self.neighbours.count_wanting()
            self._most = max(self._most, min(WARM_REQUESTS, seeders))
        if self.is_full() or not (wanted := self.pieces.requestable):
            return started
        first = urgent or gap(self.pieces.held, STREAMING_LOOKAHEAD)
        while wanted and (choice := self.neighbours.choose(wanted, first & wanted, now)) is not None:
            started.append(self._ask(*choice, now))
            wanted &= ~(1 << choice[1])
            if self.is_full():
                break
        return started

    def _start_checks(self, now: float) -> list[RequestPiece]:
        """Ask for pieces that this host is to check, though others be under way: all hosts wait for the answer.

        A busy neighbour is asked too, once, and serves such a request next (`peer.core.choker`, rule 6).
        """
        started: list[RequestPiece] = []
        while len(self.pieces.peer_requests) < MAX_REQUESTS:
            checked = self.pieces.requestable & self.pieces.sampled
            choice = self.neighbours.choose(checked, 0, now) if checked else None
            if choice is None and (pressing := checked & ~self._pressed):
                choice = self.neighbours.choose(pressing, 0, now, also_busy=True)
            if choice is None:
                break
            self._pressed |= 1 << choice[1]
            started.append(self._ask(*choice, now))
        return started

    def late_at(self) -> float:
        """When a piece takes long; infinity if none is under way. Requests stand in the order in which they began."""
        for request in self.pieces.peer_requests.values():
            if not request.cancelled:
                return request.started + self._hedge_after_s
        return math.inf

    def hedge(self, now: float) -> list[RequestPiece]:
        """Ask a second neighbour for what takes long; for when nothing else is left to ask for."""
        started: list[RequestPiece] = []
        running = self.pieces.peer_requests
        for request in list(running.values()):
            if not self._may_be_hedged(request, now) or len(running) >= MAX_REQUESTS:
                continue
            choice = self.neighbours.choose(1 << request.index, 0, now, besides=request.host)
            if choice is not None:
                request.hedged = True
                second = self._ask(*choice, now)
                running[second.request].hedged = True
                started.append(second)
        return started

    def slow_hosts(self, now: float) -> list[str]:
        """Neighbours that have taken so long for a piece that another is wanted in their place; each is named once.

        A neighbour that holds wanted pieces which no other neighbour holds is given more time.
        """
        wanted = self.pieces.wanted
        slow = {
            request.host: None
            for request in self.pieces.peer_requests.values()
            if not request.cancelled
            and now >= request.started + self._slow_after_s()
            and (now >= request.started + SLOW_MOST_S or not self.neighbours.held_by_none_but(request.host) & wanted)
        }
        if slow:
            self._slow_least_s = min(SLOW_MOST_S, 2 * self._slow_least_s)
        return list(slow)

    def received(self, request: int, now: float, *, choked: bool) -> list[CancelPiece]:
        """A request has brought its piece. Returns what need not go on because of it."""
        ended = self.pieces.end_piece(request)
        took_s = now - ended.started
        self._piece_s.append(took_s)
        self._median_s = _median(self._piece_s)
        self._hedge_after_s = max(HEDGE_LEAST_S, HEDGE_AFTER * self._median_s)
        self._slow_least_s = SLOW_LEAST_S
        self.neighbours.answered(ended.host, took_s)
        self._came.append(now)
        self._began = min(self._began, ended.started)
        self._fastest_s = min(self._fastest_s, took_s)
        self._most = self._enough(now)
        if choked:
            self.neighbours.leave_alone(ended.host, now)
        return self._cancel(self._requests_for(ended.index))

    def failed(self, request: int, outcome: PeerOutcome) -> PeerRequest:
        """A request has brought nothing; the neighbour's answer is for the caller to judge."""
        ended = self.pieces.end_piece(request)
        if outcome is not PeerOutcome.CHOKED:
            self.neighbours.let_go(ended.host)
        for other in self._requests_for(ended.index).values():
            other.hedged = False  # it may be asked of yet another neighbour
        return ended

    def cancel_host(self, host: str) -> list[CancelPiece]:
        """End what is asked of `host`; each request is still answered by its end."""
        return self._cancel({number: each for number, each in self.pieces.peer_requests.items() if each.host == host})

    def cancel_all(self) -> list[CancelPiece]:
        """End all requests: the download is over."""
        return self._cancel(self.pieces.peer_requests)

    def next_due(self, now: float) -> float:
        """When a request will have taken too long for one of the rules above, after `now`; infinity if none will."""
        due = math.inf
        for request in self.pieces.peer_requests.values():
            if request.cancelled:
                continue
            if now < request.started + self._hedge_after_s:
                return min(due, request.started + self._hedge_after_s)  # those after it began later
            for after_s in (self._slow_after_s(), SLOW_MOST_S):
                if now < request.started + after_s < due:
                    due = request.started + after_s
        return due

    def validate(self) -> None:
        """Raise AssertionError if more is asked for than may be, or a piece of more than two."""
        running = self.pieces.peer_requests.values()
        assert len(running) <= MAX_REQUESTS
        asked_for = defaultdict(list)
        for request in running:
            if not request.cancelled:
                asked_for[request.index].append(request.host)
        for index, hosts in asked_for.items():
            assert len(hosts) == len(set(hosts)) <= 2, f"piece {index} is asked of {hosts}"
        asked_of = Counter(request.host for request in running)
        for host in self.neighbours:
            assert self.neighbours.asked_of(host) == asked_of[host]

    def _enough(self, now: float) -> int:
        """How many requests fill this host's line, as far as what comes tells."""
        if not self._median_s:
            return MIN_REQUESTS
        over_s = min(ROUNDS * self._median_s, now - self._began)
        while self._came[0] <= now - over_s:
            self._came.popleft()
        return max(MIN_REQUESTS, min(MAX_REQUESTS, int(HEADROOM * len(self._came) * self._fastest_s / over_s)))

    def _ask(self, host: str, index: int, now: float) -> RequestPiece:
        number = next(self.numbers)
        self.pieces.request_piece(number, host, index, now)
        self.neighbours.asked(host)
        sample = self.pieces.samples.get(index)
        return RequestPiece(self.digest, number, host, index, self.pieces.expected[index], sample)

    def _requests_for(self, index: int) -> dict[int, PeerRequest]:
        if not self.pieces.asked_of_peers >> index & 1:
            return {}
        return {number: each for number, each in self.pieces.peer_requests.items() if each.index == index}

    def _cancel(self, requests: dict[int, PeerRequest]) -> list[CancelPiece]:
        """Each is cancelled once, however often it is no longer needed."""
        cancelled = [CancelPiece(self.digest, number) for number, each in requests.items() if not each.cancelled]
        for request in requests.values():
            request.cancelled = True
        return cancelled

    def _may_be_hedged(self, request: PeerRequest, now: float) -> bool:
        return not request.hedged and not request.cancelled and now >= request.started + self._hedge_after_s

    def _slow_after_s(self) -> float:
        least_s = SLOW_AFTER * self._median_s if self._came else FIRST_EACH_S * self._most
        return min(SLOW_MOST_S, max(self._slow_least_s, least_s))


def _median(values: deque[float]) -> float:
    """As `statistics.median`, which takes as long as all else that a received piece is."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
