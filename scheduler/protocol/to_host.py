"""The messages from the scheduler to a host. `scheduler.protocol` has their order."""

from typing import Annotated, Final

from msgspec import Meta

from scheduler.protocol import fields as f
from scheduler.protocol.geometry import ALL_SHARES, MAX_PIECE_BYTES

TAG_QUORUM: Final = 2
"""The least number of hosts whose words on a tag are believed."""

MAX_BLOBS_PER_HOST = 8192
"""Blobs that one host may hold or want, unless the Welcome has another bound."""

MAX_MESSAGES_PER_S = 200
"""The most messages per second of a host. A host that pulls 20 blobs at 1 Gbit/s sends about 60."""

MAX_BURST = 16_384
"""The most messages that a host may send at once. It announces 8,192 blobs, each counted as one, and joins some."""


class Welcome(f.Record, frozen=True, tag=33):
    """The host is connected. Both ends speak `version` and have the `features`.

    The host keeps to the bounds that follow: `max_blobs` that it holds or wants, `messages_per_s` in the long run and
    `burst` at once. Each blob in an Announce and each 32 digests count as one more, and so does each 4 KiB of what the
    scheduler answers to that host alone. A host that connects again by its certificate has what was left of `burst`.
    `seen_at` is the address that the host's connection comes from; none of these are known from an older scheduler.
    """

    version: Annotated[int, Meta(ge=1, le=2**16)]
    features: f.Features = ()
    progress_s: f.Duration = 2.0
    max_blobs: Annotated[int, Meta(ge=1, le=2**31 - 1)] = MAX_BLOBS_PER_HOST
    messages_per_s: Annotated[int, Meta(ge=1, le=2**31 - 1)] = MAX_MESSAGES_PER_S
    burst: Annotated[int, Meta(ge=1, le=2**31 - 1)] = MAX_BURST
    seen_at: Annotated[str, f.text(r"[0-9A-Za-z.:%_-]{0,64}")] = ""


class SchedulerAt(f.Record, frozen=True):
    """A scheduler, and where hosts reach it."""

    id: f.SchedulerId
    url: f.SchedulerUrl


class Schedulers(f.Record, frozen=True, tag=54):
    """The schedulers that live. The owner of a blob among them has its swarm (`scheduler.protocol.rendezvous`).

    It is sent to hosts with the feature `schedulers` only: right after Welcome, if the sender is one of several, and at
    each change. The Welcome of such a sender has the feature, and the Welcome of a scheduler by itself does not.
    `epoch` grows with each change: a host keeps to the newest list that any scheduler has sent. `own` is the sender.
    `outdated`: the sender has not been able to look for so long that the others may have struck it out.
    """

    epoch: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    own: f.SchedulerId
    schedulers: Annotated[tuple[SchedulerAt, ...], Meta(max_length=f.MAX_SCHEDULERS)]
    outdated: bool = False


class Neighbour(f.Record, frozen=True):
    """A host to exchange pieces with. `distance`: 0 same rack, 1 same zone, 2 same site, 3 elsewhere."""

    host: f.HostId
    address: f.Address
    distance: Annotated[int, Meta(ge=0, le=3)]


class Joined(f.Record, frozen=True, tag=34):
    """The answer to Join. Without a size, the host waits for Sized, for its own lease, or for InlineBlob.

    `neighbours` are all neighbours of the host in this swarm. They replace the neighbours that an earlier scheduler
    gave. The known digests follow in PieceDigests. `sealed` says that a host found the SHA-256 right over this map.
    `piece_length`: so long are the pieces that this swarm has divided the blob into, if that is not the usual length.
    Hosts without the feature `piece-length`, or `long-pieces` if it is longer, are in no such swarm.
    """

    digest: f.Digest
    generation: f.Generation
    size_bytes: f.MaybeSizeBytes
    sealed: bool
    neighbours: Annotated[tuple[Neighbour, ...], Meta(max_length=f.MAX_NEIGHBOURS_PER_MESSAGE)]
    piece_length: f.PieceLength = 0

    def __post_init__(self) -> None:
        f.check_pieces(self.size_bytes, self.piece_length)


