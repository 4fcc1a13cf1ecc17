"""The state of each piece of one blob on this host, in one place.

A piece is in exactly one state at any time:

    MISSING --requested--> REQUESTED (from the origin, or from one or two neighbours) --received--> HELD
                                                                                      --failed--> MISSING

Rules:
1. Sets of pieces are integers, a bit for each piece (`peer.core.piece_sets`).
2. A piece is advertised to neighbours once the digest of its bytes is the one that the map of this generation has.
3. This host vouches for pieces that the origin itself sent, and for no others: the scheduler counts this host as a
   reporter of their digests, and two reporters who had a piece from each other are one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from peer.core.events import Sample
from peer.core.piece_sets import indices, mask, union
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.geometry import piece_count, told_piece_length


class PieceState(Enum):
    MISSING = "missing"
    REQUESTED_FROM_ORIGIN = "requested from the origin"
    REQUESTED_FROM_PEER = "requested from a peer"
    HELD = "held"


@dataclass(slots=True)
class OriginRequest:
    """Pieces `[first, stop)` are requested from `source`, since `started` (monotonic, seconds).

    `stop` None: to an end that is not known yet.
    """

    source: int
    first: int
    stop: int | None
    started: float = 0.0
    received: int = 0
    cancelled: bool = False
    is_long: bool = False
    """It is for more than this host may have to fetch; no longer so once it is narrowed."""


@dataclass(slots=True)
class PeerRequest:
    """Piece `index` is requested from `host`, since `started` (monotonic, seconds)."""

    host: str
    index: int
    started: float
    hedged: bool = False
    cancelled: bool = False


@dataclass(slots=True)
class PieceTracker:
    """`expected` is the map as far as it is known; `own` has the digests of the bytes that are held (b"": unknown).

    `count` is 0 as long as nobody has said the blob's length.
    """

    size_bytes: int = 0
    piece_length: int = 0
    count: int = 0
    everything: int = 0
    """All pieces of the blob, as a set; so are those below."""
    expected: dict[int, bytes] = field(default_factory=dict)
    known: int = 0
    """The pieces in `expected`."""
    own: dict[int, bytes] = field(default_factory=dict)
    held: int = 0
    from_origin: int = 0
    """Those of `held` that the origin sent to this host."""
    from_far: int = 0
    """Those of `held` that hosts of other sites sent."""
    advertised: int = 0
    origin_requests: dict[int, OriginRequest] = field(default_factory=dict)
    asked_of_origin: int = 0
    peer_requests: dict[int, PeerRequest] = field(default_factory=dict)
    asked_of_peers: int = 0
    samples: dict[int, Sample] = field(default_factory=dict)
    """Bytes of the origin that pieces must have (`peer.core.spot_checks`)."""
    untold: int = 0
    """The pieces that this host has published, and whose digests the scheduler has not told others yet, as far as this
    host knows. Only hosts that check this one ask for them."""
    differing: int = 0
    """Pieces whose expected digest is that of other bytes than the origin has."""

    @property
    def told_piece_length(self) -> int:
        """The length of pieces as messages tell it: 0 is the usual one."""
        return told_piece_length(self.size_bytes, self.piece_length) if self.count else 0

    def learn_geometry(self, size_bytes: int, piece_length: int) -> bool:
        """The length is known. False if another one was known before."""
        if not self.count:
            self.size_bytes, self.piece_length = size_bytes, piece_length
            self.count = piece_count(size_bytes, piece_length)
            self.everything = mask(0, self.count)
            for index in indices(self.known & ~self.everything):
                del self.expected[index]
            self.known &= self.everything
            self._requests_changed()
        return (self.size_bytes, self.piece_length) == (size_bytes, piece_length)

    def state_of(self, index: int) -> PieceState:
        """The state that a piece is in."""
        bit = 1 << index
        if self.held & bit:
            return PieceState.HELD
        if self.asked_of_origin & bit:
            return PieceState.REQUESTED_FROM_ORIGIN
        return PieceState.REQUESTED_FROM_PEER if self.asked_of_peers & bit else PieceState.MISSING

    @property
    def wanted(self) -> int:
        """The pieces that are not held, and whose digest is known."""
        return self.known & ~self.held

    @property
    def requestable(self) -> int:
        """Those of the wanted pieces that nobody is asked for."""
        return self.known & ~self.held & ~self.asked_of_peers & ~self.asked_of_origin & ~self.differing

    @property
    def sampled(self) -> int:
        """The pieces of which there is a sample."""
        return sum(1 << index for index in self.samples)

    # -- requests --------------------------------------------------------------------------------------------------

    def request_range(
        self, request: int, source: int, first: int, stop: int | None, now: float = 0.0, *, is_long: bool = False
    ) -> None:
        """The origin is asked for pieces `[first, stop)`."""
        self.origin_requests[request] = OriginRequest(source, first, stop, now, is_long=is_long)
        self._requests_changed()

    def narrow_range(self, request: int, first: int, stop: int) -> None:
        """The origin sends these pieces for a request."""
        narrowed = self.origin_requests[request]
        narrowed.is_long = narrowed.is_long and (first, stop) == (narrowed.first, narrowed.stop)
        narrowed.first, narrowed.stop = first, stop
        self._requests_changed()

    def end_range(self, request: int) -> OriginRequest:
        """The origin is asked for these pieces no longer."""
        ended = self.origin_requests.pop(request)
        self._requests_changed()
        return ended

    def request_piece(self, request: int, host: str, index: int, now: float) -> None:
        """A neighbour is asked for a piece."""
        self.peer_requests[request] = PeerRequest(host, index, now)
        self.asked_of_peers |= 1 << index

    def end_piece(self, request: int) -> PeerRequest:
        """A neighbour is asked for this piece no longer."""
        ended = self.peer_requests.pop(request)
        self.asked_of_peers = 0
        for other in self.peer_requests.values():
            self.asked_of_peers |= 1 << other.index
        return ended

    def _requests_changed(self) -> None:
        self.asked_of_origin = union((each.first, each.stop or self.count) for each in self.origin_requests.values())

    # -- digests ---------------------------------------------------------------------------------------------------

    def bytes_of(self, pieces: int) -> int:
        """The length of these pieces, in bytes."""
        beyond = pieces.bit_length() * self.piece_length - self.size_bytes  # the last piece is shorter
        return pieces.bit_count() * self.piece_length - max(0, beyond)

    def receive(self, index: int, digest: bytes, *, from_origin: bool, from_far: bool = False) -> int:
        """A piece is in the store. Returns it, as a set, if neighbours may have it from now on."""
        bit = 1 << index
        if self.held & bit and self.own[index]:
            return 0  # it has come twice: what is in the store is what came first
        self.own[index] = digest
        self.held |= bit
        if from_origin:
            self.from_origin |= bit
        if from_far:
            self.from_far |= bit
        return self._advertise(bit) if self.expected.get(index) == digest else 0

    def set_expected(self, first: int, digests: bytes) -> int:
        """The map has these digests for the pieces from `first` on. Returns what neighbours may have because of it.

        Digests of pieces beyond the blob's length are those of another map, and are left out.
        """
        matching = differing = 0
        count = len(digests) // DIGEST_BYTES
        if self.count:
            count = max(0, min(count, self.count - first))
        for index in range(first, first + count):
            at = (index - first) * DIGEST_BYTES
            digest = self.expected[index] = digests[at : at + DIGEST_BYTES]
            own = self.own.get(index)
            if own == digest:
                matching |= 1 << index
            elif own is not None:
                differing |= 1 << index
        self.known |= mask(first, first + count)
        self.untold &= ~mask(first, first + count)
        self.differing &= ~mask(first, first + count)
        self.advertised &= ~differing
        return self._advertise(matching)

    def publish(self, pieces: int) -> int:
        """This host vouches for these pieces: the map has their digests, unless it has others.

        Returns what neighbours may have because of it.
        """
        matching = 0
        self.untold |= pieces & ~self.known
        while pieces:
            bit = pieces & -pieces
            pieces ^= bit
            index = bit.bit_length() - 1
            if self.expected.setdefault(index, self.own[index]) == self.own[index]:
                matching |= bit
            self.known |= bit
        return self._advertise(matching)

    def forget_map(self) -> None:
        """A new map begins: nothing of it is known, so nothing is advertised."""
        self.expected.clear()
        self.samples.clear()
        self.known = self.untold = self.advertised = self.differing = 0

    def agrees(self) -> bool:
        """Whether every piece that is held has the digest that the map has."""
        return self.advertised == self.held

    def contradicts(self) -> bool:
        """Whether a piece that is held has another digest than the map has."""
        return any(own and self.expected.get(index, own) != own for index, own in self.own.items())

    def digests(self) -> dict[int, bytes]:
        """All digests that this host can tell: those of its own bytes before those that it was told."""
        return self.expected | {index: own for index, own in self.own.items() if own}

    def _advertise(self, pieces: int) -> int:
        fresh = pieces & ~self.advertised
        self.advertised |= fresh
        return fresh

    def validate(self) -> None:
        """Raise AssertionError if a set contradicts the digests or the requests. Looks at every piece: for tests."""
        assert self.known == sum(1 << index for index in self.expected)
        assert not self.count or not self.known & ~self.everything, "a digest of a piece beyond the blob's length"
        assert self.held == sum(1 << index for index in self.own)
        assert not (self.from_origin | self.from_far) & ~self.held
        assert not self.from_origin & self.from_far
        matching = sum(1 << index for index, own in self.own.items() if self.expected.get(index) == own)
        assert self.advertised == matching, "others are offered other pieces than those that match the map"
        assert not self.asked_of_peers & ~self.known, "a piece is requested whose digest is not known"
        seen = 0
        for each in self.origin_requests.values():
            if each.stop is not None and self.count and each.stop - each.first != self.count:  # else: Range was ignored
                pieces = mask(each.first, each.stop) & ~self.held
                assert not pieces & seen, "the origin is asked for a piece twice"
                seen |= pieces
