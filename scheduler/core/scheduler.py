"""The scheduler's state machine: events in, instructions out.

Rules:
1. `handle` is the only mutator. It takes the time as an argument and returns the shell's instructions, in order.
2. The same events at the same times give the same instructions, byte for byte.
3. A host cannot make `handle` raise. A message that contradicts the scheduler's state ends the host's connection. An
   exception from `handle` is a defect of the scheduler.
4. The cost of an event does not grow with the swarm, except for messages that all members must be sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.core.events import (
    Answered,
    Connected,
    Disconnected,
    Event,
    Instruction,
    LiveListChanged,
    PreheatAdded,
    PreheatCancelled,
    PreheatHosts,
    QuarantineHeard,
    Received,
    TagAsked,
    TagTold,
    Tick,
)
from scheduler.core.exchanges import Exchanges, exchanges_of
from scheduler.core.join import Joining
from scheduler.core.lease_policy import LeasePolicy
from scheduler.core.lengths import Lengths
from scheduler.core.members import Host, Identity, Member, network_of
from scheduler.core.membership import Membership
from scheduler.core.overview import ALONE, Others, Overview, hosts_at, overview
from scheduler.core.piece_digests import Maps
from scheduler.core.preheat_hosts import Candidate
from scheduler.core.preheat_job import Job, JobState
from scheduler.core.preheats import Preheats
from scheduler.core.quarantine import Quarantine, QuarantineFacts
from scheduler.core.roster import HostFacts, roster
from scheduler.core.seeders import Seeders
from scheduler.core.settings import SchedulerSettings
from scheduler.core.spot_checks import SpotChecks
from scheduler.core.state import Due, OriginKey, PreheatKey, SchedulerState, TagKey, Timer
from scheduler.core.swarm import Swarm
from scheduler.core.tags import Tags
from scheduler.core.told_pulls import ToldPulls
from scheduler.protocol import from_host
from scheduler.protocol.codec import FromHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.fields import ProtocolError


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """The size of each part of the scheduler's state."""

    hosts: int
    swarms: int
    members: int
    leases: int
    leases_given: int
    leases_overdue: int
    quarantined: int
    tags: int
    inline_blobs: int
    inline_bytes: int
    deadlines: int
    preheats: Mapping[JobState, int]
    """By state: those that are not over, and those that have ended since the start."""


