"""The links that this host needs, and for the sake of which blobs.

Each of two neighbours is told of the other at its own time, so the news that one sent before the other knew it was
lost. So the first bitfield of a neighbour is answered once with what is held here, for each blob.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.core.events import Instruction, KeepLink, ReleaseLink
from peer.core.neighbours import FAR
from scheduler.protocol.to_host import Neighbour


@dataclass(slots=True)
class _Peer:
    address: str
    distance: int
    answered: dict[bytes, bool] = field(default_factory=dict)
    """The blobs that need the link, and whether the peer's first bitfield was answered."""


@dataclass(slots=True)
class LinkBook:
    """Peers by host id, from the first blob that needs a link to the last."""

    _peers: dict[str, _Peer] = field(default_factory=dict)

    def want(self, digest: bytes, neighbour: Neighbour) -> list[Instruction]:
        """The blob needs a link to this neighbour."""
        peer = self._peers.get(neighbour.host)
        is_new = peer is None or peer.address != neighbour.address
        if peer is None:
            peer = self._peers[neighbour.host] = _Peer(neighbour.address, neighbour.distance)
        peer.address, peer.distance = neighbour.address, neighbour.distance
        peer.answered.setdefault(digest, False)
        return [KeepLink(neighbour.host, neighbour.address)] if is_new else []

    def unwant(self, digest: bytes, host: str) -> list[Instruction]:
        """The blob needs no link to `host` any more."""
        peer = self._peers.get(host)
        if peer is None or peer.answered.pop(digest, None) is None or peer.answered:
            return []
        del self._peers[host]
        return [ReleaseLink(host)]

    def wanted_by(self, digest: bytes) -> tuple[str, ...]:
        """The peers whose links the blob needs."""
        return tuple(host for host, peer in self._peers.items() if digest in peer.answered)

    def is_to_answer(self, digest: bytes, host: str) -> bool:
        """Whether this bitfield of `host` is the first since the link is up. Says so once."""
        peer = self._peers.get(host)
        if peer is None or peer.answered.get(digest, True):
            return False
        peer.answered[digest] = True
        return True

    def up(self, host: str) -> tuple[bytes, ...]:
        """The link to `host` works from now on. Returns the blobs that need it."""
        peer = self._peers.get(host)
        if peer is None:
            return ()
        peer.answered = dict.fromkeys(peer.answered, False)
        return tuple(peer.answered)

    def lost(self, host: str) -> tuple[bytes, ...]:
        """There is no link to `host` any more. Returns the blobs that needed it."""
        peer = self._peers.pop(host, None)
        return () if peer is None else tuple(peer.answered)

    def hosts(self) -> tuple[str, ...]:
        """All peers to which a link is needed."""
        return tuple(self._peers)

    def is_far(self, host: str) -> bool:
        """Whether `host` is in another site, as far as this host knows."""
        peer = self._peers.get(host)
        return peer is not None and peer.distance >= FAR
