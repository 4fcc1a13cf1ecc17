"""The types of message fields: the bounds of the wire.

Rules:
1. A message declares each field by its type and its bounds, as `Annotated[type, Meta(…)]`. msgspec's decoder, the tests
   and docs/protocol.md read the bounds from there, so that each bound is written once.
2. What Meta cannot say is in the `__post_init__` of a message, which raises ProtocolError. The error does not repeat
   the value, because the value may be large or secret.
3. Every length is bounded: a frame costs its receiver no more than the frame's size.
4. Modules of messages have no `from __future__ import annotations`: msgspec would have to evaluate each annotation.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

from msgspec import Meta, Struct

from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECE_BYTES, MAX_PIECES, piece_count, said_piece_length

DIGEST_BYTES = 32
"""The SHA-256 of a blob and the BLAKE3 of a piece both have 32 bytes, and travel raw."""

MAX_FRAME_BYTES = 256 * 1024
"""Twice the longest message (MAX_DIGESTS_PER_MESSAGE digests), so that a newer version has room."""

MAX_DIGESTS_PER_MESSAGE = 4096
"""128 KiB: one message has the map of a 16 GiB blob; a larger map takes several messages."""

MAX_INLINE_BYTES = 64 * 1024
"""A blob of at most this size travels inside a message. Nearly all manifests and configs do."""

MAX_RUNS_PER_MESSAGE = 512
MAX_HOLDINGS_PER_MESSAGE = 512
MAX_NEIGHBOURS_PER_MESSAGE = 64
MAX_REVOKED_PER_MESSAGE = 1024
MAX_FEATURES = 32
MAX_SCHEDULERS = 64


class ProtocolError(ValueError):
    """The other end broke the protocol. The connection ends, and the error's text may be sent back."""


class Record(Struct, frozen=True, array_like=True):
    """A message, or a part of one: an array of its fields on the wire, after the message's number if it has one.

    Fields that a newer version has added stand at the end and are ignored. Fields that an older version does not send
    take their defaults.
    """

    hidden: ClassVar[frozenset[str]] = frozenset()
    """The fields that `repr` leaves out."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in self.hidden]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def text(pattern: str) -> Meta:
    """Strings that match the whole `pattern`, which bounds the length: msgspec looks for it anywhere in the string."""
    return Meta(pattern=rf"\A(?:{pattern})\Z")


Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
"""The raw SHA-256 of a blob."""

MaybeDigest: TypeAlias = Digest | None

PieceDigestList = Annotated[
    bytes, Meta(max_length=DIGEST_BYTES * MAX_DIGESTS_PER_MESSAGE, extra={"step": DIGEST_BYTES})
]
"""The BLAKE3 digests of consecutive pieces, one after the other. A message that has some calls `check_digests`."""

PieceBits = Annotated[bytes, Meta(max_length=MAX_PIECES // 8)]
"""A set of pieces: piece `i` is bit `i % 8`, least significant first, of byte `i // 8`. Zeros at the end may be left
out. So the bytes are `int.to_bytes(…, "little")` of the set as an integer, and the empty set may be no bytes at all."""

SizeBytes = Annotated[int, Meta(ge=0, le=MAX_BLOB_BYTES)]
MaybeSizeBytes: TypeAlias = SizeBytes | None
PieceLength = Annotated[int, Meta(ge=0, le=MAX_PIECE_BYTES)]
"""The length of a blob's pieces, or 0 for the one that the blob's size gives (`scheduler.protocol.geometry`)."""

PieceIndex = Annotated[int, Meta(ge=0, le=MAX_PIECES - 1)]
PieceStop = Annotated[int, Meta(ge=1, le=MAX_PIECES)]
Generation = Annotated[int, Meta(ge=1, le=2**31 - 1)]
LeaseId = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Status = Annotated[int, Meta(ge=0, le=599)]
"""An HTTP status of the origin, or 0 if the origin gave none."""

Content64K = Annotated[bytes, Meta(max_length=MAX_INLINE_BYTES)]
Duration = Annotated[float, Meta(ge=0, le=86_400.0)]

HostId = Annotated[str, text(r"[A-Za-z0-9._-]{1,64}")]
HostIds = Annotated[tuple[HostId, ...], Meta(max_length=MAX_NEIGHBOURS_PER_MESSAGE)]
ManyHostIds = Annotated[tuple[HostId, ...], Meta(max_length=MAX_REVOKED_PER_MESSAGE)]
Address = Annotated[str, text(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}")]
"""The address at which neighbours reach a host: `IP:PORT`, `[IPv6]:PORT` or `NAME:PORT`."""

Label = Annotated[str, text(r"[A-Za-z0-9._/-]{0,64}")]
Features = Annotated[tuple[Annotated[str, text(r"[a-z0-9-]{1,32}")], ...], Meta(max_length=MAX_FEATURES)]
Token = Annotated[str, text(r"[\x21-\x7e]{0,4096}")]
Software = Annotated[str, text(r"[0-9A-Za-z.+_-]{0,32}")]
Upstream = Annotated[str, text(r"[A-Za-z0-9._:\[\]-]{1,259}")]
"""A host name of at most 253 characters, and a port."""

SchedulerId = Annotated[str, text(r"[0-9a-f]{16}")]
SchedulerUrl = Annotated[str, text(r"https?://[A-Za-z0-9._:\[\]/-]{1,500}")]

Repository = Annotated[str, text(r"[a-z0-9._/-]{1,255}")]
"""The characters and the length of the OCI specification. The mirror checks its finer grammar."""

JobId = Annotated[str, text(r"[a-z0-9]{1,32}")]
Attempt = Annotated[int, Meta(ge=1, le=2**31 - 1)]
ByteCount = Annotated[int, Meta(ge=0, le=2**63 - 1)]
KeepFor = Annotated[float, Meta(ge=0, le=366 * 86_400.0)]
Images = Annotated[tuple[Annotated[str, text(r"[\x21-\x7e]{1,1024}")], ...], Meta(max_length=64)]
"""Images as a user names them. The host checks their grammar."""

Platforms = Annotated[tuple[Annotated[str, text(r"[a-z0-9/]{1,98}")], ...], Meta(max_length=16)]
Secret = Annotated[str, text(r"[\x20-\x7e]{0,32768}")]

Tag = Annotated[str, text(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")]
MediaType = Annotated[str, text(r"[\x20-\x7e]{0,255}")]
Explanation = Annotated[str, text(r"[^\x00-\x1f\x7f]{0,500}")]
"""One line of text for an operator."""


def check_digests(digests: bytes) -> None:
    """Raise ProtocolError if the last digest is not whole."""
    if len(digests) % DIGEST_BYTES:
        raise ProtocolError(f"{len(digests)} bytes of digests are not in steps of {DIGEST_BYTES}")


def check_run(first: int, digests: bytes) -> None:
    """Raise ProtocolError if the pieces from `first` on go beyond the last piece that a blob can have."""
    check_digests(digests)
    if first + len(digests) // DIGEST_BYTES > MAX_PIECES:
        raise ProtocolError("digests run beyond the last piece that a blob can have")


def check_pieces(size_bytes: int | None, piece_length: int) -> int:
    """The number of pieces of a blob. Raises ProtocolError if a blob of this size has no pieces of this length."""
    if size_bytes is None:
        if piece_length:
            raise ProtocolError("a length of pieces without that of the blob")
        return 0
    try:
        return piece_count(size_bytes, said_piece_length(size_bytes, piece_length))
    except ValueError as error:
        raise ProtocolError(str(error)) from None