class Scheduler:
    """Links the members of swarms, and grants leases for pieces from the origin."""

    def __init__(self, settings: SchedulerSettings | None = None) -> None:
        self._state: Final = SchedulerState(settings or SchedulerSettings())
        self._membership: Final = Membership(self._state)
        self._lengths: Final = Lengths(self._state, self._membership)
        self._maps: Final = Maps(self._state)
        self._seeders: Final = Seeders(self._state, self._maps)
        self._joining: Final = Joining(self._state, self._membership, self._lengths, self._maps, self._seeders)
        self._spot_checks: Final = SpotChecks(self._state, self._maps)
        self._lease_policy: Final = LeasePolicy(
            self._state, self._membership, self._lengths, self._maps, self._seeders, self._spot_checks
        )
        self._quarantine: Final = Quarantine(self._state, self._membership, self._maps)
        self._tags: Final = Tags(self._state)
        self._preheats: Final = Preheats(self._state)
        self._told_pulls: Final = ToldPulls(self._state)
        self._by_host: Final[Mapping[type, Callable[[Host, Any], None]]] = {
            from_host.Announce: self._joining.announce,
            from_host.Join: self._joining.join,
            from_host.Leave: self._joining.leave,
            from_host.Need: self._lease_policy.need,
            from_host.Length: self._lease_policy.learn_length,
            from_host.LeasePieces: self._lease_policy.landed,
            from_host.LeaseEnded: self._lease_policy.ended,
            from_host.TagLookup: self._tags.look_up,
            from_host.TagAnswer: self._tags.answered,
            from_host.PreheatReport: self._preheats.reported,
            from_host.Pulled: self._told_pulls.told,
            from_host.Bye: lambda host, _: self._depart(host),
        }
        self._by_member: Final[Mapping[type, Callable[[Swarm, Member, Any], None]]] = {
            from_host.Priority: self._joining.priority,
            from_host.Progress: self._joining.progress,
            from_host.NeighbourFailed: self._joining.neighbour_failed,
            from_host.DigestReport: self._seeders.digests_reported,
            from_host.SpotChecked: self._spot_checks.checked,
            from_host.Sealed: self._seeders.sealed,
            from_host.Disproved: self._maps.disproved,
            from_host.Corrupt: self._joining.corrupt,
            from_host.InlineBlob: self._seeders.inline_blob,
        }

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Handle an event that happened at `now`, in seconds of a monotonic clock."""
        state = self._state
        state.now = max(now, state.now)
        if state.started_at is None:
            state.started_at = state.now
        match event:
            case Connected():
                self._connect(event)
            case Received() | Answered() | Disconnected():
                host = state.hosts.get(event.connection)
                if host is not None:
                    self._of_host(host, event)
            case PreheatAdded() | PreheatHosts() | PreheatCancelled():
                self._preheats.told(event)
            case LiveListChanged():
                self._membership.live_list_changed(event)
            case QuarantineHeard():
                self._quarantine.heard(event)
            case TagAsked() | TagTold():
                self._tags.heard(event)
            case Tick():
                pass
        self._do_what_is_due()
        self._settle()
        instructions, state.outbox = state.outbox, []
        return instructions

    def _of_host(self, host: Host, event: Received | Answered | Disconnected) -> None:
        if isinstance(event, Received):
            self._receive(host, event.message)
        elif isinstance(event, Answered):
            self._lease_policy.answered(host, event.lease)
        else:
            self._depart(host)

    def next_deadline(self) -> float | None:
        """The latest time at which the next Tick is needed."""
        return self._state.deadlines.next()

    def story(self, digest: bytes) -> tuple[str, ...]:
        """The latest events in a blob's swarm, as lines of text."""
        swarm = self._state.swarms.get(digest)
        return swarm.story.lines() if swarm else ()

    def hosts(self, now: float) -> Iterator[HostFacts]:
        """The connected hosts, made as they are read."""
        return roster(self._state, now)

    def preheat(self, job: str) -> Job | None:
        """A preheat that is not over, or that stands, by its id. It changes with the next event."""
        return self._preheats.jobs.get(job)

    def connected(self) -> frozenset[str]:
        """The ids of the connected hosts."""
        return frozenset(self._state.hosts_by_id)

    def candidate(self, host: str) -> Candidate | None:
        """What preheats select a host by; None if it is not connected."""
        found = self._state.hosts_by_id.get(host)
        return None if found is None else Candidate(host, *found.topology)

    def is_connected(self, host: str) -> bool:
        """Whether a host of this id is."""
        return host in self._state.hosts_by_id

    @property
    def open_preheats(self) -> int:
        """How many preheats are not over."""
        return len(self._preheats)

    def exchanges(self, now: float) -> Exchanges:
        """The pulls of the last day, and the blobs on their way, as this scheduler by itself knows them."""
        return exchanges_of(self._state, now)

    def overview(self, now: float, expiring: frozenset[str] = frozenset(), others: Others = ALONE) -> Overview:
        """The cluster at a glance. `expiring`: hosts that should have renewed their certificates and have not."""
        return overview(self._state, now, expiring, others)

    def hosts_at(
        self,
        now: float,
        site: str | None,
        zone: str | None,
        text: str,
        first: int,
        most: int,
        others: Others = ALONE,
    ) -> tuple[int, list[HostFacts]]:
        """Some hosts of a place (None: any), by id, that have `text` in their id or address; and how many there are."""
        return hosts_at(self._state, now, site, zone, text, first, most, others)

    def quarantined(self, now: float) -> list[QuarantineFacts]:
        """The hosts in quarantine."""
        return self._quarantine.facts(now)

    def statistics(self) -> SchedulerStatistics:
        """The current size of each part of the state."""
        state = self._state
        return SchedulerStatistics(
            hosts=len(state.hosts),
            swarms=len(state.swarms) + len(state.shelf),
            members=sum(len(swarm.members) for swarm in state.swarms.values()) + state.shelf.holdings,
            leases=len(state.leases.active),
            leases_given=state.leases.given,
            leases_overdue=state.leases.overdue,
            quarantined=len(self._quarantine),
            tags=len(self._tags),
            inline_blobs=len(state.inline_blobs),
            inline_bytes=state.inline_blobs.size_bytes,
            deadlines=len(state.deadlines),
            preheats={
                **self._preheats.ended,
                **Counter(job.state for job in self._preheats.jobs.values() if job.is_open),
            },
        )

    def validate(self) -> None:
        """Raise AssertionError if any part of the state contradicts another. It examines the whole state: for tests."""
        state = self._state
        assert not state.outbox
        assert not state.to_quarantine
        assert not state.swarms_to_lease
        assert not state.swarms_to_try
        for connection, host in state.hosts.items():
            assert host.connection == connection
            assert state.hosts_by_id[host.id] is host
            for digest, member in host.members.items():
                assert state.swarms[digest].members[host] is member
        assert len(state.hosts) == len(state.hosts_by_id)
        for swarm in state.swarms.values():
            swarm.validate()
            needs = swarm.unleased or (swarm.map is None and not state.inline_blobs.size_of(swarm.digest))
            waits = (
                swarm.leases
                or swarm.publishers.checks
                or swarm.digests_requested_of
                or swarm in state.over_quota
                or Timer(Due.PATIENCE, swarm.digest) in state.deadlines
                or not state.settings.leases_per_blob
            )
            assert waits or not needs or not len(swarm.wanting), ("wanted, and nobody is asked", swarm.story.lines())
        self._maps.validate()
        state.leases.validate()
        state.over_quota.validate()
        state.clients_first.validate()
        of_swarms = {number: lease for swarm in state.swarms.values() for number, lease in swarm.leases.items()}
        assert of_swarms == state.leases.active
        late = {number: lease for swarm in state.swarms.values() for number, lease in swarm.late.items()}
        assert late == state.leases.late
        state.pulls.validate()
        live = [swarm.pull for swarm in state.swarms.values() if len(swarm.wanting)]
        assert sum(pull.live for pull in state.pulls.all(state.now)) == len(live)
        self._tags.validate()
        self._preheats.validate()
        state.shelf.validate()
        state.budget.validate()
        state.held.validate()

    def _connect(self, event: Connected) -> None:
        state, hello = self._state, event.hello
        identity = Identity(hello.host, "" if event.certified else network_of(event.seen_at))
        before = state.hosts_by_id.get(hello.host)
        if not self._quarantine.turns_away(event.connection, identity):
            self._membership.arrive(
                event.connection, hello, event.seen_at, certified=event.certified, burst=event.burst
            )
        after = state.hosts_by_id.get(hello.host)
        if before is not None and after is not before:
            self._departed(before)
        if after is not None and after is not before:
            self._preheats.arrived(after)

    def _receive(self, host: Host, message: FromHost) -> None:
        by_host = self._by_host.get(type(message))
        try:
            if by_host is not None:
                by_host(host, message)
                return
            self._receive_of_member(host, message)
        except ProtocolError as error:
            self._departed(host)
            self._membership.dismiss(host, Closing.MALFORMED, f"{type(message).__name__}: {error}")

    def _receive_of_member(self, host: Host, message: Any) -> None:
        """Handle a message about one blob. A message that crossed the end of the host's membership is dropped."""
        by_member = self._by_member.get(type(message))
        if by_member is None:
            raise ProtocolError("not at this point")
        member = host.members.get(message.digest)
        if member is not None:
            swarm = self._state.swarms[message.digest]
            swarm.story.now = self._state.now
            by_member(swarm, member, message)

    def _depart(self, host: Host) -> None:
        self._membership.depart(host)
        self._departed(host)

    def _departed(self, host: Host) -> None:
        """Tell the parts that are not about blobs."""
        self._tags.depart(host)
        self._preheats.departed(host)

    def _do_what_is_due(self) -> None:
        state = self._state
        while (timer := state.deadlines.pop_due(state.now)) is not None:
            key = timer.key
            if timer.due is Due.LEASE and isinstance(key, int):
                self._lease_policy.expired(state.leases.active.get(key) or state.leases.late[key])
            elif timer.due is Due.TAG and isinstance(key, TagKey):
                self._tags.due(key)
            elif timer.due is Due.PREHEAT and isinstance(key, PreheatKey):
                self._preheats.due(key)
            elif timer.due is Due.RELEASE and isinstance(key, Identity):
                self._quarantine.release(key)
            elif isinstance(key, OriginKey):
                state.swarms_to_lease.update(dict.fromkeys(state.over_quota.of_background(key.upstream)))
            elif isinstance(key, bytes):
                self._do_for_swarm(timer.due, state.swarms[key])

    def _do_for_swarm(self, due: Due, swarm: Swarm) -> None:
        swarm.story.now = self._state.now
        if due is Due.DIGEST_REQUEST:
            self._seeders.digest_request_expired(swarm)
        elif due is Due.FANOUT:
            self._maps.fan_out(swarm)
        elif due is Due.SPOT_CHECK:
            self._spot_checks.due(swarm)
        elif due is Due.REST:
            self._membership.rest(swarm)
        elif due is Due.ORPHANS:
            self._lease_policy.orphans_due(swarm)
        else:
            self._state.swarms_to_lease[swarm] = None

    def _settle(self) -> None:
        """Do the work that the handlers have marked for each other, until no mark is left."""
        state = self._state
        while state.to_quarantine or state.swarms_to_lease or state.swarms_to_try:
            while state.to_quarantine:
                identity = next(iter(state.to_quarantine))
                reason = state.to_quarantine.pop(identity)
                host = state.known_as(identity)
                self._quarantine.apply(identity, reason)
                if host is not None:
                    self._departed(host)
            while state.swarms_to_lease and not state.to_quarantine:
                swarm = next(iter(state.swarms_to_lease))
                del state.swarms_to_lease[swarm]
                if swarm.members:
                    swarm.story.now = state.now
                    self._lease_policy.grant_leases(swarm)
            while state.swarms_to_try and not state.to_quarantine and not state.swarms_to_lease:
                swarm = next(iter(state.swarms_to_try))
                del state.swarms_to_try[swarm]
                swarm.story.now = state.now
                self._lease_policy.try_waiting(swarm)
        self._membership.tell_links()
