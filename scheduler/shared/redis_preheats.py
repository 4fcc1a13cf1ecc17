"""The preheats of several schedulers, in Redis (`scheduler.core.preheat_record` has the rules of what is kept).

    PREFIX:preheats           the ids of all preheats, by number
    PREFIX:preheats-last      the latest number
    PREFIX:preheats-open      the ids of those that are not over
    PREFIX:preheats-standing  the ids of those that are over and stand
    PREFIX:preheat-keys       by idempotency key: the id
    PREFIX:preheat:ID         a hash: number, key, spec (JSON), created, begins, ends, finished, state, reason,
                              credential (sealed), held (JSON: the images by digest), turn; stands: until when, of
                              one that stands
    PREFIX:preheat:ID:hosts   by host: what came of it, as JSON
    PREFIX:preheat:ID:told    by host: the scheduler that tells it, by the name of its beat
    PREFIX:preheat:ID:untold  the hosts that no scheduler tells

Rules:
1. A host of a preheat is told by one scheduler: the one that has taken it from `untold`, in one step. Whoever has not
   taken it reports nothing of it.
2. A scheduler takes hosts while it is on the live list, under the name of its beat. A process that was struck out, or
   has restarted, has another name: what it had taken is given back by the preheat's runner.
3. What the runner of a preheat decides counts if the live list is at the epoch at which it was the runner, and the
   preheat in the state that it decided upon. At one epoch a preheat has one runner.
4. A result that is final is not changed, but by a retry, and by who tells the host once more of a preheat that stands.
   A preheat that is over, and does not stand, takes no reports.
5. `turn` grows when somebody else may have something to do.
6. Times are of Redis's clock, which is one for all schedulers.
7. A host that connects later becomes a host of a preheat in the step in which a scheduler takes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from scheduler.core.preheat_hosts import MAX_HOSTS, parse_selection
from scheduler.core.preheat_job import OPEN_STATES, JobState, Target, TargetState
from scheduler.core.preheat_record import (
    MAX_KEPT,
    JobRecord,
    PreheatStoreError,
    TooManyJobsError,
    decode_spec,
    encode_spec,
)
from scheduler.core.preheat_window import parse_window
from scheduler.core.preheats import MAX_ATTEMPTS, MAX_JOBS
from scheduler.protocol.fields import Images
from scheduler.protocol.to_host import Preheat
from scheduler.shared import preheat_scripts as scripts
from scheduler.shared.redis_calls import RedisCalls
from scheduler.shared.redis_clients import RedisPlace
from scheduler.trust.errors import TrustError
from scheduler.trust.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Look:
    """Redis's clock (Unix seconds); of each preheat that is not over, or stands, its turn, and its open hosts."""

    now: float
    open: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Shares:
    """Who tells which hosts of a preheat: by host, the name of a scheduler's beat; and the hosts that nobody tells."""

    record: JobRecord
    told: Mapping[str, str]
    untold: frozenset[str]
    held_images: tuple[str, ...]


