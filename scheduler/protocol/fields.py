"""The types of message fields: the bounds of the wire, and the checks that a decoder runs.

Rules:
1. A message declares each field as `Annotated[type, Check]`. The decoder and the tests read the checks from there, so
   that each bound is written once.
2. A check takes a value from MessagePack and returns the field's value, or raises ProtocolError. The error does not
   repeat the value, because the value may be large or secret.
3. Every length is bounded: a frame costs its receiver no more than the frame's size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import IntEnum
from operator import call
from typing import Annotated, Any, Final, get_type_hints

from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECE_BYTES, MAX_PIECES, piece_count, said_piece_length

DIGEST_BYTES = 32
"""The SHA-256 of a blob and the BLAKE3 of a piece both have 32 bytes, and travel raw."""

MAX_FRAME_BYTES = 256 * 1024
"""Twice the longest message (MAX_DIGESTS_PER_MESSAGE digests), so that a newer version has room."""

MAX_DIGESTS_PER_MESSAGE = 4096
"""128 KiB: one message has the map of a 16 GiB blob; a larger map takes several messages."""

MAX_INLINE_BYTES = 64 * 1024
"""A blob of at most this size travels inside a message. Nearly all manifests and configs do."""

MAX_TEXT_BYTES = 32 * 1024
MAX_RUNS_PER_MESSAGE = 512
MAX_HOLDINGS_PER_MESSAGE = 512
MAX_NEIGHBOURS_PER_MESSAGE = 64
MAX_REVOKED_PER_MESSAGE = 1024
MAX_FEATURES = 32
MAX_SCHEDULERS = 64


class ProtocolError(ValueError):
    """The other end broke the protocol. The connection ends, and the error's text may be sent back."""


