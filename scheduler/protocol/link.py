"""The messages between two neighbours: their ids, and the pieces that they hold.

Rules:
1. Pieces travel over HTTP ranges. A link carries only messages about pieces.
2. No digest of a piece travels on a link: the host that sends a piece never says which digest the piece must have.
3. Have messages are batched. A batch is sent at most half a piece's transfer time after its first piece.
4. A message is about one generation of the piece map. A message about another generation is ignored.
5. Whoever says `batches` among the features of its LinkHello takes several messages in one frame: `[71, message, …]`.

Pieces between hosts with certificates, outside of TLS. A host sends PieceKey on each link, first and from time to time.
Under the newest key the neighbour asks for pieces over plain HTTP, on the port that serves TLS too (the first byte
tells). A host that has told no key is asked over TLS, by `GET /v2/swarm/blobs/DIGEST` with a Range::

    GET /v2/swarm/FIRST-LAST/blobs/DIGEST       these bytes, as `Content-Encoding: aes128gcm` (RFC 8188)
    GET /v2/swarm/blobs/DIGEST, with a Range    unencrypted, if the host has said that it sends that (`plain`)
    Authorization: P2PD-Piece KEYID.NUMBER.MAC  KEYID and MAC in hexadecimal; NUMBER is used once under a key

With HMAC-SHA256, `request` and `answer` are made of the key's secret by the texts `p2pd piece request` and `p2pd piece
answer`, each with an octet 1 after it. MAC is that of the lines `P2PD-Piece`, method, target, Range (or nothing) and
NUMBER, under `request`; the lines are joined by line feeds. The same under `answer` is the input key of the answer,
whose key id is KEYID and NUMBER (8 octets). Its records have at most 262,144 bytes of data. A request that is not
authenticated is answered 401: the piece may be asked for over TLS then.
"""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from scheduler.protocol import fields as f

MAX_SPANS_PER_MESSAGE = 4096

BATCHES: Final = "batches"
"""The feature of whoever takes several messages in one frame (rule 5)."""


class LinkHello(f.Record, frozen=True, tag=65):
    """The first message, from each side."""

    host: f.HostId
    oldest: Annotated[int, Meta(ge=1, le=2**16)]
    newest: Annotated[int, Meta(ge=1, le=2**16)]
    features: f.Features = ()


class Bitfield(f.Record, frozen=True, tag=66):
    """All pieces that the sender holds, sent on connecting and after a reset. It replaces earlier Have messages."""

    digest: f.Digest
    generation: f.Generation
    complete: bool
    have: f.PieceBits = b""


class Span(f.Record, frozen=True):
    """Pieces `first` to `stop - 1`."""

    first: f.PieceIndex
    stop: f.PieceStop

    def __post_init__(self) -> None:
        if self.first >= self.stop:
            raise f.ProtocolError("a span of no pieces")


class Have(f.Record, frozen=True, tag=67):
    """Pieces that the sender has gained since its last message."""

    digest: f.Digest
    generation: f.Generation
    spans: Annotated[tuple[Span, ...], Meta(max_length=MAX_SPANS_PER_MESSAGE)]


class DontHave(f.Record, frozen=True, tag=68):
    """The sender no longer serves this blob."""

    digest: f.Digest


class Unchoke(f.Record, frozen=True, tag=69):
    """The sender had no upload slot for a piece of this blob and has one now. The receiver may ask again."""

    digest: f.Digest


class PieceKey(f.Record, frozen=True, tag=70):
    """Under this key the receiver asks the sender for pieces outside of TLS. Only on links with certificates.

    `plain`: the sender sends pieces unencrypted too, to authenticated hosts, if they ask for that.
    """

    key_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    secret: Annotated[bytes, Meta(min_length=32, max_length=32)]
    plain: bool = False

    hidden = frozenset({"secret"})


LinkMessage: TypeAlias = Bitfield | Have | DontHave | Unchoke
"""The messages about one blob."""
