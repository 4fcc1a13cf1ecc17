"""What others are told of the pieces that land here: neighbours of pieces to ask for, the scheduler of digests.

Rules:
1. The digests of pieces that the origin sent under a lease are told to the scheduler at once, and neighbours may have
   these pieces at once.
2. Pieces received from peers cannot be published under a lease; a lease of which nothing else is left is returned.
3. A tiny blob is not told piece by piece: the scheduler gets all of it once its SHA-256 is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.core.events import Instruction, SendInlineBlob, Tell
from peer.core.leases import Leases
from peer.core.membership import Membership
from peer.core.neighbours import Neighbours
from peer.core.origin_requests import OriginRequests
from peer.core.picker import PiecePicker
from peer.core.pieces import PieceTracker
from peer.core.reports import Reports
from scheduler.protocol import to_host
from scheduler.protocol.fields import MAX_INLINE_BYTES
from scheduler.protocol.from_host import Announce, Disproved, LeaseEnded, LeaseOutcome, Sealed


@dataclass(slots=True)
class Publisher:
    """For one download. The `leases` and `reports` are its own."""

    digest: bytes
    pieces: PieceTracker
    origin: OriginRequests
    neighbours: Neighbours
    picker: PiecePicker
    membership: Membership
    progress_s: float
    leases: Leases = field(init=False)
    reports: Reports = field(init=False)
    _owes_inline_blob: bool = False

    def __post_init__(self) -> None:
        self.leases = Leases(self.digest, self.pieces)
        self.reports = Reports(self.digest, self.pieces, self.progress_s)

    def landed(
        self, index: int, piece_digest: bytes, now: float, *, from_origin: bool, from_far: bool = False
    ) -> list[Instruction]:
        """A piece is in the store."""
        fresh = self.pieces.receive(index, piece_digest, from_origin=from_origin, from_far=from_far)
        out = self._advertise(fresh, now)
        lease = self.leases.of_piece(index)
        if lease is not None:
            return [*self._publish(lease, now), *out]
        return [*out, *self._announce_carried(index)]

    def _announce_carried(self, index: int) -> list[Instruction]:
        """A piece that was leased by the scheduler before is news to this one, which asks for its digest then."""
        if not self.leases.carried >> index & 1:
            return []
        self.leases.carried &= ~(1 << index)
        holding = self.reports.holding(self.pieces.size_bytes)
        return [] if holding is None else [Tell(Announce((holding,)))]

    def expect(self, runs: tuple[to_host.DigestRun, ...], now: float) -> list[Instruction]:
        """The scheduler has told digests of the map."""
        out: list[Instruction] = []
        for run in runs:
            out += self._advertise(self.pieces.set_expected(run.first, run.digests), now)
        return out

    def leased(self, lease: to_host.Lease, now: float) -> list[Instruction]:
        """The scheduler has leased pieces to this host."""
        is_usable = self.membership.joined and lease.generation == self.neighbours.generation
        if not is_usable or not self.origin.sources:
            return self._give_back(lease.lease)
        return self._publish(self.leases.take(lease), now)

    def sealed(self) -> list[Instruction]:
        """The SHA-256 is right: neighbours may have all of it.

        A map that has another digest for a piece of this host's is wrong, and is not to be sealed.
        """
        generation = max(1, self.neighbours.generation)
        out: list[Instruction] = []
        if self.membership.joined and self.pieces.contradicts():
            out.append(Tell(Disproved(self.digest, generation)))
        if self._owes_inline_blob:
            out.append(SendInlineBlob(self.digest))
        else:
            pieces = self.pieces
            came = (pieces.bytes_of(pieces.from_origin), pieces.bytes_of(pieces.from_far))
            rate = self.picker.requests.piece_bytes_per_s
            out.append(Tell(Sealed(self.digest, generation, *came, piece_bytes_per_s=rate)))
        return [*out, *self.picker.advertise_all()]

    def _publish(self, lease: int, now: float) -> list[Instruction]:
        """Tell the digests of what has landed of a lease; neighbours may have it at once."""
        ready = self.leases.take_landed(lease)
        if 0 < self.pieces.size_bytes <= MAX_INLINE_BYTES:
            self._owes_inline_blob = self._owes_inline_blob or bool(ready)
            return []
        out = [*self.leases.published(lease, ready), *self._advertise(self.pieces.publish(ready), now)]
        return [*out, *self._give_back(lease)] if self.leases.is_stuck(lease) else out

    def _give_back(self, lease: int) -> list[Instruction]:
        """A lease is for another host. The scheduler does not know yet which of its pieces this host has from peers."""
        self.leases.revoke(lease)
        how = LeaseOutcome.RETURNED if self.origin.sources else LeaseOutcome.FAILED
        report = self.reports.progress(self.neighbours.generation) if self.membership.joined else []
        return [*report, Tell(LeaseEnded(lease, self.digest, how))]

    def _advertise(self, fresh: int, now: float) -> list[Instruction]:
        """Neighbours may have these pieces from now on, and the scheduler hears of it in time."""
        if not fresh:
            return []
        self.reports.gained(now)
        return self.picker.advertise(fresh)
