"""Context managers that start a server and stop it on exit, and the host names that a port answers to."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import aiofastnet
from aiohttp import web

from p2pd.config.settings import Settings
from p2pd.config.sources import open_listeners
from p2pd.config.values import Address
from p2pd.daemon import logs
from peer.errors import P2pdError
from peer.net.http_connection import HttpConnection
from peer.tasks import BackgroundTasks
from proxy.https_proxy import HttpsProxy
from proxy.server import Server
from scheduler.shell.accepting import Factory, accepting
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust
    from scheduler.shell.server import SchedulerServer

log = logs.get("p2pd.daemon.listeners")

HANDSHAKE_S: Final = 5.0
"""How long the other side may take for a TLS handshake, and before it for the first byte."""

HANDSHAKE: Final = b"\x16"
"""The first byte of TLS (RFC 8446, section 5.1)."""

LOOK_EVERY_S = 5.0
"""How often the certificates of the other ends of open connections are looked at."""

STALL_S = 120.0
"""How long another program may take nothing of what the admin port or the peer port sends to it. Pieces have a bound of
their own (`peer.net.peer_server`)."""


class ListenError(P2pdError):
    """A server could not listen at its address. `is_taken`: another program listens there."""

    def __init__(self, message: str, *, is_taken: bool = False) -> None:
        super().__init__(message)
        self.is_taken = is_taken


@asynccontextmanager
async def listening(
    runner: web.BaseRunner, address: Address, trust: HostTrust | None = None, *, plain_too: bool = False
) -> AsyncIterator[Address]:
    """Run the server of `runner` at `address`; yields the address with its real port. Raises ListenError.

    With `trust` the port is TLS. A connection is made with the certificate of its moment, and keeps it; before this
    host has one, connections are closed. Connections end whose other end is not trusted any more. With `plain_too`
    plain connections are taken beside it: the server sees which is which, and authenticates their requests itself.
    """
    await runner.setup()
    server = runner.server
    assert server is not None, "the runner is set up"
    factory = server if isinstance(server, Server) else lambda: HttpConnection(server, _refuse, stall_s=STALL_S)
    proxy = server if isinstance(server, HttpsProxy) else None
    connect = _plain if trust is None else partial(_by_first_byte if plain_too else _over_tls, trust)
    try:
        async with AsyncExitStack() as stack:
            port = accepting(
                address.host,
                address.port,
                factory,
                open_count=lambda: proxy.open_count if proxy else len(server.connections),
                connect=proxy.accept if proxy else connect,
            )
            try:
                host_and_port = await stack.enter_async_context(port)
            except OSError as error:
                raise _listen_error(address, error) from None
            if trust is not None:
                background = await stack.enter_async_context(BackgroundTasks())
                background.start(_end_distrusted(server, trust))
            yield Address(*host_and_port)
    finally:
        await runner.cleanup()


async def _end_distrusted(server: web.Server, trust: HostTrust) -> None:
    """End connections whose other end's certificate is over or revoked. What is being answered is finished."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for connection in server.connections:
            assert isinstance(connection, HttpConnection)
            transport = connection.transport
            tls = None if transport is None else transport.get_extra_info("ssl_object")
            if tls is None:
                continue  # each of its requests is authenticated by itself
            try:
                trust.check(tls)
            except TrustError as error:
                log.debug("a connection of another host ends", reason=str(error))
                connection.finish()


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


async def _plain(factory: Factory, connection: socket.socket) -> object:
    return await aiofastnet.connect_accepted_socket(asyncio.get_running_loop(), factory, connection)


async def _by_first_byte(trust: HostTrust, factory: Factory, connection: socket.socket) -> object:
    """TLS or not: 0x16 begins a handshake, and no HTTP request. Raises OSError for whoever says nothing."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(connection.fileno(), lambda: None if readable.done() else readable.set_result(None))
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await readable
    except TimeoutError:
        raise ConnectionAbortedError("nothing came") from None
    finally:
        loop.remove_reader(connection.fileno())
    if connection.recv(1, socket.MSG_PEEK) == HANDSHAKE:
        return await _over_tls(trust, factory, connection)
    return await _plain(factory, connection)


async def _over_tls(trust: HostTrust, factory: Factory, connection: socket.socket) -> object:
    """Shake hands on an accepted connection. Raises OSError for whoever is not of the cluster."""
    try:
        context = trust.server
    except TrustError as error:
        raise ConnectionAbortedError(str(error)) from None
    loop = asyncio.get_running_loop()
    return await aiofastnet.connect_accepted_socket(
        loop, factory, connection, ssl=context, ssl_handshake_timeout=HANDSHAKE_S
    )


def tell_open(settings: Settings, names: Collection[str]) -> None:
    """Log what it means that these listeners are open to other machines, as `allow_open` lets them be."""
    for name, stake in open_listeners(settings, names, () if settings.allow_open else ["listen"]).items():
        log.warning("open to anyone who reaches it", key=name, address=str(getattr(settings, name)), stake=stake)


def _refuse(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


def _listen_error(address: Address, error: OSError) -> ListenError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return ListenError(f"cannot listen on {address}: {reason}", is_taken=error.errno == errno.EADDRINUSE)