@dataclass(frozen=True, slots=True)
class Octets:
    """Bytes whose length is within bounds and a multiple of `step`."""

    low: int
    high: int
    step: int = 1

    def __call__(self, value: object) -> bytes:
        if type(value) is not bytes:
            raise ProtocolError(f"expected bytes, not {type(value).__name__}")
        size_bytes = len(value)
        if not self.low <= size_bytes <= self.high or size_bytes % self.step:
            raise ProtocolError(f"{size_bytes} bytes are not {self.low}..{self.high} in steps of {self.step}")
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches the whole `pattern`. The pattern bounds the length."""

    pattern: re.Pattern[str]

    def __call__(self, value: object) -> str:
        if type(value) is not str or self.pattern.fullmatch(value) is None:
            raise ProtocolError(f"expected text of the form {self.pattern.pattern}")
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer within `low..high`, both included."""

    low: int
    high: int

    def __call__(self, value: object) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise ProtocolError(f"expected an integer within {self.low}..{self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration. Points in time never travel, because the clocks of two hosts differ."""

    high: float

    def __call__(self, value: object) -> float:
        if type(value) not in (int, float) or not 0 <= value <= self.high:  # type: ignore[operator]
            raise ProtocolError(f"expected seconds within 0..{self.high}")
        return float(value)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def __call__(self, value: object) -> bool:
        if type(value) is not bool:
            raise ProtocolError("expected a boolean")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """A member of an enumeration. A value that a newer version has added is read as `unknown`."""

    kind: type[IntEnum]
    unknown: IntEnum

    def __call__(self, value: object) -> IntEnum:
        if type(value) is not int:
            raise ProtocolError("expected an integer")
        try:
            return self.kind(value)
        except ValueError:
            return self.unknown


@dataclass(frozen=True, slots=True)
class Maybe:
    """None, or a value that `check` accepts."""

    check: Callable[[object], Any]

    def __call__(self, value: object) -> Any:
        return None if value is None else self.check(value)


@dataclass(frozen=True, slots=True)
class Items:
    """At most `most` values that `check` accepts."""

    check: Callable[[object], Any]
    most: int

    def __call__(self, value: object) -> tuple[Any, ...]:
        if type(value) is not tuple or len(value) > self.most:
            raise ProtocolError(f"expected an array of at most {self.most} items")
        return tuple(map(self.check, value))


_HOST = Text(re.compile(r"[A-Za-z0-9._-]{1,64}"))


class _Checks(dict[type[Any], tuple[tuple[Callable[[object], Any], ...], int]]):
    """By type, once each is asked for. A frame is decoded many times, so that what is there costs no call."""

    def __missing__(self, kind: type[Any]) -> tuple[tuple[Callable[[object], Any], ...], int]:
        hints = get_type_hints(kind, include_extras=True)
        checks = tuple(hints[field.name].__metadata__[0] for field in fields(kind))
        found = self[kind] = checks, sum(field.default is MISSING for field in fields(kind))
        return found


_CHECKS: Final = _Checks()


def checks_of(kind: type[Any]) -> tuple[tuple[Callable[[object], Any], ...], int]:
    """The checks of a message's fields in order, and the number of fields without a default."""
    return _CHECKS[kind]


def read(kind: type[Any], values: tuple[object, ...]) -> Any:
    """Make a message or a record from the values of a frame.

    Fields that a newer version has added stand at the end and are ignored. Fields that an older version does not send
    take their defaults. Raises ProtocolError.
    """
    checks, required = _CHECKS[kind]
    if len(values) < required:
        raise ProtocolError(f"{kind.__name__} has {len(values)} fields, and needs {required}")
    try:
        return kind(*map(call, checks, values))
    except ProtocolError as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class Record:
    """A dataclass within a message."""

    kind: type[Any]

    def __call__(self, value: object) -> Any:
        if type(value) is not tuple:
            raise ProtocolError(f"expected an array for {self.kind.__name__}")
        return read(self.kind, value)


Digest = Annotated[bytes, Octets(DIGEST_BYTES, DIGEST_BYTES)]
"""The raw SHA-256 of a blob."""

MaybeDigest = Annotated[bytes | None, Maybe(Octets(DIGEST_BYTES, DIGEST_BYTES))]

PieceDigestList = Annotated[bytes, Octets(0, DIGEST_BYTES * MAX_DIGESTS_PER_MESSAGE, DIGEST_BYTES)]
"""The BLAKE3 digests of consecutive pieces, one after the other."""

PieceBits = Annotated[bytes, Octets(0, MAX_PIECES // 8)]
"""A set of pieces: piece `i` is bit `i % 8`, least significant first, of byte `i // 8`. Zeros at the end may be left
out. So the bytes are `int.to_bytes(…, "little")` of the set as an integer, and the empty set may be no bytes at all."""

SizeBytes = Annotated[int, Whole(0, MAX_BLOB_BYTES)]
MaybeSizeBytes = Annotated[int | None, Maybe(Whole(0, MAX_BLOB_BYTES))]
PieceLength = Annotated[int, Whole(0, MAX_PIECE_BYTES)]
"""The length of a blob's pieces, or 0 for the one that the blob's size gives (`scheduler.protocol.geometry`)."""

PieceIndex = Annotated[int, Whole(0, MAX_PIECES - 1)]
PieceStop = Annotated[int, Whole(1, MAX_PIECES)]
Generation = Annotated[int, Whole(1, 2**31 - 1)]
LeaseId = Annotated[int, Whole(1, 2**63 - 1)]
Status = Annotated[int, Whole(0, 599)]
"""An HTTP status of the origin, or 0 if the origin gave none."""

Content64K = Annotated[bytes, Octets(0, MAX_INLINE_BYTES)]
Duration = Annotated[float, Seconds(86_400.0)]

HostId = Annotated[str, _HOST]
HostIds = Annotated[tuple[str, ...], Items(_HOST, MAX_NEIGHBOURS_PER_MESSAGE)]
ManyHostIds = Annotated[tuple[str, ...], Items(_HOST, MAX_REVOKED_PER_MESSAGE)]
Address = Annotated[str, Text(re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}"))]
"""The address at which neighbours reach a host: `IP:PORT`, `[IPv6]:PORT` or `NAME:PORT`."""

Label = Annotated[str, Text(re.compile(r"[A-Za-z0-9._/-]{0,64}"))]
Feature = Text(re.compile(r"[a-z0-9-]{1,32}"))
Features = Annotated[tuple[str, ...], Items(Feature, MAX_FEATURES)]
Token = Annotated[str, Text(re.compile(r"[\x21-\x7e]{0,4096}"))]
Software = Annotated[str, Text(re.compile(r"[0-9A-Za-z.+_-]{0,32}"))]
Upstream = Annotated[str, Text(re.compile(r"[A-Za-z0-9._:\[\]-]{1,259}"))]
"""A host name of at most 253 characters, and a port."""

SchedulerId = Annotated[str, Text(re.compile(r"[0-9a-f]{16}"))]
SchedulerUrl = Annotated[str, Text(re.compile(r"https?://[A-Za-z0-9._:\[\]/-]{1,500}"))]

Repository = Annotated[str, Text(re.compile(r"[a-z0-9._/-]{1,255}"))]
"""The characters and the length of the OCI specification. The mirror checks its finer grammar."""

JobId = Annotated[str, Text(re.compile(r"[a-z0-9]{1,32}"))]
Attempt = Annotated[int, Whole(1, 2**31 - 1)]
ByteCount = Annotated[int, Whole(0, 2**63 - 1)]
KeepFor = Annotated[float, Seconds(366 * 86_400.0)]
Images = Annotated[tuple[str, ...], Items(Text(re.compile(r"[\x21-\x7e]{1,1024}")), 64)]
"""Images as a user names them. The host checks their grammar."""

Platforms = Annotated[tuple[str, ...], Items(Text(re.compile(r"[a-z0-9/]{1,98}")), 16)]
Secret = Annotated[str, Text(re.compile(r"[\x20-\x7e]{0,32768}"))]

Tag = Annotated[str, Text(re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"))]
MediaType = Annotated[str, Text(re.compile(r"[\x20-\x7e]{0,255}"))]
Explanation = Annotated[str, Text(re.compile(r"[^\x00-\x1f\x7f]{0,500}"))]
"""One line of text for an operator."""


def check_run(first: int, digests: bytes) -> None:
    """Raise ProtocolError if the pieces from `first` on go beyond the last piece that a blob can have."""
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
