"""Tags whose origin is gone: what most of the hosts that asked their origins were told last.

Rules:
1. The scheduler remembers no host's words. It asks all connected hosts when a host asks, waits for them `tag_tell_s`,
   and keeps the result for `tag_ttl_s`, so that a rollout asks once. After a restart it first waits `settle_s` for
   hosts to connect: the first to come back must not be the majority.
2. A voter has one word: a certificate or, without one, the address that a host comes from, unless that is loopback
   (`scheduler.core.members.Identity`). It counts if it says that anyone may have the image. A word that comes unasked,
   late or again is dropped, and so is the word of a host that leaves before the result.
3. One host's word decides nothing. `most_told` has the rule.
4. A host may start LOOKUPS_PER_HOST lookups in the time that their results are kept, as each costs a message to every
   host and back. There are at most LOOKUPS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from scheduler.core.members import Host, Source
from scheduler.core.state import Due, SchedulerState, TagKey, Timer
from scheduler.protocol.from_host import TagAnswer, TagLookup
from scheduler.protocol.to_host import TAG_QUORUM, TagQuery, TagResult

LOOKUPS_PER_HOST: Final = 64
"""For more tags at a time a host is told that nothing is known; its clients ask again."""

LOOKUPS: Final = 256
"""In 10 s each host then answers 26 queries a second at most. It may send MAX_MESSAGES_PER_S messages."""

SPLIT_QUORUM: Final = 3
"""The least number of hosts whose words decide if hosts disagree so much that no manifest has a majority."""


class Manifest(NamedTuple):
    """What a tag names."""

    digest: bytes
    size_bytes: int
    media_type: str


class Word(NamedTuple):
    """What a host's origin told it `age_s` ago."""

    manifest: Manifest
    age_s: float


@dataclass(slots=True)
class Lookup:
    """One tag, until its result expires. `starter` is a witness."""

    starter: str
    waiting: dict[Host, None] = field(default_factory=dict)
    """The hosts that wait for the result."""
    asked: dict[Host, None] | None = None
    """The hosts that have not answered yet; None before they are asked."""
    words: dict[str, tuple[Host, Word]] = field(default_factory=dict)
    """By voter."""
    result: TagResult | None = None


