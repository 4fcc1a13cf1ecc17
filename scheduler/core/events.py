"""The events that the core takes and the instructions that the core returns. The shell numbers the connections."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from msgspec import Struct

from scheduler.core.preheat_job import Job, Target
from scheduler.protocol.codec import FromHost, ToHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Hello, Pulled
from scheduler.protocol.to_host import MAX_BURST, SchedulerAt


class Connected(Struct, frozen=True):
    """A host has sent Hello on a new connection, which comes from the address `seen_at`.

    `certified`: the host has shown a certificate with its id. `burst`: the messages that it may send at once.
    """

    connection: int
    hello: Hello
    seen_at: str = ""
    certified: bool = False
    burst: int = MAX_BURST


class Received(Struct, frozen=True):
    """A message has arrived on a connection."""

    connection: int
    message: FromHost


class Answered(Struct, frozen=True):
    """A host has answered the ping of an `Ask`: whatever it had said before is received."""

    connection: int
    lease: int


class Disconnected(Struct, frozen=True):
    """The connection has ended, whichever side ended it."""

    connection: int


class Tick(Struct, frozen=True):
    """The time of `next_deadline` has come."""


class PreheatAdded(Struct, frozen=True):
    """A preheat begins, or goes on after a restart of the scheduler. The job is the core's from now on."""

    job: Job


class PreheatHosts(Struct, frozen=True):
    """Of a preheat that several schedulers carry out (`Job.is_part`), these hosts are this one's from now on, and those
    are not any longer. `held_images` are as in Job.
    """

    job: str
    taken: tuple[Target, ...] = ()
    left: tuple[str, ...] = ()
    held_images: tuple[str, ...] = ()


class PreheatCancelled(Struct, frozen=True):
    """An operator ends a preheat, by its id; or it has ended elsewhere, of which this scheduler has a part."""

    job: str


class LiveListChanged(Struct, frozen=True):
    """The schedulers that live are these now, of which this one has the id `own`. A scheduler by itself has no list.

    `outdated`: these are the latest that are known, and others may live by now.
    """

    epoch: int
    own: str
    schedulers: tuple[SchedulerAt, ...]
    outdated: bool = False


class QuarantineHeard(Struct, frozen=True):
    """Another of several schedulers has quarantined a host, as it is known there, for `for_s` from now."""

    host: str
    came_from: str
    reason: str
    for_s: float


class TagAsked(Struct, frozen=True):
    """A host asks one of several schedulers, of the id `scheduler`, what hosts were told of a tag. All ask their hosts.

    An instruction: tell the other schedulers. An event: another scheduler has told it. `starter` is who asks, as its
    lookups are counted.
    """

    scheduler: str
    upstream: str
    repository: str
    tag: str
    starter: str


class ToldWord(NamedTuple):
    """What the origin of a host told it `age_s` ago. `voter` is a hash of the host's voter."""

    voter: bytes
    digest: bytes
    size_bytes: int
    media_type: str
    age_s: float


class TagTold(Struct, frozen=True):
    """What the hosts of one of several schedulers were told of a tag: an instruction and an event, as TagAsked."""

    scheduler: str
    upstream: str
    repository: str
    tag: str
    words: tuple[ToldWord, ...]


Event: TypeAlias = (
    Connected
    | Received
    | Answered
    | Disconnected
    | Tick
    | PreheatAdded
    | PreheatHosts
    | PreheatCancelled
    | LiveListChanged
    | QuarantineHeard
    | TagAsked
    | TagTold
)


class Send(Struct, frozen=True):
    """Send a message on each of these connections. Messages on one connection keep the order of the instructions."""

    connections: tuple[int, ...]
    message: ToHost


class Close(Struct, frozen=True):
    """End a connection with this close code and reason."""

    connection: int
    closing: Closing
    reason: str


class Probe(Struct, frozen=True):
    """Ping a host. Its connection ends if nothing is heard soon."""

    connection: int


class Ask(Struct, frozen=True):
    """Ping a host about one of its leases, by the lease's number. `Answered` follows."""

    connection: int
    lease: int


class PreheatChanged(Struct, frozen=True):
    """Keep the state of a preheat, and what came of these hosts. The receiver reads both at once: they change.

    `is_end`: it is over now.
    """

    job: Job
    targets: tuple[Target, ...]
    is_end: bool = False


class PullSeen(Struct, frozen=True):
    """Keep that a host of this site has told of a pull."""

    host: str
    site: str
    pulled: Pulled


Instruction: TypeAlias = Send | Close | Probe | Ask | PreheatChanged | PullSeen | TagAsked | TagTold
