"""Hosts that hold a whole blob, or know more of it than the scheduler does: seals, tiny contents, recalls.

A recall is what a scheduler that has restarted does instead of having a blob fetched again: it asks a host that holds
pieces for their digests, or for the whole of a tiny blob. The word of a host that holds the whole blob counts as any
other, for it has checked the SHA-256. One that holds a part passes on what the scheduler before us told it: that is
believed until it is disputed, but it makes no witness and brings no blame. While a map is contested, hosts that hold
the whole blob are asked first: their word costs no byte from the origin.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from scheduler.core.claims import HEARSAY
from scheduler.core.leases import LeaseCause
from scheduler.core.members import Host, Member, MemberCause, MemberState
from scheduler.core.piece_map import MapState
from scheduler.core.state import Cluster, Due, Timer
from scheduler.protocol.content import Content
from scheduler.protocol.to_host import LeaseRevoked, Recall, Run

if TYPE_CHECKING:
    from scheduler.core.piece_digests import Maps
    from scheduler.core.swarm import Swarm
    from scheduler.protocol.from_host import Recalled, Sealed

UNFINISHED: Final = (MapState.GROWING, MapState.CONTESTED)
"""The states of a map in which there is something to ask for."""


class Wholes:
    """Takes what hosts know, and asks them for it."""

    def __init__(self, cluster: Cluster, maps: Maps) -> None:
        self._cluster: Final = cluster
        self._maps: Final = maps

    def sealed(self, member: Member, message: Sealed) -> None:
        """A host holds the whole blob and its SHA-256 is right."""
        swarm = member.swarm
        if swarm.map is not None and swarm.size_bytes is not None and message.generation == swarm.generation:
            swarm.map.seal(member.host.id)
            swarm.length.hear(member.host.id, swarm.size_bytes)
        self.complete(member)
        if swarm.map is not None and swarm.map.known != swarm.map.everything:
            swarm.informants.append(member.host)
            self._cluster.to_lease[swarm] = None

    def complete(self, member: Member) -> None:
        """A member holds everything, and needs no more leases."""
        if member.state is MemberState.COMPLETE:
            return
        for lease in [lease for lease in member.swarm.leases.values() if lease.member is member]:
            self._cluster.end_lease(lease, LeaseCause.REVOKE)
            self._cluster.send((member.host,), LeaseRevoked(lease.id, member.swarm.digest))
        member.swarm.step(member, MemberCause.HOLDS_ALL)

    def content(self, member: Member, message: Content) -> None:
        """A host sends a whole tiny blob that it was asked for: all who want it have been waiting for it."""
        cluster, swarm = self._cluster, member.swarm
        leases = [lease for lease in swarm.leases.values() if lease.member is member]
        if not leases and swarm.recalled is not member.host:
            return
        if hashlib.sha256(message.data).digest() != swarm.digest:
            self._maps.blame(swarm, (member.host.id,), "sent other bytes under a blob's digest")
            return
        for lease in leases:
            cluster.end_lease(lease, LeaseCause.LAST_PIECE)
        self._end_recall(swarm)
        cluster.contents.put(swarm.digest, message.data)
        if swarm.size_bytes != len(message.data):
            if swarm.size_bytes is not None:
                self._maps.reset(swarm, "its length was wrong")
                swarm.forget_size()
            swarm.set_size(len(message.data))
        self._maps.blame(swarm, swarm.length.dissenters(len(message.data)), "said a wrong length")
        self.complete(member)
        waiting = list(swarm.wanting.items)
        cluster.send([other.host for other in waiting], message)
        for other in waiting:
            self.complete(other)

    def recall(self, swarm: Swarm) -> bool:
        """Ask a host for what it knows and we do not. Whether an answer is being waited for."""
        if swarm.recalled is not None:
            return True
        host = self._informant(swarm)
        if host is None:
            return False
        swarm.recalled = host
        swarm.story.tell("recalls from %s", host.id)
        self._cluster.send((host,), Recall(swarm.digest))
        due = self._cluster.now + self._cluster.settings.recall_s
        self._cluster.deadlines.set(Timer(Due.RECALL, swarm.digest), due)
        return True

    def recalled(self, member: Member, message: Recalled) -> None:
        """A part of the answer to a recall."""
        swarm = member.swarm
        for run in (Run(message.first, message.digests), *message.more):
            if swarm.recalled is not member.host:  # or not any more: what it has just told is contested
                return
            if run.digests and swarm.map is not None and swarm.map.state in UNFINISHED:
                voter = member.host.id if member.state is MemberState.COMPLETE else HEARSAY
                self._maps.hear(member, voter, run.first, run.digests)
                self._cluster.note_lost(swarm)
        if message.last and swarm.recalled is member.host:
            if swarm.is_tiny:  # it was to send the content: it does not have it after all
                member.failures += 1
            self._end_recall(swarm)

    def recall_expired(self, swarm: Swarm) -> None:
        """The host that was asked has not answered."""
        if swarm.recalled is not None and swarm.recalled in swarm.members:
            swarm.members[swarm.recalled].failures += 1
        self._end_recall(swarm)

    def _informant(self, swarm: Swarm) -> Host | None:
        if swarm.is_tiny:
            for member in self._cluster.chance.some_of(swarm.graph.sources.items, 32):
                if member.state is MemberState.COMPLETE and not member.failures:
                    return member.host
        if swarm.map is None or swarm.map.state not in UNFINISHED:
            return None
        contested = swarm.map.state is MapState.CONTESTED
        while swarm.informants:
            host = swarm.informants.popleft()
            found = swarm.members.get(host)
            if found is None:
                continue
            if found.state is MemberState.COMPLETE or (found.have & ~swarm.map.known and not contested):
                return host
        return None

    def _end_recall(self, swarm: Swarm) -> None:
        swarm.recalled = None
        self._cluster.deadlines.cancel(Timer(Due.RECALL, swarm.digest))
        self._cluster.to_lease[swarm] = None
