"""What goes out to others, over real sockets: when a piece is out, who waits for a turn, and who is told of room."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from peer.background import Background
from peer.core.uploads import Refused
from peer.swarm.uploading import MAX_WAITING, NEARLY_BYTES, Uploading
from tests.peer.registry_server import PATIENCE_S
from tests.proxy.node import asynchronous

T = TypeVar("T")

PIECE_BYTES = 4 << 20
BUFFER_BYTES = 16 << 20
"""The kernel takes a whole piece at once: only what is acknowledged says how far it is."""


class Line:
    """A connection of this host to another, and that other's end of it."""

    def __init__(self, transport: asyncio.Transport, other: socket.socket) -> None:
        self.transport = transport
        self.other = other

    async def reads(self, size_bytes: int) -> None:
        """The other host takes so many bytes."""
        while size_bytes:
            async with asyncio.timeout(PATIENCE_S):
                size_bytes -= len(await asyncio.get_running_loop().sock_recv(self.other, min(size_bytes, 1 << 16)))
            await asyncio.sleep(0)  # what there is to read is read without a look at what else there is to do


class Lines:
    """Uploads of this host, whom it has told that there is room, and connections to others."""

    def __init__(self, background: Background, group: asyncio.TaskGroup, slots: int) -> None:
        self._group = group
        self.told: list[Refused] = []
        self.uploading = Uploading(slots, background, self.told.append, lambda host: host.startswith("far"))
        self._all: list[Line] = []

    def start(self, task: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._group.create_task(task)

    async def connect(self) -> Line:
        ours, other = _pair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        self._all.append(Line(transport, other))
        return self._all[-1]

    async def close(self) -> None:
        for line in self._all:
            line.transport.abort()
            line.other.close()
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next round of the loop


def _pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection, of which the second takes little before it reads."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        ours = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (ours, other):
        end.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return ours, other


@asynccontextmanager
async def lines(slots: int = 1) -> AsyncIterator[Lines]:
    async with Background() as background, asyncio.TaskGroup() as group:
        all_lines = Lines(background, group, slots)
        try:
            yield all_lines
        finally:
            await all_lines.close()


def asking(host: str) -> Refused:
    return Refused(host, bytes(32))


async def is_refused(it: Lines, host: str) -> bool:
    async with it.uploading.turn(asking(host), (await it.connect()).transport) as may_send:
        return not may_send


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 # the kernel tells nobody
            await asyncio.sleep(0.001)


@asynchronous
async def test_a_piece_is_out_when_it_is_acknowledged_and_not_when_the_kernel_has_taken_it() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(None, line.transport) as may_send:
            assert may_send
            line.transport.write(bytes(PIECE_BYTES))
            drained = it.start(it.uploading.drained(line.transport, PIECE_BYTES))
            await line.reads(PIECE_BYTES // 4)
            assert not drained.done(), "three quarters of it are in a buffer"
            await line.reads(PIECE_BYTES - PIECE_BYTES // 4 - NEARLY_BYTES)
            await asyncio.wait_for(drained, PATIENCE_S)


@asynchronous
async def test_of_a_connection_that_was_used_before_only_what_is_new_counts() -> None:
    async with lines() as it:
        line = await it.connect()
        for _ in range(2):
            async with it.uploading.turn(None, line.transport):
                line.transport.write(bytes(PIECE_BYTES))
                drained = it.start(it.uploading.drained(line.transport, PIECE_BYTES))
                await line.reads(PIECE_BYTES // 4)
                assert not drained.done()
                await line.reads(PIECE_BYTES - PIECE_BYTES // 4)
                await asyncio.wait_for(drained, PATIENCE_S)


@asynchronous
async def test_a_piece_whose_receiver_goes_away_is_out() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(None, line.transport):
            line.transport.write(bytes(PIECE_BYTES))
            drained = it.start(it.uploading.drained(line.transport, PIECE_BYTES))
            line.other.close()
            await asyncio.wait_for(drained, PATIENCE_S)
        assert not await is_refused(it, "next")


@asynchronous
async def test_the_next_waits_for_its_turn_and_begins_when_the_piece_is_out() -> None:
    async with lines() as it:
        first, second = await it.connect(), await it.connect()
        begun = asyncio.Event()

        async def comes_second() -> None:
            async with it.uploading.turn(asking("second"), second.transport) as may_send:
                assert may_send
                begun.set()

        async with it.uploading.turn(None, first.transport) as may_send:
            assert may_send
            second_comes = it.start(comes_second())
            await asyncio.sleep(0)
            assert not begun.is_set()
        await asyncio.wait_for(second_comes, PATIENCE_S)
        assert it.told == [], "it has had its piece"


@asynchronous
async def test_those_beyond_the_few_that_wait_are_refused_at_once_and_told_in_the_end() -> None:
    async with lines() as it:
        line = await it.connect()
        waits: list[asyncio.Task[bool]] = []
        async with it.uploading.turn(None, line.transport):
            waits += [it.start(is_refused(it, f"waits{number}")) for number in range(MAX_WAITING)]
            await until(lambda: len(it.uploading._waiting) == MAX_WAITING)
            assert await is_refused(it, "near")
            assert await is_refused(it, "far")
            assert it.told == []
        assert await asyncio.gather(*waits) == [False] * MAX_WAITING
        await until(lambda: len(it.told) == 2)
        assert [refused.host for refused in it.told] == ["far", "near"], "though nobody that was told has come"


@asynchronous
async def test_one_that_gives_up_its_turn_leaves_it_to_the_next() -> None:
    async with lines() as it:
        line = await it.connect()
        async with it.uploading.turn(None, line.transport):
            gives_up = it.start(is_refused(it, "gives up"))
            await until(lambda: len(it.uploading._waiting) == 1)
            stays = it.start(is_refused(it, "stays"))
            await until(lambda: len(it.uploading._waiting) == 2)
            gives_up.cancel()
            with suppress(asyncio.CancelledError):
                await gives_up
            assert len(it.uploading._waiting) == 1
        assert not await asyncio.wait_for(stays, PATIENCE_S)


@asynchronous
async def test_a_slow_receiver_leaves_room_for_another_beside_it() -> None:
    """The first piece shows what the line can; the second goes to a host that does not read."""
    async with lines(slots=2) as it:
        fast, slow = await it.connect(), await it.connect()
        async with it.uploading.turn(None, fast.transport):
            for _ in range(8):
                fast.transport.write(bytes(PIECE_BYTES))
                await fast.reads(PIECE_BYTES)
            await until(lambda: it.uploading._throughput.best > 0)
        async with it.uploading.turn(None, slow.transport):
            slow.transport.write(bytes(PIECE_BYTES))
            assert not await asyncio.wait_for(is_refused(it, "beside"), PATIENCE_S)
