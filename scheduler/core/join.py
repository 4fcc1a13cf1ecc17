"""Hosts' reports about themselves: the blobs that a host holds or wants, its progress, and neighbours that failed."""

from __future__ import annotations

from typing import Final

from scheduler.core.budget import MEMBER_BYTES
from scheduler.core.lengths import Lengths, LengthSource
from scheduler.core.members import Host, Member, MemberCause, MemberState, Source
from scheduler.core.membership import Membership
from scheduler.core.piece_digests import Maps
from scheduler.core.piece_map import MapState
from scheduler.core.seeders import Seeders
from scheduler.core.state import SchedulerState
from scheduler.core.swarm import Swarm
from scheduler.protocol.fields import ProtocolError
from scheduler.protocol.from_host import (
    Announce,
    Corrupt,
    Fault,
    Holding,
    Join,
    Leave,
    NeighbourFailed,
    Priority,
    Progress,
)
from scheduler.protocol.geometry import piece_length
from scheduler.protocol.to_host import Failed, InlineBlob, Joined, Unreachable

FEW_PROVIDERS: Final = 64
"""In a swarm with more providers, a starving member soon gets another provider, and its pieces are not leased again."""


GONE_REPORTS: Final = 3
"""Witnesses that must report a seeder as gone before the seeder is expelled. A few may merely be cut off from it."""


