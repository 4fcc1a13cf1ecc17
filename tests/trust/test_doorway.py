"""What one connection with TLS costs the scheduler, however its bytes are cut."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import pytest

from scheduler.protocol.joining import CA_PATH, JOIN_PATH
from scheduler.shell.admission import SESSIONS_PER_HOST, SESSIONS_S
from scheduler.shell.connection import HostConnection
from scheduler.shell.doorway import MAX_KEPT_BYTES, Doorway, Written
from scheduler.trust.certificates import to_pem
from scheduler.trust.tls import client_context, joining_context
from tests.support.registry_server import PATIENCE_S
from tests.trust.fixtures import certificate
from tests.trust.ports import Port, scheduler_at


class Behind:
    """The protocol behind the doorway: `delivered` is what it was given, each time."""

    def __init__(self) -> None:
        self.delivered: list[bytes] = []
        self.peer = None
        self.address = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass

    def connection_lost(self, _: Exception | None) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self.delivered.append(data)


class Wire(asyncio.Transport):
    """The transport of the socket: `sent` is what goes to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Host:
    """A host with a certificate, after its handshake. `seal` encrypts one record.

    `before` is the same host, whose connection has ended: its session is offered.
    """

    def __init__(self, port: Port, before: Host | None = None, more_chain: bytes = b"") -> None:
        self.behind, self._wire = Behind(), Wire()
        self.doorway = Doorway(cast("HostConnection", self.behind), port.admission, Written(), plain=False)
        self.doorway.connection_made(self._wire)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.context: ssl.SSLContext = before.context if before else _context(port, more_chain)
        session = before._tls.session if before else None
        self._tls: ssl.SSLObject = self.context.wrap_bio(self._incoming, self._outgoing, session=session)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(self._outgoing.read())
                self._incoming.write(bytes(self._wire.sent))
                self._wire.sent.clear()
            else:
                self.send(self._outgoing.read())
                self._incoming.write(bytes(self._wire.sent))
                with pytest.raises(ssl.SSLWantReadError):  # the session comes after the handshake
                    self._tls.read(1)
                return

    @property
    def resumed(self) -> bool:
        return bool(self._tls.session_reused)

    def seal(self, text: bytes) -> bytes:
        self._tls.write(text)
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        self.doorway.data_received(data)


def _context(port: Port, more_chain: bytes) -> ssl.SSLContext:
    own = port.credentials("a")
    return client_context(replace(own, chain_pem=own.chain_pem + more_chain))


TEXT = b"GET / HTTP/1.1\r\n" + b"x" * 500


@pytest.mark.parametrize("record_bytes", [1, 7, len(TEXT)])
def test_what_comes_together_is_delivered_together(tmp_path: Path, record_bytes: int) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            host = Host(port)
            records = [host.seal(TEXT[at : at + record_bytes]) for at in range(0, len(TEXT), record_bytes)]
            host.send(b"".join(records))
            host.send(b"".join(host.seal(b"y") for _ in range(100)))
            assert host.behind.delivered == [TEXT, b"y" * 100]

    asyncio.run(main())


def test_what_follows_a_request_to_join_is_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            host = Host(port)
            host.send(host.seal(f"POST {JOIN_PATH} HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\n{{}}".encode()))
            exchange = host.doorway._deliver
            assert exchange is not None
            assert "_Exchange" not in repr(exchange)
            host.send(host.seal(b"x" * 10_000))
            assert host.behind.delivered == []

    asyncio.run(main())


def test_what_came_before_the_end_is_delivered(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            host = Host(port)
            text = host.seal(TEXT)
            with pytest.raises(ssl.SSLWantReadError):
                host._tls.unwrap()
            host.send(text + host._outgoing.read())
            assert host.behind.delivered == [TEXT]

    asyncio.run(main())


def test_the_session_of_a_connection_that_was_lost_is_resumed(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            first = Host(port)
            first.doorway.connection_lost(ConnectionResetError())
            second = Host(port, first)
            assert second.resumed
            assert second.behind.peer == first.behind.peer is not None

    asyncio.run(main())


def test_the_sessions_that_are_kept_of_a_host_are_few(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            host = Host(port)
            for _ in range(SESSIONS_PER_HOST):
                host.doorway.connection_lost(None)
                host = Host(port, host)
            assert host.resumed
            host.doorway.connection_lost(None)
            assert not Host(port, host).resumed
            assert port.admission.keeps_session("b", 0.0)
            assert port.admission.keeps_session("a", time.monotonic() + SESSIONS_S + 1)

    asyncio.run(main())


def test_no_more_sessions_are_kept_of_a_host_whose_connections_the_scheduler_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            host = Host(port)
            for _ in range(SESSIONS_PER_HOST + 5):
                host.doorway.close()
                host.doorway.connection_lost(None)
                host = Host(port, host)
            host.doorway.connection_lost(None)
            del host
            assert port.admission.context.session_stats()["number"] == SESSIONS_PER_HOST

    asyncio.run(main())


def test_no_session_is_kept_of_a_stranger(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:

            def ask() -> None:
                with urlopen(f"{port.url}{CA_PATH}", context=joining_context(None), timeout=PATIENCE_S) as answer:
                    assert b"BEGIN CERTIFICATE" in answer.read()

            await asyncio.to_thread(ask)
            stats = port.admission.context.session_stats()
            assert (stats["accept_good"], stats["number"]) == (1, 0)

    asyncio.run(main())


def test_no_session_is_kept_with_more_certificates_than_a_host_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with scheduler_at(tmp_path / "authority") as port:
            host = Host(port, more_chain=to_pem(certificate(["http://" + "x" * MAX_KEPT_BYTES])))
            host.doorway.connection_lost(None)
            assert not Host(port, host).resumed

    asyncio.run(main())
