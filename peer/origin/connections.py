"""Connections to the hosts of an upstream, and to those of its redirects and tokens: opened, kept and used again.

Rules:
1. The idle connection that was used last is used next. An idle connection that is too old or readable (the other side
   closed it, or sent bytes unasked) is dropped. If a kept connection proves dead in use, it is replaced at once, and
   that does not count as a failed attempt.
2. TLS is verified. There is no switch.
3. Each address is judged before it is connected to (`peer.origin.address_policy`). A proxy resolves names itself: then
   a target is judged only if it is an address.
4. Every error is an ExchangeFailedError that names the host, and never a path or a query.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from peer.errors import OriginUnreachableError
from peer.origin.address_policy import AddressPolicy, literal, refusal
from peer.origin.http1 import Connection, ExchangeFailedError, Reply, reason
from peer.origin.upstream import UpstreamEndpoint

if TYPE_CHECKING:
    from pathlib import Path

    from peer.origin.address_policy import Address, Lead
    from peer.origin.cancel import CancelScope
    from peer.origin.clock import Clock
    from peer.origin.proxies import Proxies, Proxy
    from peer.origin.rates import Traffic
    from peer.origin.upstream import Target, Upstream


class Connections:
    """The connections of one upstream, busy and idle, to all the hosts it leads to.

    At most `max_connections` are open: idle connections are closed, the oldest first. Cancel scopes bound the busy
    connections.
    """

    def __init__(self, upstream: Upstream, proxies: Proxies, traffic: Traffic, clock: Clock) -> None:
        self._upstream = upstream
        self._proxies = proxies
        self._traffic = traffic
        self._clock = clock
        self._tls = _tls_context(upstream)
        self._policy = AddressPolicy.of(
            [UpstreamEndpoint.parse(text).target for text in upstream.endpoints],
            (*upstream.allow_private, *upstream.token_hosts),
            public_only=upstream.public_only,
        )
        self._lock = threading.Lock()
        self._idle: list[Connection] = []  # the connection used last is the last
        self._open = 0
        self._closed = False

    def exchange(
        self,
        cancel_scope: CancelScope,
        target: Target,
        method: str,
        path: str,
        headers: Mapping[str, str],
        deadline: float,
        lead: Lead | None = None,
    ) -> Reply:
        """Send one request, without a body, and read the headers of its answer. Raises ExchangeFailedError.

        `lead` is whoever named `target`, if it is not the upstream's own.
        """
        cancel_scope.check()
        idle = self._take_idle(target, lead)
        if idle is not None:
            try:
                return self._exchange_on(idle, cancel_scope, method, path, headers, deadline)
            except ConnectionError:
                cancel_scope.check()
        fresh = self._connect(target, deadline, lead)
        try:
            return self._exchange_on(fresh, cancel_scope, method, path, headers, deadline)
        except ConnectionError as error:
            raise ExchangeFailedError(f"{target} did not answer ({reason(error)})") from error

    def close(self) -> None:
        """Close idle connections, now and from now on."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            self._drop(connection)

    @property
    def open_count(self) -> int:
        """The number of busy and idle connections."""
        with self._lock:
            return self._open

    def _exchange_on(
        self,
        connection: Connection,
        cancel_scope: CancelScope,
        method: str,
        path: str,
        headers: Mapping[str, str],
        deadline: float,
    ) -> Reply:
        """Raises ConnectionError if the other side was gone, else ExchangeFailedError."""
        self._traffic.asked()
        try:
            reply = connection.ask(cancel_scope, method, path, headers, deadline, self._done)
        except (OSError, OriginUnreachableError):
            cancel_scope.let_go()
            self._drop(connection)
            raise
        self._traffic.answered(reply.status)
        return reply

    def _done(self, connection: Connection, reusable: bool) -> None:
        if reusable:
            connection.idle_since = self._clock.monotonic()
            with self._lock:
                if not self._closed:
                    self._idle.append(connection)
                    return
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self._open -= 1

    def _take_idle(self, target: Target, lead: Lead | None) -> Connection | None:
        oldest = self._clock.monotonic() - self._upstream.idle_s
        with self._lock:
            expired = [connection for connection in self._idle if connection.idle_since < oldest]
            self._idle = [connection for connection in self._idle if connection.idle_since >= oldest]
            found = next((idle for idle in reversed(self._idle) if self._is_usable(idle, target, lead)), None)
            if found is not None:
                self._idle.remove(found)
        for connection in expired:
            self._drop(connection)
        if found is not None and found.is_dead():
            self._drop(found)
            return self._take_idle(target, lead)
        return found

    def _is_usable(self, idle: Connection, target: Target, lead: Lead | None) -> bool:
        address = idle.address or literal(target.host)
        return idle.target == target and (address is None or self._policy.allows(target, address, lead))

    def _check_address(self, target: Target, lead: Lead | None, address: Address) -> None:
        """Raises ExchangeFailedError if `target` may not be connected to at `address`."""
        if not self._policy.allows(target, address, lead):
            raise ExchangeFailedError(refusal(target, address, lead), lasting=True)

    def _connect(self, target: Target, deadline: float, lead: Lead | None) -> Connection:
        timeout_s = min(self._upstream.connect_s, deadline - self._clock.monotonic())
        if timeout_s <= 0:
            raise ExchangeFailedError(f"{target} was not tried: no time was left")
        proxy = self._proxies.leading_to(target)
        check = functools.partial(self._check_address, target, lead)
        if proxy and (address := _numeric(target.host)):
            check(address)
        with self._lock:
            surplus = self._idle.pop(0) if self._open >= self._upstream.max_connections and self._idle else None
            self._open += 1
        if surplus is not None:
            self._drop(surplus)
        try:
            wire = _dial(target, proxy, self._tls, timeout_s, check)
        except BaseException as error:
            with self._lock:
                self._open -= 1
            if isinstance(error, ssl.SSLCertVerificationError):
                raise ExchangeFailedError(
                    f"the certificate of {target} does not verify ({error.verify_message});"
                    " if an authority of your own issued it, name that with ca=FILE",
                    lasting=True,
                ) from error
            if isinstance(error, OSError | ValueError | http.client.HTTPException):
                through = f" through the proxy {proxy.host}:{proxy.port}" if proxy else ""
                raise ExchangeFailedError(f"{target} could not be connected to{through} ({reason(error)})") from error
            raise
        to_proxy = proxy.headers if proxy and target.scheme == "http" else None
        connection = Connection(wire, target, to_proxy, self._upstream.stall_s, self._clock)
        connection.address = None if proxy else _peer(wire.sock)
        return connection


