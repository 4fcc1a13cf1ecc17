"""Encodes messages as frames and decodes frames: MessagePack arrays, `[type, field, field, …]`.

Rules:
1. A field keeps its position for ever. A newer minor version adds new types, and new fields with defaults at the end.
   An older reader ignores both. A field that an older writer does not send takes its default.
2. `decode` raises no exception but ProtocolError for any bytes, and makes no value larger than the frame. Every error
   that a frame alone can show is found here; all other errors are found by the core.
3. A type's number is never used again.
4. Where the reader takes it (feature `batches` of a link), one frame may hold several messages: `[71, message, …]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types

from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.fields import MAX_FRAME_BYTES, MAX_TEXT_BYTES, Items, ProtocolError, Record, checks_of, read
from scheduler.protocol.inline_blob import InlineBlob


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a type that this version does not know. The receiver ignores it."""

    type: int


_PACKER: Final = msgpack.Packer()
"""A new packer for each message would cost twice what the packing costs. Threads may share this packer, because it is
given plain values only: no Python code runs while it packs."""

BATCH: Final = 71
"""Stands for the type in a frame of several messages."""

MAX_BATCH: Final = 64
BATCH_BYTES: Final = 16 * 1024
"""As many messages a frame has at most; and the bytes at which the next message begins another frame."""

Values: TypeAlias = Sequence[object]


def _getter(kind: type[Any]) -> Callable[[Any], Values]:
    """A function that gives the fields of a message or a record of this type, in order, with records as tuples."""
    names = [field.name for field in fields(kind)]
    plain: Callable[[Any], Values] = attrgetter(*names) if len(names) > 1 else _getter_of_few(names)
    records = {
        at: _getter(check.check.kind)
        for at, check in enumerate(checks_of(kind)[0])
        if isinstance(check, Items) and isinstance(check.check, Record)
    }
    if not records:
        return plain

    def with_records(value: Any) -> Values:
        values = list(plain(value))
        for at, getter in records.items():
            values[at] = tuple(map(getter, values[at]))  # type: ignore[call-overload]
        return values

    return with_records


def _getter_of_few(names: list[str]) -> Callable[[Any], Values]:
    """Since attrgetter makes no tuple of a single value."""
    return lambda value: tuple(getattr(value, name) for name in names)


FromHost: TypeAlias = (
    from_host.Hello
    | from_host.Announce
    | from_host.Join
    | from_host.Need
    | from_host.Progress
    | from_host.Length
    | from_host.LeasePieces
    | from_host.LeaseEnded
    | from_host.DigestReport
    | from_host.Sealed
    | from_host.Disproved
    | from_host.Corrupt
    | from_host.NeighbourFailed
    | from_host.Leave
    | from_host.Bye
    | from_host.TagLookup
    | from_host.TagAnswer
    | from_host.SpotChecked
    | from_host.PreheatReport
    | from_host.Priority
    | from_host.Pulled
    | InlineBlob
)
ToHost: TypeAlias = (
    to_host.Welcome
    | to_host.Joined
    | to_host.Sized
    | to_host.Neighbours
    | to_host.Lease
    | to_host.LeaseRevoked
    | to_host.PieceDigests
    | to_host.RequestDigests
    | to_host.Reset
    | to_host.OriginRefused
    | to_host.Failed
    | to_host.Quarantined
    | to_host.TagQuery
    | to_host.TagResult
    | to_host.Gateway
    | to_host.Unreachable
    | to_host.SpotCheck
    | to_host.Revoked
    | to_host.Preheat
    | to_host.PreheatEnded
    | to_host.Schedulers
    | InlineBlob
)
OnLink: TypeAlias = link.LinkHello | link.PieceKey | link.LinkMessage

Message = TypeVar("Message")


