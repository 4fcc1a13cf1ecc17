"""Requests to a neighbour's peer port: HTTP/1.1 over a blocking socket, for worker threads.

A swarm makes a request for each half MiB, so what a request costs beside its bytes counts. http.client writes any
request and reads any answer; the requests of this file and p2pd's answers to them have one form.

Rules:
1. A request is one `sendall`. The head of the answer is received into memory of the connection, with whatever of the
   body comes with it. The rest of the body goes into the caller's buffer.
2. An answer keeps to the grammar of RFC 9112. It has one Content-Length, no transfer coding, and a head of at most
   `MAX_HEAD_BYTES`, interim answers included. Anything else is an error, and ends the connection.
3. The idle connection that was used last is used next. If a kept connection ends before an answer has come, the request
   is sent once more, on a new connection.
4. Each error of a socket, of TLS or of an answer is a PeerGoneError.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from peer import tracing
from peer.errors import PeerGoneError
from peer.origin.dialing import Dialer
from peer.origin.http1 import LOW_WATER_BYTES, reason
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

MAX_HEAD_BYTES: Final = 8192
"""As nginx and Node.js have it. A head of p2pd's has 250 bytes."""

KEPT_CONNECTIONS: Final = 8
CONNECT_S: Final = 2.0
STALL_S: Final = 5.0
IDLE_S: Final = 60.0
"""Below the time after which a peer port closes an idle connection (`peer.net.http_connection.IDLE_S`)."""

HOST_HEADER: Final = "P2PD-Host"
"""Says which host asks for a piece, so that a host that chokes it can unchoke it later."""

CHOKED_HEADER: Final = "P2PD-Choked"
"""Comes with a piece from a host that has others to serve first now."""

_TIMEVAL: Final = struct.Struct("@ll")
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([1-5][0-9]{2})(?: [^\r\n\0]*)?((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*)*)"
)
_FIELDS: Final = re.compile(
    rb"\r\n(content-length|content-range|content-encoding|transfer-encoding|connection|p2pd-choked):([^\r\n]*)"
)
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_CONTENT_RANGE: Final = re.compile(rb"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")

Hold = Callable[[socket.socket | None], None]
"""Gets the socket of an exchange when it begins, and None at its end. To shut the socket down ends the exchange."""


class Head(Struct, frozen=True):
    """The head of an answer, as far as it counts. `span`: the first byte, the end and the whole length of a range."""

    status: int
    length: int
    span: tuple[int, int, int] | None = None
    is_coded: bool = False
    is_choked: bool = False
    keeps: bool = True


def parse_head(head: bytes | bytearray) -> Head:
    """Parse a status line and fields, without the empty line after them. Raises ValueError."""
    found = _HEAD.fullmatch(head)
    if found is None:
        raise ValueError("its answer is not HTTP/1.1")
    status, told = int(found[1]), _FIELDS.findall(found[2].lower())
    fields = {name: value.strip(b" \t") for name, value in told}
    if len(fields) < len(told) or b"transfer-encoding" in fields:
        raise ValueError("it is not clear where its answer ends")
    length = fields.get(b"content-length", b"0" if status < 200 else b"")
    if not _LENGTH.fullmatch(length):
        raise ValueError("its answer does not tell its length")
    span = _CONTENT_RANGE.fullmatch(fields.get(b"content-range", b""))
    return Head(
        status,
        int(length),
        None if span is None else (int(span[1]), int(span[2]) + 1, int(span[3])),
        is_coded=b"content-encoding" in fields,
        is_choked=b"p2pd-choked" in fields,
        keeps=b"close" not in fields.get(b"connection", b""),
    )


class _Connection:
    """Bytes `[begin, end)` of its memory have come with the head of an answer, and were not read yet."""

    __slots__ = ("_memory", "_view", "begin", "context", "end", "idle_since", "socket")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext | None) -> None:
        self.socket = connected
        self.context = context
        """What TLS was made with."""
        self._memory = bytearray(MAX_HEAD_BYTES)
        self._view = memoryview(self._memory)
        self.begin = self.end = 0
        self.idle_since = 0.0

    def read_head(self, deadline: float) -> Head:
        """The head of the final answer. Raises OSError, of that ConnectionError if there is no answer; ValueError."""
        self.begin = self.end = 0
        while True:
            stop = self._memory.find(b"\r\n\r\n", self.begin, self.end)
            if stop >= 0:
                head = parse_head(self._memory[self.begin : stop])
                self.begin = stop + 4
                if head.status >= 200:
                    return head
                continue
            if self.end == MAX_HEAD_BYTES:
                raise ValueError(f"the head of its answer has more than {MAX_HEAD_BYTES} bytes")
            if self.end and time.monotonic() > deadline:
                raise TimeoutError
            received = self.socket.recv_into(self._view[self.end :])
            if not received:
                raise ConnectionResetError("it closed the connection")
            self.end += received

    def receive(self, view: memoryview) -> int:
        """Receive into `view`: with TLS what has arrived, else all of it, or all but its last part.

        The thread is woken once `LOW_WATER_BYTES` have arrived. The last bytes alone would never wake it so.
        """
        if (held := min(len(view), self.end - self.begin)) > 0:
            view[:held] = self._view[self.begin : self.begin + held]
            self.begin += held
            return held
        if self.context is not None:
            return self.socket.recv_into(view)
        before_last = max(0, len(view) - LOW_WATER_BYTES)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW_WATER_BYTES if before_last else 1)
        return self.socket.recv_into(view[: before_last or len(view)], 0, socket.MSG_WAITALL)


