"""Which hosts have too much unread: what waits for one host has a bound, and so has what waits for all of them.

A count of what waits for all looks at each connection. It is made once what was sent since may be too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from scheduler.shell.bounds import Bounds
from scheduler.shell.connection import HostConnection


class Unread:
    """Of the `connections` of one server, by number."""

    def __init__(self, bounds: Bounds, connections: Mapping[int, HostConnection]) -> None:
        self._bounds: Final = bounds
        self._connections: Final = connections
        self._at_most_bytes = 0
        """At most so many bytes are unread: what was found when it was last counted, and what was sent since."""
        self._too_slow: Final[list[HostConnection]] = []

    def sent(self, connection: HostConnection, size_bytes: int) -> None:
        """So many bytes were sent to a host."""
        self._at_most_bytes += size_bytes
        if connection.waiting_bytes > self._bounds.waiting_bytes:
            self._too_slow.append(connection)

    def too_slow(self) -> Iterator[tuple[HostConnection, str]]:
        """The connections that are to be ended now, and the reasons for their hosts."""
        while self._too_slow:
            yield self._too_slow.pop(), "too much waits that the host does not read"
        if self._at_most_bytes > self._bounds.waiting_bytes_in_all:
            yield from self._slowest()

    def _slowest(self) -> Iterator[tuple[HostConnection, str]]:
        """Count, and give the connections with the most unread bytes until half of the bound is left to the others."""
        waiting = {each: each.waiting_bytes for each in self._connections.values()}
        self._at_most_bytes = sum(waiting.values())
        if self._at_most_bytes <= self._bounds.waiting_bytes_in_all:
            return
        for connection in sorted(waiting, key=waiting.__getitem__, reverse=True):
            if self._at_most_bytes <= self._bounds.waiting_bytes_in_all // 2:
                return
            self._at_most_bytes -= waiting[connection]
            yield connection, "too much waits for all hosts, and most of it for this one"
