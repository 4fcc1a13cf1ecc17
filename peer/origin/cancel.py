"""Cancel scopes: each holds the exchanges of one call to an upstream, and any thread may end it.

Rules:
1. A scope belongs to one thread. It has at most one busy connection, so the number of scopes bounds the number of busy
   connections, with redirects and token servers included.
2. A scope that was ended starts no other exchange: its thread calls `check` or `wait` before each.
3. A scope keeps its socket's descriptor open until it releases the socket, so `end` cannot shut down another file that
   got the same descriptor.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from peer.errors import OriginUnreachableError

if TYPE_CHECKING:
    from peer.origin.clock import Clock


class CancelScope:
    """The scope of one call. `for_body`: it lasts as long as a body."""

    def __init__(self, upstream: str, clock: Clock, *, for_body: bool) -> None:
        self.for_body = for_body
        self._upstream = upstream
        self._clock = clock
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._kept_open: socket.SocketIO | None = None

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended.is_set()

    def check(self) -> None:
        """Raise OriginUnreachableError if the scope was ended."""
        if self._ended.is_set():
            raise OriginUnreachableError(f"upstream {self._upstream}: the request was ended, p2pd no longer wants it")

    def wait(self, seconds: float) -> None:
        """Wait. Raises OriginUnreachableError as soon as the scope is ended."""
        if seconds > 0:
            self._clock.wait(self._ended, seconds)
        self.check()

    def hold(self, busy: socket.socket) -> None:
        """From now on `end` interrupts the socket `busy`. It is released before the next socket is held."""
        with self._lock:
            self._socket = busy
            self._kept_open = busy.makefile("rb", buffering=0)
        self.check()

    def let_go(self) -> None:
        """Release the socket, if there is one: `end` leaves it alone from now on."""
        with self._lock:
            if self._kept_open is not None:
                self._kept_open.close()
            self._socket = self._kept_open = None

    def end(self) -> None:
        """End the scope. Safe at any time, from any thread, several times."""
        self._ended.set()
        with self._lock:
            if self._socket is not None:
                # Of the base class: a TLS socket's own shutdown drops the TLS layer under the reading thread, which
                # then takes ciphertext for data. An error means that the other side has closed it already.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class CancelScopes:
    """The scopes of one upstream: at most `limit` at a time, at most `limit - 1` of them for bodies.

    Bodies last for minutes. If they held every scope, a manifest would have to wait for a layer.
    """

    def __init__(self, upstream: str, limit: int, clock: Clock) -> None:
        self._upstream = upstream
        self._limit = limit
        self._body_limit = max(1, limit - 1)
        self._clock = clock
        self._changed = threading.Condition()
        self._cancel_scopes: set[CancelScope] = set()
        self._closed = False

    def begin(self, *, for_body: bool, patience_s: float) -> CancelScope:
        """A new scope. Raises OriginUnreachableError if none is free in time, and after `close`."""
        cancel_scope = CancelScope(self._upstream, self._clock, for_body=for_body)
        with self._changed:
            free = self._changed.wait_for(lambda: self._closed or self._has_room(for_body), patience_s)
            if self._closed:
                raise OriginUnreachableError(f"upstream {self._upstream}: it is closed, p2pd is stopping")
            if not free:
                raise OriginUnreachableError(
                    f"upstream {self._upstream}: its {self._limit} connections were all in use for {patience_s:g} s;"
                    " raise connections_per_origin, or see why the origin is slow"
                )
            self._cancel_scopes.add(cancel_scope)
        return cancel_scope

    def finish(self, cancel_scope: CancelScope) -> None:
        """The call is over: another scope may begin."""
        with self._changed:
            self._cancel_scopes.discard(cancel_scope)
            self._changed.notify_all()

    def close(self) -> None:
        """End every scope, and let none begin."""
        with self._changed:
            self._closed = True
            cancel_scopes = tuple(self._cancel_scopes)
            self._changed.notify_all()
        for cancel_scope in cancel_scopes:
            cancel_scope.end()

    def _has_room(self, for_body: bool) -> bool:
        bodies = sum(cancel_scope.for_body for cancel_scope in self._cancel_scopes)
        return len(self._cancel_scopes) < self._limit and (not for_body or bodies < self._body_limit)
