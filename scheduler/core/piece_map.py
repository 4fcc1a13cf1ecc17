"""The piece map of one blob: the believed digest of each piece, the reporters of each digest, and wrong reporters.

The problem: a host that fetched a piece from the origin publishes the piece's BLAKE3, and the digest is believed. Later
a member has verified every piece against the map and finds the blob's SHA-256 wrong. So a reported digest was wrong,
and no host can tell which digest, because all bytes match their digests.

Our way: the map is *contested*. Each piece is leased again, to a host that has not reported a digest of that piece
(`scheduler.core.lease_policy`), until two hosts have reported the same digest (`scheduler.core.claims`). The origin
sends one more copy of the blob, and a third copy of the pieces with different reports. When every piece has two equal
reports the map is *proven*.

No report of a digest proves another wrong: hosts that conspire say the same. Only the SHA-256 of the blob does, and a
host's word on that is believed once more hosts have said so than still want the blob, and more than the square root of
all that are connected: a few hosts that conspire are most of any small swarm that they enter. The map is *judged* then,
and

1. every host that reported another digest than the map has is accused;
2. every host that disputed a map with the same digests, before it was judged, is accused.

Nobody is accused before. So hosts that conspire have an honest host accused only if they are most of a large swarm.

Rejected: accusing the publishers of all pieces, because nearly all of them are honest. Rejected: believing the second
report instead of the first, because a liar would get the second lease.

A dispute of a map that two other hosts have sealed, or that is proven, starts no new fetch unless two hosts dispute it,
and more than have sealed it: two that are alone in a swarm may have sealed a wrong map before an honest host came. A
proven map that is disputed so needs one report more for each piece than before. If no other host can decide, the swarm
fails, every host asks the origin itself, and no host is accused. A host behind a proxy that corrupts bytes is treated
as a liar, because its pieces are equally useless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from math import isqrt
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
    MapState.PROVEN: {MapCause.DISPUTE: MapState.CONTESTED},
}


_NEEDS_QUORUM: Final = (MapState.CONTESTED, MapState.PROVEN)
"""The states in which a digest is believed only if a quorum of witnesses has reported it."""


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


MAX_DISPUTED: Final = 4
"""Disputed maps that are remembered with those that disputed them. One takes as much memory as the map."""


def conspirators(connected: int) -> int:
    """The most hosts, of all that are connected, that may conspire without having another host accused."""
    return isqrt(connected)


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

    __slots__ = (
        "_chunks",
        "_claims",
        "_disputed",
        "_disputers",
        "_quorum",
        "_sealers",
        "_story",
        "count",
        "judged",
        "known",
        "state",
    )

    def __init__(self, count: int, story: Story) -> None:
        self.count: Final = count
        self.state = MapState.GROWING
        self.known = 0
        """The pieces whose digest is believed, as a set of bits."""
        self._story = story
        self._chunks: dict[int, _Chunk] = {}
        self._claims: dict[int, Claim[bytes]] = {}
        """The reports about pieces that have several, and of all pieces once the map was disputed."""
        self.judged = False
        """Whether most of the swarm has found the SHA-256 right over these digests."""
        self._quorum = QUORUM
        self._sealers: dict[str, Identity] = {}
        """The hosts that found the SHA-256 right over these digests, by witness."""
        self._disputers: dict[str, Identity] = {}
        """Those that found it wrong."""
        self._disputed: list[tuple[dict[int, bytes], tuple[Identity, ...]]] = []
        """The digests of earlier maps that were disputed, and by whom."""

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
            claim.add(reporter, digest, self._quorum)
            if is_known:
                if self.digest(piece) == digest:
                    return ClaimResult.NOTHING_NEW
                if self.judged:
                    return ClaimResult.DISPROVED
                return ClaimResult.UNDECIDED if self.state in _NEEDS_QUORUM else ClaimResult.CONTRADICTION
            believed = claim.confirmed(self._quorum)
            if believed is None:
                return ClaimResult.UNDECIDED
            digest = believed
        self._believe(piece, digest, reporter)
        if self.known == self.everything:
            self._step(MapCause.LAST_PIECE)
        return ClaimResult.NEWS

    def seal(self, host: Identity, wanting: int, connected: int) -> bool:
        """Record that a host found the blob's SHA-256 right over this map. Returns whether that judges the map.

        `wanting` is the number of hosts that do not have the blob yet, `connected` that of all hosts.
        """
        if self.state is MapState.KNOWN:
            self._step(MapCause.SHA256_RIGHT)
        if self.judged or self.state not in (MapState.SEALED, MapState.PROVEN):
            return False
        self._sealers[host.witness] = host
        self._disputers.pop(host.witness, None)
        self.judged = len(self._sealers) >= QUORUM and len(self._sealers) > max(wanting, conspirators(connected))
        return self.judged

    def dispute(self, host: Identity) -> bool:
        """Record that a host found the SHA-256 wrong over this map. Returns whether the map must be contested."""
        self._disputers[host.witness] = host
        self._sealers.pop(host.witness, None)
        if self.state is MapState.KNOWN or (self.state is MapState.SEALED and len(self._sealers) < QUORUM):
            return True
        return len(self._disputers) >= QUORUM and len(self._disputers) > len(self._sealers)

    def contest(self) -> None:
        """Believe only digests with enough equal reports: two, and one more for each proven map that was disputed."""
        self._quorum += self.state is MapState.PROVEN
        self._step(MapCause.DISPUTE)
        if self._disputers:
            self._disputed = [*self._disputed, (self._all_digests(), tuple(self._disputers.values()))][-MAX_DISPUTED:]
        self._disputers, self._sealers, self.judged = {}, {}, False
        for first, stop in _runs(self.known):
            for piece in range(first, stop):
                self._claim(piece)
        self.known = 0
        for piece, claim in self._claims.items():
            confirmed = claim.confirmed(self._quorum)
            if confirmed is not None:
                self._believe(piece, confirmed, SECONDHAND)
        if self.known == self.everything:
            self._step(MapCause.LAST_PIECE)

    def wrong_reporters(self) -> tuple[Identity, ...]:
        """The hosts to accuse once the map is judged; none before."""
        if not self.judged:
            return ()
        wrong = {
            reporter: None
            for piece, claim in sorted(self._claims.items())
            for reporter in claim.dissenters(self.digest(piece))
        }
        wrong |= dict.fromkeys(self._disputers.values())
        for digests, disputers in self._disputed:
            if digests == self._all_digests():
                wrong |= dict.fromkeys(disputers)
        return tuple(wrong)

    def right_reporters(self) -> tuple[Identity, ...]:
        """The hosts whose every report is right, once the map is judged; none before."""
        if not self.judged:
            return ()
        wrong = self.wrong_reporters()
        reporters = {reporter: None for piece in range(self.count) for reporter in self.reporters(piece)}
        return tuple(reporter for reporter in reporters if reporter not in wrong)

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
                believed = claim.confirmed(self._quorum) if self.state in _NEEDS_QUORUM else claim.first()
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
