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

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar, get_args

import msgspec

from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.fields import MAX_FRAME_BYTES, ProtocolError, Record


class Unknown(Record, frozen=True):
    """A message of a type that this version does not know. The receiver ignores it."""

    type: int


BATCH: Final = 71
"""Stands for the type in a frame of several messages."""

MAX_BATCH: Final = 64
BATCH_BYTES: Final = 16 * 1024
"""As many messages a frame has at most; and the bytes at which the next message begins another frame."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_UNKNOWN: Final = msgspec.msgpack.Decoder(Unknown)
_BATCH: Final = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=1 + MAX_BATCH)])
_PLACE: Final = re.compile(r" - at `\$\[(\d+)\].*")
"""How msgspec's errors end: the number of the field."""

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
    | from_host.InlineBlob
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
    | to_host.InlineBlob
)
OnLink: TypeAlias = link.LinkHello | link.PieceKey | link.LinkMessage

Message = TypeVar("Message")


class Codec(Generic[Message]):
    """Encodes and decodes the messages of one direction, which are given as their union."""

    def __init__(self, messages: Any) -> None:
        kinds = sorted(get_args(messages), key=lambda kind: kind.__struct_config__.tag)
        self.types: Final[Mapping[int, type[Any]]] = {kind.__struct_config__.tag: kind for kind in kinds}
        self._decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(messages)

    def encode(self, message: Message) -> bytes:
        """The frame of a message. Raises ProtocolError if the frame would be too long."""
        frame = _ENCODER.encode(message)
        if len(frame) > MAX_FRAME_BYTES:
            raise ProtocolError(f"{type(message).__name__} makes a frame of {len(frame)} bytes, over {MAX_FRAME_BYTES}")
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
        if len(frame) > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {len(frame)} bytes, over {MAX_FRAME_BYTES}")
        try:
            return self._decoder.decode(frame)
        except (ValueError, RecursionError) as error:
            unknown = _unknown(frame)
            kind = self.types.get(unknown.type)
            if kind is None:
                return unknown
            names = ("type", *kind.__struct_fields__)
            said = _PLACE.sub(lambda place: f", in {names[int(place[1])]}", str(error))
            raise ProtocolError(f"{kind.__name__}: {said}") from None

    def decode_all(self, frame: bytes) -> list[Message | Unknown]:
        """The messages of a frame, which may be a batch. Raises ProtocolError."""
        message = self.decode(frame)
        if not isinstance(message, Unknown) or message.type != BATCH:
            return [message]
        try:
            _, *parts = _BATCH.decode(frame)
        except ValueError:
            raise ProtocolError(f"a batch of more than {MAX_BATCH} messages") from None
        return [self.decode(bytes(part)) for part in parts]


def _batch(frames: Sequence[bytes]) -> bytes:
    """One frame of those of several messages. That of a single one is as any."""
    return frames[0] if len(frames) == 1 else _ENCODER.encode([BATCH, *map(msgspec.Raw, frames)])


def _unknown(frame: bytes) -> Unknown:
    """A frame as a message of which nothing but its type is known. Raises ProtocolError."""
    try:
        return _UNKNOWN.decode(frame)
    except (ValueError, RecursionError):
        raise ProtocolError("not a MessagePack array that starts with a message type") from None


FROM_HOST: Final[Codec[FromHost]] = Codec(FromHost)
"""Host to scheduler."""

TO_HOST: Final[Codec[ToHost]] = Codec(ToHost)
"""Scheduler to host."""

LINK: Final[Codec[OnLink]] = Codec(OnLink)
"""Neighbour to neighbour."""