class Joining:
    """Handles hosts' reports about themselves. The scheduler believes these reports."""

    def __init__(
        self, state: SchedulerState, membership: Membership, lengths: Lengths, maps: Maps, seeders: Seeders
    ) -> None:
        self._state: Final = state
        self._membership: Final = membership
        self._lengths: Final = lengths
        self._maps: Final = maps
        self._seeders: Final = seeders

    def announce(self, host: Host, message: Announce) -> None:
        """Record the blobs in a host's store. Those beyond the host's bound are ignored."""
        for holding in message.holdings:
            if not self._membership.has_room(host, holding.digest):
                continue
            if holding.digest not in self._state.swarms:
                self._state.shelf.put(host, holding)
                continue
            self._take_off_shelf(holding.digest, host)
            swarm, member = self._membership.enter(host, holding.digest)
            self._hold(swarm, member, holding)

    def join(self, host: Host, message: Join) -> None:
        """Make a host a member that wants a blob."""
        state, maps = self._state, self._maps
        if not self._membership.has_room(host, message.digest):
            state.tell(host, Failed(message.digest, 0, "this host has its maximum of blobs in the swarm"))
            return
        source = Source(message.upstream, message.repository)
        is_here = message.digest in state.swarms and len(state.swarms[message.digest].wanting) > 0
        self._take_off_shelf(message.digest, host)
        swarm, member = self._membership.enter(host, message.digest)
        member.source = swarm.shared(source)
        if message.moved and not is_here:
            swarm.settles_at = state.now + state.settings.moved_s
        swarm.set_background(member, message.background)
        data = state.inline_blobs.get(message.digest)
        if data is not None:
            if member.state is MemberState.IDLE:
                self._note_pull(swarm, member, source)
                swarm.step(member, MemberCause.WANTS)
            state.tell(host, InlineBlob(message.digest, data))
            self._seeders.complete(swarm, member)
            return
        divided = message.piece_length
        if message.size_bytes is not None:
            divided = divided or (0 if host.divides else piece_length(message.size_bytes))
            matters = not divided and swarm.size_bytes is None
            proposed = self._lengths.best_division(message.size_bytes, message.beside_bytes) if matters else divided
            self._lengths.claim(swarm, host, message.size_bytes, LengthSource.VERIFIED, proposed)
            if member.state is MemberState.GONE:
                state.tell(host, Failed(message.digest, 0, "the other hosts say that this blob has another length"))
                return
        if _is_divided_otherwise(swarm, divided) or not swarm.has_pieces_for(host):
            self._membership.refuse(swarm, member, 0)
            return
        if not member.wants:
            was_complete = member.state is MemberState.COMPLETE
            self._note_pull(swarm, member, source)
            swarm.step(member, MemberCause.WANTS)
            if swarm.size_bytes is not None:
                swarm.step(member, MemberCause.SIZED)
            if was_complete:
                state.note_lost(swarm)
        self._membership.link(swarm, member)
        sealed = swarm.map is not None and swarm.map.state in (MapState.SEALED, MapState.PROVEN)
        neighbours = self._membership.neighbours(swarm, member)
        told = swarm.told_length
        state.tell(host, Joined(swarm.digest, swarm.generation, swarm.size_bytes, sealed, neighbours, told))
        maps.catch_up(swarm, member)
        if state.now < swarm.settles_at:
            swarm.under_way[member] = int.from_bytes(message.fetching, "little")
        state.swarms_to_lease[swarm] = None

    def priority(self, swarm: Swarm, member: Member, message: Priority) -> None:
        """A member wants a blob for clients from now on, or only for preheats."""
        swarm.set_background(member, message.background)
        self._state.swarms_to_lease[swarm] = None

    def _note_pull(self, swarm: Swarm, member: Member, source: Source) -> None:
        """A member is about to want a blob. Of repositories that share it, the one counts that wanted it first."""
        pull = swarm.pull if len(swarm.wanting) else None
        if pull is None:
            pull = self._state.pulls.of(source, self._state.now)
            self._state.places += 1
            swarm.begin_pull(pull, self._state.places)
        self._state.pulls.joined(pull, member.host.id)

    def progress(self, swarm: Swarm, member: Member, message: Progress) -> None:
        """Record all pieces that a member holds now. Raises ProtocolError if the blob has no such pieces."""
        if message.generation != swarm.generation or not member.wants or swarm.map is None:
            return
        have = int.from_bytes(message.have, "little")
        if have > swarm.map.everything:
            raise ProtocolError("a bitfield names pieces that the blob does not have")
        if have & ~member.have:
            member.out_of_reach = 0
        self._now_holds(swarm, member, have)
        if message.starving and swarm.piece_counts is not None:
            missing = swarm.orphans & ~have
            swarm.orphans &= ~missing
            swarm.unleased |= swarm.piece_counts.without_copy(missing)
            swarm.gateways.on_starving(member, self._state.now)
            swarm.graph.relink(member)
            swarm.graph.ensure_provider(member)
            before, member.out_of_reach = member.out_of_reach, self._out_of_reach(swarm, member, have)
            swarm.unleased |= before & member.out_of_reach  # a new piece needs time to get to others
            self._state.links_changed[swarm] = None
            self._state.swarms_to_lease[swarm] = None

    def _out_of_reach(self, swarm: Swarm, member: Member, have: int) -> int:
        """The pieces that the starving member lacks and whose every holder is a host that the member avoids."""
        if member.host.identity in swarm.publishers.suspects:  # one that has lied may have lost all neighbours
            return 0
        if not member.avoids or swarm.map is None or len(swarm.graph.providers) > FEW_PROVIDERS:
            return 0
        missing = swarm.map.known & ~have
        for other in swarm.graph.providers.items:
            if other is not member and other.host.id not in member.avoids:
                missing &= ~(swarm.map.everything if other.state is MemberState.COMPLETE else other.have)
        for lease in swarm.leases.values():
            missing &= ~lease.left
        return missing

    def neighbour_failed(self, swarm: Swarm, member: Member, message: NeighbourFailed) -> None:
        """Replace a neighbour that has failed a member."""
        failed = self._state.hosts_by_id.get(message.neighbour)
        other = swarm.members.get(failed) if failed else None
        if other is not None and other in member.links:
            swarm.story.tell("%s: %s is %s", member.host.id, message.neighbour, message.fault.name)
            swarm.graph.replace(member, other, for_good=message.fault is not Fault.FULL)
            self._state.links_changed[swarm] = None
            if message.fault is Fault.GONE:
                other.host.last_error, other.host.error_at = f"{member.host.id} could not reach it", self._state.now
                self._tell_unreachable(other.host, member.host.id)
                self._found_gone(swarm, other, member.host.identity.witness)

    def corrupt(self, swarm: Swarm, member: Member, message: Corrupt) -> None:
        """Separate a member from a neighbour that, so it says, sent bytes that do not match the piece map.

        The report proves nothing, because the reporter may lie. The end of the link harms neither of the two. A sender
        that `corrupt_reports` witnesses have reported is taken out of this swarm: its client is served from the origin.
        """
        sender = self._state.hosts_by_id.get(message.sender)
        other = swarm.members.get(sender) if sender else None
        if message.generation != swarm.generation or other is None or other not in member.links:
            return
        swarm.story.tell("%s: piece %s from %s is corrupt", member.host.id, message.piece, message.sender)
        swarm.graph.replace(member, other)
        self._state.links_changed[swarm] = None
        witness = member.host.identity.witness
        if witness not in other.accusers:
            other.accusers += (witness,)
        if len(other.accusers) >= self._state.settings.corrupt_reports:
            reason = f"{len(other.accusers)} hosts say that this host sent them corrupt pieces"
            if other.wants:
                self._state.tell(other.host, Failed(swarm.digest, 0, reason))
            self._membership.expel(swarm, other)

    def _tell_unreachable(self, host: Host, reporter: str) -> None:
        """Tell a host that others cannot reach it, once enough of them have reported it: most likely it advertises a
        wrong address. In a small cluster all others are enough.
        """
        enough = min(GONE_REPORTS, len(self._state.hosts) - 1)
        if len(host.missed_by) < enough and reporter not in host.missed_by:
            host.missed_by.add(reporter)
            if len(host.missed_by) == enough:
                self._state.tell(host, Unreachable(enough))

    def _found_gone(self, swarm: Swarm, member: Member, reporter: str) -> None:
        """Count a report that a member is gone. A gone seeder is expelled, so that its pieces can be leased again."""
        if len(member.missed_by) < GONE_REPORTS and reporter not in member.missed_by:
            member.missed_by += (reporter,)
        if len(member.missed_by) >= GONE_REPORTS and member.state is MemberState.COMPLETE:
            swarm.story.tell("%s serves nobody", member.host.id)
            self._membership.expel(swarm, member)

    def leave(self, host: Host, message: Leave) -> None:
        """Take a host out of a swarm, or a holder off the shelf."""
        self._state.shelf.discard(host, message.digest)
        member = host.members.get(message.digest)
        if member is not None:
            self._membership.expel(self._state.swarms[message.digest], member)

    def _take_off_shelf(self, digest: bytes, owner: Host) -> None:
        """Make the holders of a blob, which nobody has asked for until now, members of a swarm of `owner`."""
        for host, holding in self._state.shelf.take(digest).items():
            swarm, member = self._membership.enter(host, digest, owner)
            self._hold(swarm, member, holding)

    def _hold(self, swarm: Swarm, member: Member, holding: Holding) -> None:
        source = LengthSource.WHOLE if holding.complete else LengthSource.HEARSAY
        divided = holding.piece_length or piece_length(holding.size_bytes)
        self._lengths.claim(swarm, member.host, holding.size_bytes, source, divided)
        if member.state is MemberState.GONE:
            return
        if not holding.complete and _is_divided_otherwise(swarm, divided):
            self._membership.expel(swarm, member)  # it is refused when it joins
            return
        member.piece_bytes = divided
        if holding.complete:
            self._seeders.complete(swarm, member)
        elif member.state is not MemberState.COMPLETE and swarm.size_bytes == holding.size_bytes:
            self._now_holds(swarm, member, int.from_bytes(holding.have, "little"))
            swarm.begun_before = swarm.begun_before or member.have != 0
        if swarm.map is not None and swarm.map.known != swarm.map.everything:
            swarm.digest_sources.append(member.host)
        if len(swarm.wanting):
            self._membership.link(swarm, member)
            self._state.swarms_to_lease[swarm] = None

    def _now_holds(self, swarm: Swarm, member: Member, have: int) -> None:
        """Record what a member holds, as far as the scheduler keeps that for it."""
        if not self._state.charge_member(member, MEMBER_BYTES + have.bit_length() // 8):
            return
        had = member.have
        swarm.hold(member, have)
        if had & ~have:
            self._state.note_lost(swarm)


def _is_divided_otherwise(swarm: Swarm, piece_bytes: int) -> bool:
    """Whether a host with pieces of this length (0: of the swarm's) has other pieces than the swarm."""
    return piece_bytes not in (0, swarm.piece_bytes) and swarm.size_bytes is not None and not swarm.is_tiny
