"""The scheduler's state machine: events in, instructions out.

Rules:
1. `handle` is the only mutator. It takes the time as an argument and returns what the shell is to do, in order.
2. The same events at the same times give the same instructions, byte for byte.
3. What a host sends cannot raise: a message that contradicts what is known ends that host's connection. An exception
   that comes out of `handle` is a mistake of ours.
4. Nothing that one event causes takes time in proportion to the size of a swarm, but what must be told to all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.core.events import Connected, Disconnected, Event, Instruction, Received, Tick
from scheduler.core.join import Joining
from scheduler.core.lease_policy import Leasing
from scheduler.core.members import Host, Member
from scheduler.core.membership import Membership
from scheduler.core.piece_digests import Maps
from scheduler.core.quarantine import Quarantine
from scheduler.core.seeders import Wholes
from scheduler.core.settings import Settings
from scheduler.core.state import Cluster, Due, TagKey, Timer
from scheduler.core.tags import Tags
from scheduler.protocol import from_host
from scheduler.protocol.codec import FromHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.content import Content
from scheduler.protocol.fields import ProtocolError


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much of everything there is."""

    hosts: int
    swarms: int
    members: int
    leases: int
    leases_given: int
    quarantined: int
    tags: int
    contents: int
    content_bytes: int
    deadlines: int


