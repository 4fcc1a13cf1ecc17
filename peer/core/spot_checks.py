"""Checks of what a publisher says of a piece: a sample of the piece comes from the origin, the piece from a neighbour.

Rules:
1. The scheduler says which bytes of which piece. The sample is fetched first, and the piece is asked of neighbours
   only then: a piece that differs never reaches the store.
2. A piece that this host has from the origin itself needs no sample. A piece that it has from a neighbour is not
   checked.
3. A piece that differs has a wrong digest: it is not asked for until the scheduler tells its digest to everybody. The
   neighbour that sent it is not blamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from peer.core.events import FetchSample, Instruction, Sample, SampleFetched, Tell
from peer.core.origin_requests import OriginRequests
from peer.core.pieces import PieceTracker
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import SpotChecked, SpotResult
from scheduler.protocol.to_host import DigestRun, SpotCheck

MAX_CHECKS: Final = 16
"""Checks of one blob that may be under way; more are not answered."""


@dataclass(slots=True)
class SpotChecks:
    """For one download."""

    digest: bytes
    pieces: PieceTracker
    origin: OriginRequests
    numbers: Iterator[int]
    _fetching: dict[int, SpotCheck] = field(default_factory=dict)
    """Those that wait for their sample, by the number of its request."""
    _waiting: dict[int, SpotCheck] = field(default_factory=dict)
    """Those that wait for their piece, by piece."""

    def requested(self, check: SpotCheck, now: float) -> list[Instruction]:
        """The scheduler asks for a check."""
        if check.piece >= self.pieces.count or len(self._fetching) + len(self._waiting) >= MAX_CHECKS:
            return []
        if self.pieces.held >> check.piece & 1:
            return [self._judged_by_own(check)]
        source = self.origin.next_source(now)
        if self.pieces.known >> check.piece & 1 or source is None:
            return [_answer(check, SpotResult.UNKNOWN)]
        number = next(self.numbers)
        self._fetching[number] = check
        size_bytes, length = self.pieces.size_bytes, self.pieces.told_piece_length
        return [FetchSample(self.digest, number, source, check.piece, check.start, check.stop, size_bytes, length)]

    def fetched(self, event: SampleFetched) -> list[Instruction]:
        """A sample has come from the origin, or not: the piece can be asked for."""
        check = self._fetching.pop(event.request, None)
        if check is None:
            return []
        if self.pieces.held >> check.piece & 1:
            return [self._judged_by_own(check)]
        if event.data is None or self.pieces.known >> check.piece & 1:
            return [_answer(check, SpotResult.UNKNOWN)]
        self._waiting[check.piece] = check
        self.pieces.samples[check.piece] = Sample(check.start, event.data)
        self.pieces.set_expected(check.piece, check.piece_digest)
        return []

    def landed(self, piece: int) -> list[Instruction]:
        """A piece is held."""
        check = self._end(piece)
        if check is None:
            return []
        if self.pieces.from_origin >> piece & 1:
            return [self._judged_by_own(check)]
        return [_answer(check, SpotResult.RIGHT)]

    def differs(self, piece: int) -> list[Instruction]:
        """A piece that a neighbour sent has the digest that was said, and other bytes than the origin's."""
        check = self._end(piece)
        if check is None:
            return []
        self.pieces.differing |= 1 << piece
        return [_answer(check, SpotResult.WRONG)]

    def told(self, runs: tuple[DigestRun, ...]) -> None:
        """The scheduler tells the digests of these pieces to everybody: it waits for checks of them no longer."""
        for piece in list(self._waiting):
            if any(run.first <= piece < run.first + len(run.digests) // DIGEST_BYTES for run in runs):
                self._end(piece)

    def clear(self) -> None:
        """A new map begins."""
        self._fetching.clear()
        self._waiting.clear()

    def _end(self, piece: int) -> SpotCheck | None:
        self.pieces.samples.pop(piece, None)
        return self._waiting.pop(piece, None)

    def _judged_by_own(self, check: SpotCheck) -> Tell:
        """The answer of a host that holds the piece: from the origin it knows better."""
        if not self.pieces.from_origin >> check.piece & 1:
            return _answer(check, SpotResult.UNKNOWN)
        is_right = self.pieces.own[check.piece] == check.piece_digest
        return _answer(check, SpotResult.RIGHT if is_right else SpotResult.WRONG)


def _answer(check: SpotCheck, result: SpotResult) -> Tell:
    return Tell(SpotChecked(check.digest, check.generation, check.piece, result))
