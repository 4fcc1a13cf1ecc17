"""A host that loads the scheduler: a connection, what it says, and how it answers.

A host must cost less than the scheduler, which does real work for each of its messages. So it makes frames by hand,
with a mask of zeros, and reads only the type of an incoming message. Only leases and spot checks are decoded, because
they need an answer.

Rules:
1. A host that gets a lease publishes its pieces at once, and one that gets a spot check finds the piece right: the
   scheduler never waits for an origin.
2. A host answers pings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from scheduler.protocol.codec import FROM_HOST, TO_HOST, FromHost
from scheduler.protocol.connection import PATH
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Hello, LeasePieces, SpotChecked, SpotResult
from scheduler.protocol.to_host import Failed, Joined, Lease, SpotCheck, Welcome

_BINARY, _CLOSE, _PING, _PONG = 0x82, 0x88, 0x89, 0x8A
_ZERO_MASK = bytes(4)
_NUMBERS = {kind: number for number, kind in TO_HOST.types.items()}
_WELCOME, _JOINED, _LEASE, _SPOT_CHECK, _FAILED = (
    _NUMBERS[kind] for kind in (Welcome, Joined, Lease, SpotCheck, Failed)
)

_UPGRADE = (
    f"GET {PATH} HTTP/1.1\r\nHost: scheduler\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """A WebSocket frame in a client's form (RFC 6455, 5.2). A mask of zeros changes nothing."""
    length = len(payload)
    if length < 126:
        return bytes((opcode, 0x80 | length)) + _ZERO_MASK + payload
    return bytes((opcode, 0x80 | 126)) + length.to_bytes(2, "big") + _ZERO_MASK + payload


_PING_FRAME: Final = frame(_PING, b"")


class LoadHost(asyncio.Protocol):
    """A host's connection. `on_answer` is called for Welcome, Joined and a pong."""

    __slots__ = (
        "_features",
        "_name",
        "_received",
        "_transport",
        "_upgraded",
        "asked_at",
        "failures",
        "heard",
        "joined_at",
        "lost",
        "on_answer",
        "pings",
        "published",
        "resumed",
        "said",
    )

    def __init__(self, name: str, features: tuple[str, ...] = ()) -> None:
        self.on_answer: Callable[[LoadHost], None] = nothing
        self.joined_at = 0.0
        self.asked_at = 0.0
        self.published = 0
        self.said = self.heard = self.failures = 0
        """Messages to the scheduler and from it, and those of the latter that say that a blob has failed."""
        self.pings = 0
        """Heartbeats of the scheduler that were answered."""
        self.resumed = False
        """Whether the connection is a resumed session of TLS."""
        self._name = name
        self._features = features
        self._received = b""
        self._upgraded = False
        self._transport: asyncio.Transport | None = None
        self.lost: Exception | None = None

    @property
    def is_connected(self) -> bool:
        return self._transport is not None

    def says(self, *messages: FromHost) -> None:
        self.sends([framed(message) for message in messages])

    def sends(self, frames: Sequence[bytes]) -> None:
        """Send messages that are framed already. A host whose connection was lost has its answer with that."""
        if self._transport is None:
            asyncio.get_running_loop().call_soon(self._answered)
            return
        self.said += len(frames)
        if frames:
            self._transport.write(b"".join(frames))

    def joins(self, message: bytes) -> None:
        """Send a frame that holds Join."""
        self.asked_at = time.perf_counter()
        self.sends((message,))

    def ping(self) -> None:
        """Send a ping. Its pong comes after the scheduler has handled all earlier messages."""
        if self._transport is not None:
            self._transport.write(_PING_FRAME)

    def leave(self) -> None:
        self.on_answer = nothing
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is one in all but inheritance
        self._transport.write(_UPGRADE)  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost = self.lost or exc or ConnectionError(f"the scheduler hung up on {self._name}")
        self.on_answer(self)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        at = 0
        if not self._upgraded:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                self._received = received
                return
            at, self._upgraded = end + 4, True
            self.says(Hello(self._name, 1, 1, f"{self._name}:1", features=self._features))
        while len(received) - at >= 2:
            opcode, length, start = received[at], received[at + 1], at + 2
            if length >= 126:
                extended = 2 if length == 126 else 8
                if len(received) < start + extended:
                    break
                length = int.from_bytes(received[start : start + extended], "big")
                start += extended
            if len(received) < start + length:
                break
            at = start + length
            self._take(opcode, received, start, at)
        self._received = received[at:]

    def _take(self, opcode: int, received: bytes, start: int, stop: int) -> None:
        assert self._transport is not None
        if opcode == _BINARY:
            kind = received[start + 1]  # after the head of a short array; types are below 128
            self.heard += 1
            if kind == _LEASE:
                self._publish(received[start:stop])
            elif kind == _SPOT_CHECK:
                self._check(received[start:stop])
            elif kind == _FAILED:
                self.failures += 1
            elif kind in (_WELCOME, _JOINED):
                self.joined_at = time.perf_counter()
                self.on_answer(self)
        elif opcode == _PING:
            self.pings += 1
            self._transport.write(frame(_PONG, received[start:stop]))
        elif opcode == _PONG:
            self.on_answer(self)
        elif opcode == _CLOSE:
            why = received[start + 2 : stop].decode(errors="replace")  # after the code
            self.lost = ConnectionError(f"the scheduler hung up on {self._name}: {why}")
            self._transport.abort()

    def _answered(self) -> None:
        self.on_answer(self)

    def _publish(self, message: bytes) -> None:
        lease = TO_HOST.decode(message)
        assert isinstance(lease, Lease)
        pieces = range(lease.first, lease.stop)
        self.published += len(pieces)
        self.says(*(LeasePieces(lease.lease, lease.digest, piece, digest_of(piece)) for piece in pieces))

    def _check(self, message: bytes) -> None:
        check = TO_HOST.decode(message)
        assert isinstance(check, SpotCheck)
        self.says(SpotChecked(check.digest, check.generation, check.piece, SpotResult.RIGHT))


def framed(message: FromHost) -> bytes:
    """A message as a host sends it."""
    return frame(_BINARY, FROM_HOST.encode(message))


def digest_of(piece: int) -> bytes:
    """A made-up digest of a piece, which all hosts claim."""
    return piece.to_bytes(DIGEST_BYTES, "big")


def nothing(_: LoadHost) -> None:
    """The answer is not waited for."""
