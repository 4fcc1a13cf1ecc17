"""Hosts connect and disconnect, and members enter and leave swarms.

Two hosts with the same id: the connected host keeps the id, because anybody can say an id and an address. The newer
connection is closed with ID_IN_USE, and its host tries again. The connected host is pinged: if the host has lost that
connection and the scheduler has not noticed it, the host is let in within seconds. A connection with a certificate of
the id replaces the older one: a host that lost its connection reconnects before the scheduler has noticed the loss. A
connection is replaced at most once in `takeover_s`, so that two processes with the same certificate do not disconnect
each other all the time.
"""

from __future__ import annotations

from typing import Final

from scheduler.core.budget import MEMBER_BYTES, SWARM_BYTES
from scheduler.core.events import Close, LiveListChanged
from scheduler.core.leases import LeaseCause
from scheduler.core.members import Host, Member, MemberCause, MemberState, Topology, network_of
from scheduler.core.piece_map import MapState
from scheduler.core.state import Due, SchedulerState, Timer
from scheduler.core.swarm import Swarm
from scheduler.protocol.connection import Closing, agree
from scheduler.protocol.from_host import (
    FEATURES,
    LONG_PIECES,
    PIECE_LENGTH,
    PREHEAT,
    PREHEAT_BOUND,
    PULLS,
    SCHEDULERS,
    SPOT_CHECK,
    Hello,
    Holding,
)
from scheduler.protocol.geometry import piece_length, told_piece_length
from scheduler.protocol.to_host import (
    MAX_BLOBS_PER_HOST,
    Failed,
    Gateway,
    Neighbour,
    Neighbours,
    OriginRefused,
    SchedulerAt,
    Schedulers,
    Welcome,
)

TOPOLOGIES: Final = 4096
"""Topologies that are kept, so that hosts of one rack share one. More topologies would be a mistake in labelling."""


