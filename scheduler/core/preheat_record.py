"""Preheats as they are kept, and where.

A scheduler by itself keeps them on its disk (`scheduler.shell.sqlite_preheats`); several keep them in Redis
(`scheduler.shared.redis_preheats`). One suite of tests holds both to the same.

Rules:
1. A job is kept before any host is told of it. What hosts report is written soon after; what was not written when a
   scheduler is killed is reported again.
2. An idempotency key belongs to one job. The job of a key that comes again is the answer.
3. A credential is encrypted, and is removed when its job is over.
4. Jobs that are over are kept for a while: the newest `MAX_KEPT`. When one was over first stays, until a retry.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from scheduler.core.preheat_hosts import parse_selection
from scheduler.core.preheat_job import STANDING_STATES, JobState, Order, Target, TargetState

MAX_KEPT: Final = 1000


class PreheatStoreError(Exception):
    """The store does not take or give jobs. The text is for the operator."""


class TooManyJobsError(Exception):
    """As many preheats as a cluster takes are not over yet."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is kept. Times are Unix seconds. `source` is what made it: `api`, `harbor`, `push`, …

    `window` is as `22:00-05:00`, or empty: the job is done in these hours of the scheduler's local time. `stands_until`
    is not kept, but told by who gives the record: one that is over is for hosts that join until then.
    """

    order: Order
    to: tuple[str, ...]
    created: float
    begins: float
    ends: float
    source: str = "api"
    window: str = ""
    number: int = 0
    state: JobState = JobState.PENDING
    reason: str = ""
    finished: float | None = None
    stands_until: float | None = None

    @property
    def id(self) -> str:
        return self.order.id

    @property
    def is_open(self) -> bool:
        return self.state in (JobState.PENDING, JobState.RUNNING)

    @property
    def pinned_until(self) -> float | None:
        """When the last of its hosts keeps the images no longer: each does for `ttl_s`, from when it has them."""
        last_at = self.ends if self.finished is None else self.finished
        return last_at + self.order.ttl_s if self.order.ttl_s else None

    @property
    def newcomers_until(self) -> float | None:
        """Until when hosts that join are told; None if they are not."""
        return self._may_stand_until if self.is_open else self.stands_until

    def may_stand(self, now: float) -> bool:
        """Whether it is over, and is for hosts that join later, but for newer ones that order the same."""
        return self.state in STANDING_STATES and now < (self._may_stand_until or 0.0)

    def orders_same(self, other: JobRecord) -> bool:
        """Whether it orders what the other one does, of the same hosts."""
        return (self.order.content, self.to) == (other.order.content, other.to)

    @property
    def _may_stand_until(self) -> float | None:
        return self.pinned_until if self.order.grows(parse_selection(self.to)) else None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job and its hosts, as they are now."""

    record: JobRecord
    targets: tuple[Target, ...]

    @property
    def counts(self) -> Counter[TargetState]:
        return Counter(target.state for target in self.targets)


class PreheatStore(Protocol):
    """Where jobs are kept. Every method blocks, may be called from any thread, and raises PreheatStoreError.

    Times are Unix seconds.
    """

    def add(self, job: JobRecord, key: str | None = None, credential: str = "") -> JobRecord:
        """Keep a new job, or return the one that the idempotency key has already."""
        ...

    def reopen(self, job: str, ends: float) -> None:
        """A job that was over goes on until `ends`."""
        ...

    def keep(
        self,
        job: str,
        state: JobState,
        reason: str,
        finished: float | None,
        targets: Iterable[Target],
        held_images: Sequence[str] = (),
    ) -> None:
        """Keep the state of a job, and what came of these hosts. `held_images`: as in Job, if they are known."""
        ...

    def job(self, name: str | int) -> JobRecord | None:
        """A job by its id, or by its number."""
        ...

    def jobs(self, limit: int) -> list[JobRecord]:
        """The newest jobs first."""
        ...

    def open_jobs(self) -> list[JobRecord]:
        """The jobs that are not over, the oldest first."""
        ...

    def targets(self, job: str) -> list[Target]:
        """The hosts of a job, by id."""
        ...

    def credential(self, job: str) -> str:
        """The credential of a job; "" if it has none, or if the key that it was encrypted with is gone."""
        ...

    def held_images(self, job: str) -> tuple[str, ...]:
        """The images by digest, once hosts hold them: of a job with a credential."""
        ...

    def close(self) -> None: ...


class PreheatService(Protocol):
    """Preheats, of one scheduler (`scheduler.shell.preheating`) or of several (`scheduler.shared.preheating`).

    Every method raises PreheatStoreError.
    """

    async def add(self, record: JobRecord, *, key: str | None = None, credential: str = "") -> JobView:
        """Keep a job, and begin it; or the one that the idempotency key has already. Raises TooManyJobsError."""
        ...

    async def job(self, name: str | int) -> JobView | None:
        """A job by its id, or by its number."""
        ...

    async def jobs(self, limit: int) -> list[JobRecord]:
        """The newest jobs first."""
        ...

    async def cancel(self, name: str) -> JobView | None:
        """End a job; None if there is no such job."""
        ...

    async def retry(self, name: str) -> JobView | None:
        """Have hosts that failed, or were away, try a job again that is over.

        A credential that was given with the job is forgotten by then.
        """
        ...


class Clock(Protocol):
    """The operator's clock, by which jobs begin and end. Nothing between hosts goes by it."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def of_day(self, seconds: float) -> float:
        """The seconds after midnight of a time, where the operator lives."""
        ...


def encode_spec(job: JobRecord) -> str:
    """What of a job never changes, as JSON."""
    order = job.order
    return json.dumps(
        {
            "images": order.images,
            "platforms": order.platforms,
            "rate_bytes_per_s": order.rate_bytes_per_s,
            "ttl_s": order.ttl_s,
            "to": job.to,
            "source": job.source,
            "window": job.window,
            "only_where_used": order.only_where_used,
            "most_bytes": order.most_bytes,
        }
    )


def decode_spec(
    name: str,
    spec_text: str | bytes,
    number: int,
    created: float,
    begins: float,
    ends: float,
    finished: float | None,
    state: str,
    reason: str,
) -> JobRecord:
    """The job of what `encode_spec` wrote, and of what changes. Raises ValueError, KeyError, TypeError."""
    spec = json.loads(spec_text)
    order = Order(
        name,
        tuple(spec["images"]),
        tuple(spec["platforms"]),
        int(spec["rate_bytes_per_s"]),
        float(spec["ttl_s"]),
        bool(spec["only_where_used"]),
        int(spec.get("most_bytes", 0)),  # since the first version of this layout
    )
    return JobRecord(
        order,
        tuple(spec["to"]),
        created,
        begins,
        ends,
        spec["source"],
        spec["window"],
        number,
        JobState[state],
        reason,
        finished,
    )
