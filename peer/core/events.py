"""What happens to a host, and what a host wants done: the language between `peer.core.host` and its runner.

Rules:
1. One event for one fact. Messages of the protocol are events and instructions as they are, so a conversation can be
   read, and tested, as one.
2. `digest` is a blob's raw SHA-256. `request` is a number that this host gives to one request, to the origin or to a
   neighbour, and never again to another.
3. Every `RequestRange` is answered by exactly one `RangeEnded`, and every `RequestPiece` by exactly one
   `PieceReceived` or `PieceFailed`. `ReadDigests` is answered by `DigestsRead`, `Recover` by `PiecesHeld`, and
   `FetchSample` by `SampleFetched`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from scheduler.protocol import to_host
from scheduler.protocol.codec import FromHost, ToHost
from scheduler.protocol.link import LinkMessage


class Outcome(Enum):
    """How a request to the origin ended."""

    DONE = "done"
    """All pieces that it was for were received."""
    BROKEN = "broken"
    """It may be tried again."""
    REFUSED = "refused"
    """Never again from this source."""
    UNUSABLE = "unusable"
    """Never again from this source, whose answers are of no use. What landed is kept."""
    FATAL = "fatal"
    """The store takes nothing more. What landed is kept."""
    CORRUPT = "corrupt"
    """The bytes, or the store, are wrong. What landed is thrown away."""


class PeerOutcome(Enum):
    """How a request to a neighbour ended that brought no piece. CANCELLED blames nobody, and DIFFERS no neighbour."""

    CANCELLED = "cancelled"
    CHOKED = "choked"
    GONE = "gone"
    CORRUPT = "corrupt"
    DIFFERS = "differs"
    """The piece is as its digest says, and not as the origin's bytes."""


class Sample(NamedTuple):
    """Bytes of a piece as the origin has them, from `start` in the piece on."""

    start: int
    data: bytes


class Phase(Enum):
    """How far a download is."""

    RECOVERING = "recovering"
    """The store is asked what it has of the blob."""
    FETCHING = "fetching"
    COMPLETE = "complete"
    FAILED = "failed"
    ABANDONED = "abandoned"
    DISPROVED = "disproved"
    """The swarm's piece map or length proved wrong: the download begins anew."""


# -- events: readers ---------------------------------------------------------------------------------------------------


class SourceAdded(Struct, frozen=True):
    """A client brought a way to get the blob from an origin; `source` is its number. Begins the download if need be.

    `size_bytes` is what a manifest, or the origin's answer to HEAD, said. `perishable`: its credential may
    expire before the download ends. `reserve`: it is for when a credential was refused. `private`: other hosts are
    neither told of the blob nor given it.
    """

    digest: bytes
    source: int
    upstream: str
    repository: str
    size_bytes: int | None = None
    perishable: bool = False
    reserve: bool = False
    private: bool = False


class ReaderMoved(Struct, frozen=True):
    """Reader `reader` stands at byte `position` and wants all up to `stop` (None: to the end). Also its arrival.

    `background`: no client waits there. `preheats`: nor is it ahead of a client's pull, and clients of all hosts come
    before it at the origin.
    """

    digest: bytes
    reader: int
    position: int
    stop: int | None
    background: bool = False
    preheats: bool = False


class ReaderLeft(Struct, frozen=True):
    digest: bytes
    reader: int


# -- events: the store -------------------------------------------------------------------------------------------------


class PiecesHeld(Struct, frozen=True):
    """Pieces of the blob are in the store without a request: from before, or sent inline.

    `pieces` has the BLAKE3 of each by its index (b"": not known). `size_bytes` 0: nothing is held. `verified` says what
    the SHA-256 of the whole blob is, if all pieces are held.
    """

    digest: bytes
    size_bytes: int = 0
    piece_length: int = 0
    pieces: Mapping[int, bytes] = msgspec.field(default_factory=dict)
    verified: bool | None = None


class Prepared(Struct, frozen=True):
    """The blob has its place in the store; pieces may land."""

    digest: bytes


class StoreFailed(Struct, frozen=True):
    """The store cannot take the blob. `discard`: what landed of it is not to be trusted."""

    digest: bytes
    discard: bool = False


class BlobVerified(Struct, frozen=True):
    """The SHA-256 over all pieces is the digest (`ok`), or is not."""

    digest: bytes
    ok: bool


class BlobStored(Struct, frozen=True):
    """The store holds this blob whole, from before, and other hosts may have it.

    `piece_length` is that of its record, or 0 if it is the usual one (`scheduler.protocol.geometry`).
    """

    digest: bytes
    size_bytes: int
    piece_length: int = 0


class BlobRemoved(Struct, frozen=True):
    """The store holds this blob no longer."""

    digest: bytes


