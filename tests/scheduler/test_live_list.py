"""The live list in any order of what may happen to schedulers and to Redis, and each of its rules by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.protocol.fields import MAX_SCHEDULERS
from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.live_list import (
    BEAT_S,
    GAP_S,
    LEASE_S,
    OUTDATED_LEASES,
    Entry,
    LiveList,
    Membership,
    beat_of,
    decode,
    encode,
    id_of,
)

STEP_S = BEAT_S / 2
STRUCK_OUT_WITHIN_S = LEASE_S + 3 * BEAT_S
"""The bound that docs/several-schedulers.md states: until a scheduler that is gone is off the list."""
HEARD_WITHIN_S = 2 * BEAT_S
"""And until all that reach Redis know a list, however they hear of it."""
TWO_FOR_S = OUTDATED_LEASES * LEASE_S + HEARD_WITHIN_S
"""And for as long two schedulers may tell their hosts different owners of a blob after a change of the list."""
BLOBS = [bytes([number]) * 32 for number in range(16)]


@dataclass
class Process:
    """A scheduler. Its clock is its own: it was started at another time than the others'."""

    membership: Membership
    clock_offset_s: float
    frozen: bool = False
    cut_off: bool = False
    next_beat_at: float = 0.0
    told: dict[int, LiveList] = field(default_factory=dict)
    """What this process has known at each epoch."""
    reached_since: float = 0.0
    """Since when it has been running and connected."""


@dataclass
class Stored:
    """What Redis has."""

    found: LiveList = field(default_factory=LiveList)
    beats: dict[str, int] = field(default_factory=dict)


