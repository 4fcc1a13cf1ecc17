"""What the origin is asked for: which pieces with one request, from which source, and when a source is given up.

Rules:
1. Pieces that a waiting client needs go first, each client's from where it stands; then the rest in order, so that the
   blob becomes whole and later clients are served from the store.
2. While nobody knows the blob's length, or whether the origin honours Range, there is one request at a time: the first
   answer tells.
3. A source that refuses (its credential, an unknown blob), or answers uselessly, is dropped and the others go on. If a
   credential is refused, the reserves go on too.
4. A client's credential may expire, and a GET is authorised once, when it begins. An origin that is slow to answer may
   be so with each GET. One GET is then for all that is leased, or for all that is left if no other host takes part.
5. A host that is alone asks for all that is missing in a row with one request, since bytes that come in order cost the
   least, and begins the next when the last piece is coming. Its requests are of SPAN_PIECES, and perhaps several, where
   more bring more (`peer.core.origin_lanes`), for a client that waits for other pieces, and while other downloads wait
   for the origin.
6. Once something has come, and clients may have been sent it, an origin that is gone or too busy is asked again after a
   pause, for `give_up_s`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from peer.core.events import CancelRange, Outcome, RangeOpened, SourceAdded, TrimRange
from peer.core.origin_lanes import OriginLanes
from peer.core.piece_sets import mask
from peer.core.pieces import OriginRequest, PieceTracker
from peer.core.readers import Readers
from scheduler.protocol.geometry import MAX_PIECE_BYTES

SPAN_PIECES = 4
"""Pieces that one request asks for. More makes fewer requests (one costs docker-registry 2 ms of CPU), fewer lets the
prefix that clients are served grow evenly. Four pieces of 4 MiB: 64 requests per GiB."""

FIRST_SPAN_BYTES = SPAN_PIECES * MAX_PIECE_BYTES
"""What the first request asks for, while the blob's length is not known: a whole number of pieces of any length."""

MAX_STRIKES = 3
"""Requests without one received piece after which a source is given up; the origin client has retried within each."""


SLOW_ANSWER_S = 2.0
"""An origin that takes longer to answer is slow. Registries take 0.1 s, and some 0.5 s if they redirect far away."""

GIVE_UP_S = 60.0
"""How long after the last piece an origin is asked again that does not answer, or says that it has no time: as long as
dockerd tries."""

MAX_PAUSE_S = 20.0

REFUSED_CREDENTIAL = (401, 403)
TOO_BUSY = (0, 408, 429)
"""Refusals that may pass; 0: there was no answer."""


def pause_s(pauses: int) -> float:
    """How long after so many pauses the next one is: none at first, for what was only a broken connection."""
    return float(min(MAX_PAUSE_S, 2.0 ** min(pauses, 10) - 1))


@dataclass(slots=True)
class Source:
    """A way to ask an origin for the blob. It is asked from `ready_at` on (monotonic, seconds)."""

    upstream: str
    perishable: bool = False
    reserve: bool = False
    strikes: int = 0
    pauses: int = 0
    ready_at: float = 0.0


