"""The leases that are out, and how many each host, blob and origin has. `scheduler.core.lease_policy` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scheduler.core.members import Member, Source


class LeaseState(Enum):
    """What became of a lease."""

    OFFERED = auto()
    """Sent; nothing has come of it yet."""
    ACTIVE = auto()
    DONE = auto()
    FAILED = auto()
    RETURNED = auto()
    EXPIRED = auto()
    REVOKED = auto()


class LeaseCause(Enum):
    """What moves a lease from one state to another."""

    PIECE = auto()
    """The host has published a piece, or the length, and more is to come."""
    LAST_PIECE = auto()
    FAIL = auto()
    GIVE_BACK = auto()
    """The host returned it, left, or vanished."""
    EXPIRE = auto()
    REVOKE = auto()
    """The scheduler has another use for the pieces: the map was reset, or they came by another way."""


_ENDINGS: Final = {
    LeaseCause.LAST_PIECE: LeaseState.DONE,
    LeaseCause.FAIL: LeaseState.FAILED,
    LeaseCause.GIVE_BACK: LeaseState.RETURNED,
    LeaseCause.EXPIRE: LeaseState.EXPIRED,
    LeaseCause.REVOKE: LeaseState.REVOKED,
}

LEASE_TRANSITIONS: Final[Mapping[LeaseState, Mapping[LeaseCause, LeaseState]]] = {
    LeaseState.OFFERED: {LeaseCause.PIECE: LeaseState.ACTIVE, **_ENDINGS},
    LeaseState.ACTIVE: {LeaseCause.PIECE: LeaseState.ACTIVE, **_ENDINGS},
    LeaseState.DONE: {},
    LeaseState.FAILED: {},
    LeaseState.RETURNED: {},
    LeaseState.EXPIRED: {},
    LeaseState.REVOKED: {},
}


@dataclass(slots=True, eq=False)
class Lease:
    """A host's permission to fetch pieces; `left` are those that it has not published yet, as a set of bits."""

    id: int
    member: Member
    source: Source
    left: int
    state: LeaseState = LeaseState.OFFERED


class LeaseBook:
    """Every lease that is out."""

    def __init__(self) -> None:
        self.active: Final[dict[int, Lease]] = {}
        self.given = 0
        """How many there ever were; the number of the last one."""
        self._per_upstream: Final[dict[str, int]] = {}

    def of_upstream(self, upstream: str) -> int:
        """How many are out for one origin."""
        return self._per_upstream.get(upstream, 0)

    def open(self, member: Member, source: Source, pieces: int) -> Lease:
        """Enter a new lease for `pieces`, which are a set of bits."""
        self.given += 1
        lease = Lease(self.given, member, source, pieces)
        self.active[lease.id] = lease
        member.swarm.leases[lease.id] = lease
        member.host.leases[lease.id] = lease
        self._per_upstream[source.upstream] = self.of_upstream(source.upstream) + 1
        member.leased += pieces.bit_count()
        return lease

    def step(self, lease: Lease, cause: LeaseCause) -> None:
        """Move a lease by the table; one that has ended is taken out of the book."""
        story = lease.member.swarm.story
        lease.state = story.step(f"lease {lease.id} of {lease.member.host.id}", LEASE_TRANSITIONS, lease.state, cause)
        if lease.state is LeaseState.ACTIVE:
            return
        del self.active[lease.id]
        del lease.member.swarm.leases[lease.id]
        del lease.member.host.leases[lease.id]
        upstream = lease.source.upstream
        self._per_upstream[upstream] -= 1
        if not self._per_upstream[upstream]:
            del self._per_upstream[upstream]

    def validate(self) -> None:
        """Raise AssertionError if the counts are not those of the leases, or a lease hangs on nothing."""
        counts: dict[str, int] = {}
        for lease in self.active.values():
            assert lease.state in (LeaseState.OFFERED, LeaseState.ACTIVE)
            assert lease.member.swarm.leases[lease.id] is lease
            assert lease.member.host.leases[lease.id] is lease
            assert lease.member.host.members.get(lease.member.swarm.digest) is lease.member
            counts[lease.source.upstream] = counts.get(lease.source.upstream, 0) + 1
        assert counts == self._per_upstream