class NeighbourClient:
    """A client for the peer port of `host` at `address`. `asking` is the host that asks: this one. From any thread.

    With `trust`, connections are TLS, and `host` is who its certificate says.
    """

    def __init__(self, host: str, address: str, asking: str, trust: HostTrust | None = None) -> None:
        self._host: Final = host
        self._address: Final = address
        self._trust: Final = trust
        self._fields: Final = f"Host: {address}\r\nUser-Agent: p2pd\r\n{HOST_HEADER}: {asking}\r\n"
        self._dialer: Final = Dialer()
        self._lock: Final = threading.Lock()
        self._idle: list[_Connection] = []  # the connection used last is the last
        self._busy: set[_Connection] = set()
        self._closed = False

    def get(self, target: str, fields: str = "", hold: Hold = lambda _: None) -> Answer:
        """Ask for `target`, and read the head of the answer. `fields` are lines of the request, each with its end.

        Raises PeerGoneError, and what `hold` raises.
        """
        context = tracing.outgoing.get()
        traced = f"{tracing.HEADER}: {context}\r\n" if context else ""
        request = f"GET {target} HTTP/1.1\r\n{self._fields}{fields}{traced}\r\n".encode("latin-1")
        try:
            kept = self._take()
            if kept is not None:
                with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                    return self._exchange(kept, request, hold)
            return self._exchange(self._connect(), request, hold)
        except (OSError, ValueError, OverflowError, TrustError) as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """End all connections, and make no other."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for each in self._busy:
                shut_down(each.socket)
        for each in idle:
            each.socket.close()

    def _gone(self, error: Exception) -> PeerGoneError:
        why = reason(error) if isinstance(error, OSError) else str(error)
        return PeerGoneError(f"host {self._host} at {self._address}: {why}")

    def _exchange(self, connection: _Connection, request: bytes, hold: Hold) -> Answer:
        try:
            hold(connection.socket)
            connection.socket.sendall(request)
            head = connection.read_head(time.monotonic() + STALL_S)
        except BaseException:
            hold(None)
            self._done(connection, keeps=False)
            raise
        return Answer(self, connection, head, hold)

    def _take(self) -> _Connection | None:
        """A kept connection that is neither old nor made with a certificate that is over."""
        oldest = time.monotonic() - IDLE_S
        with self._lock:
            while self._idle and self._idle[0].idle_since < oldest:
                self._idle.pop(0).socket.close()
            while self._idle:
                found = self._idle.pop()
                if self._is_trusted(found):
                    self._busy.add(found)
                    return found
                found.socket.close()
        return None

    def _is_trusted(self, kept: _Connection) -> bool:
        if self._trust is None:
            return True
        try:
            self._trust.check(kept.socket, self._host)  # type: ignore[arg-type] # it is TLS
            client = self._trust.client
        except TrustError:
            return False
        return kept.context is client

    def _connect(self) -> _Connection:
        """Raises OSError, ValueError, OverflowError, TrustError."""
        name, _, port = self._address.rpartition(":")
        name = name.removeprefix("[").removesuffix("]")
        place = (name, int(port))
        context = None if self._trust is None else self._trust.client
        connected = self._dialer.connect(place, CONNECT_S)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is None or self._trust is None:
                # A timeout of Python's makes the socket non-blocking, and MSG_WAITALL then waits for nothing.
                connected.settimeout(None)
                stall = _TIMEVAL.pack(int(STALL_S), 0)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stall)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stall)
            else:
                connected = context.wrap_socket(connected, server_hostname=name)
                self._trust.check(connected, self._host)
                connected.settimeout(STALL_S)
            connection = _Connection(connected, context)
            with self._lock:
                if self._closed:
                    raise ConnectionAbortedError("p2pd wants nothing more of it")
                self._busy.add(connection)
        except BaseException:
            connected.close()
            raise
        return connection

    def _done(self, connection: _Connection, *, keeps: bool) -> None:
        """The exchange on a connection has ended."""
        with self._lock:
            self._busy.discard(connection)
            if keeps and not self._closed and len(self._idle) < KEPT_CONNECTIONS:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                return
        connection.socket.close()


class Answer:
    """An answer whose head has come. Close it: the connection is kept if the body was read to its end."""

    __slots__ = ("_client", "_connection", "_hold", "head", "left_bytes")

    def __init__(self, client: NeighbourClient, connection: _Connection, head: Head, hold: Hold) -> None:
        self.head: Final = head
        self.left_bytes = head.length
        self._client = client
        self._connection = connection
        self._hold = hold

    def readinto(self, view: memoryview) -> None:
        """Fill `view` with the next bytes of the body. Raises PeerGoneError."""
        filled = 0
        try:
            if len(view) > self.left_bytes:
                raise ConnectionResetError("its answer is shorter than it has to be")
            while filled < len(view):
                received = self._connection.receive(view[filled:])
                if not received:
                    raise ConnectionResetError("it ended its answer early")
                filled += received
        except OSError as error:
            raise self._client._gone(error) from error  # noqa: SLF001 # of this file
        finally:
            self.left_bytes -= filled

    def close(self) -> None:
        self._hold(None)
        unread_bytes = self._connection.end - self._connection.begin  # an error's body, which has come with its head
        keeps = self.head.keeps and self.left_bytes == unread_bytes
        self._client._done(self._connection, keeps=keeps)  # noqa: SLF001 # of this file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def shut_down(busy: socket.socket) -> None:
    """End what another thread does with the socket, which it is about to close."""
    # Of the base class: a TLS socket's own shutdown drops the TLS layer under the reading thread, which then takes
    # ciphertext for data. An error means that the other side has closed it already.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(busy, socket.SHUT_RDWR)
