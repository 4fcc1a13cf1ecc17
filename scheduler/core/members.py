"""Hosts, their memberships in swarms, and the pools that members are drawn from.

Rules:
1. A member is one host in one swarm. Members are many: they have slots and share immutable values.
2. A pool gives a random member and removes any member in constant time. Nothing here examines all members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from ipaddress import IPv6Network
from typing import Final, NamedTuple

from scheduler.core.rate import Rate
from scheduler.protocol.geometry import ALL_SHARES
from scheduler.protocol.to_host import Neighbour

LOOPBACK: Final = ("127.", "::/64")
"""How `network_of` a loopback address begins."""


class Topology(NamedTuple):
    """The place of a host. Zone names are unique within a site, and rack names within a zone."""

    site: str
    zone: str
    rack: str


def network_of(address: str) -> str:
    """What one machine has of addresses: an IPv4 address, or the /64 of an IPv6 address (RFC 4291, 2.5.4)."""
    if ":" not in address:
        return address
    try:
        return str(IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


class Identity(NamedTuple):
    """A host as far as it is known to be the one that it says.

    `came_from` is where its connection comes from (`network_of`); "" if a certificate proves the id. An id that nothing
    proves costs nothing, so all ids that come from one place are one witness.
    """

    id: str
    came_from: str

    @property
    def witness(self) -> str:
        """The name under which reports are counted and memory is charged."""
        return self.came_from or self.id

    @property
    def voter(self) -> str:
        """The name under which words about tags are counted. On loopback no addresses tell hosts apart."""
        return self.id if self.came_from.startswith(LOOPBACK) else self.witness

    def __str__(self) -> str:
        return self.id


@dataclass(slots=True, eq=False)
class Host:
    """A connected host."""

    connection: int
    id: str
    address: str
    topology: Topology
    connected_at: float
    came_from: str = ""
    """Where the connection comes from (`network_of`); "" if the host has shown a certificate with its id."""
    checks: bool = False
    """Whether the host answers SpotCheck. Older hosts do not."""
    preheats: bool = False
    """Whether the host takes Preheat."""
    shards: bool = False
    """Whether the host takes Schedulers."""
    preheats_within: bool = False
    """Whether the host keeps to `Preheat.most_bytes`."""
    divides: bool = False
    """Whether the host divides blobs as `Joined.piece_length` says."""
    lengthens: bool = False
    """Whether it does so too if that is longer than usual."""
    members: dict[bytes, Member] = field(default_factory=dict)
    proven: bool = False
    """Whether the host has brought anything of what it was given leases for."""
    is_silent: bool = False
    """Whether a lease of the host has passed in silence since the host last brought anything."""
    refused: dict[Source, OriginRefusal] = field(default_factory=dict)
    """The repositories whose origin has refused this host."""
    version: str = ""
    """The version of p2pd that the host runs, as it says."""
    last_error: str = ""
    """The last that went wrong with the host, for the operator."""
    error_at: float = 0.0
    """When that was."""
    rate: Rate = field(default_factory=Rate)
    """What the host gets of the blobs that it wants."""
    missed_by: set[str] = field(default_factory=set)
    """Hosts that could not reach this host while it is connected here: a few are remembered."""
    seen_at: tuple[Neighbour, ...] = field(init=False, repr=False)
    """The host as its neighbours see it, by distance. Built once, because it is sent often and never changes."""
    identity: Identity = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.identity = Identity(self.id, self.came_from)
        self.seen_at = tuple(Neighbour(self.id, self.address, apart) for apart in range(4))

    def seen_from(self, place: Topology) -> Neighbour:
        """The host as a neighbour in this place sees it."""
        return self.seen_at[0 if place is self.topology else distance(place, self.topology)]


class Source(NamedTuple):
    """The repository in which a member's client was authorised to read the blob."""

    upstream: str
    repository: str


class OriginRefusal(NamedTuple):
    """The origin's refusal of a host, with its HTTP status.

    The host gets no lease for this repository before `until` (seconds, by the scheduler's clock).
    """

    until: float
    status: int


class MemberState(Enum):
    """The state of a member in its swarm."""

    IDLE = auto()
    """Wants no pieces now. It may hold some."""
    JOINING = auto()
    """Wants the blob, whose length is unknown."""
    ACTIVE = auto()
    COMPLETE = auto()
    GONE = auto()


_WANTING: Final = (MemberState.JOINING, MemberState.ACTIVE)


