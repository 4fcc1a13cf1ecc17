"""What happens to a download at the origin, and what it wants done there: the language between `peer.core.download` and
what carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    FETCHING = "fetching"
    COMPLETE = "complete"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Outcome(Enum):
    """How a transfer ended.

    DONE: all it was asked for landed. BROKEN: it may be tried again. REFUSED: never again from this source. FATAL: from
    nowhere (the store failed, the bytes are wrong).
    """

    DONE = "done"
    BROKEN = "broken"
    REFUSED = "refused"
    FATAL = "fatal"


# -- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceAdded:
    """A client brought a way to ask the origin for this blob (its repository and credential)."""

    source: int


@dataclass(frozen=True, slots=True)
class ReaderMoved:
    """Reader `reader` stands at byte `position` and wants all up to `stop` (None: to the end). Also its arrival."""

    reader: int
    position: int
    stop: int | None
    background: bool = False


@dataclass(frozen=True, slots=True)
class ReaderLeft:
    reader: int


@dataclass(frozen=True, slots=True)
class SlotGranted:
    """The origin of `source` has a connection for this download now."""

    source: int


@dataclass(frozen=True, slots=True)
class TransferOpened:
    """The source answered: the blob's geometry, and the pieces `[first, stop)` that will really come."""

    transfer: int
    size_bytes: int
    piece_length: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class PieceLanded:
    """A piece is in the store, verified as far as a piece can be. `digest` is its BLAKE3.

    `transfer` None: it did not come from the origin now; it was there already, or a neighbour sent it.
    """

    transfer: int | None
    index: int
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """`status` is the origin's answer where that was the reason, else 0."""

    transfer: int
    outcome: Outcome
    status: int = 0


@dataclass(frozen=True, slots=True)
class BlobVerified:
    """The SHA-256 over all pieces is the digest (`ok`), or is not."""

    ok: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; `next_deadline` said when to send this."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """p2pd is stopping: nothing new is to be asked for."""


Event = (
    SourceAdded
    | ReaderMoved
    | ReaderLeft
    | SlotGranted
    | TransferOpened
    | PieceLanded
    | TransferEnded
    | BlobVerified
    | Tick
    | Stopped
)

# -- instructions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantSlot:
    """Ask for a connection to the origin of `source`. While `Download.background` holds, others go first."""

    source: int


@dataclass(frozen=True, slots=True)
class ReturnSlot:
    """The slot that was just granted is not needed."""


@dataclass(frozen=True, slots=True)
class StartTransfer:
    """Fetch pieces `[first, stop)` from `source` (`stop` None: the geometry is not known yet, take the first span)."""

    transfer: int
    source: int
    first: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class StopTransfer:
    transfer: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The download is over; `phase` says how."""

    phase: Phase


Instruction = WantSlot | ReturnSlot | StartTransfer | StopTransfer | Ended
