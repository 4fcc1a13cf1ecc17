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
import re
import struct
from dataclasses import astuple, dataclass, fields
from typing import Any, Final, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class Content:
    """A blob: its SHA-256 in hexadecimal, and how it is cut into pieces. All that a torrent is made from."""

    digest: str
    size_bytes: int
    piece_bytes: int

    @property
    def pieces(self) -> int:
        return -(-self.size_bytes // self.piece_bytes)

    def piece_size(self, index: int) -> int:
        """Of piece `index`, in bytes."""
        return min(self.piece_bytes, self.size_bytes - index * self.piece_bytes)

    def check(self) -> None:
        """Raises MessageError."""
        if re.fullmatch("[0-9a-f]{64}", _of(str, self.digest)) is None:
            raise MessageError("not a SHA-256")
        _number(self.size_bytes, 1, MAX_BLOB_BYTES)
        _number(self.piece_bytes, MIN_PIECE_BYTES, MAX_PIECE_BYTES)
        if self.piece_bytes % MIN_PIECE_BYTES or self.pieces > MAX_PIECES:
            raise MessageError("a blob cannot be cut like this")


@dataclass(frozen=True, slots=True)
class Share:
    """Give the blob, which is whole and in the file at `path`, to whoever has the ticket. The answer is the ticket."""

    content: Content
    path: str


@dataclass(frozen=True, slots=True)
class Unshare:
    """Give the blob to nobody any more. The answer is empty."""

    digest: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get a piece from the host at an IP address, with a ticket of its own. The answer is the piece, not verified.

    `rate`: with all else that is fetched, at most so many bytes per second, beside `Limit`; 0 is no limit.
    """

    content: Content
    index: int
    address: str
    ticket: bytes
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """Send and receive at most so many bytes per second; 0 is no limit. The answer is empty."""

    upload: int
    download: int


@dataclass(frozen=True, slots=True)
class Count:
    """The answer is the number of bytes of pieces that were sent to other hosts, in decimal."""


Question = Share | Unshare | Fetch | Limit | Count

_KINDS: Final[dict[str, type[Any]]] = {
    "share": Share,
    "unshare": Unshare,
    "fetch": Fetch,
    "limit": Limit,
    "count": Count,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def encode(question: Question) -> bytes:
    """One packet. Raises MessageError."""
    _check(question)
    packed: bytes = msgpack.packb([_NAMES[type(question)], *astuple(question)])
    if len(packed) > MAX_QUESTION_BYTES:
        raise MessageError("too long")
    return packed


def decode(packet: bytes) -> Question:
    """What `encode` made. Raises MessageError for anything else."""
    try:
        name, *values = msgpack.unpackb(packet)
        kind = _KINDS[name]
        if len(values) != len(fields(kind)):
            raise MessageError("fields are missing, or there are more")
        if kind in (Share, Fetch):
            values[0] = Content(*values[0])
        question: Question = kind(*values)
    except MessageError:
        raise
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise MessageError(f"not a question: {type(error).__name__}") from None
    _check(question)
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


def _check(question: Question) -> None:
    match question:
        case Share(content, path):
            content.check()
            if not _of(str, path).startswith("/") or "\0" in path or len(path) > MAX_PATH_LENGTH:
                raise MessageError("not a path")
        case Unshare(digest):
            Content(digest, 1, MIN_PIECE_BYTES).check()
        case Fetch(content, index, address, ticket, rate):
            content.check()
            _number(rate, 0, MAX_RATE)
            _number(index, 0, content.pieces - 1)
            _check_address(_of(str, address))
            if not 0 < len(_of(bytes, ticket)) <= MAX_TICKET_BYTES:
                raise MessageError("not a ticket")
        case Limit(upload, download):
            _number(upload, 0, MAX_RATE)
            _number(download, 0, MAX_RATE)
        case Count():
            pass


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise MessageError("not an IP address") from None


def _of(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise MessageError(f"not of type {kind.__name__}")
    return value


def _number(value: object, least: int, most: int) -> None:
    if not least <= _of(int, value) <= most:
        raise MessageError(f"not a number from {least} to {most}")
