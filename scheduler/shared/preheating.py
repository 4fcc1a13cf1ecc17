"""Preheats of several schedulers: any of them takes an order, and each tells the hosts that are connected to it.

A preheat is in Redis (`redis_preheats`), and has a *runner*: its owner by rendezvous among the schedulers that live.
The runner chooses the hosts, of those of all schedulers; begins and pauses it at its hours; gives back the hosts of a
scheduler that has gone; and ends it. A runner that is killed or frozen is off the live list within 8 s, and the next
owner goes on from what is in Redis.

Each scheduler looks every LOOK_EVERY_S. It takes hosts that are connected to it and that nobody tells, and gives back
those that are connected no longer. A host that is connected to several schedulers is told by the one that takes it:
its own by rendezvous takes it at its first look, the others only at their second.

Hosts that connect once the hosts of a preheat were chosen are taken in the same way, while it runs and while it stands
(`scheduler.core.preheats`, rules 2 and 8).

While Redis is gone what was told goes on, and its results are written once Redis is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Final, ParamSpec, Protocol, TypeVar

import structlog

from scheduler.core.events import Event, PreheatAdded, PreheatCancelled, PreheatChanged, PreheatHosts
from scheduler.core.preheat_hosts import Candidate, parse_selection
from scheduler.core.preheat_job import Job, JobState, Target, TargetCause, TargetState
from scheduler.core.preheat_record import Clock, JobRecord, JobView, PreheatStoreError
from scheduler.core.preheat_window import parse_window
from scheduler.core.preheats import AWAY, CANCELLED, LATE, LATE_JOB, MAX_STANDING, NOBODY
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.live_list import LiveList
from scheduler.shared.redis_preheats import Look, RedisPreheats, Shares

log = structlog.get_logger("scheduler.preheating")

P = ParamSpec("P")
T = TypeVar("T")

LOOK_EVERY_S: Final = 1.0
SETTLE_S: Final = 6.0
"""A runner chooses hosts once the live list is the same for so long: each scheduler has written its hosts then."""

AT_ONCE: Final = 1000
"""Hosts in one call."""


NEWCOMERS_A_LOOK: Final = 256
"""Of each preheat. After a start all hosts are newcomers, of whom Redis knows most already."""


class Turn(Protocol):
    """This scheduler among those that live: `scheduler.shared.live.Live`."""

    @property
    def known(self) -> LiveList: ...

    @property
    def name(self) -> str:
        """Of this process on the list; "" while it is not."""
        ...

    def runs(self, name: str) -> bool:
        """Whether this scheduler is the one that does what is done once, under that name."""
        ...

    def not_ready(self) -> list[str]: ...


@dataclass(slots=True)
class _Part:
    """What this scheduler knows of a preheat, and has of it."""

    turn: int
    epoch: int
    """Of the live list, when `shares` were read."""
    shares: Shares
    seen: set[str] = field(default_factory=set)
    """The hosts that were connected here at the look before, and that nobody told."""
    written: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """What Redis has of the hosts that are told here."""
    tells: bool = False
    """Whether hosts are told: it runs, or it stands and these are its hours."""
    newcomers: set[str] = field(default_factory=set)
    """Hosts that have connected here, and may have to be hosts of it."""
    left: set[str] = field(default_factory=set)
    """Those that were left to their own schedulers at a look before."""


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
        self._clock: Final = clock
        self._turn: Final = turn
        self._hosts: Final = hosts
        self._look_every_s: Final = look_every_s
        self._settle_s: Final = settle_s
        self._loop: Final = asyncio.get_running_loop()
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="preheats")
        self._ahead_s = 0.0
        """How far Redis's clock is ahead of this machine's."""
        self._parts: Final[dict[str, _Part]] = {}
        self._finals: Final[dict[str, dict[str, Target]]] = {}
        """By preheat and host: results that are not in Redis yet."""
        self._connected: frozenset[str] = frozenset()
        """The hosts that were connected here at the latest look."""
        self._list: tuple[int, float] = 0, 0.0
        """The epoch of the live list, and when it was first seen."""
        self._wake: Final = asyncio.Event()

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def add(self, record: JobRecord, *, key: str | None = None, credential: str = "") -> JobView:
        self._check_obstacles()
        await self._read_clock()
        now = self._now()
        at_once = record.begins == record.created
        begins = now if at_once else record.begins
        wanted = replace(record, created=now, begins=begins, ends=begins + record.ends - record.begins)
        kept = await self._in_redis(self._store.add, wanted, key, credential)
        if kept.id == record.id:
            log.info("preheat", job=kept.id, images=kept.order.images, to=kept.to, source=kept.source)
        self._wake.set()
        return await self._view(kept)

    async def job(self, name: str | int) -> JobView | None:
        record = await self._in_redis(self._store.job, name)
        return None if record is None else await self._view(record)

    async def jobs(self, limit: int) -> list[JobRecord]:
        return await self._in_redis(self._store.jobs, limit)

    async def cancel(self, name: str) -> JobView | None:
        view = await self.job(name)
        if view is None or (view.record.newcomers_until is None and not view.record.is_open):
            return view
        await self._read_clock()
        closed = _closed(view.targets, TargetCause.CANCEL)
        await self._in_redis(self._store.end, name, JobState.CANCELLED, CANCELLED, self._now(), closed)
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
        await self._read_clock()
        now = self._now()
        await self._in_redis(self._store.retry, name, now, now + view.record.ends - view.record.begins, again)
        self._wake.set()
        return await self.job(name)

    def _check_obstacles(self) -> None:
        for reason in self._turn.not_ready():
            raise PreheatStoreError(f"no new preheat is taken on: {reason}")

    async def _view(self, record: JobRecord) -> JobView:
        """With what its hosts have told here a moment ago; what they have told elsewhere is in Redis every second."""
        targets = await self._in_redis(self._store.targets, record.id)
        live = self._core.preheat(record.id)
        here = {} if live is None or not (record.is_open or record.stands_until) else live.targets
        return JobView(record, tuple(copy(here.get(each.host, each)) for each in targets))

    # -- this scheduler's part -------------------------------------------------------------------------------------

    def changed(self, event: PreheatChanged) -> None:
        """The core says what came of hosts."""
        finals = self._finals.setdefault(event.job.order.id, {})
        for target in event.targets:
            if not target.is_open and target.state is not TargetState.CANCELLED:  # that is decided elsewhere
                finals[target.host] = copy(target)
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
            found = await self._read_clock()
            await self._write_finals(found)
            self._see_newcomers()
            for name, (turn, open_hosts) in found.open.items():
                try:
                    await self._take_part(name, turn, open_hosts)
                except PreheatStoreError as error:  # it alone, if what is stored is none
                    log.debug("a preheat waits for redis", job=name, reason=str(error))
            for name in [each for each in self._parts if each not in found.open]:
                await self._leave(name)
        except PreheatStoreError as error:
            log.debug("preheats wait for redis", reason=str(error))

    def _see_newcomers(self) -> None:
        """Hosts have connected since the look before."""
        connected = self._core.connected()
        new = connected - self._connected
        self._connected = connected
        for part in self._parts.values():
            part.newcomers |= new

    async def _take_part(self, name: str, turn: int, open_hosts: int) -> None:
        part = self._parts.get(name)
        if part is None or (part.turn, part.epoch) != (turn, self._turn.known.epoch):
            epoch = self._turn.known.epoch
            shares = await self._in_redis(self._store.shares, name)
            if shares is None:
                return
            part = self._parts[name] = await self._reconcile(name, turn, epoch, shares, part)
        elif part.tells != self._tells(part.shares.record):
            part = self._parts[name] = await self._reconcile(name, turn, part.epoch, part.shares, part)
        beat = self._turn.name
        if beat and part.tells:
            await self._write_progress(name, part, beat)
            await self._give_back(name, part, beat)
            await self._take(name, part, beat)
            await self._take_newcomers(name, part, beat)
        if self._turn.runs(name):
            await self._run(name, part.shares, open_hosts)

    async def _reconcile(self, name: str, turn: int, epoch: int, shares: Shares, before: _Part | None) -> _Part:
        """Somebody has changed the preheat."""
        part = _Part(turn, epoch, shares, tells=self._tells(shares.record))
        if before is None:
            part.newcomers |= self._connected
        else:
            part.seen, part.written = before.seen, before.written
            part.newcomers, part.left = before.newcomers, before.left
        live = self._core.preheat(name)
        if live is not None and (not part.tells or bool(live.pinned_until) == shares.record.is_open):
            self._tell(PreheatCancelled(name))  # whom it has told is given back once hosts are told again
            live = None
        if not part.tells:
            return part
        if live is None:
            credential = await self._in_redis(self._store.credential, name)
            self._tell(PreheatAdded(self._job(shares, credential)))
            live = self._core.preheat(name)
        beat = self._turn.name
        gone = (
            ()
            if live is None
            else tuple(
                each.host for each in live.targets.values() if each.is_open and shares.told.get(each.host) != beat
            )
        )
        if gone or shares.held_images:
            self._tell(PreheatHosts(name, (), gone, shares.held_images))
        return part

    def _job(self, shares: Shares, credential: str) -> Job:
        record, offset = shares.record, self._loop.time() - self._now()
        return Job(
            record.order,
            parse_selection(record.to),
            record.begins + offset,
            (record.stands_until or record.ends) + offset,
            JobState.RUNNING,
            credential=credential,
            held_images=shares.held_images,
            pinned_until=record.stands_until + offset if record.stands_until else 0.0,
            is_part=True,
        )

    def _tells(self, record: JobRecord) -> bool:
        """Whether hosts are told now."""
        if record.is_open:
            return record.state is JobState.RUNNING
        return record.stands_until is not None and self._hours(record)[0] <= self._now()

    async def _take(self, name: str, part: _Part, beat: str) -> None:
        """Hosts that are connected here and that nobody tells."""
        here = {host for host in part.shares.untold if self._core.is_connected(host)}
        schedulers = [each.id for each in self._turn.known.entries]
        own = beat.partition(":")[0]
        wanted = [host for host in here if host in part.seen or owner_of(host.encode(), schedulers) == own]
        part.seen = here
        for at in range(0, len(wanted), AT_ONCE):
            taken = await self._in_redis(self._store.take, name, beat, wanted[at : at + AT_ONCE])
            self._are_told_here(name, part, beat, taken)
            part.shares = replace(part.shares, untold=part.shares.untold - frozenset(wanted[at : at + AT_ONCE]))

    async def _take_newcomers(self, name: str, part: _Part, beat: str) -> None:
        """Hosts that have connected here, and are hosts of it from now on unless they have been: some in each look."""
        record = part.shares.record
        if not part.newcomers or record.newcomers_until is None:
            part.newcomers.clear()
            return
        selection, schedulers = parse_selection(record.to), [each.id for each in self._turn.known.entries]
        own = beat.partition(":")[0]
        wanted: list[Target] = []
        looked_at = list(islice(part.newcomers, NEWCOMERS_A_LOOK))
        for host in looked_at:
            candidate = self._core.candidate(host)
            if candidate is not None and selection.admits(candidate):
                if host in part.left or owner_of(host.encode(), schedulers) == own:
                    wanted.append(Target(host, candidate.site))
                else:
                    part.left.add(host)
                    continue
            part.left.discard(host)
        if wanted:
            taken = await self._in_redis(self._store.add_hosts, name, beat, wanted)
            self._are_told_here(name, part, beat, taken)
        part.newcomers.difference_update(set(looked_at) - part.left)

    def _are_told_here(self, name: str, part: _Part, beat: str, taken: Iterable[Target]) -> None:
        targets = tuple(taken)
        for target in targets:
            part.written[target.host] = _facts(target)
        self._tell(PreheatHosts(name, targets))
        part.shares = replace(part.shares, told={**part.shares.told, **{target.host: beat for target in targets}})

    async def _give_back(self, name: str, part: _Part, beat: str) -> None:
        """Hosts that are connected here no longer, and those that this process has taken and knows nothing of."""
        live = self._core.preheat(name)
        known = {} if live is None else live.targets
        finals = self._finals.get(name, {})
        left = {
            host: beat
            for host, told_by in part.shares.told.items()
            if told_by == beat
            and host not in finals
            and (host not in known or (known[host].is_open and not self._core.is_connected(host)))
        }
        if left:
            self._tell(PreheatHosts(name, (), tuple(left)))
            await self._in_redis(self._store.give_back, name, left)

    async def _write_finals(self, found: Look) -> None:
        beat = self._turn.name
        for name in list(self._finals):
            targets = self._finals.pop(name)
            try:
                if name in found.open and beat:
                    live = self._core.preheat(name)
                    held = () if live is None else live.held_images
                    await self._in_redis(self._store.report, name, beat, targets.values(), held)
            except PreheatStoreError:
                self._finals[name] = {**targets, **self._finals.get(name, {})}
                raise
            part = self._parts.get(name)
            if part is not None:
                told = {host: by for host, by in part.shares.told.items() if host not in targets}
                part.shares = replace(part.shares, told=told)

    async def _write_progress(self, name: str, part: _Part, beat: str) -> None:
        live = self._core.preheat(name)
        moved = (
            []
            if live is None
            else [
                each for each in live.targets.values() if each.is_open and part.written.get(each.host) != _facts(each)
            ][:AT_ONCE]
        )
        if moved:
            copies = [copy(each) for each in moved]
            part.written |= {each.host: _facts(each) for each in copies}
            await self._in_redis(self._store.report, name, beat, copies)

    async def _leave(self, name: str) -> None:
        """It is over, or Redis has forgotten it: then what is under way goes on until its end."""
        del self._parts[name]
        if self._core.preheat(name) is not None and await self._in_redis(self._store.job, name) is not None:
            self._tell(PreheatCancelled(name))

    # -- the runner's ----------------------------------------------------------------------------------------------

    async def _run(self, name: str, shares: Shares, open_hosts: int) -> None:
        """What one scheduler does for all. The shares were read since the list, or the preheat, has changed."""
        known = self._turn.known
        record, now = shares.record, self._now()
        decide = partial(self._store.decide, name, known.epoch, record.state)
        beats = {f"{each.id}:{each.since}" for each in known.entries}
        lost = {host: beat for host, beat in shares.told.items() if beat not in beats}
        if record.stands_until is not None:
            if now >= record.stands_until or self._is_superseded(record):
                targets = _closed(await self._in_redis(self._store.targets, name), TargetCause.FAIL)
                await self._in_redis(self._store.end_standing, record, known.epoch, targets)
            elif lost:
                await self._in_redis(self._store.give_back, name, lost)
            return
        if now >= record.ends:
            targets = _closed(await self._in_redis(self._store.targets, name), TargetCause.FAIL)
            state = _outcome(shares, targets)
            stands = self._stands_until(record, state, now)
            await self._in_redis(decide, state, LATE_JOB, now, targets, stands=stands)
            log.info("preheat_ended", job=name, state=state.name.lower())
            return
        begins, closes = self._hours(record)
        if record.state is JobState.PENDING:
            if now >= begins:
                await self._begin(shares, decide)
            return
        if now >= closes:
            await self._in_redis(decide, JobState.PENDING)
            return
        if lost:
            await self._in_redis(self._store.give_back, name, lost)
        elif not open_hosts:
            state = _outcome(shares, await self._in_redis(self._store.targets, name))
            if await self._in_redis(decide, state, "", now, stands=self._stands_until(record, state, now)):
                log.info("preheat_ended", job=name, state=state.name.lower())

    def _stands_until(self, record: JobRecord, state: JobState, now: float) -> float | None:
        over = replace(record, state=state, finished=now)
        return over.pinned_until if over.may_stand(now) else None

    def _is_superseded(self, record: JobRecord) -> bool:
        """Whether one that was over later orders the same, or too many were."""
        others = [part.shares.record for part in self._parts.values()]
        later = [each for each in others if each.stands_until is not None and _over_at(each) > _over_at(record)]
        return len(later) >= MAX_STANDING or any(each.orders_same(record) for each in later)

    async def _begin(self, shares: Shares, decide: Callable[..., bool]) -> None:
        record = shares.record
        if shares.untold:  # it goes on after a pause
            await self._in_redis(decide, JobState.RUNNING)
            return
        epoch = self._turn.known.epoch
        if self._list[0] != epoch:
            self._list = epoch, self._loop.time()
        if self._loop.time() - self._list[1] < self._settle_s:
            return
        chosen = parse_selection(record.to).choose(await self._hosts(), record.id)
        if not chosen:
            await self._in_redis(decide, JobState.FAILED, NOBODY, self._now())
            return
        targets = [Target(each.host, each.site) for each in chosen]
        await self._in_redis(decide, JobState.RUNNING, "", None, targets)
        self._wake.set()

    def _hours(self, record: JobRecord) -> tuple[float, float]:
        """From when and until when it may run, as of now (Unix seconds)."""
        if not record.window:
            return record.begins, record.ends
        window, at = parse_window(record.window), max(record.begins, self._now())
        begins = at + window.opens_in(self._clock.of_day(at))
        return begins, at + window.closes_in(self._clock.of_day(at))

    # -- Redis -----------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.now() + self._ahead_s

    async def _read_clock(self) -> Look:
        found = await self._in_redis(self._store.look)
        self._ahead_s = found.now - self._clock.now()
        epoch = self._turn.known.epoch
        if self._list[0] != epoch:
            self._list = epoch, self._loop.time()
        return found

    async def _in_redis(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run_in_executor(self._thread, partial(work, *args, **kwargs))

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._store.close()


@asynccontextmanager
async def shared_preheating(service: SharedPreheating) -> AsyncIterator[SharedPreheating]:
    """While the block lasts. What hosts have told is written at its end."""
    try:
        yield service
        await service.look()
    finally:
        service.close()


def _closed(targets: Iterable[Target], cause: TargetCause) -> list[Target]:
    """Those that were open, as they are once the preheat has ended."""
    still_open = [each for each in targets if each.is_open]
    for target in still_open:
        late = AWAY if target.state is TargetState.WAITING else LATE
        target.step(cause, late if cause is TargetCause.FAIL else "the preheat was cancelled")
    return still_open


def _over_at(record: JobRecord) -> tuple[float, int]:
    return record.finished or 0.0, record.number


def _outcome(shares: Shares, targets: Iterable[Target]) -> JobState:
    by_host = {each.host: each for each in targets}
    return Job(shares.record.order, parse_selection(shares.record.to), 0.0, 0.0, targets=by_host).outcome()


def _facts(target: Target) -> tuple[object, ...]:
    """What of a host that is at it changes."""
    return target.state, target.fetched_bytes, target.size_bytes, target.reason
