"""One host's WebSocket: bytes become the frames of messages, and frames become bytes.

Rules:
1. A connection has no task and no queue. Unread messages stay in the transport's buffer, and a host that lets this
   buffer grow too large is disconnected. 10,000 idle connections cost a few KiB each. With a task, a queue and an HTTP
   request for each connection, as in aiohttp's server, a connection costs 19 KiB.
2. wsproto implements RFC 6455, except the head of a message or a ping that we send (`framed`), because a message to
   many hosts is framed once, and reads of whole frames (`scheduler.shell.whole_frames`), which nearly all are. Beyond
   the RFC, we refuse text messages and messages over MAX_FRAME_BYTES.
3. Every frame counts: one that ends no message (a part of a message, a ping, a pong) is counted by the owner like a
   message. Of a connection that we have ended, only so many frames are looked at as the host was still allowed.
4. A message that is begun is soon to be ended, and the beginnings of all messages have a bound in all (`server`).
5. The `ConnectionOwner` is told when a connection opens, for each binary message, and once when the connection ends.
6. A request that does not ask for a WebSocket at the right path gets an explanation in plain HTTP. Its sender is a
   person with a browser or curl, a probe, or a host that was given the wrong port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from scheduler.core.members import network_of
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.fields import MAX_FRAME_BYTES
from scheduler.shell.whole_frames import MESSAGE, PING, owed_after, whole_frames

if TYPE_CHECKING:
    from ssl import SSLContext

    from scheduler.trust.identity import PeerIdentity

_WHAT_THIS_IS: Final = (
    f"This is the port of a p2pd scheduler. It serves hosts, by WebSocket at {PATH}, and nothing else: "
    f"give its address to `p2pd run --scheduler`.\n"
).encode()

MAX_HELLO_BYTES: Final = 16 * 1024
"""The longest first message: three times what a Hello can be."""

_PING: Final = b"\x89\x00"
"""A ping without a payload: a whole frame, which has no mask (RFC 6455, 5.2)."""

_ASKING: Final = b"\x89\x08"
"""The head of a ping that has a number."""

_END_OF_HEAD: Final = b"\r\n\r\n"

NUMBER_BYTES: Final = 8
"""Of the number in a ping that is an `ask`. Other pings have none."""

MAX_REASON_BYTES: Final = 123
"""The bytes of a reason that fit into a WebSocket close frame (RFC 6455, 5.5)."""


class ConnectionOwner(Protocol):
    """The server that a connection reports to."""

    def now(self) -> float:
        """The time in seconds."""
        ...

    def opened(self, connection: HostConnection) -> None:
        """The connection has opened."""
        ...

    def may_send(self, connection: HostConnection, cost: int) -> bool:
        """Count what the host sends. Returns whether it was allowed."""
        ...

    def partly_received(self, connection: HostConnection, grown_bytes: int) -> None:
        """The beginning of a message is so much longer; negative when it has ended."""
        ...

    def received(self, connection: HostConnection, frame: bytes) -> None:
        """A whole message has arrived."""
        ...

    def answered(self, connection: HostConnection, number: int) -> None:
        """The host has answered an `ask`, after whatever it had said before."""
        ...

    def failed(self, connection: HostConnection, closing: Closing, reason: str) -> None:
        """The host broke the rules of WebSockets, or our bounds."""
        ...

    def lost(self, connection: HostConnection) -> None:
        """The connection has ended."""
        ...


class HostConnection(asyncio.Protocol):
    """The server's end of a WebSocket."""

    __slots__ = (
        "_frames",
        "_handshake",
        "_owed",
        "_owner",
        "_partial",
        "_told",
        "_transport",
        "_write",
        "address",
        "allowance",
        "begun_at",
        "context",
        "counted_at",
        "deaf",
        "ended_at",
        "greeted",
        "has_spoken",
        "heard_at",
        "host",
        "host_id",
        "network",
        "number",
        "opened_at",
        "peer",
        "pinged",
        "probed_at",
        "unread_bytes",
        "unread_since",
    )  # fmt: skip

    def __init__(self, owner: ConnectionOwner, number: int, allowance: float) -> None:
        self.number: Final = number
        self.address = "?"
        """The address and port that the connection comes from, for logs."""
        self.host = ""
        """The address without the port."""
        self.network = ""
        """What of addresses one machine has, and so this one: `scheduler.core.members.network_of`."""
        self.peer: PeerIdentity | None = None
        """Who the certificate says that the host is; None without one (`scheduler.shell.doorway`)."""
        self.context: SSLContext | None = None
        """What its TLS was made with."""
        self.greeted = False
        """Whether the host has sent Hello."""
        self.has_spoken = False
        """Whether the host has sent anything after Hello."""
        self.unread_bytes = 0
        """The sent bytes that the host had not read when this was last looked at."""
        self.unread_since = 0.0
        """The time since which the host has not read anything of them."""
        self.host_id = ""
        """The host id in Hello."""
        self.opened_at = self.heard_at = self.counted_at = owner.now()
        self.pinged = False
        self.probed_at: float | None = None
        """The time at which it was asked for a sign of life. None once there was one."""
        self.ended_at: float | None = None
        """The time at which we ended the connection. Later messages are ignored."""
        self.allowance = allowance
        """The messages that the host may send at once, counted from `counted_at` on."""
        self._owner: Final = owner
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], object] | None = None
        """The transport's, from the handshake to the beginning of the end."""
        self._handshake: H11Handshake | None = H11Handshake(ConnectionType.SERVER)
        self._frames: Frames | None = None
        self._owed: int | None = None
        """The bytes that `_frames` lacks of a frame that has begun; None: unknown."""
        self._partial = bytearray()
        self._told = 0
        """The bytes of it that the owner knows of."""
        self.begun_at: float | None = None
        """The time at which the message began that has not ended yet."""
        self.deaf = False
        """Whether what comes is not even looked at any more."""

    @property
    def waiting_bytes(self) -> int:
        """The sent bytes that the host has not read yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def send(self, message: bytes) -> None:
        """Send messages that were `framed`, or pings."""
        if self._write is not None:
            self._write(message)

    def ping(self) -> None:
        """Send a silent host a ping."""
        self.pinged = True
        self.send(_PING)

    def probe(self) -> None:
        """Ask a host for a sign of life."""
        if self.probed_at is None:
            self.probed_at = self._owner.now()
            self.ping()

    def ask(self, number: int) -> None:
        """Send a ping that the owner is told the answer to. `number` fits into 64 bits."""
        self.send(_ASKING + number.to_bytes(NUMBER_BYTES, "big"))

    def close(self, closing: Closing, reason: str) -> None:
        """Tell the host the reason, and wait for the host to hang up."""
        if self.ended_at is not None or self._transport is None:
            return
        self.ended_at = self._owner.now()
        self._write = None
        if self._frames is not None and self._frames.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._transport.write(self._frames.send(CloseConnection(closing, _cut(reason))))
        else:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def go_on(self, transport: asyncio.Transport) -> None:
        """Use another transport from now on. Nothing has been received yet."""
        self._transport = transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
        peer = transport.get_extra_info("peername")
        if peer:
            self.host, self.address = peer[0], f"{peer[0]}:{peer[1]}"
            self.network = network_of(self.host)
        self._owner.opened(self)

    @property
    def begun_bytes(self) -> int:
        """The length of the beginning of a message that has not ended yet."""
        return len(self._partial)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  every loss is handled alike
        self._transport = self._write = None
        self._forget_part()
        self._owner.lost(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._owner.now()
        self.pinged = False
        self.probed_at = None
        if self.deaf:
            return
        try:
            if self._frames is not None:
                if self._frames.state is ConnectionState.OPEN and self._owed == 0 and self._took_whole(data):
                    return
                if self._frames.state is not ConnectionState.CLOSED:
                    self._owed = owed_after(self._owed, data)
                    self._frames.receive_data(data)
            elif self.ended_at is None:
                self._shake_hands(data)
            self._take_frames()
        except (RemoteProtocolError, UnicodeError) as error:  # wsproto lets UnicodeError out of odd headers
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
            self._write = self._transport.write
            self._owed = 0 if data.partition(_END_OF_HEAD)[1:] == (_END_OF_HEAD, b"") else None
            return

    def _refuse(self, status: bytes, reason: str) -> None:
        """Answer a request for anything but our WebSocket, and hang up."""
        if self._transport is not None:
            head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(head % (status, len(_WHAT_THIS_IS)) + _WHAT_THIS_IS)
            self._owner.failed(self, Closing.MALFORMED, reason)

    def _took_whole(self, data: bytes) -> bool:
        """Take what came if it is whole messages, pings and pongs. Returns whether it is."""
        frames = whole_frames(data)
        if frames is None:
            return False
        for kind, payload in frames:
            if (kind != MESSAGE or self.ended_at is not None) and not self._owner.may_send(self, 1):
                self._end_flood()
                return True
            if self.ended_at is not None:
                continue
            if kind == MESSAGE:
                self._owner.received(self, payload)
            elif kind == PING:
                self.send(b"\x8a%c%b" % (len(payload), payload))
            else:
                self._take_pong(payload)
        return True

    def _end_flood(self) -> None:
        self.deaf = True
        self._forget_part()
        self._owner.failed(self, Closing.FLOODING, "more frames a second than a host may send")

    def _take_frames(self) -> None:
        if self._frames is None or self._transport is None:
            return
        for event in self._frames.events():
            if not self._is_allowed(event):
                self._end_flood()
                return
            if isinstance(event, Ping):
                if self.ended_at is None:
                    self._transport.write(self._frames.send(event.response()))
            elif isinstance(event, CloseConnection):
                self._write = None
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    self._transport.write(self._frames.send(event.response()))
                elif self._frames.state is ConnectionState.OPEN:  # wsproto's event for a frame that it cannot read
                    self._owner.failed(self, Closing.MALFORMED, event.reason or "not a frame of a WebSocket")
                self._transport.close()
                return
            elif self.ended_at is None:
                self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, BytesMessage):
            self._take_part(event)
        elif isinstance(event, TextMessage):
            self._owner.failed(self, Closing.MALFORMED, "messages are binary frames of MessagePack")
        elif isinstance(event, Pong):
            self._take_pong(event.payload)

    def _take_pong(self, payload: bytes) -> None:
        if len(payload) == NUMBER_BYTES:
            self._owner.answered(self, int.from_bytes(payload, "big"))

    def _take_part(self, event: BytesMessage) -> None:
        """Collect a message from its parts: frames, cut again by the network."""
        if event.message_finished and not self._partial and len(event.data) <= MAX_FRAME_BYTES:
            self.begun_at = None
            self._owner.received(self, bytes(event.data))
            return
        self._partial += event.data
        most = MAX_FRAME_BYTES if self.greeted else MAX_HELLO_BYTES
        if len(self._partial) > most:
            self._forget_part()
            self._owner.failed(self, Closing.OVERSIZED, f"a message of more than {most} bytes")
        elif event.message_finished:
            frame = bytes(self._partial)
            self._forget_part()
            self._owner.received(self, frame)
        else:
            if self.begun_at is None:
                self.begun_at = self._owner.now()
            grown, self._told = len(self._partial) - self._told, len(self._partial)
            self._owner.partly_received(self, grown)

    def _forget_part(self) -> None:
        """Drop the beginning of a message."""
        told, self._told = self._told, 0
        self._partial = bytearray()
        self.begun_at = None
        if told:
            self._owner.partly_received(self, -told)

    def _is_allowed(self, event: Event) -> bool:
        """Whether the host may send this frame. A message is counted when it is received."""
        if isinstance(event, CloseConnection):
            return True
        if isinstance(event, Message) and (event.message_finished or not event.frame_finished):
            return self.ended_at is None or self._owner.may_send(self, 1)
        return self._owner.may_send(self, 1)


def framed(message: bytes) -> bytes:
    """A message as one frame from server to client. Such a frame has no mask (RFC 6455, 5.2)."""
    length = len(message)
    if length < 126:
        return b"\x82%c%b" % (length, message)
    if length < 1 << 16:
        return b"\x82\x7e%b%b" % (length.to_bytes(2, "big"), message)
    return b"\x82\x7f%b%b" % (length.to_bytes(8, "big"), message)


def _cut(reason: str) -> str:
    """The longest prefix that fits into a close frame and ends with a whole character."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
