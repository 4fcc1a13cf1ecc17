"""What hosts send nearly always, read without wsproto: whole messages, pings and pongs, each one frame and not cut.

wsproto takes some 60 function calls for a frame. A host that joins, or that answers a ping, sends one.

Rules:
1. A read is taken here only as a whole: if it is anything but whole frames of these kinds, wsproto has all of it.
   So every refusal, and whatever is cut, fragmented or closes a connection, is wsproto's.
2. wsproto has to be between two frames. `owed_after` follows that through the reads that wsproto has had. Where it
   cannot tell, wsproto has all further reads of the connection.
"""

from __future__ import annotations

from typing import Final

MESSAGE: Final = 0x82
"""The first byte of a binary message in one frame (RFC 6455, 5.2)."""

PING: Final = 0x89
PONG: Final = 0x8A

_FINAL: Final = 0x80
_MASKED: Final = 0x80
_MASK_BYTES: Final = 4
_SHORT: Final = 125
"""The longest payload whose length is in the second byte. No ping is longer."""

MAX_FRAMES: Final = 64
"""In a read. More are looked at one by one, so that a flood ends where it is above what its host may send."""

_IN_TWO_BYTES: Final = 126
_IN_EIGHT_BYTES: Final = 127


def whole_frames(data: bytes) -> list[tuple[int, bytes]] | None:
    """The frames that `data` consists of, each with its first byte and its payload; None if wsproto has to read it."""
    frames: list[tuple[int, bytes]] = []
    at, size = 0, len(data)
    while at < size:
        start = at + 2
        if len(frames) == MAX_FRAMES or size < start + _MASK_BYTES:
            return None
        if (kind := data[at]) not in (MESSAGE, PING, PONG):
            return None
        length = data[at + 1] ^ _MASKED
        if length == _IN_TWO_BYTES and kind == MESSAGE:
            length = int.from_bytes(data[start : start + 2], "big")
            start += 2
            if length <= _SHORT:
                return None
        elif length > _SHORT:
            return None
        start += _MASK_BYTES
        at = start + length
        if at > size:
            return None
        mask = data[start - _MASK_BYTES : start] * (length // _MASK_BYTES + 1)
        masked = int.from_bytes(data[start:at], "little")
        plain = masked ^ int.from_bytes(mask[:length], "little")
        frames.append((kind, plain.to_bytes(length, "little")))
    return frames


def owed_after(owed: int | None, data: bytes) -> int | None:
    """How many bytes of a frame are still to come after `data`, if `owed` were to come before it; None: unknown.

    Unknown it is inside the head of a frame, and from a message in several frames on.
    """
    if owed is None:
        return None
    at, size = owed, len(data)
    while at < size:
        if size - at < 2 or not data[at] & _FINAL:
            return None
        length, start = data[at + 1] & ~_MASKED, at + 2
        wide = {_IN_TWO_BYTES: 2, _IN_EIGHT_BYTES: 8}.get(length, 0)
        if wide:
            length = int.from_bytes(data[start : start + wide], "big")
        at = start + wide + _MASK_BYTES
        if at > size:
            return None
        at += length
    return at - size