class RedisPreheats:
    """A `PreheatStore`, and what several schedulers do with it. Methods block, and raise PreheatStoreError."""

    def __init__(self, place: RedisPlace, key: Callable[[], bytes]) -> None:
        """`key` is what credentials are encrypted with, the same for all schedulers; it may raise TrustError."""
        self._place: Final = place
        self._calls: Final = RedisCalls(place, _failed)
        self._sealer: Final = Sealer(key)
        self._base: Final = place.key("preheat:")
        self._open: Final = place.key("preheats-open")
        self._standing: Final = place.key("preheats-standing")
        self._all: Final = place.key("preheats")

    def close(self) -> None:
        self._calls.close()

    # -- what is kept ----------------------------------------------------------------------------------------------

    def add(self, job: JobRecord, key: str | None = None, credential: str = "") -> JobRecord:
        """Raises TooManyJobsError, too."""
        with _sealing():
            sealed = self._sealer.sealed(credential) if credential else b""
        numbers = map(repr, (job.created, job.begins, job.ends))
        values = [encode_spec(job), *numbers, job.state.name, job.reason, sealed]
        last, known = self._place.key("preheats-last"), self._place.key("preheat-keys")
        keys = [self._all, last, self._open, known, self._base, self._standing]
        with self._calls.using() as client:
            name = client.eval(scripts.ADD, len(keys), *keys, job.id, key or "", MAX_JOBS, MAX_KEPT, *values).decode()
        if not name:
            raise TooManyJobsError(f"{MAX_JOBS} preheats are not over yet: cancel some, or wait")
        kept = self.job(name)
        if kept is None:
            raise PreheatStoreError("the preheat was lost as soon as it was kept: order it again")
        return kept

    def reopen(self, job: str, ends: float) -> None:
        self._set(job, "", "", JobState.RUNNING, "", None, (), ends=ends)

    def keep(
        self,
        job: str,
        state: JobState,
        reason: str,
        finished: float | None,
        targets: Iterable[Target],
        held_images: Sequence[str] = (),
    ) -> None:
        if held_images:
            with self._calls.using() as client:
                client.hset(self._base + job, "held", json.dumps(held_images))
        self._set(job, "", "", state, reason, finished, targets)

    def held_images(self, job: str) -> tuple[str, ...]:
        with self._calls.using() as client:
            return _held(client.hget(self._base + job, "held") or b"")

    def job(self, name: str | int) -> JobRecord | None:
        with self._calls.using() as client:
            found = client.zrangebyscore(self._all, name, name) if isinstance(name, int) else [name.encode()]
            return next(iter(self._records(client, found)), None)

    def jobs(self, limit: int) -> list[JobRecord]:
        with self._calls.using() as client:
            return self._records(client, client.zrevrange(self._all, 0, limit - 1))

    def open_jobs(self) -> list[JobRecord]:
        with self._calls.using() as client:
            found = self._records(client, client.smembers(self._open))
        return sorted(found, key=lambda each: each.number)

    def targets(self, job: str) -> list[Target]:
        with self._calls.using() as client:
            rows = client.hgetall(f"{self._base}{job}:hosts")
        return [target for host in sorted(rows) if (target := _target(host, rows[host])) is not None]

    def credential(self, job: str) -> str:
        with self._calls.using() as client:
            sealed = client.hget(self._base + job, "credential")
        with _sealing():
            return self._sealer.opened(sealed) if sealed else ""

    # -- what several schedulers do --------------------------------------------------------------------------------

    def look(self) -> Look:
        with self._calls.using() as client:
            seconds, micros, *flat = client.eval(scripts.LOOK, 3, self._open, self._base, self._standing)
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        found = {_text(name): (int(turn) if turn.isdigit() else 0, int(hosts)) for name, turn, hosts in rows}
        return Look(int(seconds) + int(micros) / 1e6, found)

    def shares(self, job: str) -> Shares | None:
        """None if there is no such preheat."""
        with self._calls.using() as client, client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._base + job)
            pipe.hgetall(f"{self._base}{job}:told")
            pipe.smembers(f"{self._base}{job}:untold")
            fields, told, untold = pipe.execute()
        record = _record(job, fields)
        if record is None:
            return None
        by_host = {_text(host): _text(name) for host, name in told.items()}
        held = _held(fields.get(b"held", b""))
        return Shares(record, by_host, frozenset(map(_text, untold)), held)

    def take(self, job: str, beat: str, hosts: Iterable[str]) -> list[Target]:
        """Be the one that tells these hosts, as far as nobody is yet; return those that are taken (rule 1)."""
        with self._calls.using() as client:
            flat = client.eval(scripts.TAKE, 2, self._place.key("live"), self._base + job, beat, *hosts)
        return _taken(flat)

    def add_hosts(self, job: str, beat: str, targets: Iterable[Target]) -> list[Target]:
        """Be the one that tells these hosts, which have connected later, unless somebody does or has; return those that
        are taken (rule 7).
        """
        flat = [text for each in targets for text in (each.host, _row(each))]
        with self._calls.using() as client:
            live = self._place.key("live")
            return _taken(
                client.eval(scripts.ADD_HOSTS, 2, live, self._base + job, beat, MAX_HOSTS, MAX_ATTEMPTS, *flat)
            )

    def give_back(self, job: str, told: Mapping[str, str]) -> None:
        """These hosts are told no longer by the schedulers with these beats, if they are still."""
        flat = [text for pair in told.items() for text in pair]
        with self._calls.using() as client:
            client.eval(scripts.GIVE_BACK, 2, self._place.key("live"), self._base + job, *flat)

    def report(self, job: str, beat: str, targets: Iterable[Target], held_images: Sequence[str] = ()) -> None:
        """Keep what came of these hosts, as far as they are told by the scheduler with this beat."""
        flat = [text for each in targets for text in (each.host, _row(each))]
        held = json.dumps(held_images) if held_images else ""
        with self._calls.using() as client:
            client.eval(scripts.REPORT, 2, self._place.key("live"), self._base + job, beat, held, *flat)

    def decide(
        self,
        job: str,
        epoch: int,
        before: JobState,
        state: JobState,
        reason: str = "",
        finished: float | None = None,
        targets: Iterable[Target] = (),
        *,
        begins: float | None = None,
        stands: float | None = None,
    ) -> bool:
        """What the runner at this epoch decides of a preheat in the state `before`. Whether it counts (rule 3).

        `stands`: it is over, and stands until then.
        """
        return self._set(job, str(epoch), before.name, state, reason, finished, targets, begins=begins, stands=stands)

    def end_standing(self, record: JobRecord, epoch: int, targets: Iterable[Target]) -> bool:
        """The runner at this epoch decides that a preheat stands no longer. Whether it counts."""
        return self._set(record.id, str(epoch), "stands", record.state, record.reason, record.finished or 0.0, targets)

    def end(self, job: str, state: JobState, reason: str, finished: float, targets: Iterable[Target]) -> bool:
        """End a preheat that is not over, or that stands. Whether it was one."""
        return self._set(job, "", "open", state, reason, finished, targets)

    def retry(self, job: str, begins: float, ends: float, targets: Iterable[Target]) -> bool:
        """Have a preheat go on that is over. Whether it was."""
        return self._set(job, "", "over", JobState.RUNNING, "", None, targets, begins=begins, ends=ends)

    def _set(
        self,
        job: str,
        epoch: str,
        guard: str,
        state: JobState,
        reason: str,
        finished: float | None,
        targets: Iterable[Target],
        *,
        begins: float | None = None,
        ends: float | None = None,
        stands: float | None = None,
    ) -> bool:
        rows = [text for each in targets for text in (each.host, _row(each), str(int(each.state in OPEN_STATES)))]
        times = ["" if each is None else repr(each) for each in (finished, begins, ends)]
        until = "" if stands is None else repr(stands)
        keys = [self._place.key("live"), self._base + job, self._open, self._standing]
        with self._calls.using() as client:
            return bool(client.eval(scripts.SET, 4, *keys, epoch, guard, state.name, reason, *times, job, until, *rows))

    def _records(self, client: Any, names: Iterable[bytes]) -> list[JobRecord]:
        decoded = [_text(name) for name in names]
        with client.pipeline(transaction=False) as pipe:
            for name in decoded:
                pipe.hgetall(self._base + name)
            found = pipe.execute()
        records = (_record(name, fields) for name, fields in zip(decoded, found, strict=True))
        return [each for each in records if each is not None]


