"""A swarm: one blob and its members. The handlers of the scheduler work on this state."""

from __future__ import annotations

from collections import deque
from typing import Final

from scheduler.core.claims import Claim
from scheduler.core.gateways import Gateways
from scheduler.core.graph import Graph
from scheduler.core.leases import Lease
from scheduler.core.members import (
    MEMBER_TRANSITIONS,
    Host,
    Member,
    MemberCause,
    MemberState,
    PoolKind,
    Source,
)
from scheduler.core.piece_counts import PieceCounts
from scheduler.core.piece_map import PieceMap
from scheduler.core.publishers import Publishers
from scheduler.core.pulls import Pull
from scheduler.core.rng import Rng
from scheduler.core.settings import SchedulerSettings
from scheduler.core.story import Story
from scheduler.protocol.fields import MAX_INLINE_BYTES
from scheduler.protocol.geometry import knows_pieces, piece_count, piece_length, told_piece_length
from scheduler.protocol.to_host import DigestRun, PieceDigests

SPARE_SOURCES: Final = 16
"""Repositories that are kept beyond two for each member."""

MAX_DIGEST_SOURCES: Final = 64
"""Hosts that are remembered because they connected with pieces whose digests the scheduler does not know."""


class Swarm:
    """The state of one swarm. Its invariants are in `validate`. A swarm has at least one member."""

    __slots__ = (
        "attempts",
        "begun_before",
        "charges",
        "digest",
        "digest_sources",
        "digests_requested_of",
        "divided",
        "fanout_pending",
        "fanout_queue",
        "foreground",
        "gateways",
        "generation",
        "gives_up_at",
        "graph",
        "judged_at",
        "last_status",
        "late",
        "leases",
        "length",
        "log",
        "map",
        "measured_bytes",
        "members",
        "needed",
        "orphans",
        "piece_bytes",
        "piece_counts",
        "place",
        "publishers",
        "pull",
        "settles_at",
        "silences",
        "silent",
        "size_bytes",
        "size_disputed",
        "sources",
        "story",
        "told_length",
        "under_way",
        "unleased",
        "wanting",
        "whole_map",
    )  # fmt: skip

    def __init__(self, digest: bytes, settings: SchedulerSettings, rng: Rng) -> None:
        self.digest: Final = digest
        self.story: Final = Story()
        self.publishers: Final = Publishers()
        self.graph: Final = Graph(settings, rng, kept=self.publishers.checks)
        self.gateways: Final = Gateways(self.graph, settings, self.story)
        self.members: Final[dict[Host, Member]] = {}
        self.wanting: Final = self.graph.wanting
        self.foreground = 0
        """The members that want the blob for clients."""
        self.sources: Final[dict[Source, Source]] = {}
        """The repositories in which members were authorised, so that all members share one object for each."""
        self.charges: Final[dict[str, int]] = {}
        """The bytes that are charged for the swarm, by owner (`scheduler.core.budget`)."""
        self.generation = 1
        self.length: Final[Claim[int]] = Claim()
        self.size_bytes: int | None = None
        self.size_disputed = False
        self.piece_bytes = 0
        """The length of a piece, while the blob's is known."""
        self.told_length = 0
        """How messages tell it (`scheduler.protocol.geometry`)."""
        self.divided = (0, piece_length(0))
        """The length of the blob and of its pieces, as members were told them last."""
        self.map: PieceMap | None = None
        """None while the length is unknown, and for a tiny blob."""
        self.judged_at = 0.0
        """When the map was last judged."""
        self.piece_counts: PieceCounts | None = None

        self.leases: Final[dict[int, Lease]] = {}
        self.late: Final[dict[int, Lease]] = {}
        """Leases that have brought nothing in time. Their pieces are unleased, or under the lease of another host."""
        self.silent: Final[set[str]] = set()
        """Witnesses whose hosts had brought nothing before and have let a lease of this blob pass in silence."""
        self.unleased = 0
        """Pieces that must come from the origin and are under no lease, as a set of bits."""
        self.needed = 0
        """Pieces that clients wait for: they are leased before other pieces."""
        self.under_way: Final[dict[Member, int]] = {}
        """Pieces, as a set of bits, that members fetch which have just moved here from another scheduler."""
        self.orphans = 0
        """Pieces whose digests are believed and that no member is known to hold."""
        self.attempts = 0
        """Failed leases since a lease last brought a piece."""
        self.silences = 0
        """Leases that expired since one brought a piece in the usual time."""
        self.last_status = 0
        self.gives_up_at: float | None = None
        """The time until which the swarm waits for a host that can resolve a doubt."""

        self.digests_requested_of: Host | None = None
        """The host that was asked for digests."""
        self.digest_sources: Final[deque[Host]] = deque(maxlen=MAX_DIGEST_SOURCES)
        self.begun_before = False
        """Whether a host has connected with a part of the blob. An earlier scheduler began it; others may hold more."""
        self.settles_at = 0.0
        """When the hosts have come with whom the swarm has moved here from another scheduler."""

        self.pull: Pull | None = None
        """What the operator is told of the swarm's latest pull. None: nobody has wanted the blob."""
        self.place = 0
        """The place of the blob in the order in which hosts began to want blobs, of the latest time."""
        self.measured_bytes = 0
        """The length that the pull has counted."""
        self.log: list[DigestRun] = []
        """The digests of this generation, in the order in which they were believed."""
        self.whole_map: tuple[PieceDigests, ...] = ()
        """All digests, once a member was told them in this generation: all who join are told the same."""
        self.fanout_queue: list[Member] = []
        """Members that are still to be sent the log as it was when this round of the fan-out began."""
        self.fanout_pending = False
        """Whether the log has grown since this round began."""

    @property
    def is_tiny(self) -> bool:
        """Whether the blob is known to be small enough to travel inside messages."""
        return self.size_bytes is not None and self.size_bytes <= MAX_INLINE_BYTES

    @property
    def is_background(self) -> bool:
        """Whether nobody wants the blob but preheats."""
        return not self.foreground and len(self.wanting) > 0

    def set_background(self, member: Member, background: bool) -> None:
        """Record whether a member wants the blob, now or once it does, for preheats alone."""
        if member.wants:
            self.foreground += member.background - background
        member.background = background

    @property
    def upstreams(self) -> set[str]:
        """The origins of its members, and perhaps of some that have left."""
        return {source.upstream for source in self.sources}

    def shared(self, source: Source) -> Source:
        """The one object for a repository. Repositories that no member is in any more are forgotten at times."""
        if len(self.sources) > 2 * len(self.members) + SPARE_SOURCES:
            used = {member.source: member.source for member in self.members.values() if member.source is not None}
            self.sources.clear()
            self.sources.update(used)
        return self.sources.setdefault(source, source)

    def step(self, member: Member, cause: MemberCause) -> None:
        """Change a member's state by the table, with the pools and counts that depend on the state."""
        was_complete, wanted = member.state is MemberState.COMPLETE, member.wants
        member.state = self.story.step(member.host.id, MEMBER_TRANSITIONS, member.state, cause)
        if member.state is MemberState.COMPLETE:
            self.hold(member, 0)
            self.wanting.discard(member)
            self.graph.providers.add(member)
            member.progressed_at = self.story.now
        elif was_complete:
            self.graph.providers.discard(member)
        if self.piece_counts is not None:
            self.piece_counts.complete += (member.state is MemberState.COMPLETE) - was_complete
        if member.wants:
            self.wanting.add(member)
        elif wanted:
            self.wanting.discard(member)
            self._end_wish(member)
        if not member.background:
            self.foreground += member.wants - wanted
        self.graph.stepped(member, wanted=wanted)

    def begin_pull(self, pull: Pull, place: int) -> None:
        """A member is about to want the blob, which nobody wants."""
        self.place = place
        if self.pull is not pull:
            self.pull, self.measured_bytes = pull, 0
            pull.blobs += 1
            self._measure()
        pull.live += 1

    def _measure(self) -> None:
        """Count the blob's length, once, in that of the pull."""
        if self.pull is not None and self.size_bytes is not None:
            self.pull.size_bytes += self.size_bytes - self.measured_bytes
            self.measured_bytes = self.size_bytes

    def _end_wish(self, member: Member) -> None:
        """A member does not want the blob any more."""
        if (pull := self.pull) is None:
            return
        if member.state is MemberState.COMPLETE:
            pull.finished += 1
        else:
            pull.broken_off += 1
        if not len(self.wanting):
            pull.live -= 1
            pull.ended_at = self.story.now

    def bytes_of(self, pieces: int) -> int:
        """The length of these pieces, in bytes. The length of the blob is known."""
        assert self.size_bytes is not None
        beyond = pieces.bit_length() * self.piece_bytes - self.size_bytes  # the last piece is shorter
        return pieces.bit_count() * self.piece_bytes - max(0, beyond)

    def hold(self, member: Member, have: int) -> None:
        """Record the pieces that a member holds. For a member in the state COMPLETE, no pieces are recorded."""
        if self.piece_counts is not None:
            self.piece_counts.change(member.have, have)
        gained = have & ~member.have
        if gained:
            member.progressed_at = self.story.now
            if member.wants and self.size_bytes is not None:
                gained_bytes = self.bytes_of(gained)
                member.host.rate.add(gained_bytes, self.story.now)
                if self.pull is not None:
                    self.pull.received_bytes += gained_bytes
        member.have = have
        self.note_provider(member)

    def note_provider(self, member: Member) -> None:
        """Update the pool of providers after a change of a member's pieces or leases."""
        if member.have or self.leases_of(member) or member.state is MemberState.COMPLETE:
            self.graph.providers.add(member)
        else:
            self.graph.providers.discard(member)

    def lease_again(self, pieces: int) -> None:
        """Have pieces fetched whose digests were held back, unless they are known, or somebody else has them."""
        if self.map is not None:
            taken = self.map.known | self.publishers.held
            for lease in self.leases.values():
                taken |= lease.left
            self.unleased |= pieces & ~taken

    def leases_of(self, member: Member) -> list[Lease]:
        """The member's leases of this blob, the late ones last."""
        leases = [lease for lease in self.leases.values() if lease.member is member]
        return leases + [lease for lease in self.late.values() if lease.member is member] if self.late else leases

    def is_late_with(self, member: Member, pieces: int) -> bool:
        """Whether the member has a late lease of some of these pieces."""
        return any(lease.member is member and lease.left & pieces for lease in self.late.values())

    def has_pieces_for(self, host: Host) -> bool:
        """Whether the host knows of pieces of the swarm's length."""
        if not self.told_length:
            return True
        return knows_pieces(self.size_bytes or 0, self.told_length, divides=host.divides, lengthens=host.lengthens)

    def need(self, first: int, stop: int, *, divided: bool) -> None:
        """Clients wait for these pieces, of the usual length or (`divided`) of the swarm's."""
        pieces = (1 << stop) - (1 << first)
        self.needed |= pieces if divided else self._of_usual(pieces)

    def _of_usual(self, pieces: int) -> int:
        """The swarm's pieces that are in these pieces of the usual length."""
        if self.size_bytes is None or not self.told_length:
            return pieces
        usual_bytes = piece_length(self.size_bytes)
        pieces &= (1 << piece_count(self.size_bytes, usual_bytes)) - 1
        of_swarm = 0
        while pieces:
            start = ((pieces & -pieces).bit_length() - 1) * usual_bytes
            pieces &= pieces - 1
            of_swarm |= (1 << -(-(start + usual_bytes) // self.piece_bytes)) - (1 << start // self.piece_bytes)
        return of_swarm

    def set_size(self, size_bytes: int, piece_bytes: int) -> None:
        """Set the believed length, and divide the blob into pieces of `piece_bytes`."""
        self.size_bytes = size_bytes
        self.size_disputed = False
        self.story.tell("%s bytes", size_bytes)
        self._measure()
        self.piece_bytes = piece_bytes
        self.told_length = told_piece_length(size_bytes, piece_bytes)
        self.divided = size_bytes, piece_bytes
        self.needed = self._of_usual(self.needed)
        count = piece_count(size_bytes, self.piece_bytes)
        self.piece_counts = PieceCounts()
        self.piece_counts.complete = sum(member.state is MemberState.COMPLETE for member in self.members.values())
        if not self.is_tiny:
            self.map = PieceMap(count, self.story)
            self.unleased = self.map.everything
            for lease in self.leases.values():
                lease.left &= self.map.everything
                self.unleased &= ~lease.left
            for lease in self.late.values():
                lease.left &= self.map.everything
        for member in self.members.values():
            if member.state is MemberState.JOINING:
                self.step(member, MemberCause.SIZED)

    def forget_size(self) -> None:
        """Forget the length, which is disputed."""
        if self.told_length:
            self.needed = 0
        self.size_bytes = None
        self.told_length = 0
        self.size_disputed = True
        self.map = None
        self.piece_counts = None
        self.unleased = 0
        self.orphans = 0
        for member in self.members.values():
            member.have = 0
            self.note_provider(member)
            if member.state is MemberState.ACTIVE:
                self.step(member, MemberCause.UNSIZED)

    def next_generation(self) -> None:
        """Start a new generation: all digests that members were sent are void."""
        self.generation += 1
        self.publishers.checks.clear()
        self.log = []
        self.whole_map = ()
        self.fanout_queue = []
        self.fanout_pending = False
        for member in self.members.values():
            member.digests_sent = 0

    def validate(self) -> None:
        """Raise AssertionError, with the story, if any part of the state contradicts another."""
        told = self.story.lines  # an assertion that fails makes the text
        self.graph.validate()
        self.gateways.validate(self.wanting.items)
        if not self.is_tiny:
            self.graph.validate_degrees()
        assert self.members, told()
        if self.size_bytes is None:
            assert not self.told_length, told()
        else:
            assert self.told_length == told_piece_length(self.size_bytes, self.piece_bytes), told()
        assert self.foreground == sum(not member.background for member in self.wanting.items), told()
        assert not len(self.wanting) or (self.pull is not None and self.pull.live), told()
        leased = 0
        for lease in self.leases.values():
            assert not leased & lease.left, ("a piece is leased twice", told())
            leased |= lease.left
            assert lease.digest == self.digest, told()
            assert lease.member.wants, told()
        for member in (*self.publishers.checks, *self.publishers.admitted):
            assert self.members.get(member.host) is member, told()
        assert not leased & self.publishers.held, ("a piece is leased that is checked", told())
        leased |= self.publishers.held
        assert not leased & self.unleased, told()
        in_graph = {*self.graph.everyone.items}
        for member in self.members.values():
            assert member.host.members[self.digest] is member, told()
            assert (member.positions[PoolKind.WANTING] >= 0) == member.wants, told()
            assert (member.positions[PoolKind.SWARM] >= 0) == (member in in_graph), told()
            assert (member.state is not MemberState.ACTIVE) or self.size_bytes is not None, told()
        assert len(self.graph.everyone) == len(self.members), told()
        assert (self.piece_counts is None) == (self.size_bytes is None), told()
        if self.map is not None and self.piece_counts is not None:
            self._validate_pieces(self.map, self.piece_counts, leased)

    def _validate_pieces(self, piece_map: PieceMap, piece_counts: PieceCounts, leased: int) -> None:
        told = self.story.lines  # an assertion that fails makes the text
        piece_map.validate()
        complete = sum(member.state is MemberState.COMPLETE for member in self.members.values())
        have = [member.have for member in self.members.values() if member.have]
        for piece in range(piece_map.count):
            holders = sum([each >> piece & 1 for each in have])
            assert piece_counts.copies(piece) == holders + complete, told()
        unknown = piece_map.everything & ~piece_map.known
        assert not unknown & ~(leased | self.unleased), ("a piece that nobody is to fetch", told())
        lost = piece_counts.without_copy(piece_map.known)
        assert not lost & ~(leased | self.unleased | self.orphans), ("a piece that is lost", told())
