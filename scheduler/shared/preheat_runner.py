"""The runner of a preheat of several schedulers: the one that does what is done once for all of them.

It chooses the hosts, among those of all schedulers; begins the preheat and pauses it at its hours; gives back the hosts
of a scheduler that has gone; and ends it. The runner of a preheat is its owner by rendezvous among the schedulers that
live. A runner that is killed or frozen is off the live list within 8 s, and the next owner goes on from what is in
Redis. Redis takes a decision only at the epoch of the live list at which it was made (`redis_preheats`, rule 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from scheduler.core.preheat_hosts import Candidate, parse_selection
from scheduler.core.preheat_job import Job, JobState, Target, TargetCause, TargetState
from scheduler.core.preheat_record import JobRecord
from scheduler.core.preheats import AWAY, LATE, LATE_JOB, MAX_STANDING, NOBODY
from scheduler.shared.live_list import LiveList, beat_of
from scheduler.shared.preheat_calls import PreheatCalls
from scheduler.shared.redis_preheats import Shares

log = structlog.get_logger("scheduler.preheating")

SETTLE_S: Final = 6.0
"""A runner chooses hosts once the live list is the same for so long: each scheduler has written its hosts then."""


class Runner:
    """On the event loop. `async` methods raise PreheatStoreError. `hosts` gives all hosts of all schedulers."""

    def __init__(
        self,
        calls: PreheatCalls,
        hosts: Callable[[], Awaitable[Iterable[Candidate]]],
        has_begun: Callable[[], None],
        *,
        settle_s: float = SETTLE_S,
    ) -> None:
        """`has_begun` is called when a preheat has hosts that are to be told."""
        self._calls: Final = calls
        self._store: Final = calls.store
        self._hosts: Final = hosts
        self._has_begun: Final = has_begun
        self._settle_s: Final = settle_s
        self._list: tuple[int, float] = 0, 0.0
        """The epoch of the live list, and when it was first seen."""

    def see(self, known: LiveList) -> None:
        """The live list as it is now. To be called at each look."""
        if self._list[0] != known.epoch:
            self._list = known.epoch, asyncio.get_running_loop().time()

    async def run(self, shares: Shares, open_hosts: int, known: LiveList, standing: Iterable[JobRecord]) -> None:
        """Decide what is to be decided now. `shares` were read since the list, or the preheat, has changed.

        `open_hosts` are the hosts that are not through with it; `standing` are all preheats that may stand.
        """
        self.see(known)
        record, now = shares.record, self._calls.now()
        beats = {beat_of(each) for each in known.entries}
        lost = {host: beat for host, beat in shares.told.items() if beat not in beats}
        if record.stands_until is not None:
            over = now >= record.stands_until or _is_superseded(record, standing)
            await (self._end_standing(record, known) if over else self._give_back(record, lost))
        elif now >= record.ends:
            targets = await self._calls.call(self._store.targets, record.id)
            await self._end(record, known, targets, LATE_JOB, end_open(targets, TargetCause.FAIL))
        elif record.state is JobState.PENDING:
            if now >= self._calls.hours(record)[0]:
                await self._begin(shares, known)
        elif now >= self._calls.hours(record)[1]:
            await self._decide(record, known, JobState.PENDING)
        elif lost:
            await self._give_back(record, lost)
        elif not open_hosts:
            await self._end(record, known, await self._calls.call(self._store.targets, record.id))

    async def _begin(self, shares: Shares, known: LiveList) -> None:
        record = shares.record
        if shares.untold:  # it goes on after a pause
            await self._decide(record, known, JobState.RUNNING)
            return
        if asyncio.get_running_loop().time() - self._list[1] < self._settle_s:
            return
        chosen = parse_selection(record.to).choose(await self._hosts(), record.id)
        if not chosen:
            await self._decide(record, known, JobState.FAILED, NOBODY, self._calls.now())
            return
        await self._decide(record, known, JobState.RUNNING, targets=[Target(each.host, each.site) for each in chosen])
        self._has_begun()

    async def _end(
        self,
        record: JobRecord,
        known: LiveList,
        targets: Iterable[Target],
        reason: str = "",
        late: Iterable[Target] = (),
    ) -> None:
        """End a preheat that has these targets. What came of those that were late is not in Redis yet."""
        now = self._calls.now()
        by_host = {each.host: each for each in targets}
        state = Job(record.order, parse_selection(record.to), 0.0, 0.0, targets=by_host).outcome()
        over = replace(record, state=state, finished=now)
        stands = over.pinned_until if over.may_stand(now) else None
        if await self._decide(record, known, state, reason, now, late, stands=stands):
            log.info("preheat_ended", job=record.id, state=state.name.lower())

    async def _end_standing(self, record: JobRecord, known: LiveList) -> None:
        targets = await self._calls.call(self._store.targets, record.id)
        late = end_open(targets, TargetCause.FAIL)
        await self._calls.call(self._store.end_standing, record, known.epoch, late)

    async def _give_back(self, record: JobRecord, lost: Mapping[str, str]) -> None:
        if lost:
            await self._calls.call(self._store.give_back, record.id, lost)

    async def _decide(
        self,
        record: JobRecord,
        known: LiveList,
        state: JobState,
        reason: str = "",
        finished: float | None = None,
        targets: Iterable[Target] = (),
        *,
        stands: float | None = None,
    ) -> bool:
        """As `RedisPreheats.decide`."""
        decide = partial(self._store.decide, record.id, known.epoch, record.state)
        return await self._calls.call(decide, state, reason, finished, targets, stands=stands)


def end_open(targets: Iterable[Target], cause: TargetCause) -> list[Target]:
    """End what is open of a preheat that ends. Returns the hosts that were open, as they are now."""
    still_open = [each for each in targets if each.is_open]
    for target in still_open:
        late = AWAY if target.state is TargetState.WAITING else LATE
        target.step(cause, late if cause is TargetCause.FAIL else "the preheat was cancelled")
    return still_open


def _is_superseded(record: JobRecord, standing: Iterable[JobRecord]) -> bool:
    """Whether one that was over later orders the same, or too many were."""
    later = [each for each in standing if each.stands_until is not None and _over_at(each) > _over_at(record)]
    return len(later) >= MAX_STANDING or any(each.orders_same(record) for each in later)


def _over_at(record: JobRecord) -> tuple[float, int]:
    return record.finished or 0.0, record.number
