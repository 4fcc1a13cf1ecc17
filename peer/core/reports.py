"""What the scheduler is told of this host's pieces, and when: coarsely, and at once when nobody has what it misses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peer.core.digest_reports import digest_reports
from peer.core.events import Tell
from peer.core.piece_sets import bitfield, spans
from peer.core.pieces import PieceTracker
from scheduler.protocol.from_host import Holding, Need, Progress

STARVING_AFTER_S = 1.0
"""How long nothing may be left to ask of anybody until the scheduler is told. It is told again each time after twice as
long, until a piece has come: where 10,000 hosts wait for the first piece, such reports must not hold up the joins."""

MAX_STARVING_S = 32.0


@dataclass(slots=True)
class Reports:
    """About the `pieces` of one blob, no oftener than every `progress_s`."""

    digest: bytes
    pieces: PieceTracker
    progress_s: float
    _told: int = 0
    _needs_told: int = 0
    due_at: float = math.inf
    """When there is something to report."""
    starving_at: float = math.inf
    """When nothing has been under way for too long."""
    _patience_s: float = STARVING_AFTER_S

    def holding(self, size_bytes: int | None) -> Holding | None:
        """What to announce to a scheduler that is new; None when there is nothing to tell.

        All that is held, and not only what is advertised: the scheduler asks for the digests that it does not know.
        """
        if not self.pieces.held or size_bytes is None:
            return None
        length = self.pieces.told_piece_length
        return Holding(self.digest, size_bytes, complete=False, have=bitfield(self.pieces.held), piece_length=length)

    def begin(self, now: float) -> None:
        """A new scheduler knows what was announced; some of it may prove to be other pieces than the map has."""
        self._told, self._needs_told, self.due_at = self.pieces.held, 0, now + self.progress_s
        self._patience_s = STARVING_AFTER_S

    def gained(self, now: float) -> None:
        """There is something to report, in time."""
        self._patience_s = STARVING_AFTER_S
        if self.due_at == math.inf:
            self.due_at = now + self.progress_s

    def hurry(self, now: float) -> None:
        """What the scheduler was told is not so any more."""
        self.due_at = now

    def due(self, generation: int, *, busy: bool, now: float) -> list[Tell]:
        """The report that is due, if one is. `busy`: something is under way, or nothing is missing."""
        if busy:
            self.starving_at = math.inf
        elif self.starving_at == math.inf:
            self.starving_at = now + self._patience_s
        if now >= self.starving_at:
            self._patience_s = min(2 * self._patience_s, MAX_STARVING_S)
            self.starving_at = now + self._patience_s
            return self.progress(generation, starving=True)
        if now < self.due_at:
            return []
        self.due_at = math.inf
        return self.progress(generation) if self.pieces.advertised != self._told else []

    def progress(self, generation: int, *, starving: bool = False) -> list[Tell]:
        """All that others may have from here."""
        self._told, self.due_at = self.pieces.advertised, math.inf
        return [Tell(Progress(self.digest, generation, bitfield(self.pieces.advertised), starving))]

    def needs(self, urgent: int) -> list[Tell]:
        """The pieces that clients wait for before all others, if nobody is known to have them; each is told once."""
        needs = urgent & ~self.pieces.held & ~self.pieces.known & ~self._needs_told
        self._needs_told |= needs
        divided = self.pieces.told_piece_length > 0
        return [Tell(Need(self.digest, first, stop, divided)) for first, stop in spans(needs)]

    def digest_reports(self) -> list[Tell]:
        """The digests that this host knows: the scheduler has lost them."""
        return [Tell(report) for report in digest_reports(self.digest, self.pieces.digests())]
