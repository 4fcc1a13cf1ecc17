"""The state that the parts of the scheduler share: hosts, swarms, leases, deadlines, and the outbox.

Rules:
1. A part changes its own state and leaves marks for other parts: a swarm in `swarms_to_lease` for `lease_policy`, a
   host in `to_quarantine` for `quarantine`. The marks are handled after the event, so no part calls back into a part
   that called it.
2. A dictionary without values is a set that keeps its order, so that the same events give the same instructions.
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
from scheduler.core.shelf import Shelf
from scheduler.core.swarm import Swarm
from scheduler.protocol.codec import ToHost


class Due(Enum):
    """The kinds of timers."""

    LEASE = auto()
    DIGEST_REQUEST = auto()
    FANOUT = auto()
    ORPHANS = auto()
    PATIENCE = auto()
    TAG = auto()
    REPORTS = auto()
    RELEASE = auto()
    REST = auto()


class TagKey(NamedTuple):
    """A tag of a repository."""

    source: Source
    tag: str


class Timer(NamedTuple):
    """A kind of timer, and its lease (a number), blob (a digest), tag, or host."""

    due: Due
    key: int | bytes | str | TagKey


class Reason(NamedTuple):
    """The reason for a quarantine. `proved`: the host reported a wrong value. Otherwise other hosts have complained."""

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
        """Hosts by connection."""
        self.hosts_by_id: Final[dict[str, Host]] = {}
        self.swarms: Final[dict[bytes, Swarm]] = {}
        self.shelf: Final = Shelf()
        """The blobs that hosts hold and that nobody asks for. A blob on the shelf has no swarm, with one exception: a
        swarm that a Need has made, until the Join follows."""
        self.leases: Final = LeaseBook()
        self.inline_blobs: Final = InlineBlobCache(settings.inline_cache_bytes)
        self.deadlines: Final[Deadlines[Timer]] = Deadlines()
        self.outbox: list[Instruction] = []

        self.swarms_to_lease: Final[dict[Swarm, None]] = {}
        """Swarms in which a lease may have become possible or necessary."""
        self.over_quota: Final[dict[Swarm, None]] = {}
        """Swarms that wait for a lease of another swarm to end, because their origin or their hosts are at a limit."""
        self.links_changed: Final[dict[Swarm, None]] = {}
        """Swarms whose graph has changed."""
        self.to_quarantine: Final[dict[str, Reason]] = {}
        """Hosts to quarantine, each with its reason."""

    def send(self, hosts: Iterable[Host], message: ToHost) -> None:
        """Add a message for these hosts to the outbox."""
        connections = tuple([host.connection for host in hosts])
        if connections:
            self.outbox.append(Send(connections, message))

    def close(self, instruction: Close) -> None:
        """Add the end of a connection to the outbox."""
        self.outbox.append(instruction)

    def end_lease(self, lease: Lease, cause: LeaseCause) -> None:
        """End a lease. Its remaining pieces are leased to another host."""
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
            self.deadlines.set(timer, self.now + self.settings.orphan_s)
