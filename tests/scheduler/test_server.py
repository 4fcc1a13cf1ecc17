"""The scheduler's server on a real socket: what one host does ends its own connection, and nobody else's."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Request

from scheduler.core.events import Event, Instruction, Probe, Received, Send
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FROM_HOST, TO_HOST, FromHost
from scheduler.protocol.connection import PATH, Closing
from scheduler.protocol.fields import MAX_DIGESTS_PER_MESSAGE, MAX_FRAME_BYTES, MAX_INLINE_BYTES
from scheduler.protocol.from_host import Hello, Join, LeasePieces, Leave
from scheduler.protocol.to_host import DigestRun, Joined, Lease, LeaseRevoked, Neighbours, PieceDigests, Welcome
from scheduler.shell.bounds import Bounds
from scheduler.shell.connection import framed
from scheduler.shell.server import Core, SchedulerServer
from scheduler.shell.sweep import SWEPT_AT_ONCE
from tests.scheduler.test_connection import FakeTransport
from tests.support.registry_server import PATIENCE_S

D = b"d" * 32
JOIN = Join(D, "docker.io", "library/app", 1 << 20)
"""How long a test waits for what must come: far longer than it ever takes."""

Test = Callable[[int], Awaitable[None]]


def run(test: Test, *, core: Core | None = None, bounds: Bounds | None = None) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            SchedulerServer(core or Scheduler(), bounds).serving("127.0.0.1", 0) as port,
        ):
            await test(port)

    asyncio.run(main())


class Host:
    """A host by aiohttp's client."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.websocket = websocket

    async def says(self, message: FromHost) -> None:
        await self.websocket.send_bytes(FROM_HOST.encode(message))

    async def hears(self) -> Any:
        """The next message, or why the connection was closed."""
        received = await self.websocket.receive()
        if received.type is aiohttp.WSMsgType.BINARY:
            return TO_HOST.decode(received.data)
        assert received.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), received
        return Closing(self.websocket.close_code or 0)

    async def hears_of(self, kind: type[Any]) -> Any:
        while not isinstance(message := await self.hears(), kind):
            assert not isinstance(message, Closing), message
        return message


@asynccontextmanager
async def connected(port: int, name: str | None, **options: Any) -> AsyncIterator[Host]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{port}{PATH}", **options) as websocket,
    ):
        host = Host(websocket)
        if name is not None:
            await host.says(Hello(name, 1, 1, f"{name}:1"))
            assert isinstance(await host.hears(), Welcome)
        yield host


