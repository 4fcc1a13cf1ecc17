"""One host that decides nothing: `python -m benchmarks.bare.node FILE PIECE_BYTES OWN NEWS ADDRESS…`.

FILE has the pieces, OWN is the index of the own ADDRESS, and NEWS is how many others are told of each piece. The host
goes on with each line on standard input, and says a line when it serves, when it has links to all, and when it has all
pieces. Its last line is JSON: `cpu_s`, of that `loop_s` on the event loop, `took_s`, and the `heard` frames. It ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

import aiofastnet
import aiohttp
import msgpack  # type: ignore[import-untyped]
import uvloop
from aiohttp import web
from blake3 import blake3

from peer.neighbour_http import NeighbourClient

AT_ONCE: Final = 4
"""Pieces that are on their way to a host at a time."""

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class _File:
    """What the event loop's `sendfile` takes."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def fileno(self) -> int:
        return self._file


class BareHost:
    """The host `own` of those at `addresses`. It is served pieces by the others, in turns."""

    def __init__(self, path: Path, piece_bytes: int, own: int, news: int, addresses: list[str]) -> None:
        self.heard = 0
        self._piece_bytes = piece_bytes
        self._own = own
        self._news = news
        self._addresses = addresses
        self._file = _File(path)
        self._count = path.stat().st_size // piece_bytes
        self._links: dict[int, Socket] = {}
        self._stored = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 # ends with the process
        self._sha256 = hashlib.sha256()
        self._hashing = threading.Lock()

    async def serve(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/piece/{index}", self._send), web.get("/link/{host}", self._accept)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        name, _, port = self._addresses[self._own].rpartition(":")
        await web.TCPSite(runner, name, int(port)).start()

    async def link(self, session: aiohttp.ClientSession, hearing: asyncio.TaskGroup) -> None:
        """Dial each host before this one. All of these serve."""
        for host in range(self._own):
            self._links[host] = await session.ws_connect(f"http://{self._addresses[host]}/link/{self._own}")
            hearing.create_task(self._hear(self._links[host]))

    async def fetch(self) -> None:
        """All pieces, each from the next of the others."""
        clients = [NeighbourClient(str(host), each, str(self._own)) for host, each in enumerate(self._addresses)]
        turns = iter(range(self._count))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            await asyncio.gather(*(self._fetch_some(clients, turns, threads) for _ in range(AT_ONCE)))

    async def _fetch_some(
        self, clients: list[NeighbourClient], turns: Iterator[int], threads: ThreadPoolExecutor
    ) -> None:
        hosts, buffer, loop = len(clients), bytearray(self._piece_bytes), asyncio.get_running_loop()
        for turn in turns:
            index = (turn + self._own * self._count // hosts) % self._count
            sender = (self._own + 1 + turn % (hosts - 1)) % hosts
            digest = await loop.run_in_executor(threads, self._take, clients[sender], index, buffer)
            news = msgpack.packb([index, digest])
            for socket in islice(self._links.values(), self._news):
                await socket.send_bytes(news)

    def _take(self, client: NeighbourClient, index: int, buffer: bytearray) -> bytes:
        """What every host does with a piece: receive, BLAKE3, write, SHA-256."""
        with memoryview(buffer) as view, client.get(f"/piece/{index}") as answer:
            answer.readinto(view)
            digest = blake3(view).digest()
            os.pwrite(self._stored.fileno(), view, index * self._piece_bytes)
            with self._hashing:
                self._sha256.update(view)
        return digest

    async def _send(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(self._piece_bytes)})
        await response.prepare(request)
        start = int(request.match_info["index"]) * self._piece_bytes
        await asyncio.get_running_loop().sendfile(request.transport, self._file, start, self._piece_bytes)  # type: ignore[arg-type]
        await response.write_eof()
        return response

    async def _accept(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._links[int(request.match_info["host"])] = socket
        await self._hear(socket)
        return socket

    async def _hear(self, socket: Socket) -> None:
        async for frame in socket:
            msgpack.unpackb(frame.data)
            self.heard += 1


def _used_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def main(path: str, piece_bytes: str, own: str, news: str, *addresses: str) -> None:
    host = BareHost(Path(path), int(piece_bytes), int(own), int(news), [*addresses])
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as hearing:
        await host.serve()
        print(flush=True)
        await orders.readline()
        await host.link(session, hearing)
        print(flush=True)
        await orders.readline()
        began_s, all_s, loop_s = time.monotonic(), _used_s(resource.RUSAGE_SELF), _used_s(resource.RUSAGE_THREAD)
        await host.fetch()
        took_s = time.monotonic() - began_s
        print(flush=True)
        await orders.readline()  # all have all: nothing more is served, or told
        said = {
            "cpu_s": _used_s(resource.RUSAGE_SELF) - all_s,
            "loop_s": _used_s(resource.RUSAGE_THREAD) - loop_s,
            "took_s": took_s,
            "heard": host.heard,
        }
        print(json.dumps(said), flush=True)
        await orders.read()
        os._exit(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
        runner.run(main(*sys.argv[1:]))
