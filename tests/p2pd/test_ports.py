"""What every HTTP port of a node does with connections that say nothing, too slowly, or nonsense, and out of files."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import aiofastnet
import pytest
from aiohttp import web

from p2pd.daemon.lifecycle import raise_file_limit
from p2pd.daemon.node import serve
from peer.net.http_connection import HttpConnection
from peer.oci.digest import Digest
from scheduler.shell.accepting import PAUSE_S, accepting
from tests.support.node import asynchronous, settings_for, until
from tests.support.registry_server import PATIENCE_S

HELLO = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TLS = bytes.fromhex("16030100c8010000c40303") + os.urandom(190)

MALFORMED = {
    "garbage": b"\x00\x01\x02 what is this\r\n\r\n",
    "a TLS hello": TLS,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no target": b"CONNECT  \r\nHost: 127.0.0.1\r\n\r\n",
    "another version": b"GET /status HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
    "a bad field": b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX y: secret-in-a-field\r\n\r\n",
    "a long field": b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"secret-in-a-field" * 8000 + b"\r\n\r\n",
    "a long line": b"GET /" + b"secret-in-a-field" * 8000 + b" HTTP/1.1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


async def conversation(port: int, request: bytes) -> bytes:
    """What the port answers until it closes the connection."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def http_port(*, first_request_s: float = PATIENCE_S, most: int | None = None) -> AsyncIterator[int]:
    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(text="hello")

    server = web.Server(handler)
    refuse = lambda status, reason: web.Response(status=status, text=reason)  # noqa: E731 # one line of the fixture
    async with accepting(
        "127.0.0.1",
        0,
        lambda: HttpConnection(server, refuse, stall_s=1, first_request_s=first_request_s),
        open_count=lambda: len(server.connections),
        most=most,
        connect=partial(aiofastnet.connect_accepted_socket, asyncio.get_running_loop()),
    ) as (_, port):
        yield port
    await server.shutdown()


@asynchronous
async def test_a_silent_connection_is_closed() -> None:
    async with http_port(first_request_s=0.05) as port:
        assert await conversation(port, b"") == b""


@asynchronous
async def test_half_a_request_does_not_keep_it_open() -> None:
    async with http_port(first_request_s=0.05) as port:
        assert await conversation(port, HELLO[:20]) == b""


@asynchronous
async def test_a_request_that_comes_in_time_keeps_its_connection() -> None:
    async with http_port(first_request_s=0.5) as port:  # a busy machine takes its time, too
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for pause_s in (0, 0.6):
            await asyncio.sleep(pause_s)
            writer.write(HELLO)
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
@asynchronous
async def test_what_is_no_request_is_refused_at_every_port_without_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    settings = settings_for(tmp_path / "store", "docker.io=http://127.0.0.1:1", advertise="127.0.0.1:0")
    async with serve(settings, list) as addresses:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            for name in ("mirror", "admin", "peer"):
                port = int(addresses[name].rpartition(":")[2])
                answer = await conversation(port, request_bytes)
                assert re.match(rb"HTTP/1\.[01] 400 ", answer), (name, answer)
                assert b"secret-in-a-field" not in answer
        assert not [each for each in caplog.records if "scheduler" not in each.name]  # which finds its scheduler


@asynchronous
async def test_a_link_with_a_key_that_is_not_ascii_is_refused_without_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opening = (
        b"GET /v1/link HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xe9\r\n\r\n"
    )
    async with serve(
        settings_for(tmp_path / "store", "docker.io=http://127.0.0.1:1", advertise="127.0.0.1:0"), list
    ) as at:
        answer = await conversation(int(at["peer"].rpartition(":")[2]), opening)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@asynchronous
async def test_a_node_that_is_alone_has_no_port_for_other_hosts(tmp_path: Path) -> None:
    async with serve(settings_for(tmp_path / "data", "docker.io=http://127.0.0.1:1"), list) as addresses:
        assert addresses.keys() == {"mirror", "admin", "scheduler"}
        assert addresses["scheduler"] == ""


@asynchronous
async def test_a_port_for_other_hosts_that_a_node_alone_was_told_to_open_gives_nothing(tmp_path: Path) -> None:
    digest = Digest.of(b"held")
    async with serve(settings_for(tmp_path / "data", "docker.io=http://127.0.0.1:1", peer="127.0.0.1:0"), list) as at:
        assert at.keys() == {"mirror", "admin", "scheduler", "peer"}
        port = int(at["peer"].rpartition(":")[2])
        for path in (f"/v2/swarm/blobs/{digest}", "/v1/link", "/"):
            asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-3\r\nConnection: close\r\n\r\n"
            assert (await conversation(port, asked.encode())).startswith(b"HTTP/1.1 404 ")


@asynchronous
async def test_a_port_has_no_more_connections_than_its_share() -> None:
    """The third waits in the kernel's queue until one of the first two has been closed."""
    ends: list[str] = []

    async def silent(reader: asyncio.StreamReader) -> None:
        assert await reader.read() == b""
        ends.append("silent")

    async def third(port: int) -> None:
        answer = await conversation(port, HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.endswith(b"hello")
        ends.append("third")

    async with http_port(most=2, first_request_s=0.2) as port:
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.gather(third(port), *(silent(reader) for reader, _ in first))
        assert ends[0] == "silent"
        for _, writer in first:
            writer.close()


@contextmanager
def files_left(count: int) -> Iterator[None]:
    """Lets the process open only `count` more files."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + count, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@asynchronous
async def test_out_of_files_the_port_rests_says_so_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with http_port(most=1000) as port:
        clients = [socket.socket() for _ in range(3)]
        with files_left(0):
            for client in clients:
                client.connect(("127.0.0.1", port))
                client.sendall(HELLO)
                client.setblocking(False)
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(PAUSE_S * 1.2)  # and once more
        (record,) = caplog.records
        assert "takes no connections" in str(record.msg)
        loop = asyncio.get_running_loop()
        for client in clients:
            async with asyncio.timeout(PATIENCE_S):
                assert (await loop.sock_recv(client, 9)).startswith(b"HTTP/1.1")
            client.close()


def test_a_daemon_may_open_as_many_files_as_the_system_lets_it() -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before, most - 1), most))
    try:
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
