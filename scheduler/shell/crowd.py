"""All connections of a scheduler's port, by the network that they come from: who goes when there are too many.

Rules:
1. A host with a certificate counts for itself and never has to go.
2. Room for a new connection is made at the network (`scheduler.core.members.network_of`) with the most connections.
   There, the newest connection that has not said Hello goes first, then the newest host that has said nothing but
   Hello, then, if the new connection comes from a network with fewer connections, the newest host.
3. Where that leaves nobody, the new connection is one too many.
4. None of it takes longer where there are more connections or networks: a scheduler that is full is asked again and
   again.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from scheduler.shell.connection import HostConnection


class _Standing(IntEnum):
    """How far a connection has got. Who has got less far goes first."""

    STRANGER = auto()
    GREETED = auto()
    SPOKEN = auto()


class Crowd:
    """The connections without a certificate."""

    def __init__(self) -> None:
        self._standings: Final[dict[tuple[str, _Standing], dict[int, HostConnection]]] = {}
        """The connections of each network, those that got so far last at the end."""
        self._counts: Final[dict[str, int]] = {}
        self._by_count: Final[dict[int, dict[str, None]]] = {}
        self._most = 0
        """The connections of the network with the most."""

    def add(self, connection: HostConnection) -> None:
        """A connection has opened."""
        self._put(connection)
        self._count(connection.network, 1)

    def stepped(self, connection: HostConnection) -> None:
        """A connection has said Hello, or its first message after that."""
        if self._take(connection):
            self._put(connection)

    def discard(self, connection: HostConnection) -> None:
        """A connection has ended, or has shown a certificate."""
        if self._take(connection):
            self._count(connection.network, -1)

    def least_welcome(self, newest: HostConnection) -> HostConnection | None:
        """The connection that has to go so that `newest` may stay."""
        largest = next(iter(self._by_count.get(self._most, ())), "")
        for standing in _Standing:
            if standing is _Standing.SPOKEN and self._most <= self._counts.get(newest.network, 0):
                return None
            for each in reversed(self._standings.get((largest, standing), {}).values()):
                if each is not newest and each.ended_at is None:
                    return each
        return None

    def _put(self, connection: HostConnection) -> None:
        key = (connection.network, _standing(connection))
        self._standings.setdefault(key, {})[connection.number] = connection

    def _take(self, connection: HostConnection) -> bool:
        """Forget how far a connection has got. Returns whether it was known."""
        for standing in _Standing:
            of_network = self._standings.get((connection.network, standing))
            if of_network is not None and of_network.pop(connection.number, None) is not None:
                if not of_network:
                    del self._standings[connection.network, standing]
                return True
        return False

    def _count(self, network: str, more: int) -> None:
        before = self._counts.pop(network, 0)
        if before:
            del self._by_count[before][network]
            if not self._by_count[before]:
                del self._by_count[before]
        if count := before + more:
            self._counts[network] = count
            self._by_count.setdefault(count, {})[network] = None
        if count > self._most or self._most not in self._by_count:
            self._most = count


def _standing(connection: HostConnection) -> _Standing:
    if not connection.greeted:
        return _Standing.STRANGER
    return _Standing.SPOKEN if connection.has_spoken else _Standing.GREETED
