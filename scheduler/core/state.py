"""What the parts of the scheduler share: who is there, what is due, and what is to be sent.

Rules:
1. A part changes what it owns and leaves marks for the others: a swarm in `swarms_to_lease` is looked at by
   `lease_policy`, a host in `to_quarantine` by `quarantine`, when the event has been handled. So no part calls back
   into one that called it.
2. Dictionaries without values are sets that keep their order: the same events give the same instructions.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final, NamedTuple

from scheduler.core.deadlines import Deadlines
from scheduler.core.events import Close, Instruction, Send
from scheduler.core.inline_blobs import InlineBlobCache
from scheduler.core.leases import Lease, LeaseBook, LeaseCause
from scheduler.core.members import Host, Source
from scheduler.core.rng import Rng
from scheduler.core.settings import SchedulerSettings
from scheduler.core.swarm import Swarm
from scheduler.protocol.codec import ToHost


class Due(Enum):
    """What can be due."""

    LEASE = auto()
    DIGEST_REQUEST = auto()
    FANOUT = auto()
    ORPHANS = auto()
    PATIENCE = auto()
    TAG = auto()
    REPORTS = auto()
    RELEASE = auto()


class TagKey(NamedTuple):
    """A tag of a repository."""

    source: Source
    tag: str


class Timer(NamedTuple):
    """Something that is due, and for which lease (a number), blob (a digest), tag, or host."""

    due: Due
    key: int | bytes | str | TagKey


class Reason(NamedTuple):
    """Why a host is to be quarantined. `proved` says that it told something untrue, and not only that others say so."""

    text: str
    proved: bool


class SchedulerState:
    """The state of the whole scheduler."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings: Final = settings
        self.rng: Final = Rng(settings.seed)
        self.now = 0.0
        self.started_at: float | None = None
        self.hosts: Final[dict[int, Host]] = {}
        """By connection."""
        self.hosts_by_id: Final[dict[str, Host]] = {}
        self.swarms: Final[dict[bytes, Swarm]] = {}
        self.leases: Final = LeaseBook()
        self.inline_blobs: Final = InlineBlobCache(settings.inline_cache_bytes)
        self.deadlines: Final[Deadlines[Timer]] = Deadlines()
        self.outbox: list[Instruction] = []

        self.swarms_to_lease: Final[dict[Swarm, None]] = {}
        """Swarms in which a lease may have become possible, or needed."""
        self.over_quota: Final[dict[Swarm, None]] = {}
        """Swarms that wait for a lease of another one to end: their origin or their hosts have as many as they may."""
        self.links_changed: Final[dict[Swarm, None]] = {}
        """Swarms whose graph has changed."""
        self.to_quarantine: Final[dict[str, Reason]] = {}
        """Hosts that are to be quarantined, and why."""

    def send(self, hosts: Iterable[Host], message: ToHost) -> None:
        """Have a message sent to hosts."""
        connections = tuple([host.connection for host in hosts])
        if connections:
            self.outbox.append(Send(connections, message))

    def close(self, instruction: Close) -> None:
        """Have a connection ended."""
        self.outbox.append(instruction)

    def end_lease(self, lease: Lease, cause: LeaseCause) -> None:
        """End a lease; what is left of it waits for another host."""
        swarm = self.swarms[lease.digest]
        self.leases.step(lease, cause, swarm.story)
        del swarm.leases[lease.id]
        self.deadlines.cancel(Timer(Due.LEASE, lease.id))
        if swarm.map is not None and swarm.piece_counts is not None:
            left = lease.left & swarm.map.everything
            lost = swarm.piece_counts.without_copy(left & swarm.map.known)
            swarm.unleased |= left & ~swarm.map.known | lost
        swarm.note_provider(lease.member)
        self.swarms_to_lease[swarm] = None
        self.swarms_to_lease.update(self.over_quota)
        self.over_quota.clear()

    def note_lost(self, swarm: Swarm) -> None:
        """See to pieces that nobody is known to hold any more: they wait a little for a report of a holder."""
        if swarm.map is None or swarm.piece_counts is None:
            return
        lost = swarm.piece_counts.without_copy(swarm.map.known & ~swarm.unleased & ~swarm.orphans)
        for lease in swarm.leases.values():
            lost &= ~lease.left
        swarm.orphans |= lost
        timer = Timer(Due.ORPHANS, swarm.digest)
        if lost and timer not in self.deadlines:
            self.deadlines.set(timer, self.now + self.settings.orphan_s)
