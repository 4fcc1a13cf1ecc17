"""The piece map of one blob: the believed digest of each piece, the reporters of each digest, and wrong reporters.

The problem: a host that fetched a piece from the origin publishes the piece's BLAKE3, and the digest is believed. Later
a member has verified every piece against the map and finds the blob's SHA-256 wrong. So a reported digest was wrong,
and no host can tell which digest, because all bytes match their digests.

Our way: the map is *contested*. Each piece is leased again, to a host that has not reported a digest of that piece
(`scheduler.core.lease_policy`), until two hosts have reported the same digest (`scheduler.core.claims`). The origin
sends one more copy of the blob, and a third copy of the pieces with different reports. When every piece has two equal
reports the map is *proven*. Then

1. every host that reported another digest than the proven digest is accused;
2. if the disputed map was right in every piece, the host that disputed it is accused.

Rejected: accusing the publishers of all pieces, because nearly all of them are honest. Rejected: believing the second
report instead of the first, because a liar would get the second lease and have an honest host quarantined.

A dispute of a map that two other hosts have sealed, or that is proven, starts no new fetch: the disputing host is
accused. If no third host can decide, the swarm fails, every host asks the origin itself, and no host is accused. A host
behind a proxy that corrupts bytes is treated as a liar, because its pieces are equally useless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

from scheduler.core.claims import QUORUM, SECONDHAND, Claim
from scheduler.core.members import Identity
from scheduler.core.story import Story
from scheduler.protocol.fields import DIGEST_BYTES


class MapState(Enum):
    """The progress of a piece map, and the trust in it."""

    GROWING = auto()
    KNOWN = auto()
    SEALED = auto()
    CONTESTED = auto()
    PROVEN = auto()


class MapCause(Enum):
    """The events that change the state of a piece map."""

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
"""The states in which a digest is believed only if QUORUM hosts have reported it."""


class ClaimResult(Enum):
    """The result of a host's report of a piece's digest."""

    NEWS = auto()
    """The digest is believed now and was not believed before."""
    NOTHING_NEW = auto()
    UNDECIDED = auto()
    """The map is contested, and the piece needs another report."""
    CONTRADICTION = auto()
    """The digest differs from the believed digest: the map must be contested."""
    DISPROVED = auto()
    """The digest differs from the proven digest."""


CHUNK: Final = 64
"""The pieces whose digests are stored together. A map takes memory as digests arrive, wherever they are in the blob."""

CHUNK_BYTES: Final = CHUNK * (DIGEST_BYTES + 8) + 256


class _Chunk:
    """The believed digests of some consecutive pieces, and the reporter of each that has one reporter."""

    __slots__ = ("digests", "reporters")

    def __init__(self) -> None:
        self.digests = bytearray(CHUNK * DIGEST_BYTES)
        self.reporters: list[Identity] = [SECONDHAND] * CHUNK


class PieceMap:
    """The map of a blob of `count` pieces; `count` is at least 1."""

    __slots__ = ("_accused", "_chunks", "_claims", "_sealers", "_story", "count", "known", "state")

    def __init__(self, count: int, story: Story) -> None:
        self.count: Final = count
        self.state = MapState.GROWING
        self.known = 0
        """The pieces whose digest is believed, as a set of bits."""
        self._story = story
        self._chunks: dict[int, _Chunk] = {}
        self._claims: dict[int, Claim[bytes]] = {}
        """The reports about pieces that have several, and of all pieces once the map was disputed."""
        self._sealers: tuple[Identity, ...] = ()
        self._accused: tuple[Identity, dict[int, bytes]] | None = None

    @property
    def everything(self) -> int:
        """All pieces, as a set of bits."""
        return (1 << self.count) - 1

    def digest(self, piece: int) -> bytes:
        """The believed digest of a piece in `known`."""
        at = piece % CHUNK * DIGEST_BYTES
        return bytes(self._chunks[piece // CHUNK].digests[at : at + DIGEST_BYTES])

    def growth_bytes(self, first: int, count: int) -> int:
        """The memory that digests of the pieces from `first` on would make the map take."""
        chunks = range(first // CHUNK, (first + count - 1) // CHUNK + 1)
        return CHUNK_BYTES * sum(chunk not in self._chunks for chunk in chunks)

    def reporters(self, piece: int) -> tuple[Identity, ...]:
        """The hosts that have reported a digest of a piece."""
        claim = self._claims.get(piece)
        if claim is not None:
            return claim.reporters()
        reporter = self._chunks[piece // CHUNK].reporters[piece % CHUNK] if self.known >> piece & 1 else SECONDHAND
        return () if reporter == SECONDHAND else (reporter,)

    def claim_digest(self, reporter: Identity, piece: int, digest: bytes) -> ClaimResult:
        """Record a host's report of a piece's digest."""
        is_known = self.known >> piece & 1
        if is_known or self.state is MapState.CONTESTED:
            claim = self._claim(piece)
            claim.add(reporter, digest)
            if is_known:
                if self.digest(piece) == digest:
                    return ClaimResult.NOTHING_NEW
                return ClaimResult.DISPROVED if self.state in _NEEDS_QUORUM else ClaimResult.CONTRADICTION
            believed = claim.confirmed()
            if believed is None:
                return ClaimResult.UNDECIDED
            digest = believed
        self._believe(piece, digest, reporter)
        if self.known == self.everything:
            self._step(MapCause.LAST_PIECE)
        return ClaimResult.NEWS

    def seal(self, host: Identity) -> None:
        """Record that a host found the blob's SHA-256 right over this map."""
        if self.state is MapState.KNOWN:
            self._step(MapCause.SHA256_RIGHT)
        others = [sealer.witness for sealer in self._sealers]
        if self.state is MapState.SEALED and host.witness not in others and len(others) <= QUORUM:
            self._sealers += (host,)

    def is_settled_against(self, accuser: Identity) -> bool:
        """Whether the map stays believed if this host disputes it."""
        others = sum(sealer.witness != accuser.witness for sealer in self._sealers)
        return self.state is MapState.PROVEN or (self.state is MapState.SEALED and others >= QUORUM)

    def contest(self, accuser: Identity | None) -> None:
        """Believe only digests with two equal reports. `accuser` found the SHA-256 wrong over the full map."""
        self._step(MapCause.DISPUTE)
        if accuser is not None:
            self._accused = (accuser, self._all_digests())
        self._sealers = ()
        for first, stop in _runs(self.known):
            for piece in range(first, stop):
                self._claim(piece)
        self.known = 0
        for piece, claim in self._claims.items():
            confirmed = claim.confirmed()
            if confirmed is not None:
                self._believe(piece, confirmed, SECONDHAND)
        if self.known == self.everything:
            self._step(MapCause.LAST_PIECE)

    def wrong_reporters(self) -> tuple[Identity, ...]:
        """The hosts to accuse once the map is proven; none before."""
        if self.state is not MapState.PROVEN:
            return ()
        wrong = {
            reporter: None
            for piece, claim in sorted(self._claims.items())
            for reporter in claim.dissenters(self.digest(piece))
        }
        if self._accused is not None and self._accused[1] == self._all_digests():
            wrong[self._accused[0]] = None
        return tuple(wrong)

    def has_claim_of(self, host: Identity) -> bool:
        """Whether this host has reported a digest of any piece."""
        return any(host in chunk.reporters for chunk in self._chunks.values()) or any(
            host in claim.reporters() for claim in self._claims.values()
        )

    def runs(self, pieces: int) -> Iterator[tuple[int, bytes]]:
        """The believed digests of `pieces`: for each run of consecutive pieces, the first piece and the digests."""
        for first, stop in _runs(pieces):
            yield first, b"".join(self._parts(first, stop))

    def validate(self) -> None:
        """Raise AssertionError if the map contradicts itself."""
        full = self.known == self.everything
        assert self.known <= self.everything
        assert full == (self.state in (MapState.KNOWN, MapState.SEALED, MapState.PROVEN)), self._story.lines()
        for piece, claim in self._claims.items():
            if self.known >> piece & 1:
                believed = claim.confirmed() if self.state in _NEEDS_QUORUM else claim.first()
                assert believed == self.digest(piece), self._story.lines()

    def _parts(self, first: int, stop: int) -> Iterator[bytearray]:
        for chunk in range(first // CHUNK, (stop - 1) // CHUNK + 1):
            start = chunk * CHUNK
            low, high = max(first - start, 0), min(stop - start, CHUNK)
            yield self._chunks[chunk].digests[low * DIGEST_BYTES : high * DIGEST_BYTES]

    def _all_digests(self) -> dict[int, bytes]:
        return {at: bytes(chunk.digests) for at, chunk in self._chunks.items()}

    def _claim(self, piece: int) -> Claim[bytes]:
        """All reports about a piece."""
        claim = self._claims.get(piece)
        if claim is None:
            claim = self._claims[piece] = Claim()
            if self.known >> piece & 1:
                claim.add(self._chunks[piece // CHUNK].reporters[piece % CHUNK], self.digest(piece))
        return claim

    def _believe(self, piece: int, digest: bytes, reporter: Identity) -> None:
        self.known |= 1 << piece
        chunk = self._chunks.get(piece // CHUNK)
        if chunk is None:
            chunk = self._chunks[piece // CHUNK] = _Chunk()
        at = piece % CHUNK
        chunk.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] = digest
        chunk.reporters[at] = reporter

    def _step(self, cause: MapCause) -> None:
        self.state = self._story.step("map", MAP_TRANSITIONS, self.state, cause)


def _runs(pieces: int) -> Iterator[tuple[int, int]]:
    """The runs of consecutive pieces in a set, each as its first piece and the piece after its last."""
    return (run.span() for run in re.finditer("1+", bin(pieces)[:1:-1]))
