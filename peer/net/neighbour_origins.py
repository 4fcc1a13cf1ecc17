"""The clients for neighbours' peer ports: few are kept, for each keeps connections."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from peer.origin.client import HttpOrigin
from peer.peer_piece import neighbour_origin

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust

MAX_ORIGINS = 256
"""Neighbours whose connections are kept at a time."""

MAX_ADDRESSES = 65_536
"""Hosts whose addresses are remembered: more than are ever neighbours of one host."""


class NeighbourOrigins:
    """By host id. `asking` is the host that asks: this one."""

    def __init__(self, asking: str, trust: HostTrust | None = None) -> None:
        self._asking = asking
        self._trust = trust
        self._addresses: OrderedDict[str, str] = OrderedDict()
        self._origins: OrderedDict[str, tuple[str, HttpOrigin]] = OrderedDict()

    def rename(self, asking: str) -> None:
        """The host that asks has another id from now on."""
        self._asking = asking
        self.close()
        self._origins.clear()

    def learn(self, host: str, address: str) -> None:
        """A host's peer port is at `address` from now on."""
        self._addresses.pop(host, None)
        self._addresses[host] = address
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)

    def get(self, host: str) -> HttpOrigin | None:
        """The client for a host's peer port; None if nobody has said where that is."""
        address = self._addresses.get(host)
        if address is None:
            return None
        known = self._origins.pop(host, None)
        if known is not None and known[0] != address:
            known[1].close()
            known = None
        self._origins[host] = known or (address, neighbour_origin(host, address, self._asking, self._trust))
        while len(self._origins) > MAX_ORIGINS:
            self._origins.popitem(last=False)[1][1].close()
        return self._origins[host][1]

    def forget(self, host: str) -> None:
        """End all connections to a host."""
        self._addresses.pop(host, None)
        known = self._origins.pop(host, None)
        if known is not None:
            known[1].close()

    def close(self) -> None:
        """End all connections."""
        for _, origin in self._origins.values():
            origin.close()
