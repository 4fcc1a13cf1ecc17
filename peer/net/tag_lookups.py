"""Tags while their origin is gone: what most of the hosts that asked their origins were told last.

1. A host that never asked for a tag sends TagLookup, and waits at most `patience_s` for TagResult.
2. The scheduler asks every host by TagQuery. Each host answers at once with what its own origin told it (`own_word`),
   or that it has nothing to tell.
3. One host's word decides nothing: a result counts if it has the words of `TAG_QUORUM` hosts or more. An older
   scheduler passes on one host's word, without a number of hosts. Such a result does not count.
4. Of several schedulers all that are connected are asked, and of their results the one counts that most hosts tell:
   without Redis each knows some of the hosts. The answer to a question goes to the scheduler that has asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from msgspec import Struct

from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from peer.tasks import BackgroundTasks, SingleFlight
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FromHost

log = structlog.get_logger("peer.net.tag_lookups")


class TagName(Struct, frozen=True):
    """A tag of a repository."""

    repository: Repository
    tag: Tag

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


class TagWord(Struct, frozen=True):
    """The public manifest that a host's own origin gave for a tag last, and how long ago."""

    manifest: Descriptor
    age_s: float


@dataclass(slots=True)
class _Lookup:
    """Schedulers that have not said their results yet, by URL, and the result that most hosts tell so far."""

    result: asyncio.Future[Descriptor | None]
    asked: set[str]
    best: Descriptor | None = None
    hosts: int = 0


class TagLookups:
    """The tags that this host asks the others for, and its answers to them. On the event loop.

    `tell` sends to the scheduler at a URL; `connected` has those at which there is a connection. `own_word` says what
    this host can tell of a tag.
    """

    def __init__(
        self,
        tell: Callable[[str, FromHost], None],
        connected: Callable[[], list[str]],
        tasks: BackgroundTasks,
        *,
        patience_s: float,
    ) -> None:
        self._tell = tell
        self._connected = connected
        self._patience_s = patience_s
        self._asking: SingleFlight[TagName, Descriptor | None] = SingleFlight(tasks)
        self._lookups: dict[TagName, _Lookup] = {}
        self.own_word: Callable[[TagName], TagWord | None] = lambda _: None

    async def most_were_told(self, name: TagName) -> Descriptor | None:
        """The public manifest that most hosts were told last; None if there is no majority, or no answer in time."""
        return await self._asking.get(name, lambda: self._ask(name)) if self._connected() else None

    async def _ask(self, name: TagName) -> Descriptor | None:
        lookup = _Lookup(asyncio.get_running_loop().create_future(), set(self._connected()))
        self._lookups[name] = lookup
        for url in lookup.asked:
            self._tell(url, from_host.TagLookup(name.repository.upstream, name.repository.name, name.tag))
        try:
            async with asyncio.timeout(self._patience_s):
                return await lookup.result
        except TimeoutError:
            log.info("no scheduler said in time what hosts were told of a tag", image=str(name))
            return lookup.best
        finally:
            del self._lookups[name]

    def on_message(self, message: to_host.TagQuery | to_host.TagResult, scheduler: str) -> None:
        """A scheduler's question, or its answer; `scheduler` is its URL."""
        name = TagName(Repository(UpstreamName(message.upstream), RepositoryName(message.repository)), Tag(message.tag))
        if isinstance(message, to_host.TagQuery):
            self._tell(scheduler, _answer(name, self.own_word(name)))
        elif (lookup := self._lookups.get(name)) is not None and scheduler in lookup.asked:
            manifest = _believed(message)
            if manifest is not None and message.hosts > lookup.hosts:
                lookup.best, lookup.hosts = manifest, message.hosts
            _has_answered(lookup, scheduler)

    def scheduler_lost(self, scheduler: str) -> None:
        """It will tell nothing now."""
        for lookup in self._lookups.values():
            _has_answered(lookup, scheduler)


def _has_answered(lookup: _Lookup, scheduler: str) -> None:
    """Nothing more is to come of this scheduler."""
    lookup.asked.discard(scheduler)
    if not lookup.asked and not lookup.result.done():
        lookup.result.set_result(lookup.best)


def _answer(name: TagName, word: TagWord | None) -> from_host.TagAnswer:
    """Hosts tell each other of content by its SHA-256 only."""
    asked = (name.repository.upstream, name.repository.name, name.tag)
    if word is None or not isinstance(word.manifest.digest, Digest):
        return from_host.TagAnswer(*asked, 0)
    facts = (word.manifest.digest.raw, word.manifest.size_bytes, word.manifest.media_type)
    return from_host.TagAnswer(*asked, 200, *facts, public=True, age_s=min(word.age_s, from_host.MAX_AGE_S))


def _believed(message: to_host.TagResult) -> Descriptor | None:
    """The manifest that a result tells, if enough hosts tell it, and all that there is to know of it (rule 3)."""
    if message.status != 200 or not message.public or message.hosts < to_host.TAG_QUORUM:
        return None
    if message.digest is None or not message.size_bytes or not message.media_type:
        return None
    return Descriptor(message.media_type, Digest.from_raw(message.digest), message.size_bytes)
