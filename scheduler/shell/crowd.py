"""All connections of a scheduler's port, by the network that they come from: who goes when there are too many.

Rules:
1. A host with a certificate counts for itself and never has to go.
2. Room for a new connection is made at the network (`scheduler.core.members.network_of`) with the most connections.
   There, the newest connection that has not said Hello goes first, then the newest host that has said nothing but
   Hello, then, if the new connection comes from a network with fewer connections, the newest host.
3. Where that leaves nobody, the new connection is one too many.
"""

from __future__ import annotations

from typing import Final

from scheduler.shell.connection import HostConnection


class Crowd:
    """The connections without a certificate."""

    def __init__(self) -> None:
        self._by_network: Final[dict[str, dict[int, HostConnection]]] = {}

    def add(self, connection: HostConnection) -> None:
        """A connection has opened."""
        self._by_network.setdefault(connection.network, {})[connection.number] = connection

    def discard(self, connection: HostConnection) -> None:
        """A connection has ended, or has shown a certificate."""
        of_network = self._by_network.get(connection.network)
        if of_network is not None and of_network.pop(connection.number, None) is not None and not of_network:
            del self._by_network[connection.network]

    def least_welcome(self, newest: HostConnection) -> HostConnection | None:
        """The connection that has to go so that `newest` may stay."""
        own = len(self._by_network.get(newest.network, ()))
        largest = max(self._by_network.values(), key=len, default={})
        others = [each for each in reversed(largest.values()) if each is not newest and each.ended_at is None]
        for tier in range(3):
            if tier == 2 and len(largest) <= own:
                return None
            for each in others:
                if _standing(each) == tier:
                    return each
        return None


def _standing(connection: HostConnection) -> int:
    if not connection.greeted:
        return 0
    return 2 if connection.has_spoken else 1
