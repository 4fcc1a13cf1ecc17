"""A host of a swarm whose scheduler says what a test does, and whose neighbours are registries on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from peer.core import events
from peer.core.download import Download
from peer.core.events import Phase
from peer.host import Host, Limits
from peer.host_schedulers import Identity
from peer.peer_piece import REPOSITORY
from peer.readers import Readers
from peer.store import Store
from peer.tasks import BackgroundTasks
from scheduler.protocol import link, to_host
from scheduler.protocol.codec import ToHost
from tests.peer.download_fixtures import CONTENT, DIGEST, PIECE, eventually
from tests.support.registry_server import RegistryServer

RAW = DIGEST.raw
COUNT = 10
SIZE = len(CONTENT)


def digests(content: bytes) -> to_host.PieceDigests:
    """The map of all pieces, if the blob were `content`."""
    pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
    return to_host.PieceDigests(RAW, 1, (to_host.DigestRun(0, b"".join(blake3(piece).digest() for piece in pieces)),))


def lease(number: int, generation: int = 1) -> to_host.Lease:
    """All pieces are this host's to ask the origin for."""
    return to_host.Lease(number, RAW, generation, 0, COUNT, 15.0)


@dataclass
class Scripted:
    """A host whose scheduler says what the test does. `beginnings` has each download of the blob that was seen."""

    host: Host
    readers: Readers
    beginnings: list[Download] = field(default_factory=list)

    def says(self, *messages: ToHost) -> None:
        for message in messages:
            self.host.feed(events.FromScheduler(message))

    async def joins(self, size_bytes: int, generation: int = 1, *neighbours: to_host.Neighbour) -> None:
        """A download of the blob begins, that was not there before, and the scheduler answers it."""
        await eventually(self._has_begun)
        self.beginnings.append(self.host.machine.downloads[RAW])
        self.says(to_host.Joined(RAW, generation, size_bytes, sealed=False, neighbours=neighbours))

    def phase_of(self, digest: bytes) -> Phase | None:
        """How far the download of a blob is; None if there is none."""
        download = self.host.machine.downloads.get(digest)
        return None if download is None else download.phase

    def _has_begun(self) -> bool:
        download = self.host.machine.downloads.get(RAW)
        return download is not None and download not in self.beginnings and download.phase is Phase.FETCHING


@asynccontextmanager
async def scripted(store: Store, **limits: Any) -> AsyncIterator[Scripted]:
    """A host that is connected to a scheduler, as far as it knows."""
    async with BackgroundTasks() as background:
        host = Host(store, Limits(**limits), background, Identity("me", scheduler_timeout_s=1000.0), [""])
        host.feed(events.SchedulerFound())
        try:
            yield Scripted(host, Readers(host))
        finally:
            host.close()
            await host.disconnect()


@contextmanager
def neighbour(content: bytes) -> Iterator[tuple[to_host.Neighbour, events.FromNeighbour]]:
    """Another host that serves `content` as the blob, and how it says so."""
    with RegistryServer() as server:
        server.add_blob(REPOSITORY, DIGEST, content)
        says = events.FromNeighbour("other", link.Bitfield(RAW, 1, complete=True))
        yield to_host.Neighbour("other", server.url.removeprefix("http://"), 0), says
