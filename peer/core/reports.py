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
"""How long nothing may be left to ask of anybody until the scheduler is told."""


@dataclass(slots=True)
class Reports:
    """About the `pieces` of one blob, no oftener than every `progress_s`."""

    digest: bytes
    pieces: PieceTracker
    progress_s: float
    _told: int = 0
    _needs_told: int = 0
    _due: float | None = None
    _idle_since: float | None = None

    def holding(self, size_bytes: int | None) -> Holding | None:
        """What to announce to a scheduler that is new; None when there is nothing to tell.

        All that is held, and not only what is advertised: the scheduler asks for the digests that it does not know.
        """
        if not self.pieces.held or size_bytes is None:
            return None
        return Holding(self.digest, size_bytes, complete=False, have=bitfield(self.pieces.held))

    def begin(self, now: float) -> None:
        """A new scheduler knows what was announced; some of it may prove to be other pieces than the map has."""
        self._told, self._needs_told, self._due = self.pieces.held, 0, now + self.progress_s

    def gained(self, now: float) -> None:
        """There is something to report, in time."""
        if self._due is None:
            self._due = now + self.progress_s

    def hurry(self, now: float) -> None:
        """What the scheduler was told is not so any more."""
        self._due = now

    def next_due(self, now: float) -> float:
        """When a report will be due, after `now`; infinity if none will."""
        due = math.inf if self._due is None or self._due <= now else self._due
        if self._idle_since is not None and now < self._idle_since + STARVING_AFTER_S < due:
            due = self._idle_since + STARVING_AFTER_S
        return due

    def due(self, generation: int, *, busy: bool, now: float) -> list[Tell]:
        """The report that is due, if one is. `busy`: something is under way, or nothing is missing."""
        if busy:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        if self._idle_since is not None and now >= self._idle_since + STARVING_AFTER_S:
            self._idle_since = now
            return self.progress(generation, starving=True)
        if self._due is None or now < self._due:
            return []
        self._due = None
        return self.progress(generation) if self.pieces.advertised != self._told else []

    def progress(self, generation: int, *, starving: bool = False) -> list[Tell]:
        """All that others may have from here."""
        self._told, self._due = self.pieces.advertised, None
        return [Tell(Progress(self.digest, generation, bitfield(self.pieces.advertised), starving))]

    def needs(self, urgent: int) -> list[Tell]:
        """The pieces that clients wait for before all others, if nobody is known to have them; each is told once."""
        needs = urgent & ~self.pieces.held & ~self.pieces.known & ~self._needs_told
        self._needs_told |= needs
        return [Tell(Need(self.digest, first, stop)) for first, stop in spans(needs)]

    def digest_reports(self) -> list[Tell]:
        """The digests that this host knows: the scheduler has lost them."""
        return [Tell(report) for report in digest_reports(self.digest, self.pieces.digests())]