def _dial(
    target: Target, proxy: Proxy | None, tls: ssl.SSLContext, timeout_s: float, check: Callable[[Address], None]
) -> http.client.HTTPConnection:
    """A connected `HTTPConnection`, through a proxy's tunnel if the target is an https target behind a proxy.

    `check` raises for an address that is not to be connected to.
    """
    host, port = (proxy.host, proxy.port) if proxy else (target.host, target.port)
    if target.scheme == "http":
        wire = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        wire = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        if proxy:
            wire.set_tunnel(target.host, target.port, proxy.headers)
    try:
        if proxy:
            wire.connect()
        else:
            wire.sock = _connected(target, timeout_s, check)
            if target.scheme == "https":
                wire.sock = tls.wrap_socket(wire.sock, server_hostname=target.host)
    except BaseException:
        wire.close()
        raise
    return wire


def _connected(target: Target, timeout_s: float, check: Callable[[Address], None]) -> socket.socket:
    """A socket that is connected to the first address that `check` allows and that takes the connection."""
    trouble: OSError | ExchangeFailedError = OSError("the name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            check(ipaddress.ip_address(str(address[0]).partition("%")[0]))
            made.settimeout(timeout_s)
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ExchangeFailedError) as error:
            made.close()
            trouble = error
        else:
            return made
    raise trouble


def _peer(connected: socket.socket) -> Address:
    return ipaddress.ip_address(str(connected.getpeername()[0]).partition("%")[0])


def _numeric(host: str) -> Address | None:
    """The address that `host` is in any notation that the resolver takes (`0x7f.1`); None for a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return literal(str(found[0][4][0]))


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    if upstream.ca_file is None:
        return _system_context()
    try:
        return _context_with(upstream.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"upstream {upstream.name}: no CA could be read from {upstream.ca_file}: {error}") from error


@functools.lru_cache(maxsize=32)
def _context_with(ca_file: Path) -> ssl.SSLContext:
    """One context for all upstreams that have the same authorities."""
    context = _new_context()
    context.load_verify_locations(ca_file)
    return context


@functools.cache
def _system_context() -> ssl.SSLContext:
    """One context for all upstreams: reading the system's authorities takes 30 ms and 1 MiB."""
    return _new_context()


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
