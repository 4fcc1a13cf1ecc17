"""One blob and the hosts that hold or want it: the state that the parts of the scheduler work on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from scheduler.core.claims import Fact
from scheduler.core.gateways import Gateways
from scheduler.core.graph import Graph
from scheduler.core.members import MEMBER_TRANSITIONS, Bag, Member, MemberCause, MemberState, Seat
from scheduler.core.piece_counts import Holdings
from scheduler.core.piece_map import PieceMap
from scheduler.core.story import Story
from scheduler.protocol.fields import MAX_CONTENT_BYTES
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.protocol.to_host import Run

if TYPE_CHECKING:
    from scheduler.core.leases import Lease
    from scheduler.core.members import Host, Source
    from scheduler.core.rng import Chance
    from scheduler.core.settings import Settings

INFORMANTS: Final = 64
"""Hosts that are remembered as having connected with pieces whose digests nobody knows."""


class Swarm:
    """Invariants are in `validate`. A swarm without members does not exist."""

    __slots__ = (
        "attempts", "begun_before", "behind", "digest", "gateways", "generation", "gives_up_at", "graph", "holdings",
        "informants", "last_status", "leases", "length", "log", "map", "members", "needed", "orphans", "recalled",
        "size_bytes", "size_disputed", "sources", "stale", "story", "to_lease", "wanting",
    )  # fmt: skip

    def __init__(self, digest: bytes, settings: Settings, chance: Chance) -> None:
        self.digest: Final = digest
        self.story: Final = Story()
        self.graph: Final = Graph(settings, chance)
        self.gateways: Final = Gateways(self.graph, settings, self.story)
        self.members: Final[dict[Host, Member]] = {}
        self.wanting: Final = Bag(Seat.WANTING)
        self.sources: Final[dict[Source, Source]] = {}
        """Where its members are authorised, each kept once for all of them."""
        self.generation = 1
        self.length: Final[Fact[int]] = Fact()
        self.size_bytes: int | None = None
        self.size_disputed = False
        self.map: PieceMap | None = None
        """None until the length is known, and for a blob that travels inside messages."""
        self.holdings: Holdings | None = None

        self.leases: Final[dict[int, Lease]] = {}
        self.to_lease = 0
        """Pieces that must come from the origin and that nobody has a lease for, as a set of bits."""
        self.needed = 0
        """Pieces that clients wait for before all others."""
        self.orphans = 0
        """Pieces that are known, but that nobody is known to hold."""
        self.attempts = 0
        """Leases that failed since one last brought anything."""
        self.last_status = 0
        self.gives_up_at: float | None = None
        """Until when it waits for a host that can resolve a doubt."""

        self.recalled: Host | None = None
        """The host that was asked for digests."""
        self.informants: Final[deque[Host]] = deque(maxlen=INFORMANTS)
        self.begun_before = False
        """Whether a host has connected with a part of it: another scheduler had it fetched, and more may come."""

        self.log: list[Run] = []
        """The digests of this generation in the order in which they were learned."""
        self.behind: list[Member] = []
        """Members that are still to be sent what was in the log when this round began."""
        self.stale = False
        """Whether the log has grown since."""

    @property
    def is_tiny(self) -> bool:
        """Whether the blob is known to be one that travels inside messages."""
        return self.size_bytes is not None and self.size_bytes <= MAX_CONTENT_BYTES

    def step(self, member: Member, cause: MemberCause) -> None:
        """Move a member by the table, with all counts that hang on its state."""
        was_complete = member.state is MemberState.COMPLETE
        member.state = self.story.step(member.host.id, MEMBER_TRANSITIONS, member.state, cause)
        if member.state is MemberState.COMPLETE:
            self.hold(member, 0)
            self.wanting.discard(member)
            self.graph.sources.add(member)
            member.fed_at = self.story.now
        elif was_complete:
            self.graph.sources.discard(member)
        if self.holdings is not None:
            self.holdings.complete += (member.state is MemberState.COMPLETE) - was_complete
        if member.wants:
            self.wanting.add(member)
        else:
            self.wanting.discard(member)

    def hold(self, member: Member, have: int) -> None:
        """Note which pieces a member holds; one that holds everything is noted by its state."""
        if self.holdings is not None:
            self.holdings.change(member.have, have)
        if have & ~member.have:
            member.fed_at = self.story.now
        member.have = have
        self.note_source(member)

    def note_source(self, member: Member) -> None:
        """Keep the bag of sources right after a member's pieces or leases have changed."""
        has_lease = any(lease.member is member for lease in member.host.leases.values())
        if member.have or has_lease or member.state is MemberState.COMPLETE:
            self.graph.sources.add(member)
        else:
            self.graph.sources.discard(member)

    def set_size(self, size_bytes: int) -> None:
        """Cut the blob into pieces, now that its length is believed."""
        self.size_bytes = size_bytes
        self.size_disputed = False
        self.story.tell("%s bytes", size_bytes)
        count = piece_count(size_bytes, piece_length(size_bytes))
        self.holdings = Holdings()
        self.holdings.complete = sum(member.state is MemberState.COMPLETE for member in self.members.values())
        if not self.is_tiny:
            self.map = PieceMap(count, self.story)
            self.to_lease = self.map.everything
            for lease in self.leases.values():
                lease.left &= self.map.everything
                self.to_lease &= ~lease.left
        for member in self.members.values():
            if member.state is MemberState.JOINING:
                self.step(member, MemberCause.SIZED)

    def forget_size(self) -> None:
        """Go back to not knowing the length: it was disputed."""
        self.size_bytes = None
        self.size_disputed = True
        self.map = None
        self.holdings = None
        self.to_lease = 0
        self.orphans = 0
        for member in self.members.values():
            member.have = 0
            self.note_source(member)
            if member.state is MemberState.ACTIVE:
                self.step(member, MemberCause.UNSIZED)

    def next_generation(self) -> None:
        """Make everything that was said of the piece map until now void."""
        self.generation += 1
        self.log = []
        self.behind = []
        self.stale = False
        for member in self.members.values():
            member.heard = 0

    def validate(self) -> None:
        """Raise AssertionError, with the story, if anything contradicts anything else."""
        told = self.story.lines()
        self.graph.validate()
        self.gateways.validate(self.wanting.items)
        if not self.is_tiny:
            self.graph.validate_degrees()
        assert self.members, told
        leased = 0
        for lease in self.leases.values():
            assert not leased & lease.left, ("a piece is leased twice", told)
            leased |= lease.left
            assert lease.member.wants, told
        assert not leased & self.to_lease, told
        for member in self.members.values():
            assert member.swarm is self, told
            assert member.host.members[self.digest] is member, told
            assert (member.seats[Seat.WANTING] >= 0) == member.wants, told
            assert (member.seats[Seat.SWARM] >= 0) == (member in self.graph.everyone.items), told
            assert (member.state is not MemberState.ACTIVE) or self.size_bytes is not None, told
        assert len(self.graph.everyone) == len(self.members), told
        assert (self.holdings is None) == (self.size_bytes is None), told
        if self.map is not None and self.holdings is not None:
            self._validate_pieces(self.map, self.holdings, leased)

    def _validate_pieces(self, piece_map: PieceMap, holdings: Holdings, leased: int) -> None:
        told = self.story.lines()
        piece_map.validate()
        for piece in range(piece_map.count):
            holders = sum(member.have >> piece & 1 for member in self.members.values())
            complete = sum(member.state is MemberState.COMPLETE for member in self.members.values())
            assert holdings.copies(piece) == holders + complete, told
        unknown = piece_map.everything & ~piece_map.known
        assert not unknown & ~(leased | self.to_lease), ("a piece that nobody is to fetch", told)
        lost = holdings.without_copy(piece_map.known)
        assert not lost & ~(leased | self.to_lease | self.orphans), ("a piece that is lost", told)
