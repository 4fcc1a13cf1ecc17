"""The piece map of one blob: which digest each piece is believed to have, on whose word, and who was wrong.

How blame is found. A host that fetched a piece from the origin publishes its BLAKE3, and is believed. Once a member
has verified every piece against the map and finds the blob's SHA-256 wrong, the map is *contested*: somebody's word was
wrong, and nobody can tell whose, for all bytes match. So each piece is leased once more, to a host that has not yet
given its word on that piece (`scheduler.core.lease_policy`), until two hosts say the same (`scheduler.core.claims`):
one further copy of the blob leaves the origin, and a third one of the pieces on which two disagree. Once every piece
has two reporters the map is *proven*, and

1. a host whose word on a piece differs from the proven digest is to blame;
2. if the accused map was right in every piece, its accuser is.

Rejected: to blame the publishers of all pieces (honest ones nearly all), or to believe the second word against the
first (a liar would get the second lease and have an honest host quarantined). An accusation against a map that two
other hosts have sealed, or that is proven, costs nothing: the accuser is to blame. Where no third host is there to
decide, the swarm fails, every host asks the origin itself, and nobody is blamed. A host behind a proxy that breaks
bytes is treated as one that lies: its pieces are of no use either way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

from scheduler.core.claims import QUORUM, Claim
from scheduler.core.story import Story
from scheduler.protocol.fields import DIGEST_BYTES


class MapState(Enum):
    """How far a piece map is, and how much it is trusted."""

    GROWING = auto()
    KNOWN = auto()
    SEALED = auto()
    CONTESTED = auto()
    PROVEN = auto()


class MapCause(Enum):
    """What moves a piece map from one state to another."""

    LAST_PIECE = auto()
    SHA256_RIGHT = auto()
    DISPUTE = auto()


MAP_TRANSITIONS: Final[Mapping[MapState, Mapping[MapCause, MapState]]] = {
    MapState.GROWING: {MapCause.LAST_PIECE: MapState.KNOWN, MapCause.DISPUTE: MapState.CONTESTED},
    MapState.KNOWN: {MapCause.SHA256_RIGHT: MapState.SEALED, MapCause.DISPUTE: MapState.CONTESTED},
    MapState.SEALED: {MapCause.DISPUTE: MapState.CONTESTED},
    MapState.CONTESTED: {MapCause.LAST_PIECE: MapState.PROVEN},
    MapState.PROVEN: {},
}


_NEEDS_QUORUM: Final = (MapState.CONTESTED, MapState.PROVEN)
"""The states in which a piece's digest is believed only on the word of several hosts."""


class ClaimResult(Enum):
    """What became of a host's word on a piece."""

    NEWS = auto()
    """The piece's digest is believed now, and was not before."""
    NOTHING_NEW = auto()
    UNDECIDED = auto()
    """The map is contested, and this piece needs another reporter."""
    CONTRADICTION = auto()
    """It differs from what was believed: the map must be contested."""
    DISPROVED = auto()
    """It differs from what is proven."""


