"""Hosts, their memberships in swarms, and the pools that members are drawn from.

Rules:
1. A member is one host in one swarm. There are many: they have slots, and share what they can.
2. A pool gives any of its members at random, and loses any, in constant time: nothing here looks at all members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from scheduler.protocol.geometry import ALL_SHARES
from scheduler.protocol.to_host import Neighbour


class Topology(NamedTuple):
    """Where a host is. A zone's name is only told apart within its site, a rack's within its zone."""

    site: str
    zone: str
    rack: str


@dataclass(slots=True, eq=False)
class Host:
    """A host that is connected."""

    connection: int
    id: str
    address: str
    topology: Topology
    connected_at: float
    members: dict[bytes, Member] = field(default_factory=dict)
    refused: dict[Source, OriginRefusal] = field(default_factory=dict)
    """The repositories for which it gets no lease."""
    seen_at: tuple[Neighbour, ...] = field(init=False, repr=False)
    """What others are told of it, by its distance from them: they are told often, and it never changes."""

    def __post_init__(self) -> None:
        self.seen_at = tuple(Neighbour(self.id, self.address, apart) for apart in range(4))


class Source(NamedTuple):
    """Where a member's client was authorised to have the blob."""

    upstream: str
    repository: str


class OriginRefusal(NamedTuple):
    """The origin refused a host: it gets no lease there until then, and `status` was the answer."""

    until: float
    status: int


class MemberState(Enum):
    """What a member is to its swarm."""

    IDLE = auto()
    """Holds some pieces, perhaps, and wants none now."""
    JOINING = auto()
    """Wants the blob, and does not know its pieces yet."""
    ACTIVE = auto()
    COMPLETE = auto()
    GONE = auto()


class MemberCause(Enum):
    """What moves a member from one state to another."""

    WANTS = auto()
    SIZED = auto()
    UNSIZED = auto()
    """The blob's length was disputed, and is not known any more."""
    HOLDS_ALL = auto()
    LEAVES = auto()


MEMBER_TRANSITIONS: Final[Mapping[MemberState, Mapping[MemberCause, MemberState]]] = {
    MemberState.IDLE: {
        MemberCause.WANTS: MemberState.JOINING,
        MemberCause.HOLDS_ALL: MemberState.COMPLETE,
        MemberCause.LEAVES: MemberState.GONE,
    },
    MemberState.JOINING: {
        MemberCause.SIZED: MemberState.ACTIVE,
        MemberCause.HOLDS_ALL: MemberState.COMPLETE,
        MemberCause.LEAVES: MemberState.GONE,
    },
    MemberState.ACTIVE: {
        MemberCause.UNSIZED: MemberState.JOINING,
        MemberCause.HOLDS_ALL: MemberState.COMPLETE,
        MemberCause.LEAVES: MemberState.GONE,
    },
    MemberState.COMPLETE: {
        MemberCause.WANTS: MemberState.JOINING,
        MemberCause.LEAVES: MemberState.GONE,
    },
    MemberState.GONE: {},
}


class PoolKind(IntEnum):
    """The kinds of pool that a member can be in, each at most once."""

    SWARM = 0
    SITE = 1
    ZONE = 2
    RACK = 3
    WANTING = 4
    """Members that still want pieces: they are given leases and told digests."""
    PROVIDERS = 5
    """Members that hold pieces or have a lease."""
    GATEWAYS = 6
    """Members through which pieces enter their site."""


ABSENT: Final = -1


@dataclass(slots=True, eq=False)
class Member:
    """A host in a swarm."""

    host: Host
    state: MemberState = MemberState.IDLE
    source: Source | None = None
    """None as long as it has not wanted the blob."""
    have: int = 0
    """The pieces that it is known to hold; not kept up once it holds everything."""
    links: dict[Member, None] = field(default_factory=dict)
    avoids: tuple[str, ...] = ()
    """Hosts that it is not linked to again: they failed it, or it failed them."""
    positions: list[int] = field(default_factory=lambda: [ABSENT] * len(PoolKind))
    leased: int = 0
    """Pieces that it was given leases for."""
    failures: int = 0
    digests_sent: int = 0
    """How much of the swarm's log of digests it was sent."""
    missed: int = 0
    """How many found it gone as a neighbour, while it is connected to us."""
    far: int = 0
    """How many of its links lead out of its site."""
    shares: int = ALL_SHARES
    """The shares of the blob's pieces that it may ask of other sites, a bit for each."""
    progressed_at: float = 0.0
    """When it last had anything new, or was made a gateway."""

    @property
    def wants(self) -> bool:
        """Whether it is still to get pieces."""
        return self.state in (MemberState.JOINING, MemberState.ACTIVE)

    def refusal(self, now: float) -> OriginRefusal | None:
        """What the origin said to its host where it would fetch the blob, if that holds still."""
        found = None if self.source is None else self.host.refused.get(self.source)
        return found if found is not None and found.until > now else None

    @property
    def near(self) -> int:
        """How many of its links are within its site."""
        return len(self.links) - self.far

    @property
    def is_gateway(self) -> bool:
        """Whether pieces enter its site through it."""
        return self.positions[PoolKind.GATEWAYS] != ABSENT

    @property
    def is_provider(self) -> bool:
        """Whether pieces can be had from it, now or soon."""
        return self.positions[PoolKind.PROVIDERS] != ABSENT


def distance(a: Topology, b: Topology) -> int:
    """0 in the same rack, 1 in the same zone, 2 in the same site, 3 elsewhere."""
    if a is b:  # as `Membership` gives it to hosts of one rack
        return 0
    if a.site != b.site:
        return 3
    if a.zone != b.zone:
        return 2
    return 0 if a.rack == b.rack else 1


class RandomSet:
    """Members in no order, for one kind of pool."""

    __slots__ = ("_kind", "items")

    def __init__(self, kind: PoolKind) -> None:
        self._kind: Final = kind
        self.items: list[Member] = []

    def __len__(self) -> int:
        return len(self.items)

    def add(self, member: Member) -> None:
        """Put a member in; nothing happens if it is in a pool of this kind already."""
        if member.positions[self._kind] == ABSENT:
            member.positions[self._kind] = len(self.items)
            self.items.append(member)

    def discard(self, member: Member) -> None:
        """Take a member out, if it is in; the last one gets its place."""
        at = member.positions[self._kind]
        if at == ABSENT:
            return
        last = self.items.pop()
        if last is not member:
            self.items[at] = last
            last.positions[self._kind] = at
        member.positions[self._kind] = ABSENT
