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
5. Of several schedulers each asks its own hosts, and tells the others their words (`TagAsked`, `TagTold`): at most
   MAX_TOLD, chosen at random. All decide on the same words, each by itself, and a voter has one word however many
   schedulers hear it. Who is not heard in `SHARE * tag_tell_s` is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

from msgspec.structs import replace

from scheduler.core.events import TagAsked, TagTold, ToldWord
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


MAX_TOLD: Final = 512
"""Words that one scheduler tells the others of a tag. A majority of more is that of this sample, within 5 %."""

SHARE: Final = 1.5
"""Hosts wait for twice `tag_tell_s`."""

VOTER_BYTES: Final = 12


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
    """One tag, until its result expires. `starter` is a witness. `here`: one of this scheduler's hosts has asked."""

    starter: str
    here: bool
    waiting: dict[Host, None] = field(default_factory=dict)
    """The hosts that wait for the result."""
    asked: dict[Host, None] | None = None
    """The hosts that have not answered yet; None before they are asked."""
    words: dict[str, tuple[Host, Word]] = field(default_factory=dict)
    """By voter."""
    told: tuple[ToldWord, ...] | None = None
    """What this scheduler's hosts have said, once all have answered or their time is over."""
    expected: set[str] = field(default_factory=set)
    """The other schedulers that have not told their words yet."""
    elsewhere: dict[bytes, Word] = field(default_factory=dict)
    """The words of other schedulers' hosts, by the hash of the voter."""
    ends_at: float = 0.0
    """When the other schedulers are waited for no longer."""
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
            if not self._start(key, Lookup(host.identity.witness, here=True, waiting={host: None})):
                self._state.tell(host, TagResult(*key.source, key.tag, 0))
        elif lookup.result is not None:
            self._state.tell(host, lookup.result)
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
            self._heard_all(key, lookup)

    def heard(self, event: TagAsked | TagTold) -> None:
        """A host of another scheduler asks, so have this one's hosts tell; or hosts there have told."""
        key = TagKey(Source(event.upstream, event.repository), event.tag)
        lookup = self._lookups.get(key)
        if isinstance(event, TagTold):
            if lookup is not None and lookup.result is None:
                self._told_elsewhere(key, lookup, event)
        elif lookup is None:
            self._start(key, Lookup(event.starter, here=False))
        elif lookup.told is not None:
            self._tell(key, lookup.told)

    def _told_elsewhere(self, key: TagKey, lookup: Lookup, event: TagTold) -> None:
        for each in event.words[:MAX_TOLD]:
            manifest = Manifest(each.digest, each.size_bytes, each.media_type)
            lookup.elsewhere.setdefault(each.voter, Word(manifest, each.age_s))
        lookup.expected.discard(event.scheduler)
        if lookup.told is not None and not lookup.expected:
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
        elif lookup.told is None:
            self._heard_all(key, lookup)
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
                    self._heard_all(key, lookup)

    def validate(self) -> None:
        """Raise AssertionError if a lookup waits for nothing, or counts a host that has left."""
        assert Counter(lookup.starter for lookup in self._lookups.values()) == self._started
        for key, lookup in self._lookups.items():
            assert Timer(Due.TAG, key) in self._state.deadlines
            assert (lookup.result is None) == (key in self._open)
            waits = lookup.asked if lookup.told is None else lookup.expected
            assert lookup.asked is None or bool(waits) == (key in self._open)
            for host in (*lookup.waiting, *(lookup.asked or ()), *(host for host, _ in lookup.words.values())):
                assert self._state.hosts[host.connection] is host
        assert self._open.keys() <= self._lookups.keys()

    def _start(self, key: TagKey, lookup: Lookup) -> bool:
        """Whether its starter may have it (rule 4)."""
        if self._started[lookup.starter] >= LOOKUPS_PER_HOST or len(self._lookups) >= LOOKUPS:
            return False
        self._started[lookup.starter] += 1
        self._lookups[key] = self._open[key] = lookup
        settled_at = (self._state.started_at or 0.0) + self._state.settings.settle_s
        if settled_at > self._state.now:
            self._state.deadlines.set(Timer(Due.TAG, key), settled_at)
        else:
            self._ask(key, lookup)
        return True

    def _ask(self, key: TagKey, lookup: Lookup) -> None:
        within_s = self._state.settings.tag_tell_s
        live = self._state.schedulers
        if live is not None:
            lookup.expected = {each.id for each in live.schedulers} - {live.own}
            lookup.ends_at = self._state.now + SHARE * within_s
            if lookup.here and lookup.expected:
                self._state.outbox.append(TagAsked(live.own, *key.source, key.tag, lookup.starter))
        lookup.asked = dict.fromkeys(self._state.hosts.values())
        if not lookup.asked:  # all have left since, or are connected elsewhere
            self._heard_all(key, lookup)
            return
        self._state.deadlines.set(Timer(Due.TAG, key), self._state.now + within_s)
        self._state.send(lookup.asked, TagQuery(*key.source, key.tag, within_s))

    def _heard_all(self, key: TagKey, lookup: Lookup) -> None:
        """This scheduler's hosts have told what they will. Hosts that are late are forgotten."""
        lookup.asked = {}
        words = [ToldWord(_hash(voter), *word.manifest, word.age_s) for voter, (_, word) in lookup.words.items()]
        lookup.told = tuple(self._state.rng.shuffled(words)[:MAX_TOLD])
        self._tell(key, lookup.told)
        if lookup.expected and lookup.ends_at > self._state.now:
            self._state.deadlines.set(Timer(Due.TAG, key), lookup.ends_at)
        else:
            self._decide(key, lookup)

    def _tell(self, key: TagKey, told: tuple[ToldWord, ...]) -> None:
        live = self._state.schedulers
        if live is not None and len(live.schedulers) > 1:
            self._state.outbox.append(TagTold(live.own, *key.source, key.tag, told))

    def _decide(self, key: TagKey, lookup: Lookup) -> None:
        """Tell the waiting hosts the result, and keep it. Words are forgotten."""
        result = TagResult(*key.source, key.tag, 0)
        here = {_hash(voter): word for voter, (_, word) in lookup.words.items()}
        if told := most_told((lookup.elsewhere | here).values()):
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
        lookup.waiting, lookup.words, lookup.elsewhere, lookup.expected = {}, {}, {}, set()
        del self._open[key]
        settings = self._state.settings
        kept_s = max(settings.tag_ttl_s, settings.tag_tell_s)
        self._state.deadlines.set(Timer(Due.TAG, key), self._state.now + kept_s)


def _hash(voter: str) -> bytes:
    return blake2b(voter.encode(), digest_size=VOTER_BYTES).digest()