class Membership:
    """Lets hosts and members in and out."""

    def __init__(self, state: SchedulerState) -> None:
        self._state: Final = state
        self._topologies: Final[dict[Topology, Topology]] = {}

    def arrive(self, connection: int, hello: Hello, seen_at: str, *, certified: bool, burst: int) -> None:
        """Let a host in that has connected from the address `seen_at`, or close its connection."""
        state = self._state
        version = agree(hello)
        if version is None:
            reason = f"this scheduler does not speak versions {hello.oldest} to {hello.newest} of the protocol"
            state.close(Close(connection, Closing.INCOMPATIBLE, reason))
            return
        before = state.hosts_by_id.get(hello.host)
        if before is not None:
            young = state.now - before.connected_at < state.settings.takeover_s and not before.came_from
            if young or not certified:
                state.probe(before)
                reason = f"a host with this id is connected from {before.address}; give this one another id"
                state.close(Close(connection, Closing.ID_IN_USE, reason))
                return
            self.dismiss(before, Closing.REPLACED, "a newer connection of this host has taken its place")
        topology = Topology(hello.site, hello.zone, hello.rack)
        if len(self._topologies) >= TOPOLOGIES:
            self._topologies.clear()
        topology = self._topologies.setdefault(topology, topology)
        came_from = "" if certified else network_of(seen_at)
        ours = {*FEATURES}
        if not state.settings.hears_pulls:
            ours.discard(PULLS)
        if state.schedulers is None:
            ours.discard(SCHEDULERS)
        features = tuple(feature for feature in hello.features if feature in ours)
        host = Host(
            connection,
            hello.host,
            hello.address,
            topology,
            state.now,
            came_from,
            checks=SPOT_CHECK in features,
            preheats=PREHEAT in features,
            shards=SCHEDULERS in hello.features,
            preheats_within=PREHEAT_BOUND in features,
            divides=PIECE_LENGTH in features,
            lengthens=LONG_PIECES in features,
            version=hello.software,
        )
        state.hosts[connection] = host
        state.hosts_by_id[host.id] = host
        state.dividing += host.divides
        state.lengthening += host.lengthens
        progress_s = state.settings.progress_s * state.crowding
        state.tell(host, Welcome(version, features, progress_s, burst=burst, seen_at=seen_at))
        if host.shards and state.schedulers is not None:
            state.tell(host, state.schedulers)

    def live_list_changed(self, event: LiveListChanged) -> None:
        """Tell the hosts which schedulers live, if others do than they were told, or this is not known any more."""
        state, before = self._state, self._state.schedulers
        after = state.schedulers = Schedulers(event.epoch, event.own, event.schedulers, event.outdated)
        if before is None or _told_by(before) != _told_by(after):
            state.send((host for host in state.hosts.values() if host.shards), state.schedulers)

    def dismiss(self, host: Host, closing: Closing, reason: str) -> None:
        """Take a host out and end its connection."""
        self._state.close(Close(host.connection, closing, reason))
        self.depart(host)

    def depart(self, host: Host) -> None:
        """Take out a host that has left or vanished. Its leases go to other hosts."""
        for digest, member in list(host.members.items()):
            self.expel(self._state.swarms[digest], member)
        self._state.shelf.remove_host(host)
        del self._state.hosts[host.connection]
        del self._state.hosts_by_id[host.id]
        self._state.dividing -= host.divides
        self._state.lengthening -= host.lengthens

    def has_room(self, host: Host, digest: bytes) -> bool:
        """Whether the host is, or may become, a member of the blob's swarm, or a holder of the blob."""
        shelf = self._state.shelf
        if digest not in self._state.swarms and not self._state.budget.has_room(host.identity.witness, SWARM_BYTES):
            return False
        if digest in host.members or shelf.holds(host, digest):
            return True
        has_room = not host.came_from or self._state.held.has_room(host.came_from, MEMBER_BYTES)
        return has_room and len(host.members) + shelf.count(host) < MAX_BLOBS_PER_HOST

    def enter(self, host: Host, digest: bytes, owner: Host | None = None) -> tuple[Swarm, Member]:
        """Make a host an idle member of a blob's swarm if it is no member. The caller has asked `has_room`.

        A swarm that begins is charged to `owner`, by default the host.
        """
        state = self._state
        member = host.members.get(digest)
        if member is not None:
            return state.swarms[digest], member
        swarm = state.swarms.get(digest)
        if swarm is None:
            swarm = state.swarms[digest] = Swarm(digest, state.settings, state.rng)
            state.charge(swarm, owner or host, SWARM_BYTES)
            size_bytes = state.inline_blobs.size_of(digest)
            if size_bytes is not None:
                swarm.set_size(size_bytes, piece_length(size_bytes))
        swarm.story.now = state.now
        swarm.story.tell("%s enters", host.id)
        member = Member(host, state.now)
        state.charge_member(member, MEMBER_BYTES)
        host.members[digest] = member
        swarm.members[host] = member
        swarm.graph.add(member)
        return swarm, member

    def expel(self, swarm: Swarm, member: Member) -> None:
        """Take a member out of its swarm. A swarm without members ends."""
        state = self._state
        swarm.story.now = state.now
        for lease in swarm.leases_of(member):
            state.end_lease(lease, LeaseCause.GIVE_BACK)
        held = member.have or member.state is MemberState.COMPLETE
        swarm.lease_again(swarm.publishers.leave(member))
        if any(check.due <= state.now for check in swarm.publishers.checks.values()):
            state.deadlines.set(Timer(Due.SPOT_CHECK, swarm.digest), state.now)
        swarm.hold(member, 0)
        swarm.step(member, MemberCause.LEAVES)
        del swarm.members[member.host]
        del member.host.members[swarm.digest]
        state.release_member(member)
        swarm.graph.remove(member)
        swarm.gateways.leave(member)
        state.links_changed[swarm] = None
        if swarm.digests_requested_of is member.host:
            swarm.digests_requested_of = None
            state.deadlines.cancel(Timer(Due.DIGEST_REQUEST, swarm.digest))
        state.swarms_to_lease[swarm] = None
        if not swarm.members:
            self._end(swarm)
            return
        state.note_idle(swarm)
        if held:
            state.note_lost(swarm)

    def rest(self, swarm: Swarm) -> None:
        """Put a blob that all members hold whole, and that nobody has asked for lately, back on the shelf.

        The links of the swarm end, and its piece map is forgotten. Seeders know the map.
        """
        state = self._state
        if len(swarm.wanting) or swarm.leases or swarm.size_bytes is None:
            return
        if any(member.state is not MemberState.COMPLETE for member in swarm.members.values()):
            return
        if swarm.map is not None and swarm.map.state is MapState.CONTESTED:  # somebody is still to be blamed
            return
        for host, member in swarm.members.items():
            if member.links:
                ended = tuple([other.host.id for other in member.links])
                state.tell(host, Neighbours(swarm.digest, (), ended))
            del host.members[swarm.digest]
            state.release_member(member)
            length = told_piece_length(swarm.size_bytes, member.piece_bytes or swarm.piece_bytes)
            state.shelf.put(host, Holding(swarm.digest, swarm.size_bytes, complete=True, piece_length=length))
        state.links_changed.pop(swarm, None)
        self._end(swarm)

    def refuse(self, swarm: Swarm, member: Member, status: int) -> None:
        """Pass the origin's refusal on to a member's client, and take the member out."""
        self._state.tell(member.host, OriginRefused(swarm.digest, status))
        self.expel(swarm, member)

    def give_up(self, swarm: Swarm, reason: str) -> None:
        """Tell every member that wants the blob that the swarm has failed, and take these members out."""
        swarm.story.tell("gives up: %s", reason)
        waiting = list(swarm.wanting.items)
        statuses = {member: self._status_for(swarm, member) for member in waiting}
        for status in dict.fromkeys(statuses.values()):
            told = [member.host for member in waiting if statuses[member] == status]
            self._state.send(told, Failed(swarm.digest, status, reason))
        for member in waiting:
            self.expel(swarm, member)
        swarm.attempts = swarm.silences = 0

    def _status_for(self, swarm: Swarm, member: Member) -> int:
        """The origin's answer to the member's own host, or else the origin's last answer to any host."""
        refusal = member.refusal(self._state.now)
        return swarm.last_status if refusal is None else refusal.status

    def link(self, swarm: Swarm, member: Member) -> None:
        """Give a member neighbours. A tiny blob needs none."""
        if not swarm.is_tiny:
            swarm.gateways.begin(swarm.wanting.items)
            if member.wants:
                swarm.gateways.admit(member)
            swarm.graph.fill(member)
            self._state.links_changed[swarm] = None

    def neighbours(self, swarm: Swarm, member: Member) -> tuple[Neighbour, ...]:
        """A member's neighbours as protocol records. The pending changes of the member's links are dropped."""
        swarm.graph.changes.pop(member, None)
        place = member.host.topology
        return tuple([other.host.seen_from(place) for other in member.links])

    def tell_links(self) -> None:
        """Tell each member the changes of its links and of its shares."""
        for swarm in self._state.links_changed:
            swarm.graph.mend()
            for member, changes in swarm.graph.changes.items():
                if changes:
                    place, add, remove = member.host.topology, [], []
                    for other, made in changes.items():
                        if made:
                            add.append(other.host.seen_from(place))
                        else:
                            remove.append(other.host.id)
                    self._state.tell(member.host, Neighbours(swarm.digest, tuple(add), tuple(remove)))
            swarm.graph.changes.clear()
            for member in swarm.gateways.shares_changed:
                self._state.tell(member.host, Gateway(swarm.digest, member.shares))
            swarm.gateways.shares_changed.clear()
        self._state.links_changed.clear()

    def _end(self, swarm: Swarm) -> None:
        state = self._state
        del state.swarms[swarm.digest]
        state.budget.give_back(swarm.charges)
        state.swarms_to_lease.pop(swarm, None)
        state.over_quota.discard(swarm)
        state.note_use(swarm, ())
        for due in (Due.DIGEST_REQUEST, Due.FANOUT, Due.ORPHANS, Due.PATIENCE, Due.REST, Due.SPOT_CHECK):
            state.deadlines.cancel(Timer(due, swarm.digest))


def _told_by(listed: Schedulers) -> tuple[str, set[SchedulerAt], bool]:
    """What a list tells hosts. An epoch alone tells nothing."""
    return listed.own, set(listed.schedulers), listed.outdated
