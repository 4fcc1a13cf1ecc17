"""The tunnels of the HTTPS proxy: bytes go both ways, untouched, between a client and a host that is no upstream.

Where a tunnel may lead:

1. To public addresses, and to what the operator lists in `allow_private`.
2. To private addresses, if the proxy listens on loopback: whoever reaches the proxy is on this machine then, and
   reaches them as well. The registries of a company are there, and the managers of a Swarm, whom dockerd asks through
   its proxy too.
3. Not to loopback, link-local addresses and a cloud's metadata service, unless listed. A client could reach these
   itself, too, but some are closed to some users of a machine (by firewall rules for the user, as on Azure), and p2pd
   is another user. Nothing honest is lost: Go's clients never ask a proxy for 127.0.0.1 and localhost.
4. Through the proxy of p2pd's own environment (`https_proxy`, `no_proxy`), if there is one. That proxy decides.

The address is judged, not the name, and is the one that is connected to.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import Final

import structlog

from peer.errors import P2pdError
from peer.origin.address_policy import Address, AddressPolicy, Reach, reach_of
from peer.origin.dialing import Dialer, Resolve, resolve
from peer.origin.http1 import ExchangeFailedError
from peer.origin.proxies import Proxies
from peer.origin.upstream import Target
from peer.tasks import BackgroundTasks
from peer.threads import Threads
from proxy.core.connect import ConnectError, ConnectTarget

log = structlog.get_logger("proxy.tunnels")

CONNECT_S: Final = 10.0
WAIT_S: Final = 30.0
"""For all of it: the resolver of the system has bounds of its own."""

MOST_DIALLING: Final = 64
"""Hosts that are being connected to at a time. Each has a thread: the resolver of the system blocks."""

IDLE_S: Final = 3600.0
"""How long a tunnel may carry nothing. A connection that is kept for hours, as a Swarm's, sends something meanwhile."""

RECENT_S: Final = 1.0
"""A tunnel that has carried something since then is in use, and is not cut when the node stops, within its grace."""

BUFFER_BYTES: Final = 64 * 1024

MOST: Final = 1024
"""Tunnels at a time, of two buffers each: 128 MiB. A dockerd has some dozens."""


class Tunnels:
    """Makes tunnels, which end with `background`. `environ` has the variables of proxies. For `is_local` see rule 2.

    Raises ValueError for a proxy that cannot be used.
    """

    def __init__(
        self,
        background: BackgroundTasks,
        *,
        allow_private: Sequence[str] = (),
        is_local: bool = True,
        environ: Mapping[str, str] = os.environ,
        resolve: Resolve = resolve,
        idle_s: float = IDLE_S,
        most: int = MOST,
    ) -> None:
        self._background = background
        self._policy = AddressPolicy.of((), allow_private, public_only=True)
        self._is_local = is_local
        self._proxies = Proxies(environ)
        self._dialer = Dialer(resolve)
        self._threads = Threads(MOST_DIALLING, "dial", ready=False)
        self._idle_s = idle_s
        self._most = most
        self._open: dict[socket.socket, float] = {}
        """The clients' sockets, and when something was carried last."""

    @property
    def count(self) -> int:
        return len(self._open)

    async def open(self, target: ConnectTarget) -> socket.socket:
        """A connection to the target. Raises ConnectError."""
        if self.count >= self._most:
            raise ConnectError(503, f"this proxy has {self._most} tunnels, and makes no more at a time")
        try:
            work = self._threads.submit(self._dial, target)
        except (P2pdError, RuntimeError) as error:
            raise ConnectError(503, f"{target} cannot be connected to now: {error}") from None
        try:
            async with asyncio.timeout(WAIT_S):
                return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            work.add_done_callback(_close_result)
            raise
        except ExchangeFailedError as error:
            raise ConnectError(403, str(error)) from None
        except (OSError, HTTPException, ValueError) as error:
            work.add_done_callback(_close_result)
            log.debug("could not connect", target=str(target), reason=str(error))
            raise ConnectError(
                502, f"{target} could not be connected to: {str(error) or type(error).__name__}"
            ) from None

    def start(self, client: socket.socket, server: socket.socket) -> None:
        """Carry bytes between the two from now on, and close both at the end."""
        self._open[client] = asyncio.get_running_loop().time()
        self._background.start(self._carry(client, server))

    async def finish(self, within_s: float) -> None:
        """Wait until no tunnel is in use, at most `within_s`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while self._open:
            left_s = min(until, max(self._open.values()) + RECENT_S) - loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    def close(self) -> None:
        """Connect to nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _carry(self, client: socket.socket, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._idle_s) as limit, asyncio.TaskGroup() as both:

                def carried() -> None:
                    self._open[client] = loop.time()
                    limit.reschedule(loop.time() + self._idle_s)

                both.create_task(_copy(client, server, carried))
                both.create_task(_copy(server, client, carried))
        except* (OSError, TimeoutError) as errors:
            log.debug("a tunnel ended", reason=str(errors.exceptions[0]))
        finally:
            del self._open[client]
            client.close()
            server.close()

    def _dial(self, target: ConnectTarget) -> socket.socket:
        """Blocks. Raises OSError, HTTPException, ValueError, and ExchangeFailedError where it must not lead."""
        where = Target("https", target.host, target.port)
        proxy = self._proxies.leading_to(where)
        place = (proxy.host, proxy.port) if proxy else (target.host, target.port)
        wire = HTTPConnection(*place, timeout=CONNECT_S)
        if proxy:
            wire.set_tunnel(target.host, target.port, proxy.headers)
        check = None if proxy else partial(self._check, where)
        # As in `peer.origin.connections`: http.client's own seam for what opens its socket.
        wire._create_connection = partial(self._dialer.connect, check=check)  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            wire.connect()
        except BaseException:
            wire.close()
            raise
        connected: socket.socket = wire.sock
        connected.setblocking(False)
        return connected

    def _check(self, target: Target, address: Address) -> None:
        """Raises ExchangeFailedError if a tunnel may not lead there (rules 1 to 3)."""
        if self._policy.allows(target, address, None):
            return
        reach = reach_of(address)
        if not (self._is_local and reach is Reach.PRIVATE):
            raise ExchangeFailedError(
                f"{target.host} is at {address}, which is a {reach.value} address: refused; if it is right, name "
                f"{target.host} in allow_private"
            )


async def _copy(source: socket.socket, sink: socket.socket, carried: Callable[[], None]) -> None:
    """Carry bytes until the source has no more; then the sink is told so. Raises OSError."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    while count := await loop.sock_recv_into(source, buffer):
        carried()
        await loop.sock_sendall(sink, view[:count])
        carried()
    sink.shutdown(socket.SHUT_WR)


def _close_result(work: Future[socket.socket]) -> None:
    """Close the connection, if there is one, that nobody waits for any more."""
    if not work.cancelled() and work.exception() is None:
        work.result().close()
