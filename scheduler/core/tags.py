"""Tag lookups: the digest of a tag is resolved once at the origin, by one of the hosts that ask for it.

Rules:
1. The first host that asks is told to resolve the tag. Hosts that ask meanwhile wait for its answer.
2. A 4xx is the origin's answer to the credentials of the resolving host. Only this host gets it, and the next waiting
   host is told to resolve.
3. A host that vanishes, is late, or cannot reach the origin is replaced by the next waiting host, at most TRIES times
   in a row. A late answer still counts while hosts wait.
4. An answer is kept for `tag_ttl_s`, so that one rollout asks the origin once. No digest proves a tag's answer: it is
   as trustworthy as its resolver. The answer authorises no client: each host asks the origin for its own clients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from scheduler.core.members import Host, Source
from scheduler.core.state import Due, SchedulerState, TagKey, Timer
from scheduler.protocol.from_host import TagAnswer, TagLookup
from scheduler.protocol.to_host import TagResolve, TagResult

TRIES: Final = 3
"""Hosts in a row that may fail to reach the origin. Then the origin is down, and all waiting hosts are told so."""

BUSY: Final = (408, 429)
"""The 4xx answers that do not depend on the credentials."""

LOOKUPS_PER_HOST: Final = 256
"""Lookups that one host may wait for or be late with. For more tags it asks the origin itself. A node that starts a
hundred containers at once asks for a hundred tags."""


@dataclass(slots=True)
class Lookup:
    """The lookup of one tag, until its answer expires."""

    waiting: dict[Host, None] = field(default_factory=dict)
    """The waiting hosts. The first was told to resolve."""
    late: dict[Host, None] = field(default_factory=dict)
    """The hosts that were told to resolve and took too long."""
    tried: int = 0
    result: TagResult | None = None


class Tags:
    """All tag lookups."""

    def __init__(self, state: SchedulerState) -> None:
        self._state: Final = state
        self._lookups: Final[dict[TagKey, Lookup]] = {}
        self._by_host: Final[dict[Host, dict[TagKey, None]]] = {}
        """The lookups that each host waits for or is late with."""

    def __len__(self) -> int:
        return len(self._lookups)

    def look_up(self, host: Host, message: TagLookup) -> None:
        """Answer a host's lookup, or let the host wait. A host that waits already is not added again."""
        key = TagKey(Source(message.upstream, message.repository), message.tag)
        lookup = self._lookups.get(key)
        if lookup is not None and lookup.result is not None:
            self._state.send((host,), lookup.result)
            return
        if lookup is not None and host in lookup.waiting:
            return
        own = self._by_host.setdefault(host, {})
        if len(own) >= LOOKUPS_PER_HOST:
            self._state.send((host,), TagResult(*key.source, key.tag, 0))
            return
        own[key] = None
        if lookup is None:
            lookup = self._lookups[key] = Lookup()
        lookup.late.pop(host, None)
        lookup.waiting[host] = None
        if len(lookup.waiting) == 1:
            self._resolve(key, lookup)

    def answered(self, host: Host, message: TagAnswer) -> None:
        """Handle a resolver's answer. Only the asked host is heard; of a late host only a digest counts."""
        key = TagKey(Source(message.upstream, message.repository), message.tag)
        lookup = self._lookups.get(key)
        if lookup is None or lookup.result is not None:
            return
        asked = next(iter(lookup.waiting), None) is host
        result = TagResult(
            *key.source,
            key.tag,
            message.status,
            message.digest,
            message.size_bytes,
            message.media_type,
            message.public,
        )
        if message.status == 200 and (asked or host in lookup.late):
            self._tell(key, lookup, tuple(lookup.waiting), result)
            self._forget_late(key, lookup)
            lookup.result = result
            due = self._state.now + self._state.settings.tag_ttl_s
            self._state.deadlines.set(Timer(Due.TAG, key), due)
        elif asked and 400 <= message.status < 500 and message.status not in BUSY:
            self._tell(key, lookup, (host,), result)
            self._resolve(key, lookup)
        elif asked:
            self._next(key, lookup, result)

    def due(self, key: TagKey) -> None:
        """Handle an answer that has expired, or a resolver that is late."""
        lookup = self._lookups[key]
        if lookup.result is not None:
            del self._lookups[key]
            return
        late = next(iter(lookup.waiting))
        self._next(key, lookup, TagResult(*key.source, key.tag, 0))
        if key in self._lookups:
            lookup.late[late] = None
            self._by_host.setdefault(late, {})[key] = None

    def depart(self, host: Host) -> None:
        """Remove a host that has left from all lookups."""
        for key in tuple(self._by_host.get(host, ())):
            lookup = self._lookups[key]
            was_asked = next(iter(lookup.waiting), None) is host
            lookup.waiting.pop(host, None)
            lookup.late.pop(host, None)
            self._release(host, key)
            if was_asked:
                self._resolve(key, lookup)

    def validate(self) -> None:
        """Raise AssertionError if a host waits for no answer."""
        for key, lookup in self._lookups.items():
            assert (lookup.result is None) == bool(lookup.waiting)
            assert lookup.result is None or not lookup.late
            assert not lookup.late.keys() & lookup.waiting.keys()
            assert Timer(Due.TAG, key) in self._state.deadlines
            for host in (*lookup.waiting, *lookup.late):
                assert host.connection in self._state.hosts
                assert key in self._by_host[host]
        for host, keys in self._by_host.items():
            assert 0 < len(keys) <= LOOKUPS_PER_HOST
            for key in keys:
                assert host in self._lookups[key].waiting or host in self._lookups[key].late

    def _next(self, key: TagKey, lookup: Lookup, result: TagResult) -> None:
        """Pass over a resolver that could not reach the origin."""
        lookup.tried += 1
        waiting = tuple(lookup.waiting)
        self._tell(key, lookup, waiting if lookup.tried >= TRIES else waiting[:1], result)
        self._resolve(key, lookup)

    def _tell(self, key: TagKey, lookup: Lookup, hosts: tuple[Host, ...], result: TagResult) -> None:
        """Send the result to hosts, which then wait no longer."""
        self._state.send(hosts, result)
        for host in hosts:
            del lookup.waiting[host]
            self._release(host, key)

    def _resolve(self, key: TagKey, lookup: Lookup) -> None:
        """Tell the first waiting host to resolve. A lookup without waiting hosts ends."""
        timer = Timer(Due.TAG, key)
        host = next(iter(lookup.waiting), None)
        if host is None:
            self._forget_late(key, lookup)
            del self._lookups[key]
            self._state.deadlines.cancel(timer)
            return
        within_s = self._state.settings.tag_resolve_s
        self._state.send((host,), TagResolve(*key.source, key.tag, within_s))
        self._state.deadlines.set(timer, self._state.now + within_s)

    def _forget_late(self, key: TagKey, lookup: Lookup) -> None:
        for host in lookup.late:
            self._release(host, key)
        lookup.late.clear()

    def _release(self, host: Host, key: TagKey) -> None:
        own = self._by_host[host]
        del own[key]
        if not own:
            del self._by_host[host]
