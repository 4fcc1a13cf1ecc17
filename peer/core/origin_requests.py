"""What the origin is asked for: which pieces with one request, from which source, and when a source is given up.

Rules:
1. Pieces that a waiting client needs go first, each client's from where it stands; then the rest in order, so that the
   blob becomes whole and later clients are served from the store.
2. While nobody knows the blob's length, or whether the origin honours Range, there is one request at a time: the first
   answer tells.
3. A source that refuses (its credential, an unknown blob), or answers uselessly, is dropped and the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.core.events import CancelRange, Outcome
from peer.core.piece_sets import mask
from peer.core.pieces import PieceTracker
from peer.core.readers import Readers

SPAN_PIECES = 4
"""Pieces that one request asks for. More makes fewer requests (one costs docker-registry 2 ms of CPU), fewer lets the
prefix that clients are served grow evenly. Four pieces of 4 MiB: 64 requests per GiB."""

MAX_STRIKES = 3
"""Requests without one received piece after which a source is given up; the origin client has retried within each."""


@dataclass(slots=True)
class Source:
    """A way to ask an origin for the blob."""

    upstream: str
    strikes: int = 0


@dataclass(slots=True)
class OriginRequests:
    """The requests to the origin of one download, at most `limit` at a time."""

    digest: bytes
    pieces: PieceTracker
    readers: Readers
    limit: int
    sources: dict[int, Source] = field(default_factory=dict)
    """By number; those that were given up are gone."""
    upstreams: dict[int, str] = field(default_factory=dict)
    """Of all sources, also of those that were given up."""
    answered: bool = False
    """The origin has answered, or the store: the length is no hearsay."""

    def add_source(self, number: int, upstream: str) -> None:
        """Another way to ask."""
        self.upstreams[number] = upstream
        self.sources.setdefault(number, Source(upstream))

    def next_source(self) -> int:
        """The source that has failed the least. Raises ValueError if there is none."""
        return min(self.sources, key=lambda number: (self.sources[number].strikes, number))

    def next_span(self, allowed: tuple[tuple[int, int], ...] | None) -> tuple[int, int | None] | None:
        """The pieces `[first, stop)` to ask for now. `allowed` are the ranges that may be asked for; None: all."""
        pieces, running = self.pieces, len(self.pieces.origin_requests)
        if allowed == () or not self.sources or running >= (self.limit if self.answered else 1):
            return None
        if not pieces.count:
            return (0, None) if allowed is None or any(not first for first, _ in allowed) else None
        missing = pieces.everything & ~pieces.held & ~pieces.asked_of_origin & ~pieces.asked_of_peers
        if missing:
            for first, stop in self.readers.ranges_by_need() if allowed is None else allowed:
                if needed := missing & mask(first, stop):
                    return self._span(needed, missing if allowed is None else needed)
        return None

    def _span(self, needed: int, missing: int) -> tuple[int, int]:
        """From the first of the pieces `needed` on, as many as are missing in a row and as one request asks for."""
        first = (needed & -needed).bit_length() - 1
        stop = first + 1
        while stop < first + SPAN_PIECES and missing >> stop & 1:
            stop += 1
        return first, stop

    def received(self, request: int) -> None:
        """A piece has come by a request: its source is good."""
        running = self.pieces.origin_requests[request]
        running.received += 1
        if running.source in self.sources:  # one that was dropped meanwhile stays dropped
            self.sources[running.source].strikes = 0

    def ended(self, request: int, outcome: Outcome) -> None:
        """A request has ended; what it says of its source."""
        ended = self.pieces.end_range(request)
        source = self.sources.get(ended.source)
        if source is None:
            return
        if outcome is Outcome.BROKEN and not ended.received and not ended.cancelled:
            source.strikes += 1
        if outcome in (Outcome.REFUSED, Outcome.UNUSABLE) or source.strikes >= MAX_STRIKES:
            del self.sources[ended.source]

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
