"""What the daemon and its process of the background transport say to each other.

1. A question is one packet of a SOCK_SEQPACKET pair: a MessagePack list of its kind and its fields. With it goes a file
   descriptor, one end of a stream on which the answer to this question alone comes. Whoever asked closes its end when
   it no longer wants the answer; if it means to ask again soon, it sends `KEEP` before. The end of the process is the
   end of all answers.
2. An answer is a header of five bytes, status and length, and so many bytes: what was asked for, or why there is none.
3. Everything has a bound, and is checked by its receiver: a message that breaks a rule is a MessageError.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

MAX_QUESTION_BYTES: Final = 32 * 1024
MAX_TICKET_BYTES: Final = 16 * 1024
MAX_PATH_LENGTH: Final = 4096
MAX_PIECE_BYTES: Final = 4 * 1024 * 1024
"""As in `scheduler.protocol.geometry`: the process imports nothing of the daemon."""

MIN_PIECE_BYTES: Final = 16 * 1024
"""BitTorrent's block: no piece is shorter, but the last."""

MAX_BLOB_BYTES: Final = 2**50
MAX_PIECES: Final = 2**21
"""As many as libtorrent takes (`max_piece_count`)."""

MAX_RATE: Final = 2**31 - 1
MAX_WHY_BYTES: Final = 1000
"""Of the text that says why there is no answer."""

_HEADER: Final = struct.Struct("!BI")
HEADER_BYTES: Final = _HEADER.size
KEEP: Final = b"k"
DONE: Final = 0
FAILED: Final = 1
BUSY: Final = 2
"""The other host gives to others now."""


class MessageError(ValueError):
    """A message is not as the rules say."""


_Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Rate = Annotated[int, Meta(ge=0, le=MAX_RATE)]


class Content(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A blob: its SHA-256 in hexadecimal, and how it is cut into pieces. All that a torrent is made from."""

    digest: _Digest
    size_bytes: Annotated[int, Meta(ge=1, le=MAX_BLOB_BYTES)]
    piece_bytes: Annotated[int, Meta(ge=MIN_PIECE_BYTES, le=MAX_PIECE_BYTES, multiple_of=MIN_PIECE_BYTES)]

    @property
    def pieces(self) -> int:
        return -(-self.size_bytes // self.piece_bytes)

    def piece_size(self, index: int) -> int:
        """Of piece `index`, in bytes."""
        return min(self.piece_bytes, self.size_bytes - index * self.piece_bytes)


class _Question(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=str.lower):
    """Its kind on the wire is the class's name in small letters."""


class Share(_Question, frozen=True):
    """Give the blob, which is whole and in the file at `path`, to whoever has the ticket. The answer is the ticket."""

    content: Content
    path: Annotated[str, Meta(max_length=MAX_PATH_LENGTH, pattern=r"\A/[^\0]*\Z")]


class Unshare(_Question, frozen=True):
    """Give the blob to nobody any more. The answer is empty."""

    digest: _Digest


class Fetch(_Question, frozen=True):
    """Get a piece from the host at an IP address, with a ticket of its own. The answer is the piece, not verified.

    `rate`: with all else that is fetched, at most so many bytes per second, beside `Limit`; 0 is no limit.
    """

    content: Content
    index: Annotated[int, Meta(ge=0)]
    address: str
    ticket: Annotated[bytes, Meta(min_length=1, max_length=MAX_TICKET_BYTES)]
    rate: _Rate = 0


class Limit(_Question, frozen=True):
    """Send and receive at most so many bytes per second; 0 is no limit. The answer is empty."""

    upload: _Rate
    download: _Rate


class Count(_Question, frozen=True):
    """The answer is the number of bytes of pieces that were sent to other hosts, in decimal."""


Question = Share | Unshare | Fetch | Limit | Count

_QUESTIONS: Final[msgspec.msgpack.Decoder[Question]] = msgspec.msgpack.Decoder(Question)


def encode(question: Question) -> bytes:
    """One packet. Raises MessageError."""
    try:
        packed = msgspec.msgpack.encode(question)
    except (ValueError, OverflowError) as error:
        raise MessageError(f"not a question: {type(error).__name__}") from None
    if len(packed) > MAX_QUESTION_BYTES:
        raise MessageError("too long")
    decode(packed)
    return packed


def decode(packet: bytes) -> Question:
    """What `encode` made. Raises MessageError for anything else."""
    try:
        question = _QUESTIONS.decode(packet)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not a question: {error}") from None
    if isinstance(question, Share | Fetch) and question.content.pieces > MAX_PIECES:
        raise MessageError("a blob cannot be cut like this")
    if isinstance(question, Fetch):
        if question.index >= question.content.pieces:
            raise MessageError("the blob has no such piece")
        _check_address(question.address)
    return question


def header(status: int, length: int) -> bytes:
    """Goes before an answer."""
    return _HEADER.pack(status, length)


def parse_header(data: bytes) -> tuple[int, int]:
    """Status and length. Raises MessageError."""
    status, length = _HEADER.unpack(data)
    if status not in (DONE, FAILED, BUSY) or length > MAX_PIECE_BYTES:
        raise MessageError("not an answer")
    return status, length


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise MessageError("not an IP address") from None
