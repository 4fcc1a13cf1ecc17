"""Preheats of several schedulers: any of them takes an order, and each tells the hosts that are connected to it.

A preheat is in Redis (`redis_preheats`). Each scheduler looks every LOOK_EVERY_S, and has its part of each preheat
(`preheat_part`). One scheduler is the runner of a preheat, and does what is done once (`preheat_runner`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from typing import Final

import structlog

from scheduler.core.events import Event, PreheatChanged
from scheduler.core.preheat_hosts import Candidate
from scheduler.core.preheat_job import JobState, TargetCause
from scheduler.core.preheat_record import Clock, JobRecord, JobView, PreheatStoreError
from scheduler.core.preheats import CANCELLED
from scheduler.core.scheduler import Scheduler
from scheduler.shared.live_list import Turn
from scheduler.shared.preheat_calls import PreheatCalls
from scheduler.shared.preheat_part import Part
from scheduler.shared.preheat_runner import SETTLE_S, Runner, end_open
from scheduler.shared.redis_preheats import Look, RedisPreheats

log = structlog.get_logger("scheduler.preheating")

LOOK_EVERY_S: Final = 1.0


class SharedPreheating:
    """On the event loop. Made by `shared_preheating`; the owner runs `write`.

    `hosts` gives all hosts of all schedulers. The methods that `Preheating` has are as there.
    """

    def __init__(
        self,
        core: Scheduler,
        tell: Callable[[Event], None],
        store: RedisPreheats,
        clock: Clock,
        turn: Turn,
        hosts: Callable[[], Awaitable[Iterable[Candidate]]],
        *,
        look_every_s: float = LOOK_EVERY_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._core: Final = core
        self._tell: Final = tell
        self._store: Final = store
        self._calls: Final = PreheatCalls(store, clock)
        self._turn: Final = turn
        self._look_every_s: Final = look_every_s
        self._wake: Final = asyncio.Event()
        self._runner: Final = Runner(self._calls, hosts, self._wake.set, settle_s=settle_s)
        self._parts: Final[dict[str, Part]] = {}
        self._connected: frozenset[str] = frozenset()
        """The hosts that were connected here at the latest look."""

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def add(self, record: JobRecord, *, key: str | None = None, credential: str = "") -> JobView:
        self._check_obstacles()
        await self._look()
        now = self._calls.now()
        at_once = record.begins == record.created
        begins = now if at_once else record.begins
        wanted = replace(record, created=now, begins=begins, ends=begins + record.ends - record.begins)
        kept = await self._calls.call(self._store.add, wanted, key, credential)
        if kept.id == record.id:
            log.info("preheat", job=kept.id, images=kept.order.images, to=kept.to, source=kept.source)
        self._wake.set()
        return await self._view(kept)

    async def job(self, name: str | int) -> JobView | None:
        record = await self._calls.call(self._store.job, name)
        return None if record is None else await self._view(record)

    async def jobs(self, limit: int) -> list[JobRecord]:
        return await self._calls.call(self._store.jobs, limit)

    async def cancel(self, name: str) -> JobView | None:
        view = await self.job(name)
        if view is None or (view.record.newcomers_until is None and not view.record.is_open):
            return view
        await self._look()
        closed = end_open(view.targets, TargetCause.CANCEL)
        await self._calls.call(self._store.end, name, JobState.CANCELLED, CANCELLED, self._calls.now(), closed)
        self._wake.set()
        return await self.job(name)

    async def retry(self, name: str) -> JobView | None:
        self._check_obstacles()
        view = await self.job(name)
        if view is None or view.record.is_open:
            return view
        again = [each for each in view.targets if each.may_try_again]
        for target in again:
            target.try_again()
        if not again:
            return view
        await self._look()
        now = self._calls.now()
        await self._calls.call(self._store.retry, name, now, now + view.record.ends - view.record.begins, again)
        self._wake.set()
        return await self.job(name)

    def _check_obstacles(self) -> None:
        for reason in self._turn.not_ready():
            raise PreheatStoreError(f"no new preheat is taken on: {reason}")

    async def _view(self, record: JobRecord) -> JobView:
        """With what its hosts have told here a moment ago; what they have told elsewhere is in Redis every second."""
        targets = await self._calls.call(self._store.targets, record.id)
        live = self._core.preheat(record.id)
        here = {} if live is None or not (record.is_open or record.stands_until) else live.targets
        return JobView(record, tuple(copy(here.get(each.host, each)) for each in targets))

    # -- looks -----------------------------------------------------------------------------------------------------

    def changed(self, event: PreheatChanged) -> None:
        """The core says what came of hosts."""
        part = self._parts.get(event.job.order.id)
        if part is not None:
            part.changed(event.targets)
        self._wake.set()

    async def write(self) -> None:
        """Look, take part, and write, until cancelled."""
        while True:
            self._wake.clear()
            await self.look()
            try:
                async with asyncio.timeout(self._look_every_s):
                    await self._wake.wait()
                await asyncio.sleep(self._look_every_s / 20)  # what comes with it
            except TimeoutError:
                pass

    async def look(self) -> None:
        """One look. Never raises PreheatStoreError: `Live` tells that Redis is gone."""
        try:
            found = await self._look()
            for name, part in list(self._parts.items()):
                await part.write_finals(is_open=name in found.open)
            self._see_newcomers()
            for name, (turn, open_hosts) in found.open.items():
                try:
                    await self._take_part(name, turn, open_hosts)
                except PreheatStoreError as error:  # it alone, if what is stored is none
                    log.debug("a preheat waits for redis", job=name, reason=str(error))
            for name in [each for each in self._parts if each not in found.open]:
                await self._parts.pop(name).leave()
        except PreheatStoreError as error:
            log.debug("preheats wait for redis", reason=str(error))

    async def _look(self) -> Look:
        found = await self._calls.look()
        self._runner.see(self._turn.known)
        return found

    def _see_newcomers(self) -> None:
        """Hosts have connected since the look before."""
        connected = self._core.connected()
        new = connected - self._connected
        self._connected = connected
        for part in self._parts.values():
            part.connected(new)

    async def _take_part(self, name: str, turn: int, open_hosts: int) -> None:
        part, epoch = self._parts.get(name), self._turn.known.epoch
        if part is None or part.read_at != (turn, epoch):
            shares = await self._calls.call(self._store.shares, name)
            if shares is None:
                return
            if part is None:
                part = self._parts[name] = Part(self._core, self._tell, self._calls, self._turn, shares)
                part.connected(self._connected)
            await part.follow(shares, turn, epoch)
        await part.look()
        if self._turn.runs(name):
            records = [each.shares.record for each in self._parts.values()]
            await self._runner.run(part.shares, open_hosts, self._turn.known, records)

    def close(self) -> None:
        self._calls.close()


@asynccontextmanager
async def shared_preheating(service: SharedPreheating) -> AsyncIterator[SharedPreheating]:
    """While the block lasts. What hosts have told is written at its end."""
    try:
        yield service
        await service.look()
    finally:
        service.close()
