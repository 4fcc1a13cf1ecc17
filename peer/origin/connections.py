"""Connections to the hosts of an upstream, and to those of its redirects and tokens: opened, kept and used again.

Rules:
1. The idle connection that was used last is used next. An idle connection that is too old or readable (the other side
   closed it, or sent bytes unasked) is dropped. If a kept connection proves dead in use, it is replaced at once, and
   that does not count as a failed attempt.
2. TLS is verified. There is no switch.
3. Every error is an ExchangeFailedError that names the host, and never a path or a query.
"""

from __future__ import annotations

import functools
import http.client
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from peer.errors import OriginUnreachableError
from peer.origin.http1 import Connection, ExchangeFailedError, Reply, reason

if TYPE_CHECKING:
    from peer.origin.cancel import CancelScope
    from peer.origin.clock import Clock
    from peer.origin.proxies import Proxies, Proxy
    from peer.origin.rates import Traffic
    from peer.origin.upstream import Target, Upstream


class TlsPeer(Protocol):
    """Who is at the other end of TLS, and how that is known."""

    def context(self) -> ssl.SSLContext:
        """For a new connection. Raises OSError if there can be none."""
        ...

    def check(self, connection: ssl.SSLSocket) -> None:
        """Raises OSError if somebody else is at the other end of a connection."""
        ...


@dataclass(frozen=True, slots=True)
class _Verified:
    """An origin, by the name in its certificate: TLS itself compares it."""

    tls: ssl.SSLContext

    def context(self) -> ssl.SSLContext:
        return self.tls

    def check(self, connection: ssl.SSLSocket) -> None:
        """There is nothing left to check."""


class Connections:
    """The connections of one upstream, busy and idle, to all the hosts it leads to.

    At most `max_connections` are open: idle connections are closed, the oldest first. Cancel scopes bound the busy
    connections.
    """

    def __init__(
        self, upstream: Upstream, proxies: Proxies, traffic: Traffic, clock: Clock, peer: TlsPeer | None = None
    ) -> None:
        self._upstream = upstream
        self._proxies = proxies
        self._traffic = traffic
        self._clock = clock
        self._peer = peer or _Verified(_tls_context(upstream))
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
    ) -> Reply:
        """Send one request, without a body, and read the headers of its answer. Raises ExchangeFailedError."""
        cancel_scope.check()
        idle = self._take_idle(target)
        if idle is not None:
            try:
                return self._exchange_on(idle, cancel_scope, method, path, headers, deadline)
            except ConnectionError:
                cancel_scope.check()
        fresh = self._connect(target, deadline)
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

    def _take_idle(self, target: Target) -> Connection | None:
        oldest = self._clock.monotonic() - self._upstream.idle_s
        with self._lock:
            expired = [connection for connection in self._idle if not self._is_good(connection, oldest)]
            self._idle = [connection for connection in self._idle if self._is_good(connection, oldest)]
            found = next((idle for idle in reversed(self._idle) if idle.target == target), None)
            if found is not None:
                self._idle.remove(found)
        for connection in expired:
            self._drop(connection)
        if found is not None and found.is_dead():
            self._drop(found)
            return self._take_idle(target)
        return found

    def _is_good(self, connection: Connection, oldest: float) -> bool:
        """Whether an idle connection can be used: the certificate that it was made with may be over by now."""
        return connection.idle_since >= oldest and connection.tls in (None, self._peer.context())

    def _connect(self, target: Target, deadline: float) -> Connection:
        timeout_s = min(self._upstream.connect_s, deadline - self._clock.monotonic())
        if timeout_s <= 0:
            raise ExchangeFailedError(f"{target} was not tried: no time was left")
        with self._lock:
            surplus = self._idle.pop(0) if self._open >= self._upstream.max_connections and self._idle else None
            self._open += 1
        if surplus is not None:
            self._drop(surplus)
        proxy = self._proxies.leading_to(target)
        try:
            tls = self._peer.context() if target.scheme == "https" else None
            wire = _dial(target, proxy, tls, timeout_s, self._peer)
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
        connection.tls = tls
        return connection


def _dial(
    target: Target, proxy: Proxy | None, tls: ssl.SSLContext | None, timeout_s: float, peer: TlsPeer
) -> http.client.HTTPConnection:
    """A connected `HTTPConnection`, through a proxy's tunnel if the target is an https target behind a proxy."""
    host, port = (proxy.host, proxy.port) if proxy else (target.host, target.port)
    if tls is None:
        wire = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        wire = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        if proxy:
            wire.set_tunnel(target.host, target.port, proxy.headers)
    try:
        wire.connect()
        if isinstance(wire.sock, ssl.SSLSocket):
            peer.check(wire.sock)
    except BaseException:
        wire.close()
        raise
    return wire


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    if upstream.ca_file is None:
        return _system_context()
    context = _new_context()
    try:
        context.load_verify_locations(upstream.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"upstream {upstream.name}: no CA could be read from {upstream.ca_file}: {error}") from error
    return context


@functools.cache
def _system_context() -> ssl.SSLContext:
    """One context for all upstreams: reading the system's authorities takes 30 ms and 1 MiB."""
    return _new_context()


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
