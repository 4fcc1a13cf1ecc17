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
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from peer.errors import OriginUnreachableError
from peer.origin.address_policy import AddressPolicy, literal, refusal
from peer.origin.dialing import Dialer, Resolve, resolve
from peer.origin.http1 import Connection, ExchangeFailedError, Reply, reason
from peer.origin.trust import TrustedContext
from peer.origin.upstream import UpstreamEndpoint

if TYPE_CHECKING:
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

    def __init__(
        self,
        upstream: Upstream,
        proxies: Proxies,
        traffic: Traffic,
        clock: Clock,
        resolve: Resolve = resolve,
    ) -> None:
        self._upstream = upstream
        self._proxies = proxies
        self._traffic = traffic
        self._clock = clock
        self._tls = TrustedContext(upstream, clock)
        self._dialer = Dialer(resolve)
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
        content: bytes | None = None,
    ) -> Reply:
        """Send one request, and read the headers of its answer. Raises ExchangeFailedError.

        `lead` is whoever named `target`, if it is not the upstream's own.
        """
        cancel_scope.check()
        idle = self._take_idle(target, lead)
        if idle is not None:
            try:
                return self._exchange_on(idle, cancel_scope, method, path, headers, deadline, content)
            except ConnectionError:
                cancel_scope.check()
        fresh = self._connect(target, deadline, lead)
        try:
            return self._exchange_on(fresh, cancel_scope, method, path, headers, deadline, content)
        except ExchangeFailedError:
            self._dialer.did_not_answer(self._place(target))
            raise
        except ConnectionError as error:
            self._dialer.did_not_answer(self._place(target))
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
        content: bytes | None,
    ) -> Reply:
        """Raises ConnectionError if the other side was gone, else ExchangeFailedError."""
        self._traffic.asked()
        asked_at = self._clock.monotonic()
        try:
            reply = connection.ask(cancel_scope, method, path, headers, deadline, self._done, content)
        except (OSError, OriginUnreachableError):
            cancel_scope.let_go()
            self._drop(connection)
            raise
        self._traffic.answered(reply.status, self._clock.monotonic() - asked_at)
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
            wire = self._dial(target, proxy, timeout_s, check)
        except BaseException as error:
            with self._lock:
                self._open -= 1
            self._dialer.did_not_answer(self._place(target))
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

    def _place(self, target: Target) -> tuple[str, int]:
        """Where connections for `target` lead."""
        proxy = self._proxies.leading_to(target)
        return (proxy.host, proxy.port) if proxy else (target.host, target.port)

    def _dial(
        self, target: Target, proxy: Proxy | None, timeout_s: float, check: Callable[[Address], None]
    ) -> http.client.HTTPConnection:
        """A connected `HTTPConnection`, through a proxy's tunnel if the target is an https target behind a proxy.

        `check` raises for an address that `target` is not to be connected to at.
        """
        host, port = self._place(target)
        wire: http.client.HTTPConnection
        if target.scheme == "http":
            wire = http.client.HTTPConnection(host, port, timeout=timeout_s)
        else:
            wire = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls.get())
            if proxy:
                wire.set_tunnel(target.host, target.port, proxy.headers)
        connect = functools.partial(self._dialer.connect, check=None if proxy else check)
        # http.client's own seam for what opens its socket; urllib3 sets it, too.
        wire._create_connection = connect  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            wire.connect()
        except BaseException:
            wire.close()
            raise
        return wire


def _peer(connected: socket.socket) -> Address | None:
    return literal(str(connected.getpeername()[0]))


def _numeric(host: str) -> Address | None:
    """The address that `host` is in any notation that the resolver takes (`0x7f.1`); None for a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return literal(str(found[0][4][0]))
