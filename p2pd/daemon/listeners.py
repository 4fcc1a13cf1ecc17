"""Context managers that start a server and stop it on exit, and the host names that a port answers to."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from p2pd.config.settings import Settings, open_listeners
from p2pd.config.values import Address
from p2pd.daemon import logs
from peer.errors import P2pdError
from peer.tasks import BackgroundTasks
from scheduler.shell.server import SchedulerServer

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust
    from scheduler.trust.certificates import Credentials

log = logs.get("p2pd.daemon.listeners")

BACKLOG: Final = 1024


class ListenError(P2pdError):
    """A server could not listen at its address."""


@asynccontextmanager
async def listening(runner: web.BaseRunner, address: Address) -> AsyncIterator[Address]:
    """Run the server of `runner` at `address`; yields the address with its real port. Raises ListenError."""
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise _listen_error(address, error) from None
        yield Address(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listening_with_certificates(
    runner: web.BaseRunner, address: Address, trust: HostTrust, background: BackgroundTasks
) -> AsyncIterator[Address]:
    """As `listening`, over TLS, once this host has a certificate, and with each new one from then on.

    The port is bound at once, so that its number is known. A new certificate takes a new listener on the same socket,
    and connections that are there go on.
    """
    await runner.setup()
    try:
        bound = await _bind(address)
        with bound:
            background.start(_serve_each_certificate(runner, bound, trust))
            yield Address(*bound.getsockname()[:2])
    finally:
        await runner.cleanup()


async def _bind(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        (family, *_, where), *_ = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(where)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise _listen_error(address, error) from None
    return bound


async def _serve_each_certificate(runner: web.BaseRunner, bound: socket.socket, trust: HostTrust) -> None:
    held: Credentials | None = None
    site: web.SockSite | None = None
    while True:
        held = await trust.credentials(held)
        context = trust.server_context()
        if site is not None:
            await site.stop()
        site = web.SockSite(runner, bound.dup(), ssl_context=context, backlog=BACKLOG)
        await site.start()


@asynccontextmanager
async def scheduling(server: SchedulerServer, address: Address) -> AsyncIterator[Address]:
    """Run a scheduler at `address`; yields the address with its real port. Raises ListenError."""
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(server.serving(address.host, address.port))
        except OSError as error:
            raise _listen_error(address, error) from None
        yield Address(address.host, port)


def names_of(settings: Settings, listening: Address) -> frozenset[str] | None:
    """The host names, in lower case, that requests to this address may be addressed to; None: any.

    A loopback address is reachable for browsers of this machine, so its names are restricted. The names of an open port
    are known only in its network; the operator has vouched for a firewall (`allow_open`).
    """
    if not listening.is_loopback:
        return None
    known = [listening] if settings.advertise is None else [listening, settings.advertise]
    return frozenset(each.host.lower() for each in known)


def tell_open(settings: Settings, names: Collection[str]) -> None:
    """Log what it means that these listeners are open to other machines, as `allow_open` lets them be."""
    for name, stake in open_listeners(settings, names, () if settings.allow_open else ["listen"]).items():
        log.warning("open to anyone who reaches it", key=name, address=str(getattr(settings, name)), stake=stake)


def _listen_error(address: Address, error: OSError) -> ListenError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return ListenError(f"cannot listen on {address}: {reason}")
