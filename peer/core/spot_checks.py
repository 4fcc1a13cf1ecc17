"""Comparisons of pieces from neighbours with the origin: whether what a publisher said of a piece is so.

Rules:
1. The scheduler says which bytes of which piece, and the host answers once it holds the piece.
2. A piece that this host has from the origin itself needs no comparison.
3. Bytes that differ mean that the digest of the piece was wrong. The download begins anew (`peer.core.swarm_member`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from peer.core.events import BytesCompared, CompareBytes, Instruction, Tell
from peer.core.origin_requests import OriginRequests
from peer.core.pieces import PieceTracker
from scheduler.protocol.from_host import SpotChecked, SpotResult
from scheduler.protocol.to_host import SpotCheck

MAX_CHECKS: Final = 16
"""Checks of one blob that may wait or be under way; more are not answered."""


@dataclass(slots=True)
class SpotChecks:
    """For one download."""

    digest: bytes
    pieces: PieceTracker
    origin: OriginRequests
    numbers: Iterator[int]
    _waiting: dict[int, SpotCheck] = field(default_factory=dict)
    """By piece."""
    _running: dict[int, SpotCheck] = field(default_factory=dict)
    """By the number of the request to the origin."""

    @property
    def wanted(self) -> int:
        """The pieces that are to be compared and are not held yet, as a set of bits."""
        return sum(1 << piece for piece in self._waiting)

    def requested(self, check: SpotCheck) -> list[Instruction]:
        """The scheduler asks for a comparison."""
        if check.piece < self.pieces.count and len(self._waiting) + len(self._running) < MAX_CHECKS:
            self._waiting[check.piece] = check
        return self.due()

    def due(self) -> list[Instruction]:
        """Begin the comparisons of the pieces that are held by now."""
        out: list[Instruction] = []
        for piece in [piece for piece in self._waiting if self.pieces.advertised >> piece & 1]:
            check = self._waiting.pop(piece)
            if self.pieces.from_origin >> piece & 1:
                out.append(_answer(check, SpotResult.RIGHT))
            elif not self.origin.sources:
                out.append(_answer(check, SpotResult.UNKNOWN))
            else:
                number, source = next(self.numbers), self.origin.next_source()
                self._running[number] = check
                out.append(CompareBytes(self.digest, number, source, piece, check.start, check.stop))
        return out

    def compared(self, event: BytesCompared) -> list[Tell]:
        """The result of a comparison; nothing if the comparison was of an earlier map."""
        check = self._running.pop(event.request, None)
        if check is None:
            return []
        results = {True: SpotResult.RIGHT, False: SpotResult.WRONG, None: SpotResult.UNKNOWN}
        return [_answer(check, results[event.equal])]

    def clear(self) -> None:
        """A new map begins."""
        self._waiting.clear()
        self._running.clear()


def _answer(check: SpotCheck, result: SpotResult) -> Tell:
    return Tell(SpotChecked(check.digest, check.generation, check.piece, result))
