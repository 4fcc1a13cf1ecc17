"""Connections of this host to others that read when a test says so, and the uploads on them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from peer.core.choker import FREE_SOON_S, UploadRequest
from peer.net.upload_sender import EARLY_DONE_BYTES, Upload, Uploading
from tests.support.registry_server import PATIENCE_S

T = TypeVar("T")

PIECE_BYTES = 4 << 20
BUFFER_BYTES = 16 << 20
"""The kernel takes a whole piece at once: only what is acknowledged says how far it is."""

FIRST_BYTES = 1024
"""What the other host takes without reading."""

SHORT_BYTES = FIRST_BYTES + EARLY_DONE_BYTES
"""A piece that is nearly out once its first bytes are acknowledged, and far from it before."""


class Line:
    """A connection of this host to another, and that other's end of it."""

    def __init__(self, transport: asyncio.Transport, other: socket.socket) -> None:
        self.transport = transport
        self.other = other

    def piece(self, host: str | None = None, size_bytes: int = PIECE_BYTES) -> Upload:
        """A piece that `host` asks for on it."""
        return Upload(None if host is None else receiver(host), self.transport, size_bytes)

    async def reads(self, size_bytes: int) -> None:
        """The other host takes so many bytes."""
        while size_bytes:
            async with asyncio.timeout(PATIENCE_S):
                size_bytes -= len(await asyncio.get_running_loop().sock_recv(self.other, min(size_bytes, 1 << 16)))
            await asyncio.sleep(0)  # what there is to read is read without a look at what else there is to do


class Lines:
    """Uploads of this host, whom it has told that there is room, and connections to others."""

    def __init__(self, group: asyncio.TaskGroup, slots: int) -> None:
        self._group = group
        self._told: list[UploadRequest] = []
        self.uploading = Uploading(slots, self._told.append)
        self._all: list[Line] = []

    @property
    def told(self) -> list[str]:
        return [each.host for each in self._told]

    def start(self, task: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._group.create_task(task)

    async def connect(self) -> Line:
        ours, other = _pair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        self._all.append(Line(transport, other))
        return self._all[-1]

    async def is_refused(self, host: str) -> bool:
        return not await self.is_served((await self.connect()).piece(host))

    async def is_served(self, piece: Upload) -> bool:
        """Whether its turn comes."""
        async with self.uploading.turn(piece) as may_send:
            return may_send

    def has_spare(self) -> bool:
        """Whether a part of the line proves unused."""
        uploading = self.uploading
        return uploading._throughput.has_spare(uploading._acked_bytes(), asyncio.get_running_loop().time())

    def is_far_from_out(self, piece: Upload) -> bool:
        """Whether it has gone on for so long, and so slowly, that it is known to take long."""
        piece.look()
        best = self.uploading._throughput.best
        return piece.left_s(asyncio.get_running_loop().time(), best) > 2 * FREE_SOON_S

    async def shows_what_the_line_can(self) -> None:
        """One piece after the other goes out as fast as it can."""
        line = await self.connect()
        async with self.uploading.turn(line.piece()):
            while not self.uploading._throughput.best:
                line.transport.write(bytes(PIECE_BYTES))
                await line.reads(PIECE_BYTES)

    async def looked(self) -> None:
        """All that is going on has been looked at once more."""
        before = self.uploading._throughput._samples[-1]
        await until(lambda: self.uploading._throughput._samples[-1] != before)

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
    async with asyncio.TaskGroup() as group:
        all_lines = Lines(group, slots)
        try:
            yield all_lines
        finally:
            await all_lines.close()


def receiver(host: str) -> UploadRequest:
    return UploadRequest(host, bytes(32), far=host.startswith("far"))


def nearly_out(piece: Upload) -> None:
    """Send what there is to send of a short piece before it is nearly out; nobody looks before this returns."""
    piece.transport.write(bytes(FIRST_BYTES))
    until_s = time.monotonic() + PATIENCE_S
    while piece.acked_bytes < FIRST_BYTES:
        assert time.monotonic() < until_s, "it is not acknowledged"
        piece.look()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 # the kernel tells nobody
            await asyncio.sleep(0.001)
