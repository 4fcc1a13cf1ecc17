"""The live list: which schedulers live, and how each of them comes to know. No I/O, no clock.

Rules:
1. The list is one value with an epoch. It changes by compare-and-set alone, and each change has a greater epoch.
2. A scheduler raises its *beat*, a counter of its own, every BEAT_S, and looks at the list and at all beats with it.
   No two machines' clocks are compared, Redis's neither: each scheduler measures by its own monotonic clock for how
   long a beat has not changed.
3. A scheduler strikes out another whose beat has stood still for LEASE_S, if it looked at least every GAP_S meanwhile.
   After a longer gap (it was frozen, or cut off, or Redis was gone) it begins to measure anew.
4. A scheduler's lease lasts LEASE_S from the moment at which it began to send its latest beat that was taken. The
   others saw that beat later than this, so whoever is struck out knows before that its lease is over.
5. An entry has `since`, the epoch at which its scheduler joined. A scheduler that does not find that entry was struck
   out, and was not asked meanwhile: it joins anew, at a new epoch. A process that has just started joins anew too.
6. If the stored epoch is below the one that a scheduler knows, Redis has lost its latest history: it was wiped, or a
   replica that lagged took over. What the scheduler knows is put back, under an epoch beyond.
7. Two processes with one URL have one id. The one that joined last has the entry; the other one waits until it is gone,
   and raises a beat of its own, which keeps nobody on the list.
8. What a scheduler knows is outdated once it has not looked for OUTDATED_LEASES leases: by then the others have struck
   it out, if they can look. It tells its hosts so, which ask another scheduler. If Redis is gone for all, hosts learn
   that from the other one, and nothing moves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol

from scheduler.protocol.fields import MAX_SCHEDULERS

BEAT_S: Final = 1.0
LEASE_S: Final = 5.0
GAP_S: Final = LEASE_S / 2
"""A call to Redis ends within `redis_clients.CALL_S`, which is less."""

OUTDATED_LEASES: Final = 2
"""The others strike a scheduler out after one lease, and up to three looks."""

MAX_EPOCH: Final = 2**53

_ID: Final = re.compile(r"[0-9a-f]{16}")
_URL: Final = re.compile(r"https?://[A-Za-z0-9._:\[\]/-]{1,500}")  # as `scheduler.protocol.fields.SchedulerUrl`


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a scheduler beats, how long a beat counts, and the longest time between two looks (see the rules)."""

    beat_s: float = BEAT_S
    lease_s: float = LEASE_S
    gap_s: float = GAP_S


@dataclass(frozen=True, slots=True)
class Entry:
    """A scheduler on the list: its id, the URL at which hosts reach it, and the epoch at which it joined."""

    id: str
    url: str
    since: int


@dataclass(frozen=True, slots=True)
class LiveList:
    """The schedulers that live, by id. Epoch 0: nobody has ever joined."""

    epoch: int = 0
    entries: tuple[Entry, ...] = ()

    def entry(self, name: str) -> Entry | None:
        return next((each for each in self.entries if each.id == name), None)


class Turn(Protocol):
    """This scheduler among those that live: `scheduler.shared.live.Live`."""

    @property
    def known(self) -> LiveList:
        """The latest list."""
        ...

    @property
    def name(self) -> str:
        """Of this process on the list; "" while it is not."""
        ...

    def runs(self, name: str) -> bool:
        """Whether this scheduler is the one that does what is done once, under that name."""
        ...

    def not_ready(self) -> list[str]:
        """Why nothing new may be promised now; empty while this scheduler is on the list."""
        ...


def id_of(url: str) -> str:
    """The id of the scheduler that hosts reach at a URL: the same after each start, so its blobs stay its own."""
    return blake2b(url.encode(), digest_size=8).hexdigest()


def beat_of(entry: Entry) -> str:
    """The name of an entry's beat. A process that joins anew has another one, and leaves the old one silent."""
    return f"{entry.id}:{entry.since}"


def encode(found: LiveList) -> bytes:
    rows = [[each.id, each.url, each.since] for each in found.entries]
    return json.dumps([found.epoch, rows], separators=(",", ":")).encode()


def decode(stored: bytes | None) -> LiveList:
    """The list in what is stored. What is none counts as lost history (rule 6)."""
    try:
        epoch, rows = json.loads(stored or b"[0,[]]")
        entries = tuple(Entry(str(name), str(url), since) for name, url, since in rows[:MAX_SCHEDULERS])
    except (ValueError, TypeError, KeyError, RecursionError):
        return LiveList()
    numbers = [epoch, *(each.since for each in entries)]
    if not all(type(number) is int and 0 <= number <= MAX_EPOCH for number in numbers):
        return LiveList()
    if any(_ID.fullmatch(each.id) is None or _URL.fullmatch(each.url) is None for each in entries):
        return LiveList()
    return LiveList(epoch, tuple(sorted({each.id: each for each in entries}.values(), key=lambda each: each.id)))


