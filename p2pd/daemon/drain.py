"""Draining a node: it takes nothing new, gives back what no client waits for, and its clients finish."""

from __future__ import annotations

from dataclasses import dataclass

from peer.host import Host
from proxy.mirror import Mirror


@dataclass(slots=True)
class Draining:
    """Of one node."""

    mirror: Mirror
    host: Host
    _begun: bool = False

    def drained(self) -> bool:
        """Begin, at the first call; whether no client is served any more. Other hosts may still fetch from this one."""
        if not self._begun:
            self._begun = True
            self.mirror.drain()
            self.host.drain()
        return self.mirror.is_idle
