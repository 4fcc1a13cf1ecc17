"""The state that the parts of the scheduler share: hosts, swarms, leases, deadlines, and the outbox.

Rules:
1. A part changes its own state and leaves marks for other parts: a swarm in `swarms_to_lease` for `lease_policy`, a
   host in `to_quarantine` for `quarantine`. The marks are handled after the event, so no part calls back into a part
   that called it.
2. A dictionary without values is a set that keeps its order, so that the same events give the same instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final, NamedTuple

from scheduler.core.budget import Budget
from scheduler.core.clients_first import ClientsFirst
from scheduler.core.deadlines import Deadlines
from scheduler.core.events import Ask, Close, Instruction, Probe, Send
from scheduler.core.inline_blobs import InlineBlobCache
from scheduler.core.leases import Lease, LeaseBook, LeaseCause
from scheduler.core.members import Host, Identity, Member, Source
from scheduler.core.over_quota import OverQuota
from scheduler.core.pulls import PullBook
from scheduler.core.rng import Rng
from scheduler.core.settings import SchedulerSettings
from scheduler.core.shelf import Shelf
from scheduler.core.swarm import Swarm
from scheduler.protocol.codec import ToHost
from scheduler.protocol.to_host import Reset, Schedulers

ASSUMED_RATE: Final = 12.5e6
"""Bytes per second at which pieces pass, before hosts have told how fast they do: links of 100 Mbit/s."""

RATE_WEIGHT: Final = 1 / 16
"""How much one host's word of the rate of a piece changes that of all."""


class Due(Enum):
    """The kinds of timers."""

    LEASE = auto()
    DIGEST_REQUEST = auto()
    FANOUT = auto()
    ORPHANS = auto()
    PATIENCE = auto()
    TAG = auto()
    RELEASE = auto()
    REST = auto()
    SPOT_CHECK = auto()
    PREHEAT = auto()
    BACKGROUND = auto()


class TagKey(NamedTuple):
    """A tag of a repository."""

    source: Source
    tag: str


class PreheatKey(NamedTuple):
    """A preheat, or one host's part of it."""

    job: str
    host: str


class OriginKey(NamedTuple):
    """An origin."""

    upstream: str


class Timer(NamedTuple):
    """A kind of timer, and its lease (a number), blob (a digest), tag, host, preheat, or origin."""

    due: Due
    key: int | bytes | Identity | TagKey | PreheatKey | OriginKey