class Membership:
    """One scheduler's part. Times are of its own monotonic clock, in seconds.

    After each beat: `looked`; if that returns a list, it is to be set in place of the stored one, and `was_set` says
    that it was. If another scheduler was faster, the next look decides anew.
    """

    def __init__(self, url: str, pace: Pace | None = None) -> None:
        self.pace: Final = pace or Pace()
        self.id: Final = id_of(url)
        self.url: Final = url
        self.known: LiveList = LiveList()
        """The latest list."""
        self.problem = ""
        """What keeps this scheduler off the list although Redis answers."""
        self._since = 0
        self._lease_until = float("-inf")
        self._looked_at = float("-inf")
        self._silent: dict[str, tuple[int, float]] = {}
        """The beat of each entry that is not this scheduler's, and when it was first seen."""

    @property
    def beat(self) -> str:
        """The name of this scheduler's beat; "" before it has joined."""
        return beat_of(Entry(self.id, self.url, self._since)) if self._since else ""

    def is_on_list(self, now: float) -> bool:
        """Whether this scheduler may promise anything: its lease is not over."""
        return now < self._lease_until

    def is_outdated(self, now: float) -> bool:
        """Whether others may live than this scheduler knows (rule 8)."""
        return now - self._looked_at >= OUTDATED_LEASES * self.pace.lease_s

    def looked(self, began: float, ended: float, stored: LiveList, beats: Mapping[str, int]) -> LiveList | None:
        """Take what a look found that was sent at `began` and answered at `ended`; return the list that must be set.

        `beats` are by `beat_of`.
        """
        if began - self._looked_at > self.pace.gap_s:
            self._silent.clear()
        self._looked_at = ended
        entries = stored.entries
        lost = stored.epoch < self.known.epoch
        differs = stored.epoch == self.known.epoch and entries != self.known.entries
        if lost:
            here = {each.id for each in entries}
            entries += tuple(each for each in self.known.entries if each.id not in here)
        epoch = max(stored.epoch, self.known.epoch) + 1
        if not lost:
            self.known = stored
        silent = self._silent_among(entries, began, ended, beats)
        entries = self._with_own(tuple(each for each in entries if each not in silent), epoch)
        if self._is_own(stored.entry(self.id)):
            self._lease_until = began + self.pace.lease_s
        if entries == stored.entries and not lost and not differs:
            return None
        return LiveList(epoch, tuple(sorted(entries, key=lambda each: each.id)[:MAX_SCHEDULERS]))

    def was_set(self, began: float, wanted: LiveList) -> None:
        """The list is stored. `began` is when the look began that it follows from."""
        self.known = wanted
        own = wanted.entry(self.id)
        if own is not None and own.since == wanted.epoch:
            self._since = own.since
        if self._is_own(own):
            self._lease_until = began + self.pace.lease_s

    def leaving(self, stored: LiveList) -> LiveList | None:
        """The list without this scheduler, which ends in order; None if it is not on the list."""
        self._lease_until = float("-inf")
        if not self._is_own(stored.entry(self.id)):
            return None
        entries = tuple(each for each in stored.entries if each.id != self.id)
        return LiveList(max(stored.epoch, self.known.epoch) + 1, entries)

    def _is_own(self, entry: Entry | None) -> bool:
        return entry is not None and entry.id == self.id and entry.since == self._since

    def _with_own(self, entries: tuple[Entry, ...], epoch: int) -> tuple[Entry, ...]:
        """These entries with one of this scheduler, if it may have one."""
        own = next((each for each in entries if each.id == self.id), None)
        self.problem = ""
        if self._is_own(own):
            return entries
        if own is not None and 0 < self._since < own.since:
            self.problem = f"another scheduler has joined with the same URL, {self.url}"
            return entries
        others = tuple(each for each in entries if each.id != self.id)
        if len(others) >= MAX_SCHEDULERS:
            self.problem = f"{MAX_SCHEDULERS} schedulers live already"
            return entries
        return (*others, Entry(self.id, self.url, epoch))

    def _silent_among(
        self, entries: tuple[Entry, ...], began: float, ended: float, beats: Mapping[str, int]
    ) -> set[Entry]:
        """The entries whose beats have stood still for too long."""
        watched = {beat_of(each): each for each in entries if not self._is_own(each)}
        seen = self._silent
        self._silent = {
            name: seen[name] if name in seen and seen[name][0] == beats.get(name, 0) else (beats.get(name, 0), ended)
            for name in watched
        }
        return {watched[name] for name, (_, since) in self._silent.items() if began - since >= self.pace.lease_s}