def most_told(words: Iterable[Word]) -> tuple[Manifest, int] | None:
    """The manifest that most of these hosts were told last, and how many were; None if there is no such majority.

    1. More than half of all words, at least TAG_QUORUM.
    2. Else the tag has moved while hosts asked for it: more than half of the newer half of the words, at least
       SPLIT_QUORUM. A host can lie about the age of its word, so the age decides only here.

    A newer manifest that less than half of the hosts were told is not taken against a majority: nothing tells it apart
    from the lie of a few.
    """
    newest_first = sorted(words, key=lambda word: word.age_s)
    newer_half = newest_first[: len(newest_first) // 2 + 1]
    for among, least in ((newest_first, TAG_QUORUM), (newer_half, SPLIT_QUORUM)):
        for manifest, hosts in Counter(word.manifest for word in among).most_common(1):
            if hosts >= least and 2 * hosts > len(among):
                return manifest, hosts
    return None


class Tags:
    """All tag lookups."""

    def __init__(self, state: SchedulerState) -> None:
        self._state: Final = state
        self._lookups: Final[dict[TagKey, Lookup]] = {}
        self._open: Final[dict[TagKey, Lookup]] = {}
        """The lookups without a result."""
        self._started: Final[Counter[str]] = Counter()
        """How many lookups each witness has started."""

    def __len__(self) -> int:
        return len(self._lookups)

    def look_up(self, host: Host, message: TagLookup) -> None:
        """Answer a host's lookup, or let the host wait."""
        key = TagKey(Source(message.upstream, message.repository), message.tag)
        lookup = self._lookups.get(key)
        if lookup is None:
            starter = host.identity.witness
            if self._started[starter] >= LOOKUPS_PER_HOST or len(self._lookups) >= LOOKUPS:
                self._state.send((host,), TagResult(*key.source, key.tag, 0))
                return
            self._started[starter] += 1
            lookup = self._lookups[key] = self._open[key] = Lookup(starter, {host: None})
            settled_at = (self._state.started_at or 0.0) + self._state.settings.settle_s
            if settled_at > self._state.now:
                self._state.deadlines.set(Timer(Due.TAG, key), settled_at)
            else:
                self._ask(key, lookup)
        elif lookup.result is not None:
            self._state.send((host,), lookup.result)
        else:
            lookup.waiting[host] = None

    def answered(self, host: Host, message: TagAnswer) -> None:
        """Handle a host's word, if the host was asked for it and has not given it."""
        key = TagKey(Source(message.upstream, message.repository), message.tag)
        lookup = self._open.get(key)
        if lookup is None or not lookup.asked or host not in lookup.asked:
            return
        del lookup.asked[host]
        if message.digest is not None and message.size_bytes is not None and message.public:
            manifest = Manifest(message.digest, message.size_bytes, message.media_type)
            lookup.words.setdefault(host.identity.voter, (host, Word(manifest, message.age_s)))
        if not lookup.asked:
            self._decide(key, lookup)

    def due(self, key: TagKey) -> None:
        """Ask the hosts, end the wait for them, or forget a result."""
        lookup = self._lookups[key]
        if lookup.result is not None:
            del self._lookups[key]
            self._started[lookup.starter] -= 1
            if not self._started[lookup.starter]:
                del self._started[lookup.starter]
        elif lookup.asked is None:
            self._ask(key, lookup)
        else:
            self._decide(key, lookup)

    def depart(self, host: Host) -> None:
        """Remove a host that has left, and its words, from all lookups."""
        for key, lookup in list(self._open.items()):
            lookup.waiting.pop(host, None)
            if lookup.words.get(host.identity.voter, (None, None))[0] is host:
                del lookup.words[host.identity.voter]
            if lookup.asked is not None and host in lookup.asked:
                del lookup.asked[host]
                if not lookup.asked:
                    self._decide(key, lookup)

    def validate(self) -> None:
        """Raise AssertionError if a lookup waits for nothing, or counts a host that has left."""
        assert Counter(lookup.starter for lookup in self._lookups.values()) == self._started
        for key, lookup in self._lookups.items():
            assert Timer(Due.TAG, key) in self._state.deadlines
            assert (lookup.result is None) == (key in self._open)
            assert lookup.asked is None or bool(lookup.asked) == (key in self._open)
            for host in (*lookup.waiting, *(lookup.asked or ()), *(host for host, _ in lookup.words.values())):
                assert self._state.hosts[host.connection] is host
        assert self._open.keys() <= self._lookups.keys()

    def _ask(self, key: TagKey, lookup: Lookup) -> None:
        within_s = self._state.settings.tag_tell_s
        lookup.asked = dict.fromkeys(self._state.hosts.values())
        if not lookup.asked:  # all have left since
            self._decide(key, lookup)
            return
        self._state.deadlines.set(Timer(Due.TAG, key), self._state.now + within_s)
        self._state.send(lookup.asked, TagQuery(*key.source, key.tag, within_s))

    def _decide(self, key: TagKey, lookup: Lookup) -> None:
        """Tell the waiting hosts the result, and keep it. Words, and hosts that are late, are forgotten."""
        result = TagResult(*key.source, key.tag, 0)
        if told := most_told(word for _, word in lookup.words.values()):
            (digest, size_bytes, media_type), hosts = told
            result = replace(
                result,
                status=200,
                digest=digest,
                size_bytes=size_bytes,
                media_type=media_type,
                public=True,
                hosts=hosts,
            )
        self._state.send(lookup.waiting, result)
        lookup.result = result
        lookup.waiting, lookup.asked, lookup.words = {}, {}, {}
        del self._open[key]
        settings = self._state.settings
        kept_s = max(settings.tag_ttl_s, settings.tag_tell_s)
        self._state.deadlines.set(Timer(Due.TAG, key), self._state.now + kept_s)
