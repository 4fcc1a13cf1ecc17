"""The history of several schedulers, in Redis (`scheduler.core.history` has the rules).

    PREFIX:history         a stream, bounded: each entry a record, as JSON
    PREFIX:history-orders  by preheat: what a prediction has ordered, as JSON

Each scheduler writes what its own hosts tell, and reads what all of them have written, in one order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, replace
from typing import Final

from scheduler.core.history import (
    MAX_ROWS,
    SLOT_S,
    HistoryStoreError,
    Ordered,
    PullRecord,
    PushRecord,
    Record,
)
from scheduler.shared.redis_calls import RedisCalls
from scheduler.shared.redis_clients import RedisPlace

AT_ONCE: Final = 5000
DAYS_OF_BUDGETS_S: Final = 2 * 86_400.0


class RedisHistory:
    """A `HistoryStore`."""

    def __init__(self, place: RedisPlace, keep_s: float, max_rows: int = MAX_ROWS) -> None:
        self._calls: Final = RedisCalls(place, _failed)
        self._keep_s: Final = keep_s
        self._max_rows: Final = max_rows
        self._stream: Final = place.key("history")
        self._orders: Final = place.key("history-orders")
        self._read = b"0-0"
        """The latest entry that was read."""

    def close(self) -> None:
        self._calls.close()

    def add(self, records: Iterable[Record], now: float) -> None:
        with self._calls.using() as client:
            with client.pipeline(transaction=False) as pipe:
                for each in records:
                    pipe.xadd(
                        self._stream, {"record": json.dumps(astuple(each))}, maxlen=self._max_rows, approximate=False
                    )
                pipe.xrange(self._stream, count=AT_ONCE)
                *_, oldest = pipe.execute()
            told = [(name, _record(fields)) for name, fields in oldest]
            late = [name for name, record in told if record is None or record.at < now - self._keep_s]
            if late:
                client.xdel(self._stream, *late)
            before = now - max(self._keep_s, DAYS_OF_BUDGETS_S)
            orders = self._all_orders(client.hvals(self._orders))
            gone = [ordered.job for ordered in orders if ordered.at < before]
            if gone:
                client.hdel(self._orders, *gone)

    def records(self) -> list[Record]:
        self._read = b"0-0"
        rows: dict[tuple[int, str, str, str], PullRecord] = {}
        pushes: list[Record] = []
        for each in self.news():
            if isinstance(each, PushRecord):
                pushes.append(each)
                continue
            key = int(each.at // SLOT_S), each.image, each.digest, each.site
            known = rows.get(key)
            rows[key] = each if known is None else _one(known, each)
        return sorted([*pushes, *rows.values()], key=lambda each: each.at)

    def news(self) -> list[Record]:
        found: list[Record] = []
        while True:
            with self._calls.using() as client:
                entries = client.xrange(self._stream, min=b"(" + self._read, count=AT_ONCE)
            if not entries:
                return found
            self._read = entries[-1][0]
            found += [each for _, fields in entries if (each := _record(fields)) is not None]

    # -- budgets ---------------------------------------------------------------------------------------------------

    def order(self, ordered: Ordered) -> None:
        with self._calls.using() as client:
            client.hset(self._orders, ordered.job, json.dumps(astuple(ordered)))

    def settle(self, job: str, size_bytes: int) -> None:
        with self._calls.using() as client:
            for each in self._all_orders([client.hget(self._orders, job)]):
                settled = replace(each, size_bytes=size_bytes, settled=True)
                client.hset(self._orders, job, json.dumps(astuple(settled)))

    def spent(self, day: int) -> dict[str, int]:
        spent: dict[str, int] = {}
        for each in self.orders():
            if each.day == day:
                spent[each.site] = spent.get(each.site, 0) + each.size_bytes
        return spent

    def orders(self) -> list[Ordered]:
        with self._calls.using() as client:
            return self._all_orders(client.hvals(self._orders))

    def _all_orders(self, rows: Iterable[bytes | None]) -> list[Ordered]:
        found: list[Ordered] = []
        for row in rows:
            try:
                job, at, image, site, day, size_bytes, settled = json.loads(row or b"")
                found.append(
                    Ordered(str(job), float(at), str(image), str(site), int(day), int(size_bytes), bool(settled))
                )
            except (ValueError, TypeError, RecursionError):
                continue
        return sorted(found, key=lambda each: (each.at, each.job))


def _one(known: PullRecord, more: PullRecord) -> PullRecord:
    """Two records of one slot."""
    return replace(
        known,
        hosts=known.hosts + more.hosts,
        size_bytes=max(known.size_bytes, more.size_bytes),
        total_bytes=known.total_bytes + more.total_bytes,
        warm_bytes=known.warm_bytes + more.warm_bytes,
    )


def _record(fields: dict[bytes, bytes]) -> Record | None:
    """None if it is no record: Redis is not ours alone."""
    try:
        at, image, digest, *rest = json.loads(fields[b"record"])
        if not rest:
            return PushRecord(float(at), str(image), str(digest))
        site, *numbers = rest
        hosts, size_bytes, total_bytes, warm_bytes = map(int, numbers)
        return PullRecord(float(at), str(image), str(digest), str(site), hosts, size_bytes, total_bytes, warm_bytes)
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def _failed(reason: str) -> HistoryStoreError:
    return HistoryStoreError(f"the history of pulls cannot be kept: {reason}")