class Sized(f.Record, frozen=True, tag=35):
    """The blob's length, and that of its pieces as in Joined, to members that were not told them."""

    digest: f.Digest
    generation: f.Generation
    size_bytes: f.SizeBytes
    piece_length: f.PieceLength = 0

    def __post_init__(self) -> None:
        f.check_pieces(self.size_bytes, self.piece_length)


class Neighbours(f.Record, frozen=True, tag=36):
    """Links that were made and links that were ended. A host in both lists has moved to another address."""

    digest: f.Digest
    add: Annotated[tuple[Neighbour, ...], Meta(max_length=f.MAX_NEIGHBOURS_PER_MESSAGE)]
    remove: f.HostIds


class Gateway(f.Record, frozen=True, tag=48):
    """The shares of the pieces that this host may ask neighbours at distance 3 for, a bit for each share.

    The message holds until the next Joined. A host that gets no such message may ask any neighbour for any piece.
    """

    digest: f.Digest
    shares: Annotated[int, Meta(ge=0, le=ALL_SHARES)]


class Lease(f.Record, frozen=True, tag=37):
    """Permission to fetch pieces `first` to `stop - 1` from the origin, and to publish their digests.

    If the length is unknown, the host opens the blob, sends Length at once, and fetches those of these pieces that
    exist. `within_s` starts again with each published piece.
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


class LeaseRevoked(f.Record, frozen=True, tag=38):
    """The host loses the lease, and publishes no more pieces of it.

    `at_once`: the host also ends its request, since clients wait for the origin. Only hosts whose Join or Priority said
    `background` are told so.
    """

    lease: f.LeaseId
    digest: f.Digest
    at_once: bool = False


class DigestRun(f.Record, frozen=True):
    """The BLAKE3 digests of consecutive pieces from `first` on."""

    first: f.PieceIndex
    digests: f.PieceDigestList

    def __post_init__(self) -> None:
        f.check_run(self.first, self.digests)


class PieceDigests(f.Record, frozen=True, tag=39):
    """The expected digests of pieces. A host accepts a piece, from any sender, only if it matches its digest here."""

    digest: f.Digest
    generation: f.Generation
    runs: Annotated[tuple[DigestRun, ...], Meta(max_length=f.MAX_RUNS_PER_MESSAGE)]

    def __post_init__(self) -> None:
        if sum(len(run.digests) for run in self.runs) > f.MAX_DIGESTS_PER_MESSAGE * f.DIGEST_BYTES:
            raise f.ProtocolError("too many digests in one message")


class InlineBlob(f.Record, frozen=True, tag=47):
    """A whole blob of at most 64 KiB. The receiver first checks the data against `digest`."""

    digest: f.Digest
    data: f.Content64K


class SpotCheck(f.Record, frozen=True, tag=51):
    """A publisher says that a piece has this digest. Is it so?

    The host fetches bytes `[start, stop)` of the piece from the origin, and then the piece from a neighbour, as if its
    digest had come in PieceDigests. It takes the piece only if the bytes are the same, and answers with SpotChecked.
    """

    digest: f.Digest
    generation: f.Generation
    piece: f.PieceIndex
    piece_digest: f.Digest
    start: Annotated[int, Meta(ge=0, le=MAX_PIECE_BYTES - 1)]
    stop: Annotated[int, Meta(ge=1, le=MAX_PIECE_BYTES)]

    def __post_init__(self) -> None:
        if self.start >= self.stop:
            raise f.ProtocolError("a check of no bytes")


class Preheat(f.Record, frozen=True, tag=52):
    """The host is to have these images before its clients ask for them, in the background, and to keep them `ttl_s`.

    It is sent to hosts with the feature `preheat` only. `attempt` grows when an operator has the job tried again; the
    same attempt may come twice, and is done once. `platforms` are as `linux/arm64`; none: the host's own; `all`: all.
    `rate_bytes_per_s` is the most that this host takes (0: no limit). `credential` is for the images' registries, in
    the form of docker's config.json; it is in no log, and on no disk of a host. `only_where_used`: it is for hosts that
    were told tags of the images' repositories before; others answer that they skip it. `from_hosts`: the images are
    named by digest, and other hosts hold all of them; this host asks no registry what it may have. With `most_bytes`
    the host fetches at most so many, and evicts nothing for them; it is for hosts with the feature `preheat-bound`.
    """

    job: f.JobId
    attempt: f.Attempt
    images: f.Images
    platforms: f.Platforms = ()
    rate_bytes_per_s: f.ByteCount = 0
    ttl_s: f.KeepFor = 0.0
    credential: f.Secret = ""
    only_where_used: bool = False
    from_hosts: bool = False
    most_bytes: f.ByteCount = 0

    hidden = frozenset({"credential"})


class PreheatEnded(f.Record, frozen=True, tag=53):
    """The preheat is over: the host stops, and sends no report. What it holds stays, pinned or not."""

    job: f.JobId


class RequestDigests(f.Record, frozen=True, tag=40):
    """The scheduler asks a host for the digests of the pieces that the host holds, usually after a restart.

    The host answers with DigestReport or, for a tiny blob, with InlineBlob.
    """

    digest: f.Digest


class Reset(f.Record, frozen=True, tag=41):
    """The map is disputed. The host forgets every digest of the map; the confirmed digests follow.

    The host keeps its bytes. It holds, serves and counts a piece again only when a digest of this generation matches
    the piece, unless the host has found the SHA-256 of the whole blob right. Leases of older generations are over.
    """

    digest: f.Digest
    generation: f.Generation


class OriginRefused(f.Record, frozen=True, tag=42):
    """This host gets no lease: its client must ask the origin itself and gets the origin's answer.

    The host has left the swarm. `status` 0: the origin has refused nobody, and the swarm has divided the blob into
    other pieces than the host.
    """

    digest: f.Digest
    status: f.Status


class Failed(f.Record, frozen=True, tag=43):
    """The swarm cannot get this blob. `status` is the origin's last status, or 0. The host has left the swarm."""

    digest: f.Digest
    status: f.Status
    reason: f.Explanation