class Codec(Generic[Message]):
    """Encodes and decodes the messages of one direction."""

    def __init__(self, types: Mapping[int, type[Any]]) -> None:
        self.types: Final = types
        self._numbers: Final = {kind: (number, _getter(kind)) for number, kind in types.items()}

    def encode(self, message: Message) -> bytes:
        """The frame of a message. Raises ProtocolError if the frame would be too long."""
        kind = type(message)
        number, getter = self._numbers[kind]
        frame: bytes = _PACKER.pack((number, *getter(message)))
        if len(frame) > MAX_FRAME_BYTES:
            raise ProtocolError(f"{kind.__name__} makes a frame of {len(frame)} bytes, over {MAX_FRAME_BYTES}")
        return frame

    def encode_checked(self, message: Message) -> bytes:
        """The frame of a message that a receiver accepts. Raises ProtocolError if a field is beyond its bounds."""
        frame = self.encode(message)
        self.decode(frame)
        return frame

    def encode_all(self, messages: Iterable[Message]) -> Iterator[bytes]:
        """As few frames as hold the messages, in order, for a reader that takes batches. Raises ProtocolError."""
        batch: list[bytes] = []
        for frame in map(self.encode, messages):
            if batch and (len(batch) == MAX_BATCH or sum(map(len, batch)) + len(frame) > BATCH_BYTES):
                yield _batch(batch)
                batch = []
            batch.append(frame)
        if batch:
            yield _batch(batch)

    def decode(self, frame: bytes) -> Message | Unknown:
        """The message of a frame. Raises ProtocolError."""
        return self._message(_values(frame))

    def decode_all(self, frame: bytes) -> list[Message | Unknown]:
        """The messages of a frame, which may be a batch. Raises ProtocolError."""
        values = _values(frame)
        if values[0] != BATCH:
            return [self._message(values)]
        if len(values) > 1 + MAX_BATCH:
            raise ProtocolError(f"a batch of {len(values) - 1} messages, over {MAX_BATCH}")
        return [self._message(_typed(each)) for each in values[1:]]

    def _message(self, values: tuple[Any, ...]) -> Message | Unknown:
        kind = self.types.get(values[0])
        if kind is None:
            return Unknown(values[0])
        message: Message = read(kind, values[1:])
        return message


def _batch(frames: Sequence[bytes]) -> bytes:
    """One frame of those of several messages. That of a single one is as any."""
    if len(frames) == 1:
        return frames[0]
    header: bytes = _PACKER.pack_array_header(1 + len(frames))
    return b"".join((header, bytes((BATCH,)), *frames))


def _values(frame: bytes) -> tuple[Any, ...]:
    """What a frame holds: a type, and what follows. Raises ProtocolError."""
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(frame)} bytes, over {MAX_FRAME_BYTES}")
    try:
        values = msgpack.unpackb(
            frame,
            use_list=False,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=MAX_FRAME_BYTES,
            max_array_len=4096,
            max_map_len=64,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack's own errors have no common base, and a frame may provoke any of them
        raise ProtocolError(f"not MessagePack within bounds ({type(error).__name__})") from None
    return _typed(values)


def _typed(values: object) -> tuple[Any, ...]:
    if type(values) is not tuple or not values or type(values[0]) is not int:
        raise ProtocolError("not an array that starts with a message type")
    return values


FROM_HOST: Final[Codec[FromHost]] = Codec(
    {
        1: from_host.Hello,
        2: from_host.Announce,
        3: from_host.Join,
        4: from_host.Progress,
        5: from_host.Length,
        6: from_host.LeasePieces,
        7: from_host.LeaseEnded,
        8: from_host.DigestReport,
        9: from_host.Sealed,
        10: from_host.Disproved,
        11: from_host.Corrupt,
        12: from_host.NeighbourFailed,
        13: from_host.Leave,
        14: from_host.Bye,
        15: from_host.TagLookup,
        16: from_host.TagAnswer,
        17: InlineBlob,
        18: from_host.Need,
        19: from_host.SpotChecked,
        20: from_host.PreheatReport,
        21: from_host.Pulled,
        22: from_host.Priority,
    }
)
"""Host to scheduler."""

TO_HOST: Final[Codec[ToHost]] = Codec(
    {
        33: to_host.Welcome,
        34: to_host.Joined,
        35: to_host.Sized,
        36: to_host.Neighbours,
        37: to_host.Lease,
        38: to_host.LeaseRevoked,
        39: to_host.PieceDigests,
        40: to_host.RequestDigests,
        41: to_host.Reset,
        42: to_host.OriginRefused,
        43: to_host.Failed,
        44: to_host.Quarantined,
        45: to_host.TagQuery,
        46: to_host.TagResult,
        47: InlineBlob,
        48: to_host.Gateway,
        49: to_host.Unreachable,
        50: to_host.Revoked,
        51: to_host.SpotCheck,
        52: to_host.Preheat,
        53: to_host.PreheatEnded,
        54: to_host.Schedulers,
    }
)
"""Scheduler to host."""

LINK: Final[Codec[OnLink]] = Codec(
    {
        65: link.LinkHello,
        66: link.Bitfield,
        67: link.Have,
        68: link.DontHave,
        69: link.Unchoke,
        70: link.PieceKey,
    }
)
"""Neighbour to neighbour."""
