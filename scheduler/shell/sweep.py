"""Which hosts are silent, read nothing or do not hang up: each connection is looked at now and then.

One timer for all connections costs less than a timer for each, and pinging all hosts at once would delay every event.

Rules:
1. Each connection is looked at once in `interval_s`, `SWEPT_AT_ONCE` of them at a time.
2. A late sweep finds every host silent, because the server has not been reading. No host is blamed until each
   connection has been looked at once again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from scheduler.protocol.connection import Closing
from scheduler.shell.bounds import Bounds
from scheduler.shell.connection import HostConnection

SWEPT_AT_ONCE: Final = 256
"""Connections that are examined, and perhaps pinged, at once. That takes 4 ms."""


class Sweep:
    """Of the `connections` of one server, by number. `now` is in seconds, by the server's clock."""

    def __init__(self, bounds: Bounds, connections: Mapping[int, HostConnection]) -> None:
        self._bounds: Final = bounds
        self._connections: Final = connections
        self._interval_s: Final = min(bounds.heartbeat_s, bounds.hello_s, bounds.close_s) / 4
        self._swept_at = 0.0
        self._blames_from = 0.0
        self._unswept: list[HostConnection] = []
        """The connections that the current sweep has not examined yet."""

    def begin(self, now: float) -> None:
        """The server serves from now on."""
        self._swept_at = now

    @property
    def pause_s(self) -> float:
        """How long after `next` it is to be called again."""
        return self._interval_s / max(-(-len(self._connections) // SWEPT_AT_ONCE), 1)

    def next(self, now: float) -> Iterator[HostConnection]:
        """The connections that are to be looked at now (`fault_of`)."""
        if now - self._swept_at > 2 * self._interval_s:
            self._blames_from = now + self._interval_s
        self._swept_at = now
        if not self._unswept:
            self._unswept = list(self._connections.values())
        at_once = self._unswept[-SWEPT_AT_ONCE:]
        del self._unswept[-SWEPT_AT_ONCE:]
        for connection in at_once:
            if connection.number in self._connections:
                yield connection

    def fault_of(self, connection: HostConnection, now: float) -> tuple[Closing, str] | None:
        """Why the connection is to end, and the reason for its host. One that is silent is pinged first."""
        bounds = self._bounds
        silent_s = now - connection.heard_at
        if connection.ended_at is not None:
            if now - connection.ended_at > bounds.close_s:
                connection.abort()
        elif not connection.greeted:
            if now - connection.opened_at > bounds.hello_s:
                return Closing.LATE_HELLO, f"no Hello within {bounds.hello_s:g} s"
        elif self._reads_nothing(connection, now):
            return Closing.SLOW, f"nothing was read for {bounds.read_s:g} s"
        elif connection.begun_at is not None and now - connection.begun_at > bounds.message_s:
            return Closing.SLOW, f"a message was not ended within {bounds.message_s:g} s"
        elif connection.probed_at is not None and now - connection.probed_at > bounds.probe_s:
            return Closing.SILENT, f"its id is wanted, and nothing was heard for {silent_s:.1f} s"
        elif silent_s > 1.5 * bounds.heartbeat_s and connection.pinged and now >= self._blames_from:
            return Closing.SILENT, f"nothing was heard for {silent_s:.1f} s"
        elif silent_s > bounds.heartbeat_s and not connection.pinged:
            connection.ping()
        return None

    def _reads_nothing(self, connection: HostConnection, now: float) -> bool:
        """Whether bytes wait for a host that has read none of them for too long."""
        waiting = connection.waiting_bytes
        if not waiting or waiting < connection.unread_bytes or not connection.unread_bytes:
            connection.unread_since = now
        connection.unread_bytes = waiting
        return now - connection.unread_since > self._bounds.read_s and now >= self._blames_from
