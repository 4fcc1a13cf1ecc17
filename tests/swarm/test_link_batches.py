"""News of several blobs on a link: one frame for a neighbour that takes batches, a frame each for an older one."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from peer.net.links import Links
from peer.tasks import BackgroundTasks
from scheduler.protocol.codec import LINK
from scheduler.protocol.link import BATCHES, DontHave, LinkHello, LinkMessage, Unchoke
from tests.support.node import asynchronous
from tests.support.registry_server import PATIENCE_S

NEWS: list[LinkMessage] = [DontHave(b"a" * 32), DontHave(b"b" * 32), Unchoke(b"c" * 32)]


class Neighbour:
    """The host `a`, which is dialled by a client that says what it is told to."""

    def __init__(self, background: BackgroundTasks) -> None:
        self.up = asyncio.Event()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.links = Links(
            "a",
            background,
            on_message=lambda _host, message: self.heard.put_nowait(message),
            on_up=lambda _host: self.up.set(),
            on_lost=lambda _host: None,
        )


@pytest.mark.parametrize(("features", "frames"), [((BATCHES, "another"), 1), ((), 3)])
@asynchronous
async def test_news_of_three_blobs(features: tuple[str, ...], frames: int) -> None:
    async with BackgroundTasks() as background, asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        neighbour = Neighbour(background)
        app = web.Application()
        app.add_routes([web.get("/v1/link", neighbour.links.accept)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with session.ws_connect(f"http://{host}:{port}/v1/link") as socket:
            await socket.send_bytes(LINK.encode(LinkHello("b", 1, 1, features)))
            hello = LINK.decode(await socket.receive_bytes())
            assert isinstance(hello, LinkHello)
            assert BATCHES in hello.features
            await neighbour.up.wait()
            for message in NEWS:
                neighbour.links.send("b", message)
            got = [LINK.decode_all(await socket.receive_bytes()) for _ in range(frames)]
            assert [message for each in got for message in each] == NEWS
            for frame in LINK.encode_all(NEWS):  # whatever was said, what comes is heard
                await socket.send_bytes(frame)
            assert [await neighbour.heard.get() for _ in NEWS] == NEWS
        await neighbour.links.close()
        await runner.cleanup()