class DigestsRead(Struct, frozen=True):
    """What the store knows of a whole blob: the BLAKE3 of its pieces, or all bytes of a tiny one.

    `piece_length` is 0 if it is the usual one.
    """

    digest: bytes
    pieces: Mapping[int, bytes]
    content: bytes = b""
    piece_length: int = 0


# -- events: requests --------------------------------------------------------------------------------------------------


class RangeOpened(Struct, frozen=True):
    """The origin answered: the blob's geometry, and the pieces `[first, stop)` that will really come."""

    digest: bytes
    request: int
    size_bytes: int
    piece_length: int
    first: int
    stop: int


class RangeEnded(Struct, frozen=True):
    """`status` is the origin's answer where that was the reason, else 0.

    `size_bytes`: the origin's answer has another length than the blob was said to have; that is why it ended.
    """

    digest: bytes
    request: int
    outcome: Outcome
    status: int = 0
    size_bytes: int | None = None


class SampleFetched(Struct, frozen=True):
    """The answer to `FetchSample`. `data` None: the origin did not give it."""

    digest: bytes
    request: int
    data: bytes | None


class PieceReceived(Struct, frozen=True):
    """A piece is in the store, verified as far as a piece can be.

    `piece_digest` is its BLAKE3, b"" if it was not made: this host is alone.
    `choked`: with the piece the neighbour said that others come first now.
    """

    digest: bytes
    request: int
    index: int
    piece_digest: bytes
    choked: bool = False


class PieceFailed(Struct, frozen=True):
    """A request to a neighbour brought no piece."""

    digest: bytes
    request: int
    outcome: PeerOutcome


# -- events: other hosts -----------------------------------------------------------------------------------------------


class SchedulerFound(Struct, frozen=True):
    """There is a connection to a scheduler. `progress_s` is how often it wants to hear of progress.

    `max_blobs` is how many blobs of this host it takes, held ones and wanted ones together. `scheduler` is the URL that
    this host reaches it at. `listed`: the schedulers that live, if it is one of several. `divides`: it knows of pieces
    of another length than the usual one. `lengthens`: of longer ones, too.
    """

    progress_s: float = 2.0
    max_blobs: int = to_host.MAX_BLOBS_PER_HOST
    scheduler: str = ""
    listed: to_host.Schedulers | None = None
    divides: bool = True
    lengthens: bool = True


class SchedulerLost(Struct, frozen=True):
    """There is no connection to a scheduler any more, or none yet at the start.

    `stops`: it will not be back at once. It has said so, or is silent.
    """

    scheduler: str = ""
    stops: bool = False


class SchedulerFailed(Struct, frozen=True):
    """An attempt to connect to a scheduler has failed. Others follow."""

    scheduler: str = ""


class SchedulerMissing(Struct, frozen=True):
    """There has been no scheduler for too long: `peer.core.host` tells every download."""


class FromScheduler(Struct, frozen=True):
    message: ToHost
    scheduler: str = ""


class FromNeighbour(Struct, frozen=True):
    host: str
    message: LinkMessage


class LinkUp(Struct, frozen=True):
    """The link to a host works; it knows nothing of what this host holds."""

    host: str


class LinkLost(Struct, frozen=True):
    """The link to a host is gone for good."""

    host: str


# -- events: time ------------------------------------------------------------------------------------------------------


class Tick(Struct, frozen=True):
    """Time passed; `next_deadline` said when to send this."""


class GiveWay(Struct, frozen=True):
    """What was fetched ahead of this blob gives way to clients: unless somebody reads it, its download ends now.

    What has come stays in the store, and the leases go to other hosts.
    """

    digest: bytes


class Draining(Struct, frozen=True):
    """p2pd is to stop once its clients have what they wait for: every download that no client waits for ends."""


class Stopped(Struct, frozen=True):
    """p2pd is stopping: every download ends."""


Event = (
    SourceAdded
    | ReaderMoved
    | ReaderLeft
    | PiecesHeld
    | Prepared
    | StoreFailed
    | BlobVerified
    | BlobStored
    | BlobRemoved
    | DigestsRead
    | RangeOpened
    | RangeEnded
    | SampleFetched
    | PieceReceived
    | PieceFailed
    | SchedulerFound
    | SchedulerLost
    | SchedulerFailed
    | SchedulerMissing
    | FromScheduler
    | FromNeighbour
    | LinkUp
    | LinkLost
    | Tick
    | GiveWay
    | Draining
    | Stopped
)


def in_short(event: Event) -> str:
    """An event as one line of a story: of a message, which may be long, only the type."""
    match event:
        case FromScheduler(message) | FromNeighbour(_, message):
            return f"{type(event).__name__}({type(message).__name__})"
        case PiecesHeld(_, size_bytes, _, pieces, verified):
            return f"PiecesHeld({len(pieces)} of {size_bytes} bytes, verified={verified})"
        case _:
            return str(event)


# -- instructions: the store -------------------------------------------------------------------------------------------


