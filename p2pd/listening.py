"""The servers of a daemon at their addresses, for the length of a block."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from p2pd.notation import Address
from peer.errors import P2pdError
from scheduler.shell.server import SchedulerServer


class ListenError(P2pdError):
    """An address cannot be listened on."""


@asynccontextmanager
async def listening(runner: web.BaseRunner, address: Address) -> AsyncIterator[Address]:
    """The server of `runner` at `address`; yields where it really listens. Raises ListenError."""
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise _listen_error(address, error) from None
        yield Address(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def scheduling(server: SchedulerServer, address: Address) -> AsyncIterator[Address]:
    """A scheduler at `address`; yields where it really listens. Raises ListenError."""
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(server.serving(address.host, address.port))
        except OSError as error:
            raise _listen_error(address, error) from None
        yield Address(address.host, port)


def _listen_error(address: Address, error: OSError) -> ListenError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return ListenError(f"cannot listen on {address}: {reason}")