class World(RuleBasedStateMachine):
    """Schedulers around one Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.redis = Stored()
        self.replica = Stored()
        self.redis_is_up = True
        self.processes: list[Process] = []
        self.changed_at = 0.0
        self.history_lost_at = -1000.0
        self.urls = 0

    @initialize(offset=st.floats(-3600, 3600))
    def first(self, offset: float) -> None:
        self.start(offset)

    @precondition(lambda self: len(self.processes) < 5)
    @rule(offset=st.floats(-3600, 3600))
    def start(self, offset: float) -> None:
        self.urls += 1
        membership = Membership(f"https://s{self.urls}:65003")
        self.processes.append(Process(membership, offset, next_beat_at=self.now, reached_since=self.now))

    @rule(at=st.integers(0, 4))
    def restart_at_once(self, at: int) -> None:
        if process := self._one(at):
            process.membership = Membership(process.membership.url)
            process.told, process.reached_since = {}, self.now

    @rule(at=st.integers(0, 4))
    def kill(self, at: int) -> None:
        if process := self._one(at):
            self.processes.remove(process)

    @rule(at=st.integers(0, 4))
    def leave(self, at: int) -> None:
        process = self._one(at)
        if process is None or not self._reaches(process):
            return
        wanted = process.membership.leaving(self.redis.found)
        if wanted is not None:
            self._set(wanted)
        self.processes.remove(process)

    @rule(at=st.integers(0, 4))
    def freeze_or_thaw(self, at: int) -> None:
        if process := self._one(at):
            process.frozen, process.reached_since = not process.frozen, self.now

    @rule(at=st.integers(0, 4))
    def cut_off_or_return(self, at: int) -> None:
        if process := self._one(at):
            process.cut_off, process.reached_since = not process.cut_off, self.now

    @rule(at=st.integers(0, 4))
    def cut_off_for_long(self, at: int) -> None:
        """For so long that the others have struck it out, and hosts may go by its list no longer."""
        if process := self._one(at):
            process.cut_off, process.reached_since = True, self.now
            self.advance(int((STRUCK_OUT_WITHIN_S + TWO_FOR_S + (1 + len(self.processes)) * BEAT_S) / STEP_S), False)

    @rule()
    def redis_goes_or_comes(self) -> None:
        self.redis_is_up = not self.redis_is_up
        for process in self.processes:
            process.reached_since = self.now

    @rule()
    def wipe(self) -> None:
        self.redis, self.history_lost_at = Stored(), self.now

    @rule()
    def replicate(self) -> None:
        self.replica = Stored(self.redis.found, dict(self.redis.beats))

    @rule()
    def fail_over(self) -> None:
        self.redis, self.history_lost_at = Stored(self.replica.found, dict(self.replica.beats)), self.now

    @rule(steps=st.integers(1, 12), backwards=st.booleans())
    def advance(self, steps: int, backwards: bool) -> None:
        for _ in range(steps):
            self.now += STEP_S
            order = self.processes[::-1] if backwards else list(self.processes)
            due = [each for each in order if self.now >= each.next_beat_at and not each.frozen]
            looks = [(each, self._look(each)) for each in due]  # all look before any of them sets
            for each, wanted in looks:
                if wanted is not None and self._set_if(each, *wanted):
                    each.membership.was_set(self.now + each.clock_offset_s, wanted[1])

    @rule()
    def settle(self) -> None:
        """Whatever has happened: a while later all that live know the same list, and it is of those alone."""
        self.redis_is_up = True
        for process in self.processes:
            process.frozen = process.cut_off = False
            process.reached_since = self.now
        self.advance(int((STRUCK_OUT_WITHIN_S + HEARD_WITHIN_S + len(self.processes)) / STEP_S), False)
        expected = {each.membership.id for each in self.processes}
        for process in self.processes:
            assert {each.id for each in process.membership.known.entries} == expected
            assert process.membership.known == self.redis.found
            assert process.membership.is_on_list(self.now + process.clock_offset_s)

    @invariant()
    def epochs_grow(self) -> None:
        for process in self.processes:
            known = process.membership.known
            assert known.epoch >= max(process.told, default=0)
            assert process.told.setdefault(known.epoch, known) == known, "hosts take no other list at the same epoch"

    @invariant()
    def who_reaches_redis_knows_the_list_within_the_bound(self) -> None:
        """Two schedulers own a blob at most for so long: until the later of them has heard."""
        if not self.redis_is_up:
            return
        for process in self.processes:
            since = max(process.reached_since, self.changed_at, self.history_lost_at)
            if self._reaches(process) and self.now - since > HEARD_WITHIN_S + len(self.processes) * BEAT_S:
                assert process.membership.known == self.redis.found

    @invariant()
    def each_blob_has_one_scheduler_or_two_within_the_bound(self) -> None:
        """By the lists that hosts are told as good ones: of whoever runs, is on its list, and can look."""
        told = [
            [each.id for each in process.membership.known.entries]
            for process in self.processes
            if not process.frozen
            and process.membership.known.entry(process.membership.id) is not None
            and not process.membership.is_outdated(self.now + process.clock_offset_s)
        ]
        since = max(self.changed_at, self.history_lost_at)
        if self.now - since > TWO_FOR_S + len(self.processes) * BEAT_S:
            for blob in BLOBS:
                assert len({owner_of(blob, ids) for ids in told}) <= 1

    @invariant()
    def there_is_an_owner(self) -> None:
        for process in self.processes:
            if process.membership.is_on_list(self.now + process.clock_offset_s):
                assert process.membership.known.entries

    def _one(self, at: int) -> Process | None:
        return self.processes[at] if at < len(self.processes) else None

    def _reaches(self, process: Process) -> bool:
        return self.redis_is_up and not process.frozen and not process.cut_off

    def _look(self, process: Process) -> tuple[LiveList, LiveList] | None:
        process.next_beat_at = self.now + BEAT_S
        if not self._reaches(process):
            return None
        membership, at = process.membership, self.now + process.clock_offset_s
        if membership.beat:
            self.redis.beats[membership.beat] = self.redis.beats.get(membership.beat, 0) + 1
        stored = self.redis.found
        wanted = membership.looked(at, at, stored, dict(self.redis.beats))
        return None if wanted is None else (stored, wanted)

    def _set_if(self, process: Process, stored: LiveList, wanted: LiveList) -> bool:
        if not self._reaches(process) or self.redis.found != stored:
            return False
        self._set(wanted)
        return True

    def _set(self, wanted: LiveList) -> None:
        """Nobody is struck out whose lease lasts; only what Redis forgot may have it so."""
        assert wanted.epoch > self.redis.found.epoch
        if self.now - self.history_lost_at > LEASE_S + BEAT_S:
            kept = {beat_of(each) for each in wanted.entries}
            for process in self.processes:
                here = {beat_of(each) for each in self.redis.found.entries}
                beat = process.membership.beat
                if beat in here - kept:
                    left = not process.membership.is_on_list(self.now + process.clock_offset_s)
                    assert left, "a scheduler was struck out before its lease was over"
        self.redis.found, self.changed_at = decode(encode(wanted)), self.now


World.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestAnyOrder = World.TestCase


def test_one_that_is_cut_off_tells_other_owners_within_the_bound_only() -> None:
    world = World()
    world.first(0.0)
    world.start(0.0)
    world.advance(12, False)
    before = world.processes[0].membership.known
    world.cut_off_for_long(0)
    world.each_blob_has_one_scheduler_or_two_within_the_bound()
    assert world.processes[0].membership.known == before != world.processes[1].membership.known


def joined(url: str, stored: LiveList, at: float = 0.0) -> tuple[Membership, LiveList]:
    membership = Membership(url)
    wanted = membership.looked(at, at, stored, {})
    assert wanted is not None
    membership.was_set(at, wanted)
    return membership, wanted


def test_one_that_was_cut_off_and_returns_has_a_new_epoch() -> None:
    first, stored = joined("https://a:1", LiveList())
    second, stored = joined("https://b:1", stored)
    for at in (0.0, 1.0, 2.0, 3.0, 4.0):
        assert second.looked(at, at, stored, {second.beat: int(at)}) is None
    struck_out = second.looked(LEASE_S, LEASE_S, stored, {second.beat: 9})
    assert struck_out is not None
    assert struck_out.entry(first.id) is None
    assert not first.is_on_list(LEASE_S)
    returned = first.looked(9.0, 9.0, struck_out, {})
    assert returned is not None
    assert returned.entry(first.id) == Entry(first.id, first.url, struck_out.epoch + 1)


def test_a_gap_between_looks_is_nobodys_silence() -> None:
    """One that was frozen, or for which Redis was gone, must not strike out all others at its first look."""
    _, stored = joined("https://a:1", LiveList())
    second, stored = joined("https://b:1", stored)
    assert second.looked(0.0, 0.0, stored, {}) is None
    later = 0.0 + max(LEASE_S, GAP_S) + 100.0
    assert second.looked(later, later, stored, {}) is None


def test_a_wiped_redis_is_given_back_what_was_known() -> None:
    _, stored = joined("https://a:1", LiveList())
    second, stored = joined("https://b:1", stored)
    again = second.looked(1.0, 1.0, LiveList(), {})
    assert again == LiveList(stored.epoch + 1, stored.entries)


def test_of_two_lists_with_one_epoch_comes_a_third() -> None:
    """Redis was split, and each half took a change. Hosts take no second list at an epoch."""
    first, stored = joined("https://a:1", LiveList())
    other = LiveList(stored.epoch, (*stored.entries, Entry(id_of("https://c:1"), "https://c:1", 1)))
    assert first.looked(1.0, 1.0, other, {}) == LiveList(stored.epoch + 1, decode(encode(other)).entries)


def test_a_lease_lasts_from_the_moment_at_which_its_beat_was_sent() -> None:
    first, stored = joined("https://a:1", LiveList())
    first.looked(10.0, 11.5, stored, {})
    assert first.is_on_list(10.0 + LEASE_S - 0.01)
    assert not first.is_on_list(10.0 + LEASE_S)


def test_of_two_processes_with_one_url_the_older_one_waits() -> None:
    older, stored = joined("https://a:1", LiveList())
    newer, stored = joined("https://a:1", stored)
    assert older.looked(1.0, 1.0, stored, {newer.beat: 1}) is None
    assert "same URL" in older.problem
    for at in (2.0, 3.0, 4.0, 5.0):
        assert older.looked(at, at, stored, {newer.beat: 1}) is None
    back = older.looked(6.0, 6.0, stored, {newer.beat: 1, older.beat: 7})
    assert back is not None
    assert not older.problem


def test_the_list_has_a_maximum() -> None:
    entries = tuple(Entry(id_of(f"https://s{at}:1"), f"https://s{at}:1", at + 1) for at in range(MAX_SCHEDULERS))
    one_more = Membership("https://more:1")
    full = LiveList(MAX_SCHEDULERS, tuple(sorted(entries, key=lambda each: each.id)))
    assert one_more.looked(0.0, 0.0, full, {}) is None
    assert "live already" in one_more.problem


@pytest.mark.parametrize(
    "stored",
    [b"", b"[", b"7", b'[-1,[]]', b'[1,[["x","https://a:1",1]]]', b'[1,[["0123456789abcdef","file:///etc",1]]]',
     b'[true,[]]', b'{"a":1}', b'[1,{"a":1}]', b"[1,[[1]]]", b"\xff"],
)  # fmt: skip
def test_what_is_no_list_is_lost_history(stored: bytes) -> None:
    assert decode(stored) == LiveList()