def _text(stored: bytes) -> str:
    """Redis is not ours alone."""
    return stored.decode(errors="replace")


def _failed(reason: str) -> PreheatStoreError:
    return PreheatStoreError(f"the preheats cannot be kept: {reason}")


@contextmanager
def _sealing() -> Iterator[None]:
    try:
        yield
    except (TrustError, ValueError, TypeError) as error:
        raise PreheatStoreError(f"the credentials cannot be encrypted: {error}") from None


def _record(name: str, fields: dict[bytes, bytes]) -> JobRecord | None:
    """None if what is stored is none: Redis is not ours alone."""
    try:
        finished = fields[b"finished"]
        record = decode_spec(
            name,
            fields[b"spec"],
            int(fields[b"number"]),
            float(fields[b"created"]),
            float(fields[b"begins"]),
            float(fields[b"ends"]),
            float(finished) if finished else None,
            fields[b"state"].decode(),
            fields[b"reason"].decode(),
        )
        stands = fields.get(b"stands")
        record = replace(record, stands_until=float(stands) if stands else None)
        _check(record)
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    return record


def _held(stored: bytes) -> tuple[str, ...]:
    try:
        held: tuple[str, ...] = msgspec.json.decode(stored or b"[]", type=Images)
    except (ValueError, RecursionError):
        return ()
    return held


def _check(record: JobRecord) -> None:
    """Raises ValueError if hosts could not be told of it."""
    order = record.order
    parse_selection(record.to)
    if record.window:
        parse_window(record.window)
    number = Preheat.__struct_config__.tag
    for count in (order.rate_bytes_per_s, order.most_bytes):
        msgspec.convert((number, order.id, 1, order.images, order.platforms, count, order.ttl_s), Preheat)


def _row(target: Target) -> str:
    return json.dumps(
        [
            target.state.name,
            target.site,
            target.attempt,
            target.reason,
            target.size_bytes,
            target.fetched_bytes,
            target.unpinned_bytes,
            target.confirmed,
        ]
    )


def _taken(flat: Sequence[bytes]) -> list[Target]:
    found = (_target(host, row) for host, row in zip(flat[::2], flat[1::2], strict=True))
    return [target for target in found if target is not None]


def _target(host: bytes, row: bytes) -> Target | None:
    try:
        state, site, attempt, reason, size_bytes, fetched_bytes, unpinned_bytes, confirmed = json.loads(row)
        return replace(
            Target(host.decode(), str(site), TargetState[state], int(attempt), str(reason)),
            size_bytes=int(size_bytes),
            fetched_bytes=int(fetched_bytes),
            unpinned_bytes=int(unpinned_bytes),
            confirmed=bool(confirmed),
        )
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
