"""The messages from a host to the scheduler. `scheduler.protocol` has their order."""

from enum import IntEnum
from typing import Annotated, Final

from msgspec import Meta

from scheduler.protocol import fields as f
from scheduler.protocol.to_host import DigestRun

VERSION_OLDEST = 1
VERSION_NEWEST = 1

SPOT_CHECK = "spot-check"
"""The feature of hosts that answer SpotCheck. It was added within version 1: older hosts would ignore the message."""

PREHEAT = "preheat"
"""The feature of hosts that take Preheat."""

PULLS = "pulls"
"""The feature of hosts that send Pulled. Only a scheduler whose operator wants a history of pulls has it."""

PREHEAT_BOUND = "preheat-bound"
"""The feature of hosts that keep to `Preheat.most_bytes`."""

SCHEDULERS = "schedulers"
"""The feature of hosts that take Schedulers: they divide their blobs among several schedulers."""

PIECE_LENGTH = "piece-length"
"""The feature of hosts that divide a blob as `Joined.piece_length` says, and of schedulers that know of it."""

LONG_PIECES = "long-pieces"
"""The feature of both that know of pieces that are longer than the usual ones. Who has it has `piece-length` too."""

FEATURES = (SPOT_CHECK, PREHEAT, PULLS, PREHEAT_BOUND, SCHEDULERS, PIECE_LENGTH, LONG_PIECES)
"""What a host says in Hello that has all features."""

MAX_AGE_S = 10 * 365 * 86_400.0
"""What is older counts as this old."""

MAX_UPLOAD_SLOTS = 1024


class LeaseOutcome(IntEnum):
    """The host's reason to end a lease before all its pieces were published."""

    FAILED = 0
    """The origin gave no usable answer within the host's bounds. Another host may do better."""
    REFUSED = 1
    """The origin answered this host's credentials with a 4xx."""
    RETURNED = 2
    """The host gives the lease back and has not failed: for example, it has the blob already."""

    @classmethod
    def _missing_(cls, _: object) -> IntEnum:  # a value that a newer version has added
        return cls.FAILED


class SpotResult(IntEnum):
    """The result of a comparison with the origin."""

    RIGHT = 0
    WRONG = 1
    """The origin has other bytes than the piece, which matches its digest."""
    UNKNOWN = 2
    """The origin did not answer, or the host may not ask it."""

    @classmethod
    def _missing_(cls, _: object) -> IntEnum:  # a value that a newer version has added
        return cls.UNKNOWN


class PreheatState(IntEnum):
    """How far a host is with a preheat."""

    RUNNING = 0
    DONE = 1
    FAILED = 2
    SKIPPED = 3
    """The host does not use the repository, and the order is for hosts that do."""

    @classmethod
    def _missing_(cls, _: object) -> IntEnum:  # a value that a newer version has added
        return cls.RUNNING


class Fault(IntEnum):
    """The host's reason to replace a neighbour."""

    GONE = 0
    SLOW = 1
    FULL = 2

    @classmethod
    def _missing_(cls, _: object) -> IntEnum:  # a value that a newer version has added
        return cls.SLOW


class Hello(f.Record, frozen=True, tag=1):
    """The first message on a connection. No version of the protocol may change the beginning of this message.

    `oldest` and `newest` are the versions that the host speaks. `upload_slots` is the number of pieces that it sends at
    a time. `software` is the version of p2pd, for the operator to read.
    """

    host: f.HostId
    oldest: Annotated[int, Meta(ge=1, le=2**16)]
    newest: Annotated[int, Meta(ge=1, le=2**16)]
    address: f.Address
    site: f.Label = ""
    zone: f.Label = ""
    rack: f.Label = ""
    upload_slots: Annotated[int, Meta(ge=0, le=MAX_UPLOAD_SLOTS)] = 4
    features: f.Features = ()
    token: f.Token = ""
    software: f.Software = ""

    hidden = frozenset({"token"})


class Holding(f.Record, frozen=True):
    """A blob in a host's store: the whole verified blob, or the pieces in `have`.

    `piece_length` is that of the digests that the host has of it. Only schedulers with the feature `piece-length` are
    told of a part by another length than the usual one, and those with `long-pieces` alone of a longer one.
    """

    digest: f.Digest
    size_bytes: f.SizeBytes
    complete: bool
    have: f.PieceBits = b""
    piece_length: f.PieceLength = 0

    def __post_init__(self) -> None:
        count = f.check_pieces(self.size_bytes, self.piece_length)
        if int.from_bytes(self.have, "little") >> count:
            raise f.ProtocolError(f"a bitfield names pieces beyond the {count} that the blob has")


class Announce(f.Record, frozen=True, tag=2):
    """The blobs in a host's store, sent when the host connects. Many blobs take several messages."""

    holdings: Annotated[tuple[Holding, ...], Meta(max_length=f.MAX_HOLDINGS_PER_MESSAGE)]


