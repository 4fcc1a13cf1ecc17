"""The first bytes of a connection to a scheduler that has certificates: TLS or not, to join or to take part.

Rules:
1. The first byte tells: 0x16 begins a TLS handshake, and no HTTP request. Without TLS a connection goes on only where
   open connections are allowed: on loopback, or with `allow_open`.
2. TLS is done here, in memory, over the transport of the socket: OpenSSL's object and no buffers of ours, where asyncio
   would keep 256 KiB for each connection.
3. A host without a certificate may fetch the CA and join. For anything else its requests are refused.
4. Messages to a host are encrypted together at the end of a turn of the loop: while many hosts join, one that is their
   neighbour is told of several at once, and each record costs as much as the encryption of a few KiB.
5. The connection is its owner's from the first moment, so silence and slowness are bounded there.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

import h11
import structlog

from scheduler.protocol.joining import CA_PATH, JOIN_PATH, MAX_BODY_BYTES, RENEW_PATH
from scheduler.shell.admission import Admission, Answer
from scheduler.shell.connection import HostConnection
from scheduler.trust.errors import CertificateError
from scheduler.trust.identity import PeerIdentity
from scheduler.trust.tls import end_session

log = structlog.get_logger(__name__)

HANDSHAKE: Final = 0x16
READ_BYTES: Final = 64 * 1024
RECORD_BYTES: Final = 4 * 1024
"""What is encrypted at once. OpenSSL's object for the output keeps memory for the most that it ever held."""

_JOINING: Final = tuple(f" {path} ".encode() for path in (CA_PATH, JOIN_PATH, RENEW_PATH))
_REQUEST_LINE: Final = 40
"""The bytes after which a request is known not to be for any of these paths."""

MAX_KEPT_BYTES: Final = 8 * 1024
"""The longest handshake whose session is kept: a session has the certificates that the other end has sent, for which
OpenSSL takes 100 KiB and needs twice that. A host's handshake has 2 KiB."""

_NO_HANDSHAKE: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_USE_TLS: Final = b"This scheduler speaks TLS 1.3 with the hosts of its cluster: start p2pd with --join TOKEN.\n"
_NO_CERTIFICATE: Final = b"Hosts with a certificate of this cluster are served here: start p2pd with --join TOKEN.\n"


class Written:
    """The connections that were written to in this turn of the loop: each is encrypted once, after it."""

    def __init__(self) -> None:
        self._waiting: list[Doorway] = []

    def add(self, doorway: Doorway) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._seal)
        self._waiting.append(doorway)

    def _seal(self) -> None:
        waiting, self._waiting = self._waiting, []
        for doorway in waiting:
            doorway.seal()