class Scheduler:
    """Who exchanges which pieces with whom, and who fetches them from the origin."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._cluster: Final = Cluster(settings or Settings())
        self._membership: Final = Membership(self._cluster)
        self._maps: Final = Maps(self._cluster)
        self._wholes: Final = Wholes(self._cluster, self._maps)
        self._joining: Final = Joining(self._cluster, self._membership, self._maps, self._wholes)
        self._leasing: Final = Leasing(self._cluster, self._membership, self._maps, self._wholes)
        self._quarantine: Final = Quarantine(self._cluster, self._membership, self._maps)
        self._tags: Final = Tags(self._cluster)
        self._by_host: Final[Mapping[type, Callable[[Host, Any], None]]] = {
            from_host.Announce: self._joining.announce,
            from_host.Join: self._joining.join,
            from_host.Need: self._leasing.need,
            from_host.Length: self._leasing.learn_length,
            from_host.LeasePieces: self._leasing.landed,
            from_host.LeaseEnded: self._leasing.ended,
            from_host.TagLookup: self._tags.look_up,
            from_host.TagAnswer: self._tags.answered,
            from_host.Bye: lambda host, _: self._depart(host),
        }
        self._by_member: Final[Mapping[type, Callable[[Member, Any], None]]] = {
            from_host.Progress: self._joining.progress,
            from_host.NeighbourFailed: self._joining.neighbour_failed,
            from_host.Recalled: self._wholes.recalled,
            from_host.Sealed: self._wholes.sealed,
            from_host.Disproved: self._maps.disproved,
            from_host.Corrupt: self._quarantine.corrupt,
            from_host.Leave: lambda member, _: self._membership.expel(member),
            Content: self._wholes.content,
        }

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take an event that happened at `now`, in seconds of any clock that never goes back."""
        cluster = self._cluster
        cluster.now = max(now, cluster.now)
        if cluster.started_at is None:
            cluster.started_at = cluster.now
        match event:
            case Connected(connection, hello):
                if not self._quarantine.turns_away(connection, hello.host):
                    self._membership.arrive(connection, hello)
            case Received(connection, message):
                host = cluster.hosts.get(connection)
                if host is not None:
                    self._receive(host, message)
            case Disconnected(connection):
                host = cluster.hosts.get(connection)
                if host is not None:
                    self._depart(host)
            case Tick():
                pass
        self._do_what_is_due()
        self._settle()
        instructions, cluster.outbox = cluster.outbox, []
        return instructions

    def next_deadline(self) -> float | None:
        """When a Tick is needed at the latest."""
        return self._cluster.deadlines.next()

    def story(self, digest: bytes) -> tuple[str, ...]:
        """What happened in a blob's swarm lately."""
        swarm = self._cluster.swarms.get(digest)
        return swarm.story.lines() if swarm else ()

    def statistics(self) -> Statistics:
        """How much of everything there is now."""
        cluster = self._cluster
        return Statistics(
            hosts=len(cluster.hosts),
            swarms=len(cluster.swarms),
            members=sum(len(swarm.members) for swarm in cluster.swarms.values()),
            leases=len(cluster.leases.active),
            leases_given=cluster.leases.given,
            quarantined=len(self._quarantine),
            tags=len(self._tags),
            contents=len(cluster.contents),
            content_bytes=cluster.contents.size_bytes,
            deadlines=len(cluster.deadlines),
        )

    def validate(self) -> None:
        """Raise AssertionError if anything contradicts anything else. Looks at everything: for tests."""
        cluster = self._cluster
        assert not cluster.outbox
        assert not cluster.guilty
        assert not cluster.to_lease
        for connection, host in cluster.hosts.items():
            assert host.connection == connection
            assert cluster.hosts_by_id[host.id] is host
            for digest, member in host.members.items():
                assert cluster.swarms[digest].members[host] is member
        assert len(cluster.hosts) == len(cluster.hosts_by_id)
        for swarm in cluster.swarms.values():
            swarm.validate()
            needs = swarm.to_lease or (swarm.map is None and not cluster.contents.size_of(swarm.digest))
            waits = (
                swarm.leases
                or swarm.recalled
                or swarm in cluster.held_up
                or Timer(Due.PATIENCE, swarm.digest) in cluster.deadlines
                or not cluster.settings.leases_per_blob
            )
            assert waits or not needs or not len(swarm.wanting), ("wanted, and nobody is asked", swarm.story.lines())
        cluster.leases.validate()
        self._tags.validate()

    def _receive(self, host: Host, message: FromHost) -> None:
        by_host = self._by_host.get(type(message))
        try:
            if by_host is not None:
                by_host(host, message)
                return
            self._receive_of_member(host, message)
        except ProtocolError as error:
            self._tags.depart(host)
            self._membership.dismiss(host, Closing.MALFORMED, f"{type(message).__name__}: {error}")

    def _receive_of_member(self, host: Host, message: Any) -> None:
        """A message about one blob, from a member of its swarm. One that has left has sent it before it heard."""
        by_member = self._by_member.get(type(message))
        if by_member is None:
            raise ProtocolError("not at this point")
        member = host.members.get(message.digest)
        if member is not None:
            member.swarm.story.now = self._cluster.now
            by_member(member, message)

    def _depart(self, host: Host) -> None:
        self._membership.depart(host)
        self._tags.depart(host)

    def _do_what_is_due(self) -> None:
        cluster = self._cluster
        while (timer := cluster.deadlines.pop_due(cluster.now)) is not None:
            key = timer.key
            if timer.due is Due.LEASE and isinstance(key, int):
                self._leasing.expired(cluster.leases.active[key])
            elif timer.due is Due.TAG and isinstance(key, TagKey):
                self._tags.due(key)
            elif timer.due is Due.RELEASE and isinstance(key, str):
                self._quarantine.release(key)
            elif timer.due is Due.REPORTS and isinstance(key, str):
                self._quarantine.let_age(key)
            elif isinstance(key, bytes):
                swarm = cluster.swarms[key]
                swarm.story.now = cluster.now
                if timer.due is Due.RECALL:
                    self._wholes.recall_expired(swarm)
                elif timer.due is Due.FANOUT:
                    self._maps.fan_out(swarm)
                elif timer.due is Due.ORPHANS:
                    self._leasing.orphans_due(swarm)
                else:
                    cluster.to_lease[swarm] = None

    def _settle(self) -> None:
        """Do what the parts have left for each other, until nothing is left."""
        cluster = self._cluster
        while cluster.guilty or cluster.to_lease:
            while cluster.guilty:
                host_id = next(iter(cluster.guilty))
                charge = cluster.guilty.pop(host_id)
                host = cluster.hosts_by_id.get(host_id)
                self._quarantine.sentence(host_id, charge)
                if host is not None:
                    self._tags.depart(host)
            while cluster.to_lease and not cluster.guilty:
                swarm = next(iter(cluster.to_lease))
                del cluster.to_lease[swarm]
                if swarm.members:
                    swarm.story.now = cluster.now
                    self._leasing.pump(swarm)
        self._membership.tell_links()
