"""A host that does what a test tells it to: it joins at the scheduler, has a peer port, and need not tell the truth.

Its id is greater than those of the nodes, so that they dial it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from blake3 import blake3

from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FROM_HOST, LINK, TO_HOST, FromHost, OnLink
from scheduler.protocol.connection import PATH
from scheduler.protocol.fields import MAX_FRAME_BYTES
from scheduler.protocol.geometry import piece_count, piece_length, piece_span
from tests.support.images import digest_of
from tests.swarm.cluster import REPOSITORY, UPSTREAM, Cluster, until_true

Serve = Callable[[web.Request, int, int], Awaitable[web.StreamResponse]]
Talk = Callable[[web.WebSocketResponse], Awaitable[None]]


class ScriptedHost:
    """Holds `content`. `serve` answers for a piece; `talk` speaks on a link after LinkHello, until it returns."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content
        self.digest = digest_of(content)
        self.raw_digest = bytes.fromhex(self.digest[7:])
        self.serve: Serve = self.serve_well
        self.talk: Talk = self.tell_that_all_is_held
        self.heard: list[Any] = []
        """What the scheduler has told."""
        self.asked = 0
        """How many pieces it was asked for."""
        self.links = 0
        self.open_links = 0
        self.ending = asyncio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def tell(self, message: FromHost) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(FROM_HOST.encode(message))

    def heard_of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def was_dropped(self) -> bool:
        """Whether the scheduler has ended a link of ours, as the other end wanted."""
        return any(message.remove for message in self.heard_of(to_host.Neighbours))

    @property
    def sentenced(self) -> bool:
        return bool(self.heard_of(to_host.Quarantined))

    async def publish(self, *, lie: bool = False) -> None:
        """Take the leases of the whole blob, and tell the digests; `lie`: those of other bytes."""
        size_bytes = len(self.content)
        length = piece_length(size_bytes)
        await self.tell(from_host.Join(self.raw_digest, UPSTREAM, REPOSITORY, size_bytes))
        left = set(range(piece_count(size_bytes, length)))
        seen = 0
        while left:
            await until_true(lambda: len(self.heard_of(to_host.Lease)) > seen)  # noqa: B023 # it waits for it here
            lease = self.heard_of(to_host.Lease)[seen]
            seen += 1
            for index in range(lease.first, lease.stop):
                start, stop = piece_span(index, size_bytes, length)
                piece = blake3(self.lie_of(start, stop) if lie else self.content[start:stop]).digest()
                await self.tell(from_host.LeasePieces(lease.lease, self.raw_digest, index, piece))
                left.discard(index)

    async def lease_landed(self, lease: to_host.Lease) -> None:
        """Tell wrong digests of the pieces of a lease."""
        size_bytes = len(self.content)
        for index in range(lease.first, lease.stop):
            start, stop = piece_span(index, size_bytes, piece_length(size_bytes))
            piece = blake3(self.lie_of(start, stop)).digest()
            await self.tell(from_host.LeasePieces(lease.lease, self.raw_digest, index, piece))

    def lie_of(self, start: int, stop: int) -> bytes:
        return bytes(byte ^ 1 for byte in self.content[start:stop])

    # -- the peer port ---------------------------------------------------------------------------------------------

    async def serve_well(self, _request: web.Request, start: int, stop: int) -> web.StreamResponse:
        return self.answer(start, stop, self.content[start:stop])

    def answer(self, start: int, stop: int, body: bytes) -> web.Response:
        return web.Response(status=206, body=body, headers=self.range_headers(start, stop))

    def range_headers(self, start: int, stop: int) -> dict[str, str]:
        return {"Content-Range": f"bytes {start}-{stop - 1}/{len(self.content)}"}

    async def tell_that_all_is_held(self, socket: web.WebSocketResponse) -> None:
        await self.say(socket, link.Bitfield(self.raw_digest, 1, complete=True))
        await self.listen(socket)

    async def say(self, socket: web.WebSocketResponse, message: OnLink) -> None:
        await socket.send_bytes(LINK.encode(message))

    async def listen(self, socket: web.WebSocketResponse) -> None:
        async for _ in socket:
            pass

    async def _piece(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        first, last = request.headers["Range"].removeprefix("bytes=").split("-")
        return await self.serve(request, int(first), int(last) + 1)

    async def _link(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.links += 1
        self.open_links += 1
        try:
            await socket.receive()
            await self.say(socket, link.LinkHello(self.name, 1, 1))
            await self.talk(socket)
        except ConnectionError:
            pass  # the node has hung up on us
        finally:
            self.open_links -= 1
        return socket

    @asynccontextmanager
    async def running(self, scheduler_url: str) -> AsyncIterator[None]:
        """Joined, from the first message on."""
        app = web.Application()
        app.add_routes([web.get("/v1/link", self._link), web.get("/v2/swarm/blobs/{digest}", self._piece)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            address = "{}:{}".format(*runner.addresses[0][:2])
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(
                    scheduler_url + PATH, max_msg_size=MAX_FRAME_BYTES, timeout=aiohttp.ClientWSTimeout(ws_close=0.1)
                ) as self._socket,
                asyncio.TaskGroup() as group,
            ):
                await self.tell(from_host.Hello(self.name, 1, 1, address))
                hearing = group.create_task(self._hear(self._socket))
                try:
                    await until_true(lambda: bool(self.heard_of(to_host.Welcome)))
                    yield
                finally:
                    self.ending.set()
                    hearing.cancel()
        finally:
            await runner.cleanup()

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            self.heard.append(TO_HOST.decode(frame.data))


@asynccontextmanager
async def scripted(swarm: Cluster, name: str, content: bytes) -> AsyncIterator[ScriptedHost]:
    """A host in the swarm that behaves well until it is told otherwise."""
    host = ScriptedHost(name, content)
    async with host.running(swarm.scheduler.url):
        yield host