class SchedulerState:
    """The state of the whole scheduler."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings: Final = settings
        self.rng: Final = Rng(settings.seed)
        self.now = 0.0
        self.started_at: float | None = None
        self.hosts: Final[dict[int, Host]] = {}
        """Hosts by connection."""
        self.dividing = 0
        """Those of them that divide blobs as the scheduler says."""
        self.lengthening = 0
        """Those that know of pieces that are longer than usual."""
        self.piece_bytes_per_s = ASSUMED_RATE
        """How fast a piece passes between two hosts, as the last that got a large blob have told."""
        self.hosts_by_id: Final[dict[str, Host]] = {}
        self.swarms: Final[dict[bytes, Swarm]] = {}
        self.budget: Final = Budget(settings.witness_bytes, settings.claimed_bytes)
        self.held: Final = Budget(settings.witness_bytes, sys.maxsize)
        """What hosts without certificates hold and want."""
        self.shelf: Final = Shelf(self.budget, self.held)
        """The blobs that hosts hold and that nobody asks for. A blob on the shelf has no swarm, with one exception: a
        swarm that a Need has made, until the Join follows."""
        self.leases: Final = LeaseBook()
        self.inline_blobs: Final = InlineBlobCache(settings.inline_cache_bytes)
        self.pulls: Final = PullBook()
        self.deadlines: Final[Deadlines[Timer]] = Deadlines()
        self.outbox: list[Instruction] = []
        self.schedulers: Schedulers | None = None
        """The schedulers that live; None if this one is by itself."""

        self.swarms_to_lease: Final[dict[Swarm, None]] = {}
        """Swarms in which a lease may have become possible or necessary."""
        self.swarms_to_try: Final[dict[Swarm, None]] = {}
        """Swarms that wait for the leases of others to end, and of which the first may have one now."""
        self.over_quota: Final = OverQuota()
        self.places = 0
        """How often a blob was wanted that nobody wanted."""
        self.clients_first: Final = ClientsFirst()
        self.credit: Final[dict[Identity, None]] = {}
        """Hosts whose digests the SHA-256 of a blob has proved right, the latest last: `scheduler.core.spot_checks`."""
        self.links_changed: Final[dict[Swarm, None]] = {}
        """Swarms whose graph has changed."""
        self.to_quarantine: Final[dict[Identity, str]] = {}
        """Hosts to quarantine, each with its reason."""

    def send(self, hosts: Iterable[Host], message: ToHost) -> None:
        """Add a message for these hosts to the outbox."""
        connections = tuple([host.connection for host in hosts])
        if connections:
            self.outbox.append(Send(connections, message))

    def tell(self, host: Host, message: ToHost) -> None:
        """Add a message for one host to the outbox."""
        self.outbox.append(Send((host.connection,), message))

    def note_piece_rate(self, bytes_per_s: float) -> None:
        """A host has told how fast a piece came. The word of one changes little, whatever it is."""
        before = self.piece_bytes_per_s
        told = min(max(bytes_per_s, before / 2), 2 * before)
        self.piece_bytes_per_s = before + RATE_WEIGHT * (told - before)

    def known_as(self, identity: Identity) -> Host | None:
        """The connected host with this identity: not one that has taken its id at another address."""
        host = self.hosts_by_id.get(identity.id)
        return host if host is not None and host.identity == identity else None

    def charge(self, swarm: Swarm, host: Host, amount: int) -> bool:
        """Charge a host for memory of a swarm. Returns whether the host may make the scheduler take it."""
        owner = host.identity.witness
        if not self.budget.take(owner, amount):
            return False
        if amount:
            swarm.charges[owner] = swarm.charges.get(owner, 0) + amount
        return True

    def charge_member(self, member: Member, amount: int) -> bool:
        """Charge so much in all for a member whose host has no certificate. Returns whether the host may have that."""
        network = member.host.came_from
        if network and amount > member.charged:
            if not self.held.take(network, amount - member.charged):
                return False
            member.charged = amount
        return True

    def release_member(self, member: Member) -> None:
        """A member is gone: give back what was charged for it."""
        if member.charged:
            self.held.give_back({member.host.came_from: member.charged})
            member.charged = 0

    def probe(self, host: Host) -> None:
        """Have a host pinged."""
        self.outbox.append(Probe(host.connection))

    def ask(self, lease: Lease) -> None:
        """Have the host of a lease pinged. When it answers, whatever it had said before is received."""
        self.outbox.append(Ask(lease.member.host.connection, lease.id))

    def close(self, instruction: Close) -> None:
        """Add the end of a connection to the outbox."""
        self.outbox.append(instruction)

    def reset(self, swarm: Swarm, reason: str) -> None:
        """Start a new generation: no member holds a piece, and no lease is active."""
        swarm.story.tell("generation %s: %s", swarm.generation + 1, reason)
        for lease in (*swarm.leases.values(), *swarm.late.values()):
            self.end_lease(lease, LeaseCause.REVOKE)
        self.swarms_to_lease[swarm] = None
        swarm.digests_requested_of = None
        self.deadlines.cancel(Timer(Due.DIGEST_REQUEST, swarm.digest))
        swarm.next_generation()
        for member in swarm.members.values():
            if member.have:
                swarm.hold(member, 0)
        hosts = [member.host for member in swarm.members.values()]
        self.send(hosts, Reset(swarm.digest, swarm.generation))

    def accuse(self, swarm: Swarm, identities: Iterable[Identity], why: str) -> None:
        """Mark hosts to be quarantined."""
        for identity in identities:
            swarm.story.tell("%s %s", identity, why)
            self.to_quarantine.setdefault(identity, f"{why} (blob sha256:{swarm.digest.hex()})")

    def end_lease(self, lease: Lease, cause: LeaseCause) -> None:
        """End a lease. Its remaining pieces are leased to another host."""
        swarm = self.swarms[lease.digest]
        was_late = swarm.late.pop(lease.id, None) is not None
        self.leases.step(lease, cause, swarm.story)
        self.deadlines.cancel(Timer(Due.LEASE, lease.id))
        if not was_late:
            self._release(swarm, lease)

    def overdue(self, lease: Lease) -> None:
        """Let another host have the pieces of a lease as well."""
        swarm = self.swarms[lease.digest]
        self.leases.step(lease, LeaseCause.OVERDUE, swarm.story)
        self._release(swarm, lease)
        swarm.late[lease.id] = lease

    def _release(self, swarm: Swarm, lease: Lease) -> None:
        """The remaining pieces of a lease are for another host."""
        del swarm.leases[lease.id]
        if swarm.map is not None and swarm.piece_counts is not None:
            left = lease.left & swarm.map.everything
            lost = swarm.piece_counts.without_copy(left & swarm.map.known)
            swarm.unleased |= left & ~swarm.map.known | lost
        swarm.note_provider(lease.member)
        self.swarms_to_lease[swarm] = None
        self.swarms_to_try.update(dict.fromkeys(self.over_quota.next(lease.member)))

    def note_use(self, swarm: Swarm, upstreams: Iterable[str]) -> list[str]:
        """Record the origins that a swarm uses for clients. Returns those of which clients' use begins."""
        begun, over = self.clients_first.note(swarm, frozenset(upstreams), self.now)
        for upstream in over:
            self.note_background(upstream)
        return begun

    def note_background(self, upstream: str) -> None:
        """Have swarms of the background that wait for an origin tried once they may have a lease of it."""
        due = self.clients_first.due(upstream, self.now)
        if due is not None and self.over_quota.of_background(upstream):
            self.deadlines.set(Timer(Due.BACKGROUND, OriginKey(upstream)), due)

    @property
    def leases_per_origin(self) -> int:
        """The most leases of an origin that this scheduler grants at a time: its share of those of the cluster."""
        alive = 1 if self.schedulers is None else len(self.schedulers.schedulers)
        most = self.settings.leases_per_origin
        return max(min(most, self.settings.leases_per_blob), -(-most // alive))

    @property
    def crowding(self) -> float:
        """How many times rarer than few hosts those that are connected may report their pieces."""
        return max(1.0, len(self.hosts) / self.settings.unhurried_hosts)

    def note_idle(self, swarm: Swarm) -> None:
        """Set the time at which a swarm in which nobody wants the blob goes to the shelf."""
        if not len(swarm.wanting):
            self.deadlines.set(Timer(Due.REST, swarm.digest), self.now + self.settings.rest_s)

    def note_lost(self, swarm: Swarm) -> None:
        """Mark known pieces without a holder: they wait for a holder's report before they are leased again."""
        if swarm.map is None or swarm.piece_counts is None:
            return
        lost = swarm.piece_counts.without_copy(swarm.map.known & ~swarm.unleased & ~swarm.orphans)
        for lease in swarm.leases.values():
            lost &= ~lease.left
        swarm.orphans |= lost
        timer = Timer(Due.ORPHANS, swarm.digest)
        if lost and timer not in self.deadlines:
            self.deadlines.set(timer, self.now + self.settings.orphan_s * self.crowding)
