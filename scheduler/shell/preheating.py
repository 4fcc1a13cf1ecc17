"""Preheats of one scheduler: keeps them on the disk, gives them to the core, and tells of them.

Jobs have the operator's times (`Clock`); the core is told them by its own clock. The core runs on the event loop, and
the disk is used in a thread of its own, in the order in which things happened. What cannot be written now is written
later: the core goes on. A new job that cannot be written is refused.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, ParamSpec, TypeVar

import structlog

from scheduler.core.events import Event, PreheatAdded, PreheatCancelled, PreheatChanged
from scheduler.core.preheat_hosts import parse_selection
from scheduler.core.preheat_job import Job, JobState, Target, TargetCause
from scheduler.core.preheat_record import (
    MAX_KEPT,
    Clock,
    JobRecord,
    JobView,
    PreheatStore,
    PreheatStoreError,
    TooManyJobsError,
)
from scheduler.core.preheat_window import parse_window
from scheduler.core.preheats import AWAY, MAX_JOBS, MAX_STANDING
from scheduler.core.scheduler import Scheduler
from scheduler.shell.server import SchedulerServer

log = structlog.get_logger("scheduler.preheating")

P = ParamSpec("P")
T = TypeVar("T")

TRY_AGAIN_S: Final = 5.0


@dataclass(slots=True)
class _Unwritten:
    """What is to be written of one job."""

    state: JobState
    reason: str
    targets: dict[str, Target] = field(default_factory=dict)
    held_images: tuple[str, ...] = ()


class Preheating:
    """On the event loop. Made by `preheating`."""

    def __init__(
        self,
        core: Scheduler,
        tell: Callable[[Event], None],
        store: PreheatStore,
        clock: Clock,
    ) -> None:
        self._core: Final = core
        self._tell: Final = tell
        self._store: Final = store
        self._clock: Final = clock.now
        self._of_day: Final = clock.of_day
        self._loop: Final = asyncio.get_running_loop()
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="preheats")
        self._unwritten: Final[dict[str, _Unwritten]] = {}
        self._wake: Final = asyncio.Event()
        self._adding = 0

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def add(self, record: JobRecord, *, key: str | None = None, credential: str = "") -> JobView:
        """Keep a job, and begin it. Raises TooManyJobsError, PreheatStoreError."""
        if self._core.open_preheats + self._adding >= MAX_JOBS:
            raise TooManyJobsError(f"{MAX_JOBS} preheats are not over yet: cancel some, or wait")
        self._adding += 1
        try:
            kept = await self._on_disk(self._store.add, record, key, credential)
        finally:
            self._adding -= 1
        if kept.id == record.id:
            self._give(kept, (), credential)
            log.info("preheat", job=kept.id, images=kept.order.images, to=kept.to, source=kept.source)
        return await self._view(kept)

    async def job(self, name: str | int) -> JobView | None:
        """A job by its id, or by its number. Raises PreheatStoreError."""
        record = await self._on_disk(self._store.job, name)
        return None if record is None else await self._view(record)

    async def jobs(self, limit: int) -> list[JobRecord]:
        """The newest jobs first, as far as their states are written. Raises PreheatStoreError."""
        records = await self._on_disk(self._store.jobs, limit)
        return [self._now(record) for record in records]

    async def cancel(self, name: str) -> JobView | None:
        """End a job; None if there is no such job. Raises PreheatStoreError."""
        self._tell(PreheatCancelled(name))
        return await self.job(name)

    async def retry(self, name: str) -> JobView | None:
        """Have hosts that failed, or were away, try a job again that is over. Raises PreheatStoreError.

        A credential that was given with the job is forgotten by then.
        """
        view = await self.job(name)
        if view is None or view.record.is_open:
            return view
        again = [each for each in view.targets if each.may_try_again]
        for target in again:
            target.try_again()
        if not again:
            return view
        lasts_s = view.record.ends - view.record.begins
        now = self._clock()
        record = replace(view.record, state=JobState.RUNNING, reason="", finished=None, begins=now, ends=now + lasts_s)
        await self._on_disk(self._store.reopen, name, record.ends)
        await self._on_disk(self._store.keep, name, JobState.RUNNING, "", None, view.targets)
        self._give(record, view.targets, "")
        return await self._view(record)

    async def resume(self) -> None:
        """Give the core all jobs that are not over, or stand. Once, once it serves. Raises PreheatStoreError."""
        kept = await self._on_disk(self._store.jobs, MAX_KEPT)
        stand = sorted((each for each in kept if each.may_stand(self._clock())), key=lambda each: each.finished or 0.0)
        for record in [*stand[-MAX_STANDING:], *await self._on_disk(self._store.open_jobs)]:
            targets = await self._on_disk(self._store.targets, record.id)
            credential = await self._on_disk(self._store.credential, record.id)
            self._give(record, targets, credential, await self._on_disk(self._store.held_images, record.id))

    def _give(
        self, record: JobRecord, targets: Iterable[Target], credential: str, held_images: tuple[str, ...] = ()
    ) -> None:
        offset = self._loop.time() - self._clock()
        begins, open_s = self._hours(record)
        ends = (record.ends if record.is_open else record.pinned_until or 0.0) + offset
        job = Job(
            record.order,
            parse_selection(record.to),
            begins + offset,
            ends,
            record.state if record.is_open else JobState.PENDING,
            {target.host: target for target in targets},
            record.reason,
            credential,
            open_s=open_s,
            held_images=held_images,
            result=None if record.is_open else record.state,
            pinned_until=0.0 if record.is_open else ends,
        )
        self._tell(PreheatAdded(job))

    def _hours(self, record: JobRecord) -> tuple[float, float]:
        """When a job begins (Unix seconds) that is kept now, and for how long it runs from then on; 0: to its end."""
        if not record.window:
            return record.begins, 0.0
        window, begins = parse_window(record.window), max(record.begins, self._clock())
        begins += window.opens_in(self._of_day(begins))
        return begins, window.closes_in(self._of_day(begins))

    async def _view(self, record: JobRecord) -> JobView:
        live = self._core.preheat(record.id)
        if live is None or not live.is_open:
            await self.flush()  # its end may be on its way there
            latest = await self._on_disk(self._store.job, record.id)
            record = latest or record
        if live is None:
            targets = await self._on_disk(self._store.targets, record.id)
            for target in targets:
                if target.is_open:  # it stood until no scheduler was there
                    target.step(TargetCause.FAIL, AWAY)
            return JobView(record, tuple(targets))
        return JobView(self._now(record), tuple(map(copy, live.targets.values())))

    def _now(self, record: JobRecord) -> JobRecord:
        live = self._core.preheat(record.id)
        if live is None:
            return record
        stands_until = record.pinned_until if live.pinned_until else None
        return replace(record, state=live.shown_state, reason=live.reason, stands_until=stands_until)

    # -- the disk --------------------------------------------------------------------------------------------------

    def changed(self, event: PreheatChanged) -> None:
        """The core says what is to be kept."""
        job = event.job
        unwritten = self._unwritten.get(job.order.id)
        if unwritten is None:
            unwritten = self._unwritten[job.order.id] = _Unwritten(job.shown_state, job.reason)
        unwritten.state, unwritten.reason, unwritten.held_images = job.shown_state, job.reason, job.held_images
        for target in event.targets:
            unwritten.targets[target.host] = copy(target)
        if event.is_end:
            counts = {state.name.lower(): count for state, count in job.counts().items()}
            log.info("preheat_ended", job=job.order.id, state=job.shown_state.name.lower(), hosts=counts)
        self._wake.set()

    async def write(self) -> None:
        """Write what has changed, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(TRY_AGAIN_S)
                self._wake.set()

    async def flush(self) -> bool:
        """Write what has changed until now. Returns whether all of it is on the disk."""
        batch = dict(self._unwritten)
        for name, unwritten in batch.items():
            finished = None if unwritten.state in (JobState.PENDING, JobState.RUNNING) else self._clock()
            targets = list(unwritten.targets.values())
            if self._unwritten.get(name) is unwritten:
                del self._unwritten[name]
            try:
                await self._on_disk(
                    self._store.keep, name, unwritten.state, unwritten.reason, finished, targets, unwritten.held_images
                )
            except PreheatStoreError as error:
                log.warning("a preheat could not be written", job=name, reason=str(error))
                newer = self._unwritten.get(name)
                if newer is None:
                    self._unwritten[name] = unwritten
                else:
                    newer.targets = {**unwritten.targets, **newer.targets}
                return False
        return True

    async def _on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._thread, partial(work, *args, **kwargs))

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._store.close()


@asynccontextmanager
async def preheating(
    core: Scheduler,
    server: SchedulerServer,
    store: PreheatStore,
    clock: Clock,
) -> AsyncIterator[Preheating]:
    """The preheats of a server that serves; `store` is closed at the end. The owner runs `write`.

    Raises PreheatStoreError.
    """
    service = Preheating(core, server.tell, store, clock)
    server.on_preheat = service.changed
    try:
        await service.resume()
        yield service
        await service.flush()
    finally:
        service.close()


def new_id() -> str:
    """An id for a job that nobody guesses."""
    return secrets.token_hex(8)
