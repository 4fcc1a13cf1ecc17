"""The end of a connection that this host dialled: it is closed by the time that its user goes on.

aiohttp closes a connection over TLS by saying so, and lets the other side answer within 30 s. Nobody waits for that. A
loop that ends meanwhile leaves the connection open, and the interpreter fails at it with nothing to say where.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp

TURNS: Final = 20
"""Of the loop, and more than it takes: it reads the end, tells the layers of it, and closes the descriptor."""


@asynccontextmanager
async def let_go(opened: aiohttp.ClientWebSocketResponse) -> AsyncIterator[None]:
    """Within the block `opened` is closed; behind it so is its connection."""
    connection = opened.get_extra_info("socket")
    try:
        yield
    finally:
        if connection is not None:
            with suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)
            for _ in range(TURNS):
                if connection.fileno() < 0:
                    break
                await asyncio.sleep(0)
