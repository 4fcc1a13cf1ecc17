"""Calls: sequences of exchanges with an upstream, so many at a time, each of which any thread may end.

Rules:
1. A call is made by one thread. It has at most one connection busy at a time, so the number of calls bounds the number
   of busy connections, whatever redirects and token servers the exchanges lead to.
2. A call that is ended never starts another exchange: whoever goes on asks `check` or `wait` first.
3. A call keeps its socket's descriptor open until it lets go of it, so `end` cannot hit one that has been given to
   another file meanwhile.
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
    """One call. `for_body` tells whether it is held for as long as a body takes."""

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
        """Raise OriginUnreachableError if the call was ended."""
        if self._ended.is_set():
            raise OriginUnreachableError(f"upstream {self._upstream}: the request was ended, p2pd no longer wants it")

    def wait(self, seconds: float) -> None:
        """Wait so long; raises OriginUnreachableError at once when the call is ended."""
        if seconds > 0:
            self._clock.wait(self._ended, seconds)
        self.check()

    def hold(self, busy: socket.socket) -> None:
        """From now on `end` interrupts what waits for `busy`. Let go of it before the next one."""
        with self._lock:
            self._socket = busy
            self._kept_open = busy.makefile("rb", buffering=0)
        self.check()

    def let_go(self) -> None:
        """From now on the socket, if there is one, is none of this call's."""
        with self._lock:
            if self._kept_open is not None:
                self._kept_open.close()
            self._socket = self._kept_open = None

    def end(self) -> None:
        """End it, from any thread, at any time, once or several times."""
        self._ended.set()
        with self._lock:
            if self._socket is not None:
                # Of the base class: a TLS socket's own shutdown drops the TLS layer under the reading thread, which
                # then takes ciphertext for data. An error means that the other side has closed it already.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class CancelScopes:
    """The calls of one upstream: at most `limit` at a time, of which one is kept from bodies.

    Bodies last for minutes. Were they to hold every call, a manifest would have to wait for a layer.
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
        """A call that has not ended; OriginUnreachableError when none is free in time, or after `close`."""
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
        """Make room for another."""
        with self._changed:
            self._cancel_scopes.discard(cancel_scope)
            self._changed.notify_all()

    def close(self) -> None:
        """End every call, and let none begin."""
        with self._changed:
            self._closed = True
            cancel_scopes = tuple(self._cancel_scopes)
            self._changed.notify_all()
        for cancel_scope in cancel_scopes:
            cancel_scope.end()

    def _has_room(self, for_body: bool) -> bool:
        bodies = sum(cancel_scope.for_body for cancel_scope in self._cancel_scopes)
        return len(self._cancel_scopes) < self._limit and (not for_body or bodies < self._body_limit)
