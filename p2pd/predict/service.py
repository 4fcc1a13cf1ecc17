"""Predictions of a scheduler: keeps the history, asks the model, and preheats what it says within a budget.

Rules:
1. The model, and the disk, are used in a thread of their own, one piece of work after the other.
2. With `act`, each site has `budget_bytes` a day (UTC) for preheats. What a preheat may fetch at most counts before it
   is ordered, on the disk; when it is over, what was fetched counts. Hosts keep to their part (`Order.most_bytes`):
   a wrong guess of a size fails the preheat, and does not exceed the budget. Hosts evict nothing for it.
3. A preheat of a prediction goes to COPIES hosts of the site, the same ones for each tag of a repository, because they
   have its layers: the others take it from them. Its pins last KEEP_S.
4. What cannot be kept now is lost: the history is for guesses.
5. Each of several schedulers keeps what its own hosts tell, and learns what all of them keep: they predict alike. One
   of them acts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Final, Literal, ParamSpec, Protocol, TypeVar

import structlog

from p2pd.predict.facts import DAY_S, repository_of
from p2pd.predict.forecast import Forecaster, Prediction, worth
from p2pd.predict.gathering import Gathering
from p2pd.preheat.api import record_of
from p2pd.preheat.request import parse_request
from scheduler.core.events import PullSeen
from scheduler.core.history import HistoryStore, HistoryStoreError, Ordered, PushRecord, Record
from scheduler.core.preheat_job import TargetState
from scheduler.core.preheat_record import JobRecord, JobView, PreheatStoreError, TooManyJobsError

log = structlog.get_logger("p2pd.predict")

P = ParamSpec("P")
T = TypeVar("T")

HORIZON_S: Final = 6 * 3600.0
COPIES: Final = 2
KEEP_S: Final = DAY_S
WITHIN: Final = "2h"
"""How long a preheat may take. What is later than that is of little use."""

LOOK_EVERY_S: Final = 30.0
DECIDE_EVERY_S: Final = 600.0
MAX_OPEN: Final = 32
"""Preheats of predictions at a time, of the 256 that a scheduler takes."""

MAX_PUSHES: Final = 1000
SLACK: Final = 1.25
"""A version of an image is seldom larger than the one before by more than that."""

LEARN_AT_ONCE: Final = 50
"""Records; in between, the thread rests as long as that took: the scheduler itself has the other half of the time."""

REHEARSED_S: Final = 14 * DAY_S
"""A model that learns from its answers is asked about so much of the past when the scheduler starts, not about all."""

_FINAL: Final = (TargetState.DONE, TargetState.FAILED, TargetState.SKIPPED, TargetState.UNSUPPORTED)


class Jobs(Protocol):
    """The preheats: `scheduler.shell.preheating.Preheating`."""

    async def add(self, record: JobRecord) -> JobView: ...

    async def job(self, name: str | int) -> JobView | None: ...


class Placed(Protocol):
    """A connected host: `scheduler.core.roster.HostFacts`."""

    @property
    def id(self) -> str: ...

    @property
    def site(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What `p2pd predict` shows. `learned`: the model has seen all of the history. `spent` is by site, of today."""

    predictions: tuple[Prediction, ...]
    learned: bool
    records: int
    spent: dict[str, int]
    orders: tuple[Ordered, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class PredictStatistics:
    """Since the start; `records` are those from before, too. `most_bytes`: what hosts may fetch for the preheats."""

    records: int
    preheats: int
    most_bytes: int


class Predictions:
    """On the event loop. Made by `predicting`; the owner runs `run`."""

    def __init__(
        self,
        store: HistoryStore,
        forecaster: Forecaster | None,
        jobs: Jobs,
        hosts: Callable[[], Awaitable[Iterable[Placed]]],
        *,
        budget_bytes: int,
        mode: Literal["off", "advise", "act"],
        clock: Callable[[], float] = time.time,
        runs: Callable[[], bool] = lambda: True,
    ) -> None:
        """Without a forecaster the history is kept alone. `runs`: whether this scheduler acts, of several."""
        self._store: Final = store
        self._forecaster: Final = forecaster
        self._jobs: Final = jobs
        self._hosts: Final = hosts
        self._budget_bytes: Final = budget_bytes
        self.mode: Final = mode
        self._clock: Final = clock
        self._runs: Final = runs
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._gathering: Final = Gathering()
        self._pushes: list[PushRecord] = []
        self._records = self._preheats = self._most_bytes = 0
        self._learned = False
        self._decided_at = self._rehearsed_at = 0.0

    def seen(self, seen: PullSeen) -> None:
        """A host tells of a pull."""
        self._gathering.seen(seen, self._clock())

    def pushed(self, image: str, digest: str = "") -> None:
        """A registry has told that a tag, which is named in full, was pushed."""
        if len(self._pushes) < MAX_PUSHES:
            self._pushes.append(PushRecord(self._clock(), image, digest))

    async def run(self) -> None:
        """Keep, learn and act, until cancelled."""
        await self._learn_all()
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Keep what was told, and act on it."""
        try:
            moved = await self._keep()
            if self._forecaster is None or not self._learned:
                return
            now = self._clock()
            is_due = now - self._decided_at >= DECIDE_EVERY_S
            if not moved and not is_due:
                return
            self._decided_at = now if is_due else self._decided_at
            found = []
            for repository in [None] if is_due else moved:
                found += await self._in_thread(self._forecaster.predictions, now, repository=repository)
            if self.mode == "act" and self._runs():
                await self._settle()
                await self._act(found, now)
        except (HistoryStoreError, PreheatStoreError, TooManyJobsError) as error:
            log.warning("predictions are not acted on", reason=str(error))

    async def answer(self) -> Answer:
        """What is likely now. Raises HistoryStoreError."""
        await self._keep()
        now, found = self._clock(), []
        if self._forecaster is not None:
            found = await self._in_thread(self._forecaster.predictions, now)
        spent = await self._in_thread(self._store.spent, int(now // DAY_S))
        orders = await self._in_thread(self._store.orders)
        return Answer(tuple(found), self._learned, self._records, spent, tuple(orders[-100:]))

    def statistics(self) -> PredictStatistics:
        return PredictStatistics(self._records, self._preheats, self._most_bytes)

    # -- history ---------------------------------------------------------------------------------------------------

    async def _learn_all(self) -> None:
        try:
            records = await self._in_thread(self._store.records)
        except HistoryStoreError as error:
            log.warning("the history of pulls cannot be read", reason=str(error))
            records = []
        loop = asyncio.get_running_loop()
        for at in range(0, len(records), LEARN_AT_ONCE):
            began = loop.time()
            await self._in_thread(self._learn, records[at : at + LEARN_AT_ONCE], rehearse=True)
            await asyncio.sleep(loop.time() - began)
        self._learned = True

    async def _keep(self) -> list[str]:
        """Returns the repositories in which a tag has moved. Raises HistoryStoreError."""
        pushes, self._pushes = self._pushes, []
        records: list[Record] = sorted([*self._gathering.take(), *pushes], key=lambda each: each.at)
        if records:
            await self._in_thread(self._store.add, records, self._clock())
        if not self._learned:
            return []
        return await self._in_thread(self._learn, await self._in_thread(self._store.news))

    def _learn(self, records: Sequence[Record], *, rehearse: bool = False) -> list[str]:
        """`rehearse`: the model is asked as it would have been at the time, because it learns from its answers."""
        self._records += len(records)
        moved: dict[str, None] = {}
        if self._forecaster is None:
            return []
        from_s = self._clock() - REHEARSED_S
        for each in records:
            if rehearse and each.at >= max(from_s, self._rehearsed_at + HORIZON_S / 2):
                self._rehearsed_at = each.at
                self._forecaster.predictions(each.at)
            if self._forecaster.facts.moves(each):
                moved[repository_of(each.image)] = None
            self._forecaster.observe(each)
        return list(moved)

    # -- preheats --------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Of preheats that are over, count what was fetched."""
        for ordered in await self._in_thread(self._store.orders):
            if ordered.settled:
                continue
            view = await self._jobs.job(ordered.job)
            if view is None:
                await self._in_thread(self._store.settle, ordered.job, ordered.size_bytes)
            elif not view.record.is_open:
                most_bytes = view.record.order.most_bytes  # no host fetches more, whatever it says
                taken = sum(
                    min(target.fetched_bytes, most_bytes) if target.state in _FINAL else most_bytes
                    for target in view.targets
                )
                await self._in_thread(self._store.settle, ordered.job, taken)

    async def _act(self, found: Sequence[Prediction], now: float) -> None:
        assert self._forecaster is not None
        day = int(now // DAY_S)
        spent = await self._in_thread(self._store.spent, day)
        still_open = sum(not each.settled for each in await self._in_thread(self._store.orders))
        by_site: dict[str, list[str]] = {}
        for host in await self._hosts():
            by_site.setdefault(host.site, []).append(host.id)

        def left(site: str) -> int:
            copies = min(COPIES, len(by_site.get(site, ())))
            return int((self._budget_bytes - spent.get(site, 0)) / copies / SLACK) if copies else 0

        for each in worth(found, left)[: max(0, MAX_OPEN - still_open)]:
            hosts = chosen_hosts(by_site[each.site], repository_of(each.image))
            most_bytes = int(each.size_bytes * SLACK)
            image = f"{each.image}@{each.digest}" if each.digest else each.image
            request = parse_request({"images": [image], "to": hosts, "ttl": KEEP_S, "within": WITHIN}, now)
            record = record_of(request, "predict", now)
            record = replace(record, order=replace(record.order, most_bytes=most_bytes))
            ordered = Ordered(record.id, now, each.image, each.site, day, most_bytes * len(hosts))
            if not self._runs():  # another one does, since a moment ago
                return
            await self._in_thread(self._store.order, ordered)
            try:
                await self._jobs.add(record)
            except (PreheatStoreError, TooManyJobsError):
                await self._in_thread(self._store.settle, record.id, 0)
                raise
            self._preheats += 1
            self._most_bytes += ordered.size_bytes
            await self._in_thread(self._forecaster.facts.preheated, each.image, each.site, now)
            log.info("preheats what is predicted", image=image, site=each.site, confidence=round(each.confidence, 2))

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._store.close()


def chosen_hosts(hosts: Iterable[str], repository: str) -> list[str]:
    """The hosts of a site that keep copies of the images of a repository."""
    return sorted(hosts, key=lambda host: blake2b(f"{repository}\n{host}".encode(), digest_size=8).digest())[:COPIES]


@asynccontextmanager
async def predicting(predictions: Predictions) -> AsyncIterator[Predictions]:
    """While the block lasts. What was told is kept at its end."""
    try:
        yield predictions
        await predictions.look()
    finally:
        predictions.close()
