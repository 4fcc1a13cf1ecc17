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
5. Once something has come, and clients may have been sent it, an origin that is gone or too busy is asked again after a
   pause, for `give_up_s`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from peer.core.events import CancelRange, Outcome, SourceAdded, TrimRange
from peer.core.piece_sets import mask
from peer.core.pieces import OriginRequest, PieceTracker
from peer.core.readers import Readers

SPAN_PIECES = 4
"""Pieces that one request asks for. More makes fewer requests (one costs docker-registry 2 ms of CPU), fewer lets the
prefix that clients are served grow evenly. Four pieces of 4 MiB: 64 requests per GiB."""

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
    limit: int
    give_up_s: float = GIVE_UP_S
    sources: dict[int, Source] = field(default_factory=dict)
    """By number; those that were given up are gone."""
    reserves: dict[int, Source] = field(default_factory=dict)
    added: dict[int, SourceAdded] = field(default_factory=dict)
    """All sources, also those that were given up."""
    is_slow: bool = False
    """The origin has taken long to answer."""
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
        """When a source may be asked again, after `now`; infinity if none waits."""
        if not self.has_paused:
            return math.inf
        return min((source.ready_at for source in self.sources.values() if source.ready_at > now), default=math.inf)

    def next_span(
        self, allowed: tuple[tuple[int, int], ...] | None, now: float, *, alone: bool
    ) -> tuple[int, int | None] | None:
        """The pieces `[first, stop)` to ask for now. `allowed` are the ranges that may be asked for; None: all.

        `alone`: no other host takes part.
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
        is_long = self.is_slow or (alone and self.sources[number].perishable)
        for first, stop in self.readers.ranges_by_need() if allowed is None else allowed:
            if needed := missing & mask(first, stop):
                may = missing if allowed is None or (alone and is_long) else needed
                return self._span(needed, may, pieces.count if is_long else SPAN_PIECES)
        return None

    def _span(self, needed: int, missing: int, most: int) -> tuple[int, int]:
        """From the first of the pieces `needed` on, as many as are missing in a row, and `most` of them."""
        first = (needed & -needed).bit_length() - 1
        stop = first + 1
        while stop < first + most and missing >> stop & 1:
            stop += 1
        return first, stop

    def opened(self, request: int, now: float) -> None:
        """The origin has answered a request."""
        self.is_slow = self.is_slow or now - self.pieces.origin_requests[request].started >= SLOW_ANSWER_S

    def received(self, request: int, now: float) -> None:
        """A piece has come by a request: its source is good."""
        running = self.pieces.origin_requests[request]
        running.received += 1
        self.progress_at = now
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
        for number, running, left in self._left_of(upstream):
            if left > 1:
                stop = running.first + running.received + 1
                self.pieces.narrow_range(number, running.first, stop)
                return [TrimRange(self.digest, number, stop)]
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