class MemberCause(Enum):
    """The events that change the state of a member."""

    WANTS = auto()
    SIZED = auto()
    UNSIZED = auto()
    """The blob's length was disputed and is unknown again."""
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
    """The kinds of pools. A member is in at most one pool of each kind."""

    SWARM = 0
    SITE = 1
    ZONE = 2
    RACK = 3
    WANTING = 4
    """Members that want pieces. They are granted leases and sent digests."""
    PROVIDERS = 5
    """Members that hold pieces or have a lease."""
    GATEWAYS = 6
    """Members through which pieces enter their site."""
    SEEDERS = 7
    """Members that hold the whole blob."""
    UNUSED = 8
    """Those of them that have no neighbour that wants pieces."""


ABSENT: Final = -1


@dataclass(slots=True, eq=False)
class Member:
    """A host in a swarm."""

    host: Host
    entered_at: float = 0.0
    state: MemberState = MemberState.IDLE
    source: Source | None = None
    """None until the member has wanted the blob."""
    background: bool = False
    """Only preheats want the blob here. Swarm.set_background changes it."""
    have: int = 0
    """The pieces that the member is known to hold; 0 once the member is COMPLETE."""
    piece_bytes: int = 0
    """The length of the pieces whose digests the member has, of one that came with the blob; else 0: the swarm's."""
    links: dict[Member, None] = field(default_factory=dict)
    avoids: tuple[str, ...] = ()
    """Hosts that the member is not linked to again, because one of the two failed the other."""
    full: tuple[Member, ...] = ()
    """Members that were too busy for this one, and that it is not linked to until it starves; some may have left."""
    out_of_reach: int = 0
    """The pieces that only hosts held that it `avoids`, when the member last starved; 0 once it has gained a piece."""
    positions: list[int] = field(default_factory=lambda: [ABSENT] * len(PoolKind))
    leased: int = 0
    """The number of pieces that the member was granted leases for."""
    failures: int = 0
    accusers: tuple[str, ...] = ()
    """The witnesses that say that the member sent them corrupt pieces: a few are remembered."""
    digests_sent: int = 0
    """The length of the part of the swarm's `log` that the member was sent."""
    missed_by: tuple[str, ...] = ()
    """The witnesses that could not reach the member while it is connected to the scheduler: a few are remembered."""
    far: int = 0
    """The number of links that leave the member's site."""
    receivers: int = 0
    """The number of neighbours that want pieces. It is counted while the member is complete."""
    shares: int = ALL_SHARES
    """The shares of the blob's pieces that the member may ask other sites for, a bit for each share."""
    charged: int = 0
    """The bytes that are charged for the member (`scheduler.core.budget`)."""
    progressed_at: float = 0.0
    """The time at which the member last gained a piece, completed the blob, or became a gateway."""

    @property
    def wants(self) -> bool:
        """Whether the member still needs pieces."""
        return self.state in _WANTING

    def refusal(self, now: float) -> OriginRefusal | None:
        """The origin's refusal of the member's host for the member's repository, if the refusal still holds."""
        found = None if self.source is None else self.host.refused.get(self.source)
        return found if found is not None and found.until > now else None

    @property
    def near(self) -> int:
        """The number of links within the member's site."""
        return len(self.links) - self.far

    @property
    def is_gateway(self) -> bool:
        """Whether pieces enter the member's site through the member."""
        return self.positions[PoolKind.GATEWAYS] != ABSENT

    @property
    def is_provider(self) -> bool:
        """Whether the member has pieces, or a lease of pieces."""
        return self.positions[PoolKind.PROVIDERS] != ABSENT


def distance(a: Topology, b: Topology) -> int:
    """0 in the same rack, 1 in the same zone, 2 in the same site, 3 elsewhere."""
    if a is b:  # `Membership` gives hosts of one rack the same object
        return 0
    if a.site != b.site:
        return 3
    if a.zone != b.zone:
        return 2
    return 0 if a.rack == b.rack else 1


class RandomSet:
    """Members in no order: one pool of one kind."""

    __slots__ = ("_kind", "items")

    def __init__(self, kind: PoolKind) -> None:
        self._kind: Final = kind
        self.items: list[Member] = []

    def __len__(self) -> int:
        return len(self.items)

    def add(self, member: Member) -> None:
        """Add a member, unless it is in a pool of this kind already."""
        if member.positions[self._kind] == ABSENT:
            member.positions[self._kind] = len(self.items)
            self.items.append(member)

    def discard(self, member: Member) -> None:
        """Remove a member, if it is in the pool. The last member of the list takes its position."""
        at = member.positions[self._kind]
        if at == ABSENT:
            return
        last = self.items.pop()
        if last is not member:
            self.items[at] = last
            last.positions[self._kind] = at
        member.positions[self._kind] = ABSENT