async def raw(port: int, name: str) -> socket.socket:
    """A host that says Hello, and from then on neither reads nor answers."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(
        client,
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode(),
    )
    assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 101")
    await loop.sock_sendall(client, masked(FROM_HOST.encode(Hello(name, 1, 1, f"{name}:1"))))
    return client


def masked(frame: bytes) -> bytes:
    assert len(frame) < 126
    return bytes([0x82, 0x80 | len(frame), 0, 0, 0, 0]) + frame


def test_two_hosts_pull() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a, connected(port, "b") as b:
            await a.says(JOIN)
            assert await a.hears() == Joined(D, 1, 1 << 20, False, ())
            lease = await a.hears()
            assert isinstance(lease, Lease)
            await b.says(JOIN)
            assert [neighbour.host for neighbour in (await b.hears_of(Joined)).neighbours] == ["a"]
            await a.says(LeasePieces(lease.lease, D, 0, b"x" * 32))
            assert (await b.hears_of(PieceDigests)).runs[0].digests == b"x" * 32

    run(test)


@pytest.mark.parametrize(
    ("frame", "closing"),
    [
        (b"\xc1", Closing.MALFORMED),
        (b"", Closing.MALFORMED),
        (FROM_HOST.encode(Hello("a", 1, 1, "a:1")), Closing.MALFORMED),
        (bytes(MAX_FRAME_BYTES + 1), Closing.OVERSIZED),
        ("text", Closing.MALFORMED),
    ],
    ids=["garbage", "empty", "second hello", "oversized", "text"],
)
def test_a_bad_frame_ends_its_own_connection_only(frame: bytes | str, closing: Closing) -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as bad, connected(port, "b") as good:
            if isinstance(frame, str):
                await bad.websocket.send_str(frame)
            else:
                await bad.websocket.send_bytes(frame)
            assert await bad.hears() is closing
            await good.says(JOIN)
            assert (await good.hears_of(Joined)).neighbours == ()

    run(test)


def test_who_says_something_else_before_hello_is_cut_off() -> None:
    async def test(port: int) -> None:
        async with connected(port, None) as host:
            await host.says(JOIN)
            assert await host.hears() is Closing.MALFORMED

    run(test)


def test_who_says_nothing_is_cut_off() -> None:
    async def test(port: int) -> None:
        async with connected(port, None) as host:
            assert await host.hears() is Closing.LATE_HELLO

    run(test, bounds=Bounds(hello_s=0.05))


def test_of_many_connections_each_has_its_turn() -> None:
    silent = 2 * SWEPT_AT_ONCE + 1

    async def main() -> None:
        left, all_closed = silent, asyncio.Event()

        class Transport(FakeTransport):
            def close(self) -> None:
                nonlocal left
                left -= 1
                if not left:
                    all_closed.set()

            abort = close

        server = SchedulerServer(Scheduler(), Bounds(hello_s=0.05, close_s=PATIENCE_S))
        async with asyncio.timeout(PATIENCE_S), server.serving("127.0.0.1", 0):
            connections = [server._connect() for _ in range(silent)]
            for connection in connections:
                connection.connection_made(Transport())
            await all_closed.wait()
            for connection in connections:
                connection.connection_lost(None)

    asyncio.run(main())


def test_a_flood_is_cut_off() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as host:
            for _ in range(20):
                await host.says(Join(D, "docker.io", "library/app"))
            while not isinstance(told := await host.hears(), Closing):
                pass
            assert told is Closing.FLOODING

    run(test, bounds=Bounds(burst=10, messages_per_s=1))


class GenerousCore(Scheduler):
    """Answers each message with 128 KiB."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        if not isinstance(event, Received):
            return super().handle(event, now)
        return [Send((event.connection,), PieceDigests(D, 1, (DigestRun(0, bytes(MAX_DIGESTS_PER_MESSAGE * 32)),)))]


def test_what_a_host_has_the_scheduler_answer_counts_for_it() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as host:
            for _ in range(20):
                await host.says(JOIN)
            answers = 0
            while not isinstance(told := await host.hears(), Closing):
                answers += 1
            assert told is Closing.FLOODING
            assert answers == 3

    run(test, core=GenerousCore(), bounds=Bounds(burst=100, messages_per_s=0.001))


def test_joins_wait_for_what_other_hosts_say() -> None:
    """However many join, pieces that have come are news at once; what follows a join of the same host waits with it."""
    heard: list[tuple[int, str]] = []

    class Noting(Scheduler):
        def handle(self, event: Event, now: float) -> list[Instruction]:
            if isinstance(event, Received):
                heard.append((event.connection, type(event.message).__name__))
            return super().handle(event, now)

    async def main() -> None:
        server = SchedulerServer(Noting())
        async with asyncio.timeout(PATIENCE_S), server.serving("127.0.0.1", 0):
            clients = []
            for _ in range(3):
                connection, client = server._connect(), WSConnection(ConnectionType.CLIENT)
                transport = FakeTransport()
                connection.connection_made(transport)
                connection.data_received(client.send(Request(host="scheduler", target=PATH)))
                client.receive_data(transport.written)
                assert list(client.events())
                clients.append((connection, client))

            def says(number: int, message: FromHost) -> None:
                connection, client = clients[number - 1]
                connection.data_received(client.send(BytesMessage(FROM_HOST.encode(message))))

            for number in (1, 2, 3):
                says(number, Hello(f"host-{number}", 1, 1, "h:1"))
            says(1, JOIN)
            says(2, JOIN)
            says(1, Leave(D))
            says(3, Leave(D))
            assert heard == [(3, "Leave")]
            await asyncio.sleep(0)
            assert heard == [(3, "Leave"), (1, "Join"), (2, "Join"), (1, "Leave")]
            for each in list(server._connections.values()):
                each.connection_lost(None)

    asyncio.run(main())


