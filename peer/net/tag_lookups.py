"""Tags: this host's part in asking an origin once, for the whole cluster, which digest a tag has.

1. Who wants to know waits at most `patience_s`. It is told what another host found, or that the turn is its own: then
   it asks the origin for all. Else nothing comes of it, and it asks the origin for itself; without a scheduler, at
   once.
2. Whose turn it is always says what came of it (`answer`), for the others wait for that.
3. What is told is another host's word. No digest proves which one a tag has, nor who may have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FromHost

log = structlog.get_logger("peer.net.tag_lookups")


@dataclass(frozen=True, slots=True)
class TagName:
    """A tag of a repository."""

    repository: Repository
    tag: Tag


@dataclass(frozen=True, slots=True)
class TagFound:
    """The manifest that a tag names. `public`: the origin gave it to a host that showed it no credential."""

    manifest: Descriptor
    public: bool = False


class Turn(Enum):
    """Who is to ask the origin."""

    OURS = auto()


class TagLookups:
    """The tags that this host waits for. On the event loop; `tell` sends to the scheduler, if it is `connected`."""

    def __init__(self, tell: Callable[[FromHost], None], connected: Callable[[], bool], *, patience_s: float) -> None:
        self._tell = tell
        self._connected = connected
        self._patience_s = patience_s
        self._waiting: dict[TagName, list[asyncio.Future[TagFound | Turn | None]]] = {}

    async def look_up(self, name: TagName) -> TagFound | Turn | None:
        """What another host found; or that it is our turn to ask the origin for all; or None, and nobody helps."""
        if not self._connected():
            return None
        mine: asyncio.Future[TagFound | Turn | None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(name, [])
        waiting.append(mine)
        if len(waiting) == 1:
            self._tell(from_host.TagLookup(name.repository.upstream, name.repository.name, name.tag))
        try:
            async with asyncio.timeout(self._patience_s):
                return await mine
        except TimeoutError:
            if not mine.cancelled():  # it came at the last moment
                return mine.result()
            log.info("nobody told in time what a tag means", repository=str(name.repository), tag=name.tag)
            return None
        finally:
            self._wait_no_more(name, mine)

    def answer(self, name: TagName, status: int, found: TagFound | None = None) -> None:
        """Say what the origin answered when it was our turn: `found` with status 200, and 0 if it gave no answer."""
        asked = (name.repository.upstream, name.repository.name, name.tag, status)
        if found is None:
            self._tell(from_host.TagAnswer(*asked))
            return
        manifest = found.manifest
        assert isinstance(manifest.digest, Digest), "hosts tell each other of blobs by their SHA-256"
        facts = (manifest.digest.raw, manifest.size_bytes, manifest.media_type, found.public)
        self._tell(from_host.TagAnswer(*asked, *facts))

    def on_message(self, message: to_host.TagResolve | to_host.TagResult) -> None:
        """The scheduler's word."""
        name = TagName(Repository(UpstreamName(message.upstream), RepositoryName(message.repository)), Tag(message.tag))
        if isinstance(message, to_host.TagResult):
            self._tell_all(name, _found(message))
            return
        first = next((future for future in self._waiting.get(name, ()) if not future.done()), None)
        if first is None:  # who waited has given up, and asks the origin for itself
            self.answer(name, 0)
            return
        self._wait_no_more(name, first)
        first.set_result(Turn.OURS)

    def scheduler_lost(self) -> None:
        """Nobody will tell now."""
        for name in tuple(self._waiting):
            self._tell_all(name, None)

    def _tell_all(self, name: TagName, found: TagFound | None) -> None:
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_result(found)

    def _wait_no_more(self, name: TagName, future: asyncio.Future[TagFound | Turn | None]) -> None:
        waiting = self._waiting.get(name, [])
        if future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[name]


def _found(message: to_host.TagResult) -> TagFound | None:
    """What a result tells, if it tells all that there is to know of a manifest."""
    if message.status != 200 or message.digest is None or not message.size_bytes or not message.media_type:
        return None
    digest = Digest.from_raw(message.digest)
    return TagFound(Descriptor(message.media_type, digest, message.size_bytes), message.public)
