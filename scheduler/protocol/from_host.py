"""What a host tells the scheduler. The order of a conversation is in `scheduler.protocol`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

from scheduler.protocol import fields as f
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

    host: f.HostId
    oldest: Annotated[int, f.Whole(1, 2**16)]
    newest: Annotated[int, f.Whole(1, 2**16)]
    address: f.Address
    site: f.Label = ""
    zone: f.Label = ""
    rack: f.Label = ""
    upload_slots: Annotated[int, f.Whole(0, 1024)] = 4
    features: f.Features = ()
    token: f.Token = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Holding:
    """A blob in a host's store: all of it, verified, or the pieces `have`."""

    digest: f.Digest
    size_bytes: f.SizeBytes
    complete: Annotated[bool, f.Flag()]
    have: f.PieceBits = b""

    def __post_init__(self) -> None:
        count = piece_count(self.size_bytes, piece_length(self.size_bytes))
        if int.from_bytes(self.have, "little") >> count:
            raise f.ProtocolError(f"a bitfield names pieces beyond the {count} that the blob has")


@dataclass(frozen=True, slots=True)
class Announce:
    """What the host holds, sent when it connects; in several messages if one does not hold it all."""

    holdings: Annotated[tuple[Holding, ...], f.Items(f.Record(Holding), f.MAX_HOLDINGS_PER_MESSAGE)]


@dataclass(frozen=True, slots=True)
class Join:
    """The host wants this blob. Its own client was authorised to have it in this repository (the host's word).

    `size_bytes` is what a verified manifest said. The pieces that it has already go in an Announce before.
    """

    digest: f.Digest
    upstream: f.Upstream
    repository: f.Repository
    size_bytes: f.MaybeSizeBytes = None


@dataclass(frozen=True, slots=True)
class Need:
    """A client of this host waits for pieces `first` to `stop - 1`, and for none before them: they are leased first.

    It may come before Join, for leases may follow that at once.
    """

    digest: f.Digest
    first: f.PieceIndex
    stop: f.PieceStop

    def __post_init__(self) -> None:
        if self.first >= self.stop:
            raise f.ProtocolError("a need of no pieces")


@dataclass(frozen=True, slots=True)
class Progress:
    """All pieces that the host holds now: coarse, at most every `Welcome.progress_s`.

    `starving` says that it misses pieces, that no neighbour has any of them, and that this has lasted.
    """

    digest: f.Digest
    generation: f.Generation
    have: f.PieceBits
    starving: Annotated[bool, f.Flag()] = False


@dataclass(frozen=True, slots=True)
class Length:
    """The blob's length, from the origin's answer to a lease that was given before anybody knew it."""

    lease: f.LeaseId
    digest: f.Digest
    size_bytes: f.SizeBytes


@dataclass(frozen=True, slots=True)
class LeasePieces:
    """Pieces of a lease that have landed: the BLAKE3 of piece `first` and of those that follow it.

    Sent for each piece, so that it spreads at once. The lease is done when all of its pieces were named.
    """

    lease: f.LeaseId
    digest: f.Digest
    first: f.PieceIndex
    digests: f.PieceDigestList

    def __post_init__(self) -> None:
        f.check_run(self.first, self.digests)


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The rest of a lease will not come from this host. `status` is the origin's, where it gave one."""

    lease: f.LeaseId
    digest: f.Digest
    outcome: Annotated[LeaseOutcome, f.Choice(LeaseOutcome, LeaseOutcome.FAILED)]
    status: f.Status = 0


@dataclass(frozen=True, slots=True)
class DigestReport:
    """An answer to Recall: digests of pieces that the host knows. `last` ends the answer (`digests` may be empty).

    `more` are further runs: what a host knows of a map that is still growing may be scattered.
    """

    digest: f.Digest
    first: f.PieceIndex
    digests: f.PieceDigestList
    last: Annotated[bool, f.Flag()]
    more: Annotated[tuple[DigestRun, ...], f.Items(f.Record(DigestRun), f.MAX_RUNS_PER_MESSAGE)] = ()

    def __post_init__(self) -> None:
        f.check_run(self.first, self.digests)
        told_bytes = len(self.digests) + sum(len(run.digests) for run in self.more)
        if told_bytes > f.MAX_DIGESTS_PER_MESSAGE * f.DIGEST_BYTES:
            raise f.ProtocolError("too many digests in one message")


@dataclass(frozen=True, slots=True)
class Sealed:
    """The host holds the whole blob, and its SHA-256 is right."""

    digest: f.Digest
    generation: f.Generation


@dataclass(frozen=True, slots=True)
class Disproved:
    """The host verified every piece against the map of this generation, and the blob's SHA-256 is wrong."""

    digest: f.Digest
    generation: f.Generation


@dataclass(frozen=True, slots=True)
class Corrupt:
    """`sender` sent bytes for this piece that do not match the map of this generation."""

    digest: f.Digest
    generation: f.Generation
    piece: f.PieceIndex
    sender: f.HostId


@dataclass(frozen=True, slots=True)
class NeighbourFailed:
    """The host needs another neighbour in the place of `neighbour`."""

    digest: f.Digest
    neighbour: f.HostId
    fault: Annotated[Fault, f.Choice(Fault, Fault.SLOW)]


@dataclass(frozen=True, slots=True)
class Leave:
    """The host neither wants nor holds this blob any more. Its leases there go back."""

    digest: f.Digest


@dataclass(frozen=True, slots=True)
class Bye:
    """The host leaves in order: its leases go back at once."""


@dataclass(frozen=True, slots=True)
class TagLookup:
    """Which digest has this tag? The first host that asks is told to find out; the others wait for its answer."""

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """What the origin said to the host that was told to resolve a tag. `digest` is there if `status` is 200.

    `public` says that the origin gave it to nobody in particular: no credential was shown, neither a client's nor an
    operator's. It is the host's word, and each of the others decides whether that is enough.
    """

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    status: f.Status
    digest: f.MaybeDigest = None
    size_bytes: f.MaybeSizeBytes = None
    media_type: f.MediaType = ""
    public: Annotated[bool, f.Flag()] = False

    def __post_init__(self) -> None:
        if (self.status == 200) != (self.digest is not None):
            raise f.ProtocolError("a tag has a digest if, and only if, the status is 200")
