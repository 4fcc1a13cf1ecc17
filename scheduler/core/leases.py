"""The leases, and the number of leases of each host and origin. `scheduler.core.lease_policy` grants them.

A late lease takes no one's place: it counts neither for its host nor for its origin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from scheduler.core.members import Host, Member, Source
from scheduler.core.origin_pace import OriginPace
from scheduler.core.story import Story

K = TypeVar("K", bound=Hashable)


class LeaseState(Enum):
    """The state of a lease."""

    OFFERED = auto()
    """Sent; the host has not published a piece yet."""
    ACTIVE = auto()
    LATE = auto()
    """It has brought nothing in time. Another host gets its pieces as well, and whoever has them first is heard."""
    DONE = auto()
    FAILED = auto()
    RETURNED = auto()
    EXPIRED = auto()
    REVOKED = auto()


class LeaseCause(Enum):
    """The events that change the state of a lease."""

    PIECE = auto()
    """The host has published the length or a piece, and pieces of the lease are left."""
    LAST_PIECE = auto()
    FAIL = auto()
    GIVE_BACK = auto()
    """The host returned the lease, left, or vanished."""
    OVERDUE = auto()
    """It has brought nothing in time, and there is another host to ask."""
    EXPIRE = auto()
    REVOKE = auto()
    """The scheduler takes the lease back: the map was reset, the host holds the whole blob, or lengths disagree."""


_ENDINGS: Final = {
    LeaseCause.LAST_PIECE: LeaseState.DONE,
    LeaseCause.FAIL: LeaseState.FAILED,
    LeaseCause.GIVE_BACK: LeaseState.RETURNED,
    LeaseCause.EXPIRE: LeaseState.EXPIRED,
    LeaseCause.REVOKE: LeaseState.REVOKED,
}

LEASE_TRANSITIONS: Final[Mapping[LeaseState, Mapping[LeaseCause, LeaseState]]] = {
    LeaseState.OFFERED: {LeaseCause.PIECE: LeaseState.ACTIVE, LeaseCause.OVERDUE: LeaseState.LATE, **_ENDINGS},
    LeaseState.ACTIVE: {LeaseCause.PIECE: LeaseState.ACTIVE, LeaseCause.OVERDUE: LeaseState.LATE, **_ENDINGS},
    LeaseState.LATE: {LeaseCause.PIECE: LeaseState.LATE, **_ENDINGS},
    LeaseState.DONE: {},
    LeaseState.FAILED: {},
    LeaseState.RETURNED: {},
    LeaseState.EXPIRED: {},
    LeaseState.REVOKED: {},
}


@dataclass(slots=True, eq=False)
class Lease:
    """A host's permission to fetch pieces. `left` are those of `pieces` that nobody has published yet, as bits."""

    id: int
    digest: bytes
    member: Member
    source: Source
    pieces: int
    left: int
    stranger: str
    """The witness of a host that had brought nothing yet when the lease was granted; "" of any other host."""
    state: LeaseState = LeaseState.OFFERED
    asked: bool = False
    """Whether its time is over, and its host was pinged to hear what it had said before."""
    waits_since: float = 0.0
    """When it was granted, or last brought something."""
    times: int = 1
    """Times the usual time that it has, because leases before have brought nothing."""


class LeaseBook:
    """All leases that have not ended."""

    def __init__(self) -> None:
        self.active: Final[dict[int, Lease]] = {}
        self.late: Final[dict[int, Lease]] = {}
        self.pace: Final = OriginPace()
        self.overdue = 0
        """The number of leases that have brought nothing in time."""
        self.given = 0
        """The number of leases that were ever granted, and the id of the latest lease."""
        self._per_host: Final[dict[Host, int]] = {}
        self._per_upstream: Final[dict[str, int]] = {}
        self._per_stranger: Final[dict[str, int]] = {}

    def of_host(self, host: Host) -> int:
        """The number of active leases of a host, of all blobs."""
        return self._per_host.get(host, 0)

    def of_upstream(self, upstream: str) -> int:
        """The number of active leases from an origin."""
        return self._per_upstream.get(upstream, 0)

    def of_strangers(self, witness: str) -> int:
        """The number of active leases of all hosts of one witness that had brought nothing yet."""
        return self._per_stranger.get(witness, 0)

    def open(self, digest: bytes, member: Member, source: Source, pieces: int) -> Lease:
        """Open a lease of `pieces`, a set of bits."""
        self.given += 1
        stranger = "" if member.host.proven else member.host.identity.witness
        lease = Lease(self.given, digest, member, source, pieces, pieces, stranger)
        self.active[lease.id] = lease
        if stranger:
            self._per_stranger[stranger] = self.of_strangers(stranger) + 1
        self._per_host[member.host] = self.of_host(member.host) + 1
        self._per_upstream[source.upstream] = self.of_upstream(source.upstream) + 1
        member.leased += pieces.bit_count()
        return lease

    def step(self, lease: Lease, cause: LeaseCause, story: Story) -> bool:
        """Change a lease's state by the table. Returns whether the lease has ended, and removes an ended lease."""
        was_late = lease.state is LeaseState.LATE
        lease.state = story.step(f"lease {lease.id} of {lease.member.host.id}", LEASE_TRANSITIONS, lease.state, cause)
        if lease.state is LeaseState.ACTIVE or (was_late and lease.state is LeaseState.LATE):
            return False
        if was_late:
            del self.late[lease.id]
            return True
        del self.active[lease.id]
        _count_down(self._per_host, lease.member.host)
        _count_down(self._per_upstream, lease.source.upstream)
        if lease.stranger:
            _count_down(self._per_stranger, lease.stranger)
        if lease.state is LeaseState.LATE:
            self.late[lease.id] = lease
            return False
        return True

    def validate(self) -> None:
        """Raise AssertionError if a count is wrong, or a lease's member is not in the swarm."""
        for lease in self.active.values():
            assert lease.state in (LeaseState.OFFERED, LeaseState.ACTIVE)
            assert lease.member.host.members.get(lease.digest) is lease.member
        for lease in self.late.values():
            assert lease.state is LeaseState.LATE
            assert lease.member.host.members.get(lease.digest) is lease.member
        assert Counter(lease.stranger for lease in self.active.values() if lease.stranger) == self._per_stranger
        assert Counter(lease.member.host for lease in self.active.values()) == self._per_host
        assert Counter(lease.source.upstream for lease in self.active.values()) == self._per_upstream


def _count_down(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
