"""One host's WebSocket, from bytes to messages' frames and back.

Rules:
1. It has no task and no queue of its own: what a host has not read yet is in the transport's buffer, whose size is
   bounded by cutting off a host that lets it grow. 10,000 idle connections cost a few KiB each (a task, a queue and an
   HTTP request that stay for each of them cost 19; that is what aiohttp's server takes).
2. RFC 6455 is wsproto's to know, but for the head of a message that we send (`framed`): the same message goes to many
   hosts, and is framed once. What we refuse beyond the RFC: messages over MAX_FRAME_BYTES, and text.
3. `ConnectionOwner` hears of a connection once it is open, of each binary message, and once of its end.
4. Who does not ask for a WebSocket at the right path is told so in plain HTTP: it is a person with a browser or curl, a
   probe, or a host that was given the wrong port.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.fields import MAX_FRAME_BYTES

_WHAT_THIS_IS: Final = (
    f"This is the port of a p2pd scheduler. It serves hosts, by WebSocket at {PATH}, and nothing else: "
    f"give its address to `p2pd run --scheduler`.\n"
).encode()

MAX_REASON_BYTES: Final = 123
"""What a WebSocket close frame has room for (RFC 6455, 5.5)."""


class ConnectionOwner(Protocol):
    """Whom a connection reports to."""

    def now(self) -> float:
        """The time in seconds."""
        ...

    def opened(self, connection: HostConnection) -> None:
        """The bytes begin."""
        ...

    def received(self, connection: HostConnection, frame: bytes) -> None:
        """A whole message has come."""
        ...

    def failed(self, connection: HostConnection, closing: Closing, reason: str) -> None:
        """The host broke the rules of WebSockets, or ours about them."""
        ...

    def lost(self, connection: HostConnection) -> None:
        """The bytes have ended."""
        ...


class HostConnection(asyncio.Protocol):
    """The server's end of a WebSocket."""

    __slots__ = (
        "_frames", "_handshake", "_owner", "_partial", "_transport", "address", "allowance", "counted_at", "ended_at",
        "greeted", "heard_at", "number", "opened_at", "pinged",
    )  # fmt: skip

    def __init__(self, owner: ConnectionOwner, number: int, allowance: float) -> None:
        self.number: Final = number
        self.address = "?"
        """Where it comes from, for logs."""
        self.greeted = False
        """Whether the host has said Hello."""
        self.opened_at = self.heard_at = self.counted_at = owner.now()
        self.pinged = False
        self.ended_at: float | None = None
        """When we ended it; nothing that comes is heard any more."""
        self.allowance = allowance
        """How many messages the host may send at once, from `counted_at` on."""
        self._owner: Final = owner
        self._transport: asyncio.Transport | None = None
        self._handshake: H11Handshake | None = H11Handshake(ConnectionType.SERVER)
        self._frames: Frames | None = None
        self._partial = b""

    @property
    def waiting_bytes(self) -> int:
        """How much was sent that the host has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def send(self, message: bytes) -> None:
        """Send a message, which was `framed`."""
        if self._frames is not None and self._frames.state is ConnectionState.OPEN and self._transport is not None:
            self._transport.write(message)

    def ping(self) -> None:
        """Ask a silent host for a sign of life."""
        self.pinged = True
        if self._frames is not None and self._frames.state is ConnectionState.OPEN and self._transport is not None:
            self._transport.write(self._frames.send(Ping()))

    def close(self, closing: Closing, reason: str) -> None:
        """End the connection in order: the host is told why, and hangs up."""
        if self.ended_at is not None or self._transport is None:
            return
        self.ended_at = self._owner.now()
        if self._frames is not None and self._frames.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._transport.write(self._frames.send(CloseConnection(closing, _cut(reason))))
        else:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but inheritance
        peer = transport.get_extra_info("peername")
        self.address = f"{peer[0]}:{peer[1]}" if peer else "?"
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the reason is in no way ours to act on
        self._transport = None
        self._owner.lost(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._owner.now()
        self.pinged = False
        try:
            if self._frames is not None:
                if self._frames.state is not ConnectionState.CLOSED:
                    self._frames.receive_data(data)
            elif self.ended_at is None:
                self._shake_hands(data)
            self._take_frames()
        except (RemoteProtocolError, UnicodeError) as error:  # the second is what wsproto lets out of odd headers
            if self._frames is None:
                self._refuse(b"426 Upgrade Required\r\nUpgrade: websocket", str(error))
            else:
                self._owner.failed(self, Closing.MALFORMED, str(error))

    def _shake_hands(self, data: bytes) -> None:
        assert self._handshake is not None
        assert self._transport is not None
        self._handshake.receive_data(data)
        for event in self._handshake.events():
            if not isinstance(event, Request):
                continue
            if event.target != PATH:
                self._refuse(b"404 Not Found", "asks for another path")
                return
            self._transport.write(self._handshake.send(AcceptConnection()))
            self._frames, self._handshake = self._handshake.connection, None
            return

    def _refuse(self, status: bytes, reason: str) -> None:
        """Answer a request that is not one for our WebSocket, and hang up."""
        if self._transport is not None:
            head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(head % (status, len(_WHAT_THIS_IS)) + _WHAT_THIS_IS)
            self._owner.failed(self, Closing.MALFORMED, reason)

    def _take_frames(self) -> None:
        if self._frames is None or self._transport is None:
            return
        for event in self._frames.events():
            if isinstance(event, Ping):
                self._transport.write(self._frames.send(event.response()))
            elif isinstance(event, CloseConnection):
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    self._transport.write(self._frames.send(event.response()))
                elif self._frames.state is ConnectionState.OPEN:  # wsproto's way to say that it cannot read on
                    self._owner.failed(self, Closing.MALFORMED, event.reason or "not a frame of a WebSocket")
                self._transport.close()
                return
            elif self.ended_at is not None:
                continue
            elif isinstance(event, TextMessage):
                self._owner.failed(self, Closing.MALFORMED, "messages are binary frames of MessagePack")
            elif isinstance(event, BytesMessage):
                self._take_part(event)

    def _take_part(self, event: BytesMessage) -> None:
        """A message may come in parts, as frames and as the network cuts it."""
        self._partial += event.data
        if len(self._partial) > MAX_FRAME_BYTES:
            self._partial = b""
            self._owner.failed(self, Closing.OVERSIZED, f"a message of more than {MAX_FRAME_BYTES} bytes")
        elif event.message_finished:
            frame, self._partial = self._partial, b""
            self._owner.received(self, frame)


def framed(message: bytes) -> bytes:
    """A message as one frame from server to client, which has no mask (RFC 6455, 5.2)."""
    length = len(message)
    if length < 126:
        return b"\x82%c%b" % (length, message)
    if length < 1 << 16:
        return b"\x82\x7e%b%b" % (length.to_bytes(2, "big"), message)
    return b"\x82\x7f%b%b" % (length.to_bytes(8, "big"), message)


def _cut(reason: str) -> str:
    """As much of a text as fits, without half a character at its end."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