def test_a_message_that_does_not_end_is_waited_for_no_longer_than_others() -> None:
    async def test(port: int) -> None:
        client = await raw(port, "a")
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"\x02\x81\x00\x00\x00\x00x")
        while True:  # it goes on talking, and answers nothing
            try:
                await loop.sock_sendall(client, b"\x00\x80\x00\x00\x00\x00")
            except ConnectionError:
                break
            await asyncio.sleep(0.01)
        client.close()

    run(test, bounds=Bounds(message_s=0.1, close_s=0.2))


def test_of_messages_that_are_begun_the_oldest_goes_when_there_are_too_many() -> None:
    async def test(port: int) -> None:
        loop = asyncio.get_running_loop()
        async with connected(port, "c") as other:
            begun = [await raw(port, name) for name in "ab"]
            for client in begun:
                await loop.sock_recv(client, 4096)  # Welcome
                await loop.sock_sendall(client, b"\x02\xfe\x02\x58\x00\x00\x00\x00" + bytes(600))
                await asyncio.sleep(0.05)
            with suppress(ConnectionError):
                while await loop.sock_recv(begun[0], 4096):
                    pass
            await other.says(JOIN)
            await other.hears_of(Joined)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await loop.sock_recv(begun[1], 4096)
            for client in begun:
                client.close()

    run(test, bounds=Bounds(begun_bytes=1000))


def test_a_host_that_is_silent_is_noticed_and_its_lease_goes_to_another() -> None:
    async def test(port: int) -> None:
        client = await raw(port, "silent")
        await asyncio.get_running_loop().sock_sendall(client, masked(FROM_HOST.encode(JOIN)))
        async with connected(port, "b") as b:
            await b.says(JOIN)
            assert [neighbour.host for neighbour in (await b.hears_of(Joined)).neighbours] == ["silent"]
            assert (await b.hears_of(Neighbours)).remove == ("silent",)
        client.close()

    run(test, bounds=Bounds(heartbeat_s=0.2), core=Scheduler(SchedulerSettings(leases_per_blob=1)))


def test_a_host_that_answers_pings_stays() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a:
            await a.says(JOIN)
            await a.hears_of(LeaseRevoked)  # after many heartbeats

    run(test, bounds=Bounds(heartbeat_s=0.1), core=Scheduler(SchedulerSettings(lease_s=0.5)))


def test_a_host_whose_lease_is_over_is_asked_and_its_answer_is_heard() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a:
            await a.says(JOIN)
            await a.hears_of(LeaseRevoked)

    run(test, core=Scheduler(SchedulerSettings(lease_s=0.1, answer_s=1000.0)))


def test_a_host_that_does_not_read_is_cut_off_and_nobody_waits_for_it() -> None:
    data = bytes(MAX_INLINE_BYTES)
    tiny = Join(hashlib.sha256(data).digest(), "docker.io", "library/app", len(data))

    async def test(port: int) -> None:
        loop = asyncio.get_running_loop()
        async with connected(port, "a") as a:
            await a.says(tiny)
            await a.hears_of(Lease)
            await a.says(from_host.InlineBlob(tiny.digest, data))
            client = await raw(port, "slow")
            cut_off = False
            while not cut_off:
                try:
                    await loop.sock_sendall(client, masked(FROM_HOST.encode(tiny)))
                except ConnectionError:
                    cut_off = True
                await a.says(tiny)
                assert isinstance(await a.hears(), to_host.InlineBlob)
            client.close()

    run(test, bounds=Bounds(waiting_bytes=256 * 1024))


