"""The leases that are out, and how many each host, blob and origin has. `scheduler.core.lease_policy` gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from scheduler.core.members import Host, Member, Source
from scheduler.core.story import Story

K = TypeVar("K", bound=Hashable)


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
    digest: bytes
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
        self._per_host: Final[dict[Host, int]] = {}
        self._per_upstream: Final[dict[str, int]] = {}

    def of_host(self, host: Host) -> int:
        """How many a host has, of all blobs."""
        return self._per_host.get(host, 0)

    def of_upstream(self, upstream: str) -> int:
        """How many are out for one origin."""
        return self._per_upstream.get(upstream, 0)

    def open(self, digest: bytes, member: Member, source: Source, pieces: int) -> Lease:
        """Enter a new lease of a blob for `pieces`, which are a set of bits."""
        self.given += 1
        lease = Lease(self.given, digest, member, source, pieces)
        self.active[lease.id] = lease
        self._per_host[member.host] = self.of_host(member.host) + 1
        self._per_upstream[source.upstream] = self.of_upstream(source.upstream) + 1
        member.leased += pieces.bit_count()
        return lease

    def step(self, lease: Lease, cause: LeaseCause, story: Story) -> bool:
        """Move a lease by the table; whether it has ended, and so is taken out of the book."""
        lease.state = story.step(f"lease {lease.id} of {lease.member.host.id}", LEASE_TRANSITIONS, lease.state, cause)
        if lease.state is LeaseState.ACTIVE:
            return False
        del self.active[lease.id]
        _count_down(self._per_host, lease.member.host)
        _count_down(self._per_upstream, lease.source.upstream)
        return True

    def validate(self) -> None:
        """Raise AssertionError if the counts are not those of the leases, or a lease hangs on nothing."""
        for lease in self.active.values():
            assert lease.state in (LeaseState.OFFERED, LeaseState.ACTIVE)
            assert lease.member.host.members.get(lease.digest) is lease.member
        assert Counter(lease.member.host for lease in self.active.values()) == self._per_host
        assert Counter(lease.source.upstream for lease in self.active.values()) == self._per_upstream


def _count_down(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