class Recover(Struct, frozen=True):
    """A download begins: say what the store has of the blob."""

    digest: bytes


class Prepare(Struct, frozen=True):
    """Give the blob its place in the store: it has `size_bytes`, in pieces of `piece_length` (0: the usual length)."""

    digest: bytes
    size_bytes: int
    piece_length: int = 0


class StoreInlineBlob(Struct, frozen=True):
    """The whole of a tiny blob, from the scheduler; to be verified and put into the store."""

    digest: bytes
    data: bytes


class ReadDigests(Struct, frozen=True):
    """Read what the store knows of the pieces of a whole blob."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The download is over; `phase` says how.

    `reason`: why, if it is not the origin's answer to this host that says so; `status` is the origin's answer to
    others then, or 0. `discard`: what landed is to be thrown away. `story`: the last events, where bytes were wrong.
    """

    digest: bytes
    phase: Phase
    reason: str = ""
    status: int = 0
    discard: bool = False
    story: tuple[str, ...] = field(default=(), compare=False, repr=False)


# -- instructions: requests --------------------------------------------------------------------------------------------


class RequestRange(Struct, frozen=True):
    """Fetch pieces `[first, stop)` from `source` (`stop` None: the geometry is not known yet, take the first span)."""

    digest: bytes
    request: int
    source: int
    first: int
    stop: int | None


class FetchSample(Struct, frozen=True):
    """Get bytes `[start, stop)` of piece `index` from `source`, to compare the piece with them.

    `piece_length` is 0 if it is the usual one.
    """

    digest: bytes
    request: int
    source: int
    index: int
    start: int
    stop: int
    size_bytes: int
    piece_length: int = 0


class CancelRange(Struct, frozen=True):
    digest: bytes
    request: int


class TrimRange(Struct, frozen=True):
    """Let the request end before piece `stop`: others see to the rest."""

    digest: bytes
    request: int
    stop: int


class RequestPiece(Struct, frozen=True):
    """Get piece `index` from `host`; believe it only if its BLAKE3 is `expected`, and it has the bytes of the `sample`.

    One that has the BLAKE3 and other bytes ends as DIFFERS.
    """

    digest: bytes
    request: int
    host: str
    index: int
    expected: bytes
    sample: Sample | None = None


class CancelPiece(Struct, frozen=True):
    digest: bytes
    request: int


# -- instructions: other hosts -----------------------------------------------------------------------------------------


class Tell(Struct, frozen=True):
    """Send a message to the scheduler at this URL, or else to the one that the message's blob is at."""

    message: FromHost
    scheduler: str = ""


class KeepSchedulers(Struct, frozen=True):
    """Keep a connection to each of the schedulers at these URLs, and to no other."""

    urls: tuple[str, ...]


class SendInlineBlob(Struct, frozen=True):
    """Send the whole of this tiny blob to the scheduler, for all who wait for it."""

    digest: bytes


class TellNeighbours(Struct, frozen=True):
    """Send a message to these neighbours."""

    hosts: tuple[str, ...]
    message: LinkMessage


class KeepLink(Struct, frozen=True):
    """Keep a link to this host, at this address."""

    host: str
    address: str


class ReleaseLink(Struct, frozen=True):
    """No blob needs the link to this host any more."""

    host: str


class AnswerTag(Struct, frozen=True):
    """The scheduler's question for what this host was told of a tag, or its answer to such a question of this host."""

    message: to_host.TagQuery | to_host.TagResult
    scheduler: str = ""


class TakePreheat(Struct, frozen=True):
    """What the scheduler orders ahead of clients, or the end of such an order."""

    message: to_host.Preheat | to_host.PreheatEnded
    scheduler: str = ""


class ReportUntold(Struct, frozen=True):
    """`untold` of the blobs that are held are not announced: the scheduler takes `max_blobs` of a host."""

    untold: int
    max_blobs: int


class ReportUnreachable(Struct, frozen=True):
    """So many other hosts could not reach this host: the operator is to know."""

    reports: int
    scheduler: str = ""


class ReportQuarantine(Struct, frozen=True):
    """The scheduler has quarantined this host: the operator is to know."""

    reason: str
    for_s: float
    scheduler: str = ""


class RefuseHosts(Struct, frozen=True):
    """An operator has revoked these hosts: no link to them, and nothing to or from them, from now on."""

    hosts: tuple[str, ...]


Instruction = (
    Recover
    | Prepare
    | StoreInlineBlob
    | ReadDigests
    | Ended
    | RequestRange
    | CancelRange
    | FetchSample
    | TrimRange
    | RequestPiece
    | CancelPiece
    | Tell
    | KeepSchedulers
    | SendInlineBlob
    | TellNeighbours
    | KeepLink
    | ReleaseLink
    | AnswerTag
    | TakePreheat
    | ReportQuarantine
    | RefuseHosts
    | ReportUnreachable
    | ReportUntold
)
