"""The servers of a daemon at their addresses, for the length of a block, and the names that their ports answer to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from p2pd.config.settings import Settings
from p2pd.config.values import Address
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


def names_of(settings: Settings, listening: Address) -> frozenset[str] | None:
    """The names, in lower case, that a request may be for at the port that listens there; None: any.

    A browser on this machine is what reaches a loopback address and nothing else does. A port that others can reach is
    called by names that only its network knows, and has a firewall before it: the operator said so (`allow_open`).
    """
    if not listening.is_loopback:
        return None
    known = [listening] if settings.advertise is None else [listening, settings.advertise]
    return frozenset(each.host.lower() for each in known)


def _listen_error(address: Address, error: OSError) -> ListenError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return ListenError(f"cannot listen on {address}: {reason}")
