"""TLS for the hosts that load the scheduler: each has a certificate of its own, and resumes its session.

The CA is taken from the scheduler's data directory. To ask for each certificate as a host does would measure that.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from benchmarks.scheduler.load_host import LoadHost
from scheduler.trust import certificates
from scheduler.trust.authority import OperatorCa
from scheduler.trust.files import read_private, read_public
from scheduler.trust.identity import PeerIdentity, Role
from scheduler.trust.tls import client_context

LIFETIME_S = 86_400.0
READ_BYTES = 64 * 1024


class Ticket:
    """The certificate of a host, as a context, and its latest session."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.session: ssl.SSLSession | None = None


def tickets(authority: Path, names: Iterable[str]) -> list[Ticket]:
    """A certificate for each of these host ids, by the CA in the directory `authority`."""
    files = OperatorCa(authority / "ca.crt", authority / "ca.key")
    now = certificates.moment(time.time())
    ca = certificates.load_ca(read_public(files.certificate), read_private(files.key), now)
    ca_pem = certificates.to_pem(ca.certificate)
    key = certificates.new_key()  # one for all: the scheduler verifies each certificate all the same
    key_pem = certificates.key_to_pem(key)
    found = []
    for name in names:
        identity = PeerIdentity(ca.cluster, Role.HOST, name)
        certificate = certificates.issue(ca, identity, key.public_key(), now, LIFETIME_S)
        credentials = certificates.read_credentials(key_pem, certificates.to_pem(certificate), ca_pem)
        found.append(Ticket(client_context(credentials)))
    return found


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """A protocol to the socket's transport, and the transport of a host."""

    def __init__(self, host: LoadHost, ticket: Ticket) -> None:
        super().__init__()
        self._host = host
        self._ticket = ticket
        self._transport: asyncio.Transport | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = ticket.context.wrap_bio(self._incoming, self._outgoing, session=ticket.session)
        self._established = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._receive()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._host.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        self._receive()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport is not None:
            self._tls.write(data)
            self._transport.write(self._outgoing.read())

    def abort(self) -> None:
        if self._transport is not None:
            if self._established:
                self._ticket.session = self._tls.session
            self._transport.abort()

    def _receive(self) -> None:
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
                self._host.resumed = bool(self._tls.session_reused)
                self._host.connection_made(self)
            while text := self._tls.read(READ_BYTES):
                self._host.data_received(text)
        except ssl.SSLWantReadError:
            pass
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())