class Doorway(asyncio.Transport, asyncio.Protocol):
    """A protocol to the socket's transport, and the transport of the protocol behind it."""

    def __init__(self, inner: HostConnection, admission: Admission, written: Written, *, plain: bool) -> None:
        super().__init__()
        self._written: Final = written
        self._unsealed: list[bytes | bytearray | memoryview] = []
        self._unsealed_bytes = 0
        self._inner: Final = inner
        self._admission: Final = admission
        self._plain: Final = plain
        self._transport: asyncio.Transport | None = None
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._established = False
        self._handshake_bytes = 0
        self._ended = False
        """Whether its session is kept, or is not, has been decided."""
        self._begun = b""
        """What came so far, until it is known what it is."""
        self._deliver: Callable[[bytes], None] | None = None

    # The protocol to the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._inner.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        tls, self._tls = self._tls, None
        if tls is not None:
            self._end_session(tls)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            self._receive_tls(data)
        elif self._deliver is not None:
            self._deliver(data)
        elif data[0] == HANDSHAKE:
            self._inner.context = self._admission.context
            self._tls = self._inner.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._receive_tls(data)
        elif self._plain:
            assert self._transport is not None
            self._transport.set_protocol(self._inner)
            self._inner.go_on(self._transport)
            self._inner.data_received(data)
        else:
            self._refuse(b"403 Forbidden", _USE_TLS)

    # TLS

    def _receive_tls(self, data: bytes) -> None:
        assert self._tls is not None
        self._incoming.write(data)
        try:
            if not self._established:
                self._handshake_bytes += len(data)
                self._tls.do_handshake()
                self._inner.peer = self._admission.peer(self._tls)
                self._established = True
            self._take_text(self._tls)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.close()
        except ssl.SSLError as error:
            why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
            log.info("tls_refused", address=self._inner.address, reason=why)
            self.close()
        except CertificateError as error:
            log.info("certificate_refused", address=self._inner.address, reason=str(error))
            self.close()
        self._flush()

    def _take_text(self, tls: ssl.SSLObject) -> None:
        """Deliver what has come. A record may have a single byte, and each delivery costs more than to decrypt it."""
        parts: list[bytes] = []
        try:
            while text := tls.read(READ_BYTES):
                parts.append(text)
                if not (self._incoming.pending or tls.pending()):
                    break  # to read until there is no more would cost an exception each time
        finally:
            if parts:
                (self._deliver or self._route)(parts[0] if len(parts) == 1 else b"".join(parts))

    def _end_session(self, tls: ssl.SSLObject) -> None:
        """Send a host whose session is kept a close_notify; its own is not waited for. All others get none: OpenSSL
        keeps each session for which it has sent one."""
        peer, ended, self._ended = self._inner.peer, self._ended, True
        if ended or peer is None or self._handshake_bytes > MAX_KEPT_BYTES:
            return
        if self._admission.keeps_session(peer.host, asyncio.get_running_loop().time()):
            end_session(tls)

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    # What is asked for

    def _route(self, text: bytes) -> None:
        if self._deliver is None:
            self._begun += text
            line = self._begun[:_REQUEST_LINE]
            if any(path in line for path in _JOINING):
                self._deliver = _Exchange(self, self._admission, self._inner.peer).receive
            elif len(line) < _REQUEST_LINE and b"\n" not in line:
                return
            elif self._inner.peer is None:
                self._refuse(b"403 Forbidden", _NO_CERTIFICATE)
                return
            else:
                self._deliver = self._inner.data_received
            text, self._begun = self._begun, b""
        self._deliver(text)

    def _refuse(self, status: bytes, why: bytes) -> None:
        head = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
        self.write(head % (status, len(why)) + why)
        self.hear_no_more()
        self.close()

    def hear_no_more(self) -> None:
        """Drop whatever else comes."""
        self._deliver = lambda _data: None

    # The transport of what is behind

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._tls is None:
            self._transport.write(data)
            return
        if not self._unsealed:
            self._written.add(self)
        self._unsealed.append(data)
        self._unsealed_bytes += len(data)

    def seal(self) -> None:
        """Encrypt what was written since the last time, and send it."""
        if not self._unsealed:
            return
        data = self._unsealed[0] if len(self._unsealed) == 1 else b"".join(self._unsealed)
        self._unsealed, self._unsealed_bytes = [], 0
        if self._tls is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.write(encrypted(self._tls, self._outgoing, data))

    def close(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self.seal()
        if self._tls is not None and not self._established and not self._outgoing.pending:
            self._transport.write(_NO_HANDSHAKE)  # it only looked like TLS
        elif self._tls is not None:
            self._end_session(self._tls)
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return 0 if self._transport is None else self._unsealed_bytes + self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default if self._transport is None else self._transport.get_extra_info(name, default)


def encrypted(tls: ssl.SSLObject, outgoing: ssl.MemoryBIO, data: bytes | bytearray | memoryview) -> bytes:
    """The records of some data, each of at most RECORD_BYTES of it. `outgoing` is the object's, and empty."""
    records = []
    for at in range(0, len(data), RECORD_BYTES):
        tls.write(data[at : at + RECORD_BYTES])
        records.append(outgoing.read())
    return records[0] if len(records) == 1 else b"".join(records)


class _Exchange:
    """One request of a host that joins or renews, and its answer."""

    def __init__(self, doorway: Doorway, admission: Admission, peer: PeerIdentity | None) -> None:
        self._doorway = doorway
        self._admission = admission
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_BODY_BYTES)
        self._request: h11.Request | None = None
        self._body = b""

    def receive(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request = event
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > MAX_BODY_BYTES:
                        raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
                elif isinstance(event, h11.EndOfMessage):
                    self._doorway.hear_no_more()
                    self._ask()
                    return
                else:
                    return
        except h11.RemoteProtocolError as error:
            self._send(Answer(error.error_status_hint, "text/plain", b"This is not what a p2pd host asks.\n"))

    def _ask(self) -> None:
        assert self._request is not None
        method, path = self._request.method.decode(), self._request.target.decode("ascii", "replace")
        asking = asyncio.get_running_loop().run_in_executor(
            None, self._admission.answer, self._peer, method, path, self._body
        )
        asking.add_done_callback(self._answered)

    def _answered(self, asking: asyncio.Future[Answer]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            self._send(asking.result())
            return
        if not asking.cancelled():
            log.error("joining_broken", exc_info=asking.exception())
        self._send(Answer(500, "text/plain", b"The scheduler has a defect; its log has more.\n"))

    def _send(self, answer: Answer) -> None:
        head = f"HTTP/1.1 {answer.status} p2pd\r\nConnection: close\r\nContent-Type: {answer.content_type}\r\n"
        self._doorway.write(f"{head}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
        self._doorway.close()
