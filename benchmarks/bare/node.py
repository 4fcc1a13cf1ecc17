"""One host that decides nothing: `python -m benchmarks.bare.node FILE PIECE_BYTES OWN NEWS CREDENTIALS ADDRESS…`.

FILE has the pieces, OWN is the index of the own ADDRESS, and NEWS is how many others are told of each piece.
CREDENTIALS is the directory of key, certificate and CA with which links are TLS and pieces encrypted; if empty, all is
in the clear. The host goes on with each line on standard input, and says a line when it serves, when it has links to
all, and when it has all pieces. Its last line is JSON: `cpu_s`, of that `loop_s` on the event loop, `took_s`, the
`heard` frames, and how many pieces it has `decrypted`. It ends with its standard input.
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
import uvloop
from aiohttp import web
from blake3 import blake3
from msgspec import msgpack

from peer.encrypted_answer import receive, spare_bytes
from peer.neighbour_http import NeighbourClient
from peer.net.piece_sender import PartMemory, PieceMessage
from peer.store.data_file import DataFile
from peer.trust.piece_keys import Certificate, PieceKeys, PieceRequest
from scheduler.protocol.link import PieceKey
from scheduler.trust.certificates import read_credentials
from scheduler.trust.tls import client_context, server_context

AT_ONCE: Final = 4
"""Pieces that are on their way to a host at a time."""

CREDENTIALS: Final = ("key.pem", "certificate.pem", "ca.pem")
"""The files of CREDENTIALS."""

LINK_PORT: Final = 1
"""Where links are TLS, they have the port after that of the pieces: p2pd tells both apart by the first byte."""

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class Encryption:
    """With what a host encrypts, as p2pd does: TLS for links, and a key of each link for pieces."""

    def __init__(self, directory: Path) -> None:
        credentials = read_credentials(*((directory / name).read_bytes() for name in CREDENTIALS))
        self.server: Final = server_context(credentials)
        self.client: Final = client_context(credentials)
        self.keys: Final = PieceKeys(time.monotonic, plain=False)
        self.memory: Final = PartMemory()

    async def tell_key(self, socket: Socket, host: int) -> None:
        key = self.keys.issue(str(host), Certificate(None))
        await socket.send_bytes(msgpack.encode([key.key_id, key.secret]))

    async def learn_key(self, socket: Socket, host: int) -> None:
        key_id, secret = msgpack.decode(await socket.receive_bytes())
        self.keys.learn(str(host), PieceKey(key_id, secret, plain=False))


class BareHost:
    """The host `own` of those at `addresses`. It is served pieces by the others, in turns."""

    def __init__(
        self, path: Path, piece_bytes: int, own: int, news: int, encryption: Encryption | None, addresses: list[str]
    ) -> None:
        self.heard = 0
        self.decrypted = 0
        self._encryption = encryption
        self._piece_bytes = piece_bytes
        self._own = own
        self._news = news
        self._addresses = addresses
        size_bytes = path.stat().st_size
        self._file = DataFile(path, size_bytes)
        self._file.open(for_writing=False)
        self._count = size_bytes // piece_bytes
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
        if self._encryption is not None:
            await web.TCPSite(runner, name, int(port) + LINK_PORT, ssl_context=self._encryption.server).start()

    async def link(self, session: aiohttp.ClientSession, hearing: asyncio.TaskGroup) -> None:
        """Dial each host before this one. All of these serve."""
        for host in range(self._own):
            socket = self._links[host] = await self._dial(session, host)
            hearing.create_task(self._hear(socket))

    async def _dial(self, session: aiohttp.ClientSession, host: int) -> Socket:
        if self._encryption is None:
            return await session.ws_connect(f"http://{self._addresses[host]}/link/{self._own}")
        name, _, port = self._addresses[host].rpartition(":")
        url = f"https://{name}:{int(port) + LINK_PORT}/link/{self._own}"
        socket = await session.ws_connect(url, ssl=self._encryption.client)
        await self._encryption.tell_key(socket, host)
        await self._encryption.learn_key(socket, host)  # told once the other has learned: now both can ask
        return socket

    async def fetch(self) -> None:
        """All pieces, each from the next of the others."""
        clients = [NeighbourClient(str(host), each, str(self._own)) for host, each in enumerate(self._addresses)]
        turns = iter(range(self._count))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            await asyncio.gather(*(self._fetch_some(clients, turns, threads) for _ in range(AT_ONCE)))

    async def _fetch_some(
        self, clients: list[NeighbourClient], turns: Iterator[int], threads: ThreadPoolExecutor
    ) -> None:
        hosts, loop = len(clients), asyncio.get_running_loop()
        buffer = bytearray(self._piece_bytes + (spare_bytes(self._piece_bytes) if self._encryption else 0))
        for turn in turns:
            index = (turn + self._own * self._count // hosts) % self._count
            sender = (self._own + 1 + turn % (hosts - 1)) % hosts
            digest = await loop.run_in_executor(threads, self._take, clients[sender], sender, index, buffer)
            news = msgpack.encode([index, digest])
            for socket in islice(self._links.values(), self._news):
                await socket.send_bytes(news)

    def _take(self, client: NeighbourClient, sender: int, index: int, buffer: bytearray) -> bytes:
        """What every host does with a piece: receive, BLAKE3, write, SHA-256."""
        with memoryview(buffer) as memory, memory[: self._piece_bytes] as view:
            self._receive(client, sender, f"/piece/{index}", memory)
            digest = blake3(view).digest()
            os.pwrite(self._stored.fileno(), view, index * self._piece_bytes)
            with self._hashing:
                self._sha256.update(view)
        return digest

    def _receive(self, client: NeighbourClient, sender: int, target: str, memory: memoryview) -> None:
        if self._encryption is None:
            with client.get(target) as answer:
                answer.readinto(memory)
            return
        key = self._encryption.keys.held(str(sender))
        assert key is not None
        authorization, answer_key = key.authorize(PieceRequest("GET", target, ""))
        with client.get(target, f"Authorization: {authorization}\r\n") as answer:
            for _ in receive(answer, answer_key, memory, self._piece_bytes, lambda: None):
                pass
        with self._hashing:
            self.decrypted += 1

    async def _send(self, request: web.Request) -> web.StreamResponse:
        start = int(request.match_info["index"]) * self._piece_bytes
        response = web.StreamResponse()
        if self._encryption is None:
            response.content_length = self._piece_bytes
            await response.prepare(request)
            await asyncio.get_running_loop().sendfile(request.transport, self._file, start, self._piece_bytes)  # type: ignore[arg-type]
        else:
            wanted = PieceRequest(request.method, request.raw_path, "")
            key = self._encryption.keys.authenticate(wanted, request.headers["Authorization"]).answer_key
            message = PieceMessage(self._encryption.memory, self._file, (start, start + self._piece_bytes), key)
            response.content_length = message.encoded_bytes
            await response.prepare(request)
            await message.send(response, self._piece_bytes)
        await response.write_eof()
        return response

    async def _accept(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        host = int(request.match_info["host"])
        if self._encryption is not None:
            await self._encryption.learn_key(socket, host)
            await self._encryption.tell_key(socket, host)
        self._links[host] = socket
        await self._hear(socket)
        return socket

    async def _hear(self, socket: Socket) -> None:
        async for frame in socket:
            msgpack.decode(frame.data)
            self.heard += 1


def _used_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def main(path: str, piece_bytes: str, own: str, news: str, credentials: str, *addresses: str) -> None:
    encryption = Encryption(Path(credentials)) if credentials else None
    host = BareHost(Path(path), int(piece_bytes), int(own), int(news), encryption, [*addresses])
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
            "decrypted": host.decrypted,
        }
        print(json.dumps(said), flush=True)
        await orders.read()
        os._exit(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
        runner.run(main(*sys.argv[1:]))