class Join(f.Record, frozen=True, tag=3):
    """The host wants this blob. The host says that its own client was authorised to read the blob in this repository.

    `size_bytes` is the size in a verified manifest. An Announce before this message has the pieces that the host holds.
    `background`: only preheats want the blob here. Hosts of versions without the field say nothing, and count as
    clients.
    `moved`: the host was in the blob's swarm at another scheduler, and so, most likely, were others that will come.
    `piece_length` is what the host has divided the blob by already. 0: it divides the blob as Joined says, if it has
    the feature `piece-length`. Where the swarm has divided the blob otherwise, the answer is OriginRefused.
    `fetching`: pieces that the host was leased at the scheduler before, and that are on their way from the origin. A
    scheduler that knows the field leases them to the host again.
    `beside_bytes`: the length of all other blobs together that the host wants at this time, at any scheduler. It is
    said if the blob may have other pieces than the usual ones, and the host has not divided it.
    """

    digest: f.Digest
    upstream: f.Upstream
    repository: f.Repository
    size_bytes: f.MaybeSizeBytes = None
    background: bool = False
    moved: bool = False
    piece_length: f.PieceLength = 0
    fetching: f.PieceBits = b""
    beside_bytes: f.ByteCount = 0

    def __post_init__(self) -> None:
        f.check_pieces(self.size_bytes, self.piece_length)


class Priority(f.Record, frozen=True, tag=22):
    """`Join.background` has changed: a client has come, or preheats alone still want the blob here."""

    digest: f.Digest
    background: bool


class Need(f.Record, frozen=True, tag=18):
    """A client of this host waits for pieces `first` to `stop - 1` before all others. These pieces are leased first.

    Need may be sent before Join, because leases may follow Join at once. Until the host knows how the swarm has divided
    the blob, it means pieces of the usual length. `divided`: it means the swarm's pieces, which have another length.
    """

    digest: f.Digest
    first: f.PieceIndex
    stop: f.PieceStop
    divided: bool = False

    def __post_init__(self) -> None:
        if self.first >= self.stop:
            raise f.ProtocolError("a need of no pieces")


class Progress(f.Record, frozen=True, tag=4):
    """All pieces that the host holds now, at most once in `Welcome.progress_s`.

    `starving` says that the host has lacked pieces for a while and that no neighbour has any of these pieces.
    """

    digest: f.Digest
    generation: f.Generation
    have: f.PieceBits
    starving: bool = False


class Length(f.Record, frozen=True, tag=5):
    """The blob's length, from the origin's response to a lease that was granted while the length was unknown."""

    lease: f.LeaseId
    digest: f.Digest
    size_bytes: f.SizeBytes


class LeasePieces(f.Record, frozen=True, tag=6):
    """Pieces of a lease that have landed: the BLAKE3 of piece `first` and of the pieces after it.

    The host sends it for each piece, so that the piece spreads at once. The lease is done when all its pieces were
    named.
    """

    lease: f.LeaseId
    digest: f.Digest
    first: f.PieceIndex
    digests: f.PieceDigestList

    def __post_init__(self) -> None:
        f.check_run(self.first, self.digests)


class LeaseEnded(f.Record, frozen=True, tag=7):
    """The host will not fetch the rest of a lease. `status` is the origin's status, if the origin gave one."""

    lease: f.LeaseId
    digest: f.Digest
    outcome: LeaseOutcome
    status: f.Status = 0


class DigestReport(f.Record, frozen=True, tag=8):
    """An answer to RequestDigests: the digests that the host knows. `last` ends the answer (`digests` may be empty).

    `more` has further runs, because the known pieces of a growing map may be scattered.
    """

    digest: f.Digest
    first: f.PieceIndex
    digests: f.PieceDigestList
    last: bool
    more: Annotated[tuple[DigestRun, ...], Meta(max_length=f.MAX_RUNS_PER_MESSAGE)] = ()

    def __post_init__(self) -> None:
        f.check_run(self.first, self.digests)
        told_bytes = len(self.digests) + sum(len(run.digests) for run in self.more)
        if told_bytes > f.MAX_DIGESTS_PER_MESSAGE * f.DIGEST_BYTES:
            raise f.ProtocolError("too many digests in one message")


class SpotChecked(f.Record, frozen=True, tag=19):
    """The answer to SpotCheck, which is sent to hosts with the feature `spot-check` only."""

    digest: f.Digest
    generation: f.Generation
    piece: f.PieceIndex
    result: SpotResult