def test_a_host_that_vanishes_is_noticed_at_once() -> None:
    async def test(port: int) -> None:
        async with connected(port, "b") as b:
            client = await raw(port, "a")
            await asyncio.get_running_loop().sock_sendall(client, masked(FROM_HOST.encode(JOIN)))
            await b.says(JOIN)
            await b.hears_of(Joined)
            client.close()
            while "a" not in (await b.hears_of(Neighbours)).remove:
                pass

    run(test)


def test_two_hosts_with_one_id() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as first, connected(port, None) as second:
            await second.says(Hello("a", 1, 1, "elsewhere:1"))
            assert await second.hears() is Closing.ID_IN_USE
            await first.says(JOIN)
            await first.hears_of(Joined)

    run(test)


def test_a_host_that_is_gone_unnoticed_frees_its_id_within_moments() -> None:
    async def test(port: int) -> None:
        gone = await raw(port, "a")
        while True:
            async with connected(port, None) as again:
                await again.says(Hello("a", 1, 1, "a:1"))
                if isinstance(told := await again.hears(), Welcome):
                    break
                assert told is Closing.ID_IN_USE
                await asyncio.sleep(0.02)
        gone.close()

    run(test, bounds=Bounds(heartbeat_s=60.0, close_s=0.2, probe_s=0.1))


def test_what_is_due_happens_without_anybody_saying_anything() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a:
            await a.says(JOIN)
            await a.hears_of(LeaseRevoked)

    run(test, core=Scheduler(SchedulerSettings(lease_s=0.05)))


def test_hosts_are_told_that_the_scheduler_stops() -> None:
    async def main() -> None:
        told: list[Closing] = []

        async def listen(port: int, listening: asyncio.Event) -> None:
            async with connected(port, "a") as host:
                listening.set()
                told.append(await host.hears())

        async with (
            asyncio.timeout(PATIENCE_S),
            asyncio.TaskGroup() as tasks,
            SchedulerServer(Scheduler()).serving("127.0.0.1", 0) as port,
        ):
            listening = asyncio.Event()
            tasks.create_task(listen(port, listening))
            await listening.wait()
        assert told == [Closing.STOPPING]

    asyncio.run(main())


def test_serve_ends_when_it_is_cancelled() -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await SchedulerServer(Scheduler()).serve("127.0.0.1", 0)

    asyncio.run(main())


