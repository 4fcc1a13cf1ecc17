"""What the scheduler tells a host. The order of a conversation is in `scheduler.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from scheduler.protocol import fields as f
from scheduler.protocol.geometry import ALL_SHARES


@dataclass(frozen=True, slots=True)
class Welcome:
    """The connection stands. `version` is the one that both speak; `features` are those that both have."""

    version: Annotated[int, f.Whole(1, 2**16)]
    features: f.Features = ()
    progress_s: f.Duration = 2.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A host to exchange pieces with. `distance`: 0 same rack, 1 same zone, 2 same site, 3 elsewhere."""

    host: f.HostId
    address: f.Address
    distance: Annotated[int, f.Whole(0, 3)]


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to Join. Without a size, the host waits for Sized, for its own lease, or for Content.

    `neighbours` are all that the host has in this swarm: they replace those that an earlier scheduler gave it.
    The digests that are known follow in PieceDigests. `sealed` says that a host found the SHA-256 right over this map.
    """

    digest: f.Digest
    generation: f.Generation
    size_bytes: f.MaybeSizeBytes
    sealed: Annotated[bool, f.Flag()]
    neighbours: Annotated[tuple[Neighbour, ...], f.Items(f.Record(Neighbour), f.MAX_NEIGHBOURS_PER_MESSAGE)]


@dataclass(frozen=True, slots=True)
class Sized:
    """The blob's length, which gives its pieces (`scheduler.protocol.geometry`)."""

    digest: f.Digest
    generation: f.Generation
    size_bytes: f.SizeBytes


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Links that were made and links that were ended. A host that is in both has moved to another address."""

    digest: f.Digest
    add: Annotated[tuple[Neighbour, ...], f.Items(f.Record(Neighbour), f.MAX_NEIGHBOURS_PER_MESSAGE)]
    remove: f.HostIds


@dataclass(frozen=True, slots=True)
class Gateway:
    """The pieces that this host may ask of neighbours at distance 3: those of `shares`, a bit for each.

    It holds until the next Joined. Who is told nothing may ask any neighbour for any piece.
    """

    digest: f.Digest
    shares: Annotated[int, f.Whole(0, ALL_SHARES)]


@dataclass(frozen=True, slots=True)
class Lease:
    """Permission to fetch pieces `first` to `stop - 1` from the origin, and to publish their digests.

    Where the length is not known yet, the host opens the blob, sends Length at once, and fetches as many of these
    pieces as there are. `within_s` runs anew with each piece that is published.
    """

    lease: f.LeaseId
    digest: f.Digest
    generation: f.Generation
    first: f.PieceIndex
    stop: f.PieceStop
    within_s: f.Duration

    def __post_init__(self) -> None:
        if self.first >= self.stop:
            raise f.ProtocolError("a lease of no pieces")


@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """The lease is no longer this host's: it stops fetching, and publishes nothing more of it."""

    lease: f.LeaseId
    digest: f.Digest


@dataclass(frozen=True, slots=True)
class DigestRun:
    """The BLAKE3 digests of consecutive pieces from `first` on."""

    first: f.PieceIndex
    digests: f.PieceDigestList

    def __post_init__(self) -> None:
        f.check_run(self.first, self.digests)


@dataclass(frozen=True, slots=True)
class PieceDigests:
    """Expected digests of pieces. A host believes a piece only against these, whoever sent it."""

    digest: f.Digest
    generation: f.Generation
    runs: Annotated[tuple[DigestRun, ...], f.Items(f.Record(DigestRun), f.MAX_RUNS_PER_MESSAGE)]

    def __post_init__(self) -> None:
        if sum(len(run.digests) for run in self.runs) > f.MAX_DIGESTS_PER_MESSAGE * f.DIGEST_BYTES:
            raise f.ProtocolError("too many digests in one message")


@dataclass(frozen=True, slots=True)
class RequestDigests:
    """Tell the digests of the pieces that you hold: the scheduler has restarted, and nobody else has told it.

    Answered by Recalled, or, for a blob that travels inside messages, by Content.
    """

    digest: f.Digest


@dataclass(frozen=True, slots=True)
class Reset:
    """The map up to here is in doubt. Every digest of it is forgotten; those that are confirmed follow.

    The host keeps its bytes, but holds, serves and counts a piece again only when a digest of this generation
    matches it, unless it holds the whole blob and has found its SHA-256 right. A lease of an older generation is over.
    """

    digest: f.Digest
    generation: f.Generation


@dataclass(frozen=True, slots=True)
class OriginRefused:
    """No lease for this host: its client must ask the origin itself, and gets the origin's answer.

    The host has left the swarm.
    """

    digest: f.Digest
    status: f.Status


@dataclass(frozen=True, slots=True)
class Failed:
    """The swarm cannot get this blob. `status` is the origin's last, or 0. The host has left the swarm."""

    digest: f.Digest
    status: f.Status
    reason: f.Explanation


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The scheduler does not let this host take part for so long: what it told was proved wrong."""

    reason: f.Explanation
    for_s: f.Duration


@dataclass(frozen=True, slots=True)
class TagResolve:
    """Ask the origin for this tag and send TagAnswer within so long."""

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    within_s: f.Duration


@dataclass(frozen=True, slots=True)
class TagResult:
    """The answer to TagLookup. A tag is only as good as the host that resolved it: no digest can prove it.

    Status 0 says that no host could reach the origin, or was asked. `public` is the resolver's word (`TagAnswer`).
    """

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    status: f.Status
    digest: f.MaybeDigest = None
    size_bytes: f.MaybeSizeBytes = None
    media_type: f.MediaType = ""
    public: Annotated[bool, f.Flag()] = False