class PieceMap:
    """The map of a blob of `count` pieces, one or more."""

    __slots__ = ("_accused", "_claims", "_digests", "_sealers", "_story", "count", "known", "state")

    def __init__(self, count: int, story: Story) -> None:
        self.count: Final = count
        self.state = MapState.GROWING
        self.known = 0
        """The pieces whose digest is believed, as a set of bits."""
        self._story = story
        self._digests = bytearray(DIGEST_BYTES * count)
        self._claims: dict[int, Claim[bytes]] = {}
        self._sealers: tuple[str, ...] = ()
        self._accused: tuple[str, bytes] | None = None

    @property
    def everything(self) -> int:
        """All pieces, as a set of bits."""
        return (1 << self.count) - 1

    def digest(self, piece: int) -> bytes:
        """The believed digest of a piece in `known`."""
        return bytes(self._digests[piece * DIGEST_BYTES : (piece + 1) * DIGEST_BYTES])

    def reporters(self, piece: int) -> tuple[str, ...]:
        """The hosts that have given their word on a piece."""
        claim = self._claims.get(piece)
        return claim.reporters() if claim else ()

    def claim_digest(self, reporter: str, piece: int, digest: bytes) -> ClaimResult:
        """Take a host's word on the digest of a piece."""
        claim = self._claims.setdefault(piece, Claim())
        claim.add(reporter, digest)
        if self.known >> piece & 1:
            if self.digest(piece) == digest:
                return ClaimResult.NOTHING_NEW
            return ClaimResult.DISPROVED if self.state in _NEEDS_QUORUM else ClaimResult.CONTRADICTION
        believed = claim.confirmed() if self.state is MapState.CONTESTED else claim.first()
        if believed is None:
            return ClaimResult.UNDECIDED
        self._believe(piece, believed)
        if self.known == self.everything:
            self._step(MapCause.LAST_PIECE)
        return ClaimResult.NEWS

    def seal(self, host: str) -> None:
        """A host has found the SHA-256 right over this map."""
        if self.state is MapState.KNOWN:
            self._step(MapCause.SHA256_RIGHT)
        if self.state is MapState.SEALED and host not in self._sealers and len(self._sealers) <= QUORUM:
            self._sealers += (host,)

    def is_settled_against(self, accuser: str) -> bool:
        """Whether the map is right whatever this host says."""
        others = sum(sealer != accuser for sealer in self._sealers)
        return self.state is MapState.PROVEN or (self.state is MapState.SEALED and others >= QUORUM)

    def contest(self, accuser: str | None) -> None:
        """Believe only what has two reporters from now on. `accuser` says that a SHA-256 is wrong over the full map."""
        self._step(MapCause.DISPUTE)
        if accuser is not None:
            self._accused = (accuser, bytes(self._digests))
        self._sealers = ()
        self.known = 0
        for piece, claim in self._claims.items():
            confirmed = claim.confirmed()
            if confirmed is not None:
                self._believe(piece, confirmed)
        if self.known == self.everything:
            self._step(MapCause.LAST_PIECE)

    def wrong_reporters(self) -> tuple[str, ...]:
        """Who is to blame, once the map is proven; nobody before."""
        if self.state is not MapState.PROVEN:
            return ()
        wrong = {
            reporter: None
            for piece, claim in sorted(self._claims.items())
            for reporter in claim.dissenters(self.digest(piece))
        }
        if self._accused is not None and self._accused[1] == self._digests:
            wrong[self._accused[0]] = None
        return tuple(wrong)

    def has_claim_of(self, host: str) -> bool:
        """Whether anything of the map is known from this host."""
        return any(host in claim.reporters() for claim in self._claims.values())

    def runs(self, pieces: int) -> Iterator[tuple[int, bytes]]:
        """The believed digests of `pieces`: the first piece of each run of neighbouring ones, and their digests."""
        for run in re.finditer("1+", bin(pieces)[:1:-1]):
            yield run.start(), bytes(self._digests[run.start() * DIGEST_BYTES : run.end() * DIGEST_BYTES])

    def validate(self) -> None:
        """Raise AssertionError if the map contradicts itself."""
        full = self.known == self.everything
        assert self.known <= self.everything
        assert full == (self.state in (MapState.KNOWN, MapState.SEALED, MapState.PROVEN)), self._story.lines()
        for piece, claim in self._claims.items():
            if self.known >> piece & 1:
                believed = claim.confirmed() if self.state in _NEEDS_QUORUM else claim.first()
                assert believed == self.digest(piece), self._story.lines()

    def _believe(self, piece: int, digest: bytes) -> None:
        self.known |= 1 << piece
        self._digests[piece * DIGEST_BYTES : (piece + 1) * DIGEST_BYTES] = digest

    def _step(self, cause: MapCause) -> None:
        self.state = self._story.step("map", MAP_TRANSITIONS, self.state, cause)
