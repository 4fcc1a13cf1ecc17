"""The leases that this host has of one blob: what the origin may be asked for, and what is to be published of it.

A lease is done when the digests of all of its pieces were told. What the origin sent to this host before it had the
lease is told at once; what others sent is not for this host to vouch for, and goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.core.events import Tell
from peer.core.piece_sets import digest_runs, indices, mask, spans
from peer.core.pieces import PieceTracker
from scheduler.protocol.from_host import LeaseEnded, LeaseOutcome, LeasePieces, Length
from scheduler.protocol.to_host import Lease


@dataclass(slots=True)
class Leases:
    """By number, as the scheduler gave them."""

    digest: bytes
    pieces: PieceTracker
    left: dict[int, int] = field(default_factory=dict)
    """What is still to be published of each: a set of pieces, also beyond the end of a blob of unknown length."""
    _early: list[Lease] = field(default_factory=list)
    carried: int = 0
    """Pieces that the scheduler before leased, and that the origin was asked for: a set."""

    def __len__(self) -> int:
        return len(self.left)

    def spans(self) -> tuple[tuple[int, int], ...]:
        """The ranges of pieces that are leased."""
        return tuple(span for pieces in self.left.values() for span in spans(pieces))

    def all(self) -> int:
        """What is still to be published of all leases, as a set."""
        together = 0
        for pieces in self.left.values():
            together |= pieces
        return together

    def clear(self) -> None:
        """They are over: whoever gave them is gone, or has begun anew."""
        self.left.clear()
        self._early.clear()

    def carry(self) -> None:
        """They are over, and another scheduler has the swarm. What the origin was asked for still comes."""
        self.carried = (self.carried | self.all()) & self.pieces.asked_of_origin
        self.clear()

    def keep(self, lease: Lease) -> None:
        """It came before Joined: this host was a member already, in a download that has ended."""
        self._early.append(lease)

    def kept(self) -> list[Lease]:
        """Those that came before Joined, to be heard now."""
        early, self._early = self._early, []
        return early

    def take(self, lease: Lease) -> int:
        """This host will see to it. Returns its number."""
        self.left[lease.lease] = mask(lease.first, lease.stop)
        return lease.lease

    def of_piece(self, index: int) -> int | None:
        """The number of the lease that a piece belongs to."""
        return next((number for number, pieces in self.left.items() if pieces >> index & 1), None)

    def tell_length(self, index: int, size_bytes: int) -> list[Tell]:
        """The origin's answer to the lease that a piece belongs to had the blob's length."""
        lease = self.of_piece(index)
        return [] if lease is None else [Tell(Length(lease, self.digest, size_bytes))]

    def revoke(self, number: int) -> int:
        """The lease is another host's. Returns what was left of it, as a set."""
        self._early = [lease for lease in self._early if lease.lease != number]
        return self.left.pop(number, 0)

    def end_within(self, pieces: int, outcome: LeaseOutcome, status: int) -> list[Tell]:
        """The origin did not send these pieces: what is left of their leases is for other hosts."""
        ended = [number for number, left in self.left.items() if left & pieces]
        for number in ended:
            del self.left[number]
        return [Tell(LeaseEnded(number, self.digest, outcome, status)) for number in ended]

    def take_landed(self, number: int) -> int:
        """What has landed of a lease and is not published yet."""
        ready = self.left[number] & self.pieces.from_origin
        self.left[number] &= ~ready
        if self.pieces.count and not self.left[number] & self.pieces.everything:
            del self.left[number]
        return ready

    def is_stuck(self, number: int) -> bool:
        """Whether all that is left of a lease is here already, from others."""
        left = self.left.get(number, 0) & self.pieces.everything
        return bool(left) and not left & ~self.pieces.held

    def published(self, number: int, pieces: int) -> list[Tell]:
        """The digests of these pieces of a lease, for the scheduler."""
        runs = digest_runs({index: self.pieces.own[index] for index in indices(pieces)})
        return [Tell(LeasePieces(number, self.digest, first, digests)) for first, digests in runs]

    def validate(self) -> None:
        """Raise AssertionError if a lease is kept of which nothing is left."""
        assert all(self.left.values())