class BrokenCore(Scheduler):
    """A core with a mistake in it."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        assert not isinstance(event, Received), "a mistake"
        return super().handle(event, now)


def test_a_mistake_of_ours_ends_the_connection_that_met_it_only() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a, connected(port, "b") as b:
            await a.says(JOIN)
            assert await a.hears() is Closing.BROKEN
            assert not b.websocket.closed
            async with connected(port, "c"):
                pass

    run(test, core=BrokenCore())


def test_more_connections_than_are_taken() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a:
            await a.says(JOIN)
            await a.hears_of(Joined)
            async with connected(port, None) as b:
                await b.says(Hello("b", 1, 1, "b:1"))
                assert await b.hears() is Closing.FULL
            await a.says(JOIN)
            await a.hears_of(Joined)

    run(test, bounds=Bounds(connections=1))


def test_a_host_that_has_said_nothing_but_hello_makes_room() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a"), connected(port, "b") as b:
            await b.says(JOIN)
            await b.hears_of(Joined)
            async with connected(port, "c") as c:
                await c.says(JOIN)
                await c.hears_of(Joined)
                async with connected(port, None) as d:
                    await d.says(Hello("d", 1, 1, "d:1"))
                    assert await d.hears() is Closing.FULL

    run(test, bounds=Bounds(connections=2))


async def unread(port: int, name: str, of: Host, bytes_each: int, count: int) -> socket.socket:
    """A host that reads nothing of a few tiny blobs that it asks for."""
    data = bytes(bytes_each)
    tiny = Join(hashlib.sha256(data).digest(), "docker.io", "library/app", len(data))
    await of.says(tiny)
    lease = await of.hears()
    if not isinstance(lease, to_host.InlineBlob):
        await of.hears_of(Lease)
        await of.says(from_host.InlineBlob(tiny.digest, data))
    client = await raw(port, name)
    for _ in range(count):
        await asyncio.get_running_loop().sock_sendall(client, masked(FROM_HOST.encode(tiny)))
    return client


async def ends(client: socket.socket) -> None:
    """Wait until a connection has ended, without reading from it."""
    with suppress(ConnectionError):
        while True:
            await asyncio.get_running_loop().sock_sendall(client, b"\x89\x80\x00\x00\x00\x00")
            await asyncio.sleep(0.02)
    client.close()


def test_a_host_that_reads_nothing_is_not_waited_for() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a:
            client = await unread(port, "slow", a, MAX_INLINE_BYTES, 100)
            await ends(client)
            await a.says(JOIN)
            await a.hears_of(Joined)

    run(test, bounds=Bounds(waiting_bytes=1 << 30, read_s=0.2, close_s=0.2))


def test_of_hosts_that_read_too_little_in_all_those_with_the_most_go() -> None:
    async def test(port: int) -> None:
        async with connected(port, "a") as a:
            small = await unread(port, "small", a, MAX_INLINE_BYTES, 60)
            large = await unread(port, "large", a, MAX_INLINE_BYTES, 300)
            await ends(large)
            await asyncio.get_running_loop().sock_sendall(small, b"\x89\x80\x00\x00\x00\x00")
            await a.says(JOIN)
            await a.hears_of(Joined)
            small.close()

    run(test, bounds=Bounds(waiting_bytes=1 << 30, waiting_bytes_in_all=16 << 20))


def test_the_messages_of_one_event_to_one_host_are_one_write() -> None:
    welcome, joined = Welcome(1), Joined(D, 1, 1 << 20, sealed=False, neighbours=())
    digests = PieceDigests(D, 1, ())
    said: list[Instruction] = [
        Send((1,), welcome),
        Send((1, 2), joined),
        Send((1, 2), digests),
        Probe(2),
        Send((2,), digests),
    ]

    class Scripted(Scheduler):
        def handle(self, event: Event, now: float) -> list[Instruction]:  # noqa: ARG002
            return said if isinstance(event, Received) else []

    class Transport(FakeTransport):
        def __init__(self) -> None:
            super().__init__()
            self.writes: list[bytes] = []

        def write(self, data: Any) -> None:
            self.writes.append(data)

    async def main() -> None:
        server = SchedulerServer(Scripted())
        async with asyncio.timeout(PATIENCE_S), server.serving("127.0.0.1", 0):
            transports = [Transport(), Transport()]
            for transport in transports:
                connection, client = server._connect(), WSConnection(ConnectionType.CLIENT)
                connection.connection_made(transport)
                connection.data_received(client.send(Request(host="scheduler", target=PATH)))
                client.receive_data(b"".join(transport.writes))
                assert list(client.events())
                connection.data_received(client.send(BytesMessage(FROM_HOST.encode(Hello("host", 1, 1, "h:1")))))
                transport.writes.clear()
            connection.data_received(client.send(BytesMessage(FROM_HOST.encode(JOIN))))
            await asyncio.sleep(0)  # a join waits for what can be read
            both = frames(joined, digests)
            assert transports[0].writes == [frames(welcome), both]
            assert transports[1].writes == [both, b"\x89\x00", frames(digests)]
            for each in list(server._connections.values()):
                each.connection_lost(None)

    asyncio.run(main())


def frames(*messages: Any) -> bytes:
    return b"".join(framed(TO_HOST.encode(message)) for message in messages)
