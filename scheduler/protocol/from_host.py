"""What a host tells the scheduler. The order of a conversation is in `scheduler.protocol`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

from scheduler.protocol.fields import (
    DIGEST_BYTES,
    MAX_DIGESTS_PER_MESSAGE,
    MAX_HOLDINGS_PER_MESSAGE,
    MAX_RUNS_PER_MESSAGE,
    Address,
    Choice,
    Digest,
    Features,
    Flag,
    Generation,
    HostId,
    Items,
    Label,
    LeaseId,
    MaybeDigest,
    MaybeSizeBytes,
    MediaType,
    PieceBits,
    PieceDigestList,
    PieceIndex,
    PieceStop,
    ProtocolError,
    Record,
    Repository,
    SizeBytes,
    Status,
    Tag,
    Token,
    Upstream,
    Whole,
    check_run,
)
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.protocol.to_host import DigestRun

VERSION_OLDEST = 1
VERSION_NEWEST = 1


class LeaseOutcome(IntEnum):
    """Why a lease ended before all of its pieces were published."""

    FAILED = 0
    """No useful answer within the host's bounds. Another host may do better."""
    REFUSED = 1
    """The origin answered this host's credentials with a 4xx."""
    RETURNED = 2
    """The host gives it back and nobody is to blame: it is leaving, or has no room."""


class Fault(IntEnum):
    """Why a host wants another neighbour in the place of this one."""

    GONE = 0
    SLOW = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message on a connection, and the only one whose beginning no version of the protocol may change.

    `oldest` and `newest` are the versions that the host speaks. `upload_slots` is how many pieces it sends at a time.
    """

    host: HostId
    oldest: Annotated[int, Whole(1, 2**16)]
    newest: Annotated[int, Whole(1, 2**16)]
    address: Address
    site: Label = ""
    zone: Label = ""
    rack: Label = ""
    upload_slots: Annotated[int, Whole(0, 1024)] = 4
    features: Features = ()
    token: Token = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Holding:
    """A blob in a host's store: all of it, verified, or the pieces `have`."""

    digest: Digest
    size_bytes: SizeBytes
    complete: Annotated[bool, Flag()]
    have: PieceBits = b""

    def __post_init__(self) -> None:
        count = piece_count(self.size_bytes, piece_length(self.size_bytes))
        if int.from_bytes(self.have, "little") >> count:
            raise ProtocolError(f"a bitfield names pieces beyond the {count} that the blob has")


@dataclass(frozen=True, slots=True)
class Announce:
    """What the host holds, sent when it connects; in several messages if one does not hold it all."""

    holdings: Annotated[tuple[Holding, ...], Items(Record(Holding), MAX_HOLDINGS_PER_MESSAGE)]


@dataclass(frozen=True, slots=True)
class Join:
    """The host wants this blob. Its own client was authorised to have it in this repository (the host's word).

    `size_bytes` is what a verified manifest said. The pieces that it has already go in an Announce before.
    """

    digest: Digest
    upstream: Upstream
    repository: Repository
    size_bytes: MaybeSizeBytes = None


@dataclass(frozen=True, slots=True)
class Need:
    """A client of this host waits for pieces `first` to `stop - 1`, and for none before them: they are leased first.

    It may come before Join, for leases may follow that at once.
    """

    digest: Digest
    first: PieceIndex
    stop: PieceStop

    def __post_init__(self) -> None:
        if self.first >= self.stop:
            raise ProtocolError("a need of no pieces")


@dataclass(frozen=True, slots=True)
class Progress:
    """All pieces that the host holds now: coarse, at most every `Welcome.progress_s`.

    `starving` says that it misses pieces, that no neighbour has any of them, and that this has lasted.
    """

    digest: Digest
    generation: Generation
    have: PieceBits
    starving: Annotated[bool, Flag()] = False


@dataclass(frozen=True, slots=True)
class Length:
    """The blob's length, from the origin's answer to a lease that was given before anybody knew it."""

    lease: LeaseId
    digest: Digest
    size_bytes: SizeBytes


@dataclass(frozen=True, slots=True)
class LeasePieces:
    """Pieces of a lease that have landed: the BLAKE3 of piece `first` and of those that follow it.

    Sent for each piece, so that it spreads at once. The lease is done when all of its pieces were named.
    """

    lease: LeaseId
    digest: Digest
    first: PieceIndex
    digests: PieceDigestList

    def __post_init__(self) -> None:
        check_run(self.first, self.digests)


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The rest of a lease will not come from this host. `status` is the origin's, where it gave one."""

    lease: LeaseId
    digest: Digest
    outcome: Annotated[LeaseOutcome, Choice(LeaseOutcome, LeaseOutcome.FAILED)]
    status: Status = 0


@dataclass(frozen=True, slots=True)
class DigestReport:
    """An answer to Recall: digests of pieces that the host knows. `last` ends the answer (`digests` may be empty).

    `more` are further runs: what a host knows of a map that is still growing may be scattered.
    """

    digest: Digest
    first: PieceIndex
    digests: PieceDigestList
    last: Annotated[bool, Flag()]
    more: Annotated[tuple[DigestRun, ...], Items(Record(DigestRun), MAX_RUNS_PER_MESSAGE)] = ()

    def __post_init__(self) -> None:
        check_run(self.first, self.digests)
        told_bytes = len(self.digests) + sum(len(run.digests) for run in self.more)
        if told_bytes > MAX_DIGESTS_PER_MESSAGE * DIGEST_BYTES:
            raise ProtocolError("too many digests in one message")


@dataclass(frozen=True, slots=True)
class Sealed:
    """The host holds the whole blob, and its SHA-256 is right."""

    digest: Digest
    generation: Generation


@dataclass(frozen=True, slots=True)
class Disproved:
    """The host verified every piece against the map of this generation, and the blob's SHA-256 is wrong."""

    digest: Digest
    generation: Generation


@dataclass(frozen=True, slots=True)
class Corrupt:
    """`sender` sent bytes for this piece that do not match the map of this generation."""

    digest: Digest
    generation: Generation
    piece: PieceIndex
    sender: HostId


@dataclass(frozen=True, slots=True)
class NeighbourFailed:
    """The host needs another neighbour in the place of `neighbour`."""

    digest: Digest
    neighbour: HostId
    fault: Annotated[Fault, Choice(Fault, Fault.SLOW)]


@dataclass(frozen=True, slots=True)
class Leave:
    """The host neither wants nor holds this blob any more. Its leases there go back."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Bye:
    """The host leaves in order: its leases go back at once."""


@dataclass(frozen=True, slots=True)
class TagLookup:
    """Which digest has this tag? The first host that asks is told to find out; the others wait for its answer."""

    upstream: Upstream
    repository: Repository
    tag: Tag


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """What the origin said to the host that was told to resolve a tag. `digest` is there if `status` is 200.

    `public` says that the origin gave it to nobody in particular: no credential was shown, neither a client's nor an
    operator's. It is the host's word, and each of the others decides whether that is enough.
    """

    upstream: Upstream
    repository: Repository
    tag: Tag
    status: Status
    digest: MaybeDigest = None
    size_bytes: MaybeSizeBytes = None
    media_type: MediaType = ""
    public: Annotated[bool, Flag()] = False

    def __post_init__(self) -> None:
        if (self.status == 200) != (self.digest is not None):
            raise ProtocolError("a tag has a digest if, and only if, the status is 200")
