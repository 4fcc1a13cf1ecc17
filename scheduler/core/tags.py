"""Which digest a tag has: asked of the origin once, by one of the hosts that want to know.

Rules:
1. Whoever asks first is told to resolve; those that ask meanwhile wait for its answer, and get it when it comes.
2. A 4xx is the origin's answer to that host's credentials: it alone gets it, and the next that waits is asked.
3. A host that vanishes, is late, or cannot reach the origin makes way for the next, at most TRIES times in a row.
4. An answer is kept for `tag_ttl_s`, so that one rollout asks once. No digest proves it: it is as good as its resolver.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from scheduler.core.cluster import Due, TagKey, Timer
from scheduler.core.members import Source
from scheduler.protocol.to_host import TagResolve, TagResult

if TYPE_CHECKING:
    from scheduler.core.cluster import Cluster
    from scheduler.core.members import Host
    from scheduler.protocol.from_host import TagAnswer, TagLookup

TRIES: Final = 3
"""Hosts that may fail to reach the origin one after the other: then it is down, and all are told so."""

BUSY: Final = (408, 429)
"""The answers of a 4xx that say nothing of who asks."""


@dataclass(slots=True)
class Lookup:
    """A tag that is being resolved, or was a moment ago."""

    waiting: dict[Host, None] = field(default_factory=dict)
    """Who waits; the first was told to resolve."""
    tried: int = 0
    result: TagResult | None = None


class Tags:
    """All tags that are being asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster: Final = cluster
        self._lookups: Final[dict[TagKey, Lookup]] = {}

    def __len__(self) -> int:
        return len(self._lookups)

    def look_up(self, host: Host, message: TagLookup) -> None:
        """A host asks for a tag."""
        key = TagKey(Source(message.upstream, message.repository), message.tag)
        lookup = self._lookups.setdefault(key, Lookup())
        if lookup.result is not None:
            self._cluster.send((host,), lookup.result)
            return
        lookup.waiting[host] = None
        if len(lookup.waiting) == 1:
            self._resolve(key, lookup)

    def answered(self, host: Host, message: TagAnswer) -> None:
        """A host says what the origin said. One that was not asked, or no longer is, is not heard."""
        key = TagKey(Source(message.upstream, message.repository), message.tag)
        lookup = self._lookups.get(key)
        if lookup is None or lookup.result is not None or next(iter(lookup.waiting), None) is not host:
            return
        result = TagResult(*key.source, key.tag, message.status, message.digest, message.size_bytes, message.media_type)
        if message.status == 200:
            self._cluster.send(lookup.waiting, result)
            lookup.waiting.clear()
            lookup.result = result
            due = self._cluster.now + self._cluster.settings.tag_ttl_s
            self._cluster.deadlines.set(Timer(Due.TAG, key), due)
        elif 400 <= message.status < 500 and message.status not in BUSY:
            del lookup.waiting[host]
            self._cluster.send((host,), result)
            self._resolve(key, lookup)
        else:
            self._next(key, lookup, result)

    def due(self, key: TagKey) -> None:
        """An answer has grown old, or the host that was asked has not answered."""
        lookup = self._lookups[key]
        if lookup.result is not None:
            del self._lookups[key]
        else:
            self._next(key, lookup, TagResult(*key.source, key.tag, 0))

    def depart(self, host: Host) -> None:
        """A host has left."""
        for key, lookup in list(self._lookups.items()):
            if host in lookup.waiting:
                was_asked = next(iter(lookup.waiting)) is host
                del lookup.waiting[host]
                if was_asked:
                    self._resolve(key, lookup)

    def validate(self) -> None:
        """Raise AssertionError if anybody waits for nothing."""
        for key, lookup in self._lookups.items():
            assert (lookup.result is None) == bool(lookup.waiting)
            assert Timer(Due.TAG, key) in self._cluster.deadlines
            assert all(host.connection in self._cluster.hosts for host in lookup.waiting)

    def _next(self, key: TagKey, lookup: Lookup, result: TagResult) -> None:
        """The host that was asked could not reach the origin."""
        lookup.tried += 1
        failed = next(iter(lookup.waiting))
        told = tuple(lookup.waiting) if lookup.tried >= TRIES else (failed,)
        self._cluster.send(told, result)
        for host in told:
            del lookup.waiting[host]
        self._resolve(key, lookup)

    def _resolve(self, key: TagKey, lookup: Lookup) -> None:
        """Tell the first that waits to resolve; without one, there is nothing to look up."""
        timer = Timer(Due.TAG, key)
        host = next(iter(lookup.waiting), None)
        if host is None:
            del self._lookups[key]
            self._cluster.deadlines.cancel(timer)
            return
        within_s = self._cluster.settings.tag_resolve_s
        self._cluster.send((host,), TagResolve(*key.source, key.tag, within_s))
        self._cluster.deadlines.set(timer, self._cluster.now + within_s)
