"""What a swarm member is told, and what it tells its shell to do, beside the events and instructions of its download.

Messages of the protocol are events and instructions as they are: a conversation can be read, and tested, as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from peer.core import origin_events
from scheduler.protocol import to_host
from scheduler.protocol.codec import FromHost, OnLink, ToHost
from scheduler.protocol.link import LinkMessage

# -- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """The download begins. `connected`: there is a scheduler to join at; `size_bytes` is what a manifest said."""

    connected: bool
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The blob has its place in the store; pieces may land."""


@dataclass(frozen=True, slots=True)
class Resized:
    """The origin's answer to a transfer has another length than the blob was said to have; the transfer ends."""

    transfer: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SchedulerFound:
    """There is a connection to a scheduler again."""


@dataclass(frozen=True, slots=True)
class OriginOpened:
    """There has been no scheduler for too long: the origin may be asked for all that is missing."""


@dataclass(frozen=True, slots=True)
class FromScheduler:
    message: ToHost


@dataclass(frozen=True, slots=True)
class FromNeighbour:
    host: str
    message: OnLink


@dataclass(frozen=True, slots=True)
class NeighbourLost:
    """The link to a neighbour is gone."""

    host: str


class FetchOutcome(Enum):
    """How a request to a neighbour ended. LANDED and STOPPED blame nobody."""

    LANDED = "landed"
    STOPPED = "stopped"
    BUSY = "busy"
    GONE = "gone"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class FetchEnded:
    """A piece came from a neighbour (its digest was right, it is in the store), or did not.

    `busy`: with the piece it said that others come first now; it tells when it can be asked again.
    """

    fetch: int
    outcome: FetchOutcome
    busy: bool = False


Event = (
    origin_events.Event
    | Begun
    | Prepared
    | Resized
    | SchedulerFound
    | OriginOpened
    | FromScheduler
    | FromNeighbour
    | NeighbourLost
    | FetchEnded
)


def in_short(event: Event) -> str:
    """An event as one line of a story: of a message, which may be long, only the type."""
    match event:
        case FromScheduler(message) | FromNeighbour(_, message):
            return f"{type(event).__name__}({type(message).__name__})"
        case _:
            return str(event)


# -- instructions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the scheduler."""

    message: FromHost


@dataclass(frozen=True, slots=True)
class TellNeighbours:
    """Send a message to these neighbours."""

    hosts: tuple[str, ...]
    message: LinkMessage


@dataclass(frozen=True, slots=True)
class Prepare:
    """Give the blob its place in the store: it has `size_bytes`."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class AddNeighbour:
    """Keep a link to this neighbour, at its address."""

    neighbour: to_host.Neighbour


@dataclass(frozen=True, slots=True)
class RemoveNeighbour:
    """This blob needs no link to that host any more."""

    host: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get piece `index` from `host`; believe it only if its BLAKE3 is `expected`."""

    fetch: int
    host: str
    index: int
    expected: bytes


@dataclass(frozen=True, slots=True)
class StopFetch:
    fetch: int


@dataclass(frozen=True, slots=True)
class StoreInlineBlob:
    """The whole of a tiny blob, from the scheduler; to be verified and put into the store."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SendInlineBlob:
    """Send the whole of this tiny blob to the scheduler, for all who wait for it."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The download cannot go on, and it is not the origin's answer to this host that says so.

    `status` is the origin's answer to others, or 0. `tainted`: what landed is not to be trusted.
    """

    reason: str
    status: int = 0
    tainted: bool = False


Instruction = (
    origin_events.Instruction
    | Tell
    | TellNeighbours
    | Prepare
    | AddNeighbour
    | RemoveNeighbour
    | Fetch
    | StopFetch
    | StoreInlineBlob
    | SendInlineBlob
    | GiveUp
)
