"""The clients for neighbours' peer ports: few are kept, for each keeps connections."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from peer.neighbour_http import NeighbourClient
from peer.peer_piece import PieceSource

if TYPE_CHECKING:
    from peer.trust.host_trust import HostTrust
    from peer.trust.piece_keys import PieceKeys

MAX_CLIENTS = 256
"""Neighbours whose connections are kept at a time."""

MAX_ADDRESSES = 65_536
"""Hosts whose addresses are remembered: more than are ever neighbours of one host."""


class NeighbourClients:
    """By host id. `asking` is the host that asks: this one."""

    def __init__(self, asking: str, trust: HostTrust | None = None, keys: PieceKeys | None = None) -> None:
        self._asking = asking
        self._trust = trust
        self._keys = keys
        self._addresses: OrderedDict[str, str] = OrderedDict()
        self._clients: OrderedDict[str, _Clients] = OrderedDict()

    def rename(self, asking: str) -> None:
        """The host that asks has another id from now on."""
        self._asking = asking
        self.close()
        self._clients.clear()

    def learn(self, host: str, address: str) -> None:
        """A host's peer port is at `address` from now on."""
        self._addresses.pop(host, None)
        self._addresses[host] = address
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)

    def address(self, host: str) -> str:
        """Where a host's peer port is; empty if nobody has said."""
        return self._addresses.get(host, "")

    def get(self, host: str) -> PieceSource | None:
        """Where to ask a host for a piece; None if nobody has said where that is."""
        address = self._addresses.get(host)
        if address is None:
            return None
        known = self._clients.pop(host, None)
        if known is not None and known.address != address:
            known.close()
            known = None
        known = self._clients[host] = known or _Clients(host, address, self._asking, self._trust)
        while len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)[1].close()
        key = None if self._keys is None else self._keys.held(host)
        if self._keys is None or key is None:
            return PieceSource(known.client)
        return PieceSource(known.client, known.outside_tls, key, plain=self._keys.plain and key.plain)

    def forget(self, host: str) -> None:
        """End all connections to a host."""
        self._addresses.pop(host, None)
        known = self._clients.pop(host, None)
        if known is not None:
            known.close()

    def close(self) -> None:
        """End all connections."""
        for known in self._clients.values():
            known.close()


@dataclass
class _Clients:
    """The clients for one host, each made when it is first used."""

    host: str
    address: str
    asking: str
    trust: HostTrust | None

    @cached_property
    def client(self) -> NeighbourClient:
        return NeighbourClient(self.host, self.address, self.asking, self.trust)

    @cached_property
    def outside_tls(self) -> NeighbourClient:
        return NeighbourClient(self.host, self.address, self.asking)

    def close(self) -> None:
        for name in ("client", "outside_tls"):
            if name in vars(self):
                vars(self)[name].close()
