"""A connection over TLS whose other side says no last word is closed all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from peer.net.letting_go import let_go
from scheduler.trust.tls import client_context, server_context
from tests.support.node import asynchronous
from tests.swarm.test_expiry import issued


@asynccontextmanager
async def dialled() -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket to a server that reads nothing behind the request."""
    done = asyncio.Event()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.pause_reading()
        await done.wait()
        request.transport.abort()
        return response

    app = web.Application()
    app.add_routes([web.get("/", handle)])
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(
        runner.server, "127.0.0.1", 0, ssl=server_context(issued("scheduler"))
    )
    port = server.sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as session:
            yield await session.ws_connect(
                f"https://127.0.0.1:{port}/",
                ssl=client_context(issued("one")),
                timeout=aiohttp.ClientWSTimeout(ws_close=0.01),
            )
    finally:
        done.set()
        server.close()
        await runner.cleanup()


@pytest.mark.parametrize("cancelled", [False, True])
@asynchronous
async def test_it_is_closed_behind_the_block(cancelled: bool) -> None:
    async with dialled() as opened:
        connection = opened.get_extra_info("socket")

        async def use() -> None:
            async with let_go(opened), opened:
                if cancelled:
                    await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            using = group.create_task(use())
            await asyncio.sleep(0)
            if cancelled:
                using.cancel()
        assert connection.fileno() == -1
