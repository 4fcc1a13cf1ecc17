"""The HTTPS proxy: dockerd's second way to the mirror, for the upstreams that it cannot mirror by itself.

dockerd's classic store has mirrors for docker.io alone. What it asks another registry goes through its HTTPS proxy, if
it has one, by CONNECT. This proxy

1. answers for the hosts that are upstreams itself: it ends TLS with a certificate of the node's own authority
   (`proxy.local_authority`), which dockerd is told of for these hosts, and gives the requests to the mirror. What the
   mirror does not do, such as a push, goes on to the registry (`proxy.pass_on`);
2. carries the bytes of all other connections untouched (`proxy.tunnels`).

An upstream is known by the host and the port of CONNECT. The SNI is not looked at: the certificate is that of the host
in CONNECT, and a request's Host header must name that host, too.

A client that does not trust the authority ends the handshake. The upstream is carried like any other host then, for
`UNTRUSTED_S`: a node that was given another upstream costs a dockerd that was not told of it one failed pull.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import aiofastnet
import structlog
from aiohttp import web

from peer.net.http_connection import HttpConnection
from peer.oci.reference import DOCKER_HUB, UpstreamName
from proxy.core.connect import (
    END_OF_HEAD,
    ESTABLISHED,
    MAX_HEAD_BYTES,
    NO_CONNECT,
    ConnectError,
    ConnectTarget,
    parse_connect,
    refusal_bytes,
)
from proxy.server import Handler, Server
from proxy.tunnels import Tunnels
from scheduler.trust.errors import TrustError

if TYPE_CHECKING:
    from proxy.local_authority import LocalAuthority

log = structlog.get_logger("proxy.https_proxy")

HEAD_S: Final = 10.0
"""How long a client may take to send the head of CONNECT, however slowly it comes."""

HANDSHAKE_S: Final = 10.0
UNTRUSTED_S: Final = 60.0
FILES_OF_A_TUNNEL: Final = 2

_DISTRUST: Final = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN")
"""The alerts of a client that does not trust a certificate: those of OpenSSL, and of Go's crypto/tls."""


class ProxiedConnection(HttpConnection):
    """A connection within which TLS ended here. `target` is what the client wants to talk to."""

    __slots__ = ("target",)

    target: ConnectTarget


class HttpsProxy(Server):
    """The proxy, and the HTTP server within the connections to upstreams, which `handler` answers.

    `upstreams` gives the upstreams of the moment. Without an `authority` everything is carried.
    """

    def __init__(
        self,
        handler: Handler,
        tunnels: Tunnels,
        authority: LocalAuthority | None,
        upstreams: Callable[[], Collection[UpstreamName]],
        *,
        stall_s: float,
        head_s: float = HEAD_S,
    ) -> None:
        super().__init__(handler, stall_s=stall_s)
        self._tunnels = tunnels
        self._authority = authority
        self._upstreams = upstreams
        self._head_s = head_s
        self._untrusted: dict[UpstreamName, float] = {}

    @property
    def open_count(self) -> int:
        """The files that its connections have."""
        return len(self.connections) + FILES_OF_A_TUNNEL * self._tunnels.count

    async def prepare(self) -> None:
        """Have an authority for each upstream on the disk, for `p2pd configure docker --https-proxy`."""
        if self._authority is None:
            return
        hosts = {upstream.partition(":")[0] for upstream in self._upstreams() if upstream != DOCKER_HUB}
        try:
            await asyncio.to_thread(self._authority.prepare, sorted(hosts))
        except TrustError as error:
            log.warning("the HTTPS proxy has no certificate to show for some upstreams", reason=str(error))

    async def accept(self, _factory: object, client: socket.socket) -> None:
        """Serve a connection that has been accepted. Raises OSError, and leaves it open then."""
        loop = asyncio.get_running_loop()
        try:
            target = parse_connect(await self._head(client))
            upstream = self._standing_for(target)
            server = await self._tunnels.open(target) if upstream is None else None
        except ConnectError as error:
            log.debug("refused", reason=str(error))
            await _say(client, refusal_bytes(error))
            client.close()
            return
        try:
            await loop.sock_sendall(client, ESTABLISHED)
        except BaseException:
            if server is not None:
                server.close()
            raise
        if server is not None:
            self._tunnels.start(client, server)
        elif upstream is not None:
            await self._end_tls(client, target, upstream)

    def _standing_for(self, target: ConnectTarget) -> UpstreamName | None:
        """The upstream that the target is, if the proxy stands for it now."""
        upstream = target.upstream
        if self._authority is None or upstream is None or upstream not in self._upstreams():
            return None
        return None if self._untrusted.get(upstream, 0.0) > asyncio.get_running_loop().time() else upstream

    async def _end_tls(self, client: socket.socket, target: ConnectTarget, upstream: UpstreamName) -> None:
        loop = asyncio.get_running_loop()
        assert self._authority is not None
        try:
            context = await asyncio.to_thread(self._authority.context, target.host)
            await aiofastnet.connect_accepted_socket(
                loop, lambda: self._within(target), client, ssl=context, ssl_handshake_timeout=HANDSHAKE_S
            )
        except TrustError as error:
            raise ConnectionAbortedError(str(error)) from None
        except ssl.SSLError as error:
            if any(alert in str(error).upper() for alert in _DISTRUST):
                self._untrusted[upstream] = loop.time() + UNTRUSTED_S
                log.warning(
                    "a client does not trust this node's certificate for an upstream, which is passed by for a while: "
                    "run `p2pd configure docker --https-proxy`",
                    upstream=upstream,
                    for_s=UNTRUSTED_S,
                )
            raise

    def _within(self, target: ConnectTarget) -> ProxiedConnection:
        connection = self.connection(ProxiedConnection)
        connection.target = target
        return connection

    async def _head(self, client: socket.socket) -> bytes:
        """The head of the client's request; what follows it stays in the socket. Raises ConnectError, OSError."""
        try:
            async with asyncio.timeout(self._head_s):
                return await _read_head(client)
        except TimeoutError:
            raise ConnectError(408, f"no request came within {self._head_s:g} s") from None


def target_of(request: web.BaseRequest) -> ConnectTarget:
    """What the client of a request within a proxied connection wants to talk to."""
    connection = request.protocol
    assert isinstance(connection, ProxiedConnection)
    return connection.target


async def _read_head(client: socket.socket) -> bytes:
    head = bytearray()
    while True:
        await _readable(client)
        seen = client.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
        if not seen:
            raise ConnectionAbortedError("the client went away before its request was whole")
        before = max(0, len(head) - len(END_OF_HEAD) + 1)
        end = (bytes(head[before:]) + seen).find(END_OF_HEAD)
        take = len(seen) if end < 0 else before + end + len(END_OF_HEAD) - len(head)
        head += client.recv(take)
        if end >= 0:
            return bytes(head)
        if len(head) >= MAX_HEAD_BYTES:
            raise ConnectError(431, f"the head of the request has more than {MAX_HEAD_BYTES} bytes")
        if not head[:1].isalpha():  # TLS, or anything else
            raise ConnectError(400, NO_CONNECT)


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(client.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(client.fileno())


async def _say(client: socket.socket, answer: bytes) -> None:
    """Send what a client is told before its connection ends. It has a second to take it, and to end the connection:
    what the kernel has of its request unread when the socket is closed would cost it the answer."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await loop.sock_sendall(client, answer)
            client.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(client, MAX_HEAD_BYTES):
                pass