class PreheatReport(f.Record, frozen=True, tag=20):
    """How far the host is with a Preheat, now and then, and its end, which is told again if Preheat comes again.

    `digests` are all blobs of the images, once the host holds them: manifests, configs and layers. Of `size_bytes` that
    the images have as far as is known, `fetched_bytes` had to be fetched. `unpinned_bytes` are held and not kept for
    the time that was asked. `private`: some of the blobs must not be announced (a cluster without certificates).
    `elsewhere`: the host has told other schedulers of some of the blobs, and `digests` are without those.
    `roots` are the manifests (raw SHA-256, one after the other) that the images' names stand for, in their order.
    """

    job: f.JobId
    attempt: f.Attempt
    state: PreheatState
    size_bytes: f.ByteCount = 0
    fetched_bytes: f.ByteCount = 0
    unpinned_bytes: f.ByteCount = 0
    digests: f.PieceDigestList = b""
    private: bool = False
    reason: f.Explanation = ""
    roots: f.PieceDigestList = b""
    elsewhere: bool = False

    def __post_init__(self) -> None:
        f.check_digests(self.digests)
        f.check_digests(self.roots)


class Pulled(f.Record, frozen=True, tag=21):
    """A client of this host has pulled an image by its tag, which named `digest`. It is for the history of pulls alone.

    The client took `size_bytes`, of which the host had `warm_bytes` before. It is sent to schedulers with the feature
    `pulls` only, and of what is not exchanged in this cluster (private content without certificates) never.
    """

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    digest: f.Digest
    size_bytes: f.ByteCount
    warm_bytes: f.ByteCount


class InlineBlob(f.Record, frozen=True, tag=17):
    """A whole blob of at most 64 KiB. The receiver first checks the data against `digest`."""

    digest: f.Digest
    data: f.Content64K


class Sealed(f.Record, frozen=True, tag=9):
    """The host holds the whole blob, and the blob's SHA-256 is right.

    `origin_bytes` of it came to this host from the origin, and `far_bytes` from hosts of other sites, for the operator.
    `piece_bytes_per_s`: so fast a piece came from a neighbour, in the median; 0: none came. By it the scheduler divides
    blobs (`scheduler.core.lengths`).
    """

    digest: f.Digest
    generation: f.Generation
    origin_bytes: f.SizeBytes = 0
    far_bytes: f.SizeBytes = 0
    piece_bytes_per_s: f.ByteCount = 0


class Disproved(f.Record, frozen=True, tag=10):
    """The host verified every piece against the map of this generation, and the blob's SHA-256 is wrong."""

    digest: f.Digest
    generation: f.Generation


class Corrupt(f.Record, frozen=True, tag=11):
    """`sender` sent bytes of this piece that do not match the map of this generation."""

    digest: f.Digest
    generation: f.Generation
    piece: f.PieceIndex
    sender: f.HostId


class NeighbourFailed(f.Record, frozen=True, tag=12):
    """The host needs another neighbour instead of `neighbour`."""

    digest: f.Digest
    neighbour: f.HostId
    fault: Fault


class Leave(f.Record, frozen=True, tag=13):
    """The host neither wants nor holds this blob any more. Its leases of the blob go to other hosts."""

    digest: f.Digest


class Bye(f.Record, frozen=True, tag=14):
    """The host shuts down. Its leases go to other hosts at once."""


class TagLookup(f.Record, frozen=True, tag=15):
    """The host asks what most hosts were told of a tag by their origins. Its own origin is gone."""

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag


class TagAnswer(f.Record, frozen=True, tag=16):
    """The answer to TagQuery: what the host's own origin said last of the tag, `age_s` ago. It is one host's word.

    `digest` is set if `status` is 200. Any other status says that the host has nothing to tell. `public` says that the
    origin answered an anonymous request, without the credentials of a client or an operator. A host never tells what it
    knows from other hosts.
    """

    upstream: f.Upstream
    repository: f.Repository
    tag: f.Tag
    status: f.Status
    digest: f.MaybeDigest = None
    size_bytes: f.MaybeSizeBytes = None
    media_type: f.MediaType = ""
    public: bool = False
    age_s: Annotated[float, Meta(ge=0, le=MAX_AGE_S)] = 0.0

    def __post_init__(self) -> None:
        if (self.status == 200) != (self.digest is not None):
            raise f.ProtocolError("a tag has a digest if, and only if, the status is 200")


DIGESTS_OF_A_MESSAGE: Final = 32
"""So many digests cost the scheduler as much as a message without any."""


def cost_of(message: object) -> int:
    """What a message counts against `Welcome.messages_per_s` and `Welcome.burst`.

    It is one, and one more for each announced blob and for each `DIGESTS_OF_A_MESSAGE` digests.
    """
    match message:
        case Announce():
            return 1 + len(message.holdings)
        case LeasePieces() | PreheatReport():
            return 1 + len(message.digests) // (DIGESTS_OF_A_MESSAGE * f.DIGEST_BYTES)
        case DigestReport():
            digests_bytes = len(message.digests) + sum(len(run.digests) for run in message.more)
            return 1 + digests_bytes // (DIGESTS_OF_A_MESSAGE * f.DIGEST_BYTES)
        case _:
            return 1