@dataclass(slots=True)
class OriginRequests:
    """The requests to the origin of one download, at most `limit` at a time."""

    digest: bytes
    pieces: PieceTracker
    readers: Readers
    lanes: OriginLanes
    limit: int
    give_up_s: float = GIVE_UP_S
    sources: dict[int, Source] = field(default_factory=dict)
    """By number; those that were given up are gone."""
    reserves: dict[int, Source] = field(default_factory=dict)
    added: dict[int, SourceAdded] = field(default_factory=dict)
    """All sources, also those that were given up."""
    is_slow: bool = False
    """The origin has taken long to answer."""
    ignores_range: bool = False
    """The origin has sent more than was asked for."""
    has_paused: bool = False
    """A source waits, or has waited."""
    progress_at: float | None = None
    """When the last piece came, or the first request ended without one."""
    answered: bool = False
    """The origin has answered, or the store: the length is no hearsay."""

    def add_source(self, added: SourceAdded) -> None:
        """Another way to ask."""
        self.added[added.source] = added
        where = self.reserves if added.reserve else self.sources
        where.setdefault(added.source, Source(added.upstream, added.perishable, added.reserve))

    def next_source(self, now: float) -> int | None:
        """The source to ask now: the one that has failed the least. None: none, or none yet."""
        ready = [
            (source.reserve, source.strikes, number)
            for number, source in self.sources.items()
            if source.ready_at <= now
        ]
        return min(ready)[-1] if ready else None

    def next_due(self, now: float) -> float:
        """When a source may be asked again, after `now`; infinity if none waits, as while none `has_paused`."""
        return min((source.ready_at for source in self.sources.values() if source.ready_at > now), default=math.inf)

    def next_span(
        self,
        allowed: tuple[tuple[int, int], ...] | None,
        now: float,
        *,
        alone: bool,
        others_wait: bool = False,
    ) -> tuple[int, int | None] | None:
        """The pieces `[first, stop)` to ask for now. `allowed` are the ranges that may be asked for; None: all.

        `alone`: no other host takes part. `others_wait`: other downloads wait for the origin.
        """
        pieces, running = self.pieces, len(self.pieces.origin_requests)
        if allowed == () or running >= (self.limit if self.answered else 1):
            return None
        if not pieces.count:
            may_begin = self.next_source(now) is not None
            return (0, None) if may_begin and (allowed is None or any(not first for first, _ in allowed)) else None
        missing = pieces.everything & ~pieces.held & ~pieces.asked_of_origin & ~pieces.asked_of_peers
        number = self.next_source(now) if missing else None
        if number is None:
            return None
        source = self.sources[number]
        is_long = self.is_slow or (alone and source.perishable)
        most = pieces.count if is_long else SPAN_PIECES
        if alone and allowed is None and not is_long:
            urgent = missing & self.readers.urgent()
            if not self._has_lane(source.upstream):
                return self._span(urgent, missing, SPAN_PIECES) if urgent else None
            if not urgent and not others_wait:
                most = self._most_alone(source.upstream)
        for first, stop in self.readers.ranges_by_need() if allowed is None else allowed:
            if needed := missing & mask(first, stop):
                may = missing if allowed is None or (alone and is_long) else needed
                return self._span(needed, may, most)
        return None

    def _span(self, needed: int, missing: int, most: int) -> tuple[int, int]:
        """From the first of the pieces `needed` on, as many as are missing in a row, and `most` of them."""
        first = (needed & -needed).bit_length() - 1
        stop = first + 1
        while stop < first + most and missing >> stop & 1:
            stop += 1
        return first, stop

    def _has_lane(self, upstream: str) -> bool:
        """Whether this download may have one more request: its first, the next, or one that brings more (rule 5)."""
        lead = 1 if self.lanes.is_one_enough(upstream) else 0
        busy = [each for each in self.pieces.origin_requests.values() if each.stop is None or _left(each) > lead]
        return not busy or self.lanes.running.get(upstream, 0) < self.lanes.most(upstream)

    def _most_alone(self, upstream: str) -> int:
        """The most pieces of a request of a host that is alone (rule 5)."""
        if self.lanes.is_one_enough(upstream):
            return self.pieces.count
        if self.lanes.most(upstream) > 1:  # the requests are to be near to one another
            return SPAN_PIECES
        return max(SPAN_PIECES, FIRST_SPAN_BYTES // self.pieces.piece_length)

    def opened(self, event: RangeOpened, now: float) -> None:
        """The origin has answered a request."""
        asked = self.pieces.origin_requests[event.request]
        self.is_slow = self.is_slow or now - asked.started >= SLOW_ANSWER_S
        most = FIRST_SPAN_BYTES // event.piece_length if asked.stop is None else asked.stop
        self.ignores_range = self.ignores_range or event.first < asked.first or event.stop > most

    def received(self, request: int, now: float) -> None:
        """A piece has come by a request: its source is good."""
        running = self.pieces.origin_requests[request]
        running.received += 1
        self.progress_at = now
        self.lanes.received(self.added[running.source].upstream, self.pieces.piece_length, now)
        if running.source in self.sources:  # one that was dropped meanwhile stays dropped
            source = self.sources[running.source]
            source.strikes = source.pauses = 0

    def ended(self, request: int, outcome: Outcome, status: int, now: float) -> None:
        """A request has ended; what it says of its source. `status` is the origin's refusal, or 0."""
        ended = self.pieces.end_range(request)
        source = self.sources.get(ended.source)
        if source is None or ended.cancelled:
            return
        if self.progress_at is None:
            self.progress_at = now
        fruitless = outcome is Outcome.BROKEN and not ended.received
        may_pass = fruitless or (outcome is Outcome.REFUSED and status in TOO_BUSY)
        if may_pass and self.pieces.held and now - self.progress_at < self.give_up_s:
            source.ready_at = now + pause_s(source.pauses)
            source.pauses += 1
            self.has_paused = True
            return
        source.strikes += fruitless
        if outcome in (Outcome.REFUSED, Outcome.UNUSABLE) or source.strikes >= MAX_STRIKES:
            del self.sources[ended.source]
        if outcome is Outcome.REFUSED and status in REFUSED_CREDENTIAL:
            self.sources |= self.reserves
            self.reserves = {}

    def ends_soon(self, upstream: str) -> bool:
        """Whether a request to an upstream ends with the piece that is coming."""
        return any(running.cancelled or left <= 1 for _, running, left in self._left_of(upstream))

    def shorten(self, upstream: str) -> list[TrimRange]:
        """End a request to an upstream with the piece that is coming: its connection is for a client's download."""
        for number, running, left in () if self._may_not_ask_again else self._left_of(upstream):
            if left > 1 and not self.added[running.source].perishable:
                return self._end_before(running.first + running.received + 1, number, running)
        return []

    def _left_of(self, upstream: str) -> list[tuple[int, OriginRequest, int]]:
        """The requests to an upstream, and how many pieces each is still to bring, as far as that is known."""
        return [
            (number, running, running.stop - running.first - running.received)
            for number, running in self.pieces.origin_requests.items()
            if running.stop is not None and self.added[running.source].upstream == upstream
        ]

    def trim(self, leased: int) -> list[TrimRange]:
        """Other hosts take part: requests end with what is `leased`, or with the piece that is coming."""
        trimmed = []
        for number, running in self.pieces.origin_requests.items():
            if running.stop is None or not running.is_long:
                continue
            stop = running.first + running.received + 1
            while leased >> stop & 1:
                stop += 1
            if stop < running.stop:
                trimmed.append(TrimRange(self.digest, number, stop))
                self.pieces.narrow_range(number, running.first, stop)
        return trimmed

    def make_way(self, urgent: int) -> list[TrimRange]:
        """End long requests early for the `urgent` pieces, which clients wait for (rule 5)."""
        urgent &= self.pieces.asked_of_origin & ~self.pieces.held
        trimmed = []
        for number, running in self._long() if urgent else ():
            soon = running.first + running.received + SPAN_PIECES
            if waited_for := urgent >> soon << soon & mask(running.first, running.stop or 0):
                trimmed += self._end_before((waited_for & -waited_for).bit_length() - 1, number, running)
        return trimmed

    def give_way(self, upstream: str) -> list[TrimRange]:
        """End long requests soon: other downloads wait for the origin."""
        trimmed = []
        for number, running in self._long():
            if self.added[running.source].upstream == upstream:
                trimmed += self._end_before(running.first + running.received + SPAN_PIECES, number, running)
        return trimmed

    @property
    def _may_not_ask_again(self) -> bool:
        return self.is_slow or self.ignores_range

    def _long(self) -> list[tuple[int, OriginRequest]]:
        """The requests that may be ended early and asked for again: by rule 4 some may not."""
        if self._may_not_ask_again:
            return []
        return [
            (number, each)
            for number, each in self.pieces.origin_requests.items()
            if _left(each) > SPAN_PIECES + 1 and not self.added[each.source].perishable
        ]

    def _end_before(self, stop: int, number: int, running: OriginRequest) -> list[TrimRange]:
        self.pieces.narrow_range(number, running.first, stop)
        return [TrimRange(self.digest, number, stop)]

    def cancel_within(self, pieces: int) -> list[CancelRange]:
        """End the requests for some of these pieces: others bring them. That is no fault of their source."""
        cancelled = []
        for number, running in self.pieces.origin_requests.items():
            asked = -1 << running.first if running.stop is None else mask(running.first, running.stop)
            if asked & pieces:
                running.cancelled = True
                cancelled.append(CancelRange(self.digest, number))
        return cancelled

    def cancel_all(self) -> list[CancelRange]:
        """End all requests: the download is over."""
        return [CancelRange(self.digest, number) for number in self.pieces.origin_requests]

    def validate(self) -> None:
        """Raise AssertionError if more is under way than may be."""
        assert len(self.pieces.origin_requests) <= self.limit


def _left(running: OriginRequest) -> int:
    """How many pieces of a request are still to come; 0: nobody knows."""
    return 0 if running.stop is None else running.stop - running.first - running.received