class Quarantined(f.Record, frozen=True, tag=44):
    """The scheduler shuts the host out for this long: the host was proved wrong, or reported by its neighbours."""

    reason: f.Explanation
    for_s: f.Duration


class Revoked(f.Record, frozen=True, tag=50):
    """An operator has revoked these hosts: the host ends its links to them, and refuses them from now on.

    All of them come after Welcome, in as many messages as it takes, and new ones at once.
    """

    hosts: f.ManyHostIds


class Unreachable(f.Record, frozen=True, tag=49):
    """So many other hosts could not reach this host at its `address`. It is sent once for each connection."""

    reports: Annotated[int, Meta(ge=1, le=2**16)]


class TagQuery(f.Record, frozen=True, tag=45):
    """The host must send TagAnswer within this time: what its own origin told it last of the tag."""

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    within_s: f.Duration


class TagResult(f.Record, frozen=True, tag=46):
    """The answer to TagLookup: the public manifest that most of the hosts that asked their origins were told last.

    Status 0 says that there is no such majority. `hosts` is the number of hosts that told this manifest; a result of
    fewer than TAG_QUORUM is not to be believed.
    """

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    status: f.Status
    digest: f.MaybeDigest = None
    size_bytes: f.MaybeSizeBytes = None
    media_type: f.MediaType = ""
    public: bool = False
    hosts: Annotated[int, Meta(ge=0, le=2**31)] = 0
