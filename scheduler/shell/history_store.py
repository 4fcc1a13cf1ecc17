"""The history of pulls and pushes on the disk of a scheduler: SQLite, in the directory of its ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from scheduler.core.history import (
    MAX_ROWS,
    MAX_TOTAL_BYTES,
    SLOT_S,
    HistoryStoreError,
    Ordered,
    PullRecord,
    PushRecord,
    Record,
)
from scheduler.trust.database import Database
from scheduler.trust.errors import TrustError

LAYOUT: Final = 1

_TABLES: Final = """
CREATE TABLE pulls (
    slot INTEGER NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, site TEXT NOT NULL, at REAL NOT NULL,
    hosts INTEGER NOT NULL, size_bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL, warm_bytes INTEGER NOT NULL,
    PRIMARY KEY (slot, image, digest, site)
) STRICT, WITHOUT ROWID;
CREATE INDEX pulls_at ON pulls (at);
CREATE TABLE pushes (at REAL NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL) STRICT;
CREATE INDEX pushes_at ON pushes (at);
CREATE TABLE orders (
    job TEXT PRIMARY KEY, at REAL NOT NULL, image TEXT NOT NULL, site TEXT NOT NULL, day INTEGER NOT NULL,
    bytes INTEGER NOT NULL, settled INTEGER NOT NULL
) STRICT;
"""


class SqliteHistory:
    """One connection. Every method may be called from any thread, and raises HistoryStoreError."""

    def __init__(self, database: Database, keep_s: float, max_rows: int = MAX_ROWS) -> None:
        self._database = database
        self._keep_s = keep_s
        self._max_rows = max_rows
        self._news: list[Record] = []

    @classmethod
    def open(cls, directory: Path | None, keep_s: float, max_rows: int = MAX_ROWS) -> SqliteHistory:
        """The history in a directory, which is the scheduler's own; in memory without one."""
        path = None if directory is None else directory / "history.db"
        try:
            return cls(Database.open(path, _TABLES, LAYOUT, _broken), keep_s, max_rows)
        except TrustError as error:
            raise _broken(error) from None

    def close(self) -> None:
        self._database.close()

    def add(self, records: Iterable[Record], now: float) -> None:
        """Keep these. Pulls of an image by a site within SLOT_S become one row. Remove what is too old or too much."""
        records = list(records)
        with self._database.changing() as database:
            for each in records:
                if isinstance(each, PushRecord):
                    database.execute("INSERT INTO pushes VALUES (?, ?, ?)", (each.at, each.image, each.digest))
                    continue
                database.execute(
                    "INSERT INTO pulls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " hosts = hosts + excluded.hosts, size_bytes = max(size_bytes, excluded.size_bytes),"
                    " total_bytes = min(total_bytes + excluded.total_bytes, ?),"
                    " warm_bytes = min(warm_bytes + excluded.warm_bytes, ?)",
                    (
                        int(each.at // SLOT_S),
                        each.image,
                        each.digest,
                        each.site,
                        each.at,
                        each.hosts,
                        each.size_bytes,
                        each.total_bytes,
                        each.warm_bytes,
                        MAX_TOTAL_BYTES,
                        MAX_TOTAL_BYTES,
                    ),
                )
            self._trim(database, now)
        self._news += records

    def records(self) -> list[Record]:
        """All of it, in the order of time."""
        self._news = []
        with self._database.using() as database:
            pulls = database.execute(
                "SELECT at, image, digest, site, hosts, size_bytes, total_bytes, warm_bytes FROM pulls"
            ).fetchall()
            pushes = database.execute("SELECT at, image, digest FROM pushes").fetchall()
        records: list[Record] = [*(PushRecord(*row) for row in pushes), *(PullRecord(*row) for row in pulls)]
        return sorted(records, key=lambda each: each.at)

    def news(self) -> list[Record]:
        """What was added since the latest call of `records` or of this."""
        news, self._news = self._news, []
        return news

    # -- budgets ---------------------------------------------------------------------------------------------------

    def order(self, ordered: Ordered) -> None:
        """Keep what a preheat may take, before it is ordered."""
        values = (ordered.job, ordered.at, ordered.image, ordered.site, ordered.day, ordered.size_bytes)
        with self._database.changing() as database:
            database.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, 0)", values)

    def settle(self, job: str, size_bytes: int) -> None:
        """A preheat is over, and has taken so much."""
        with self._database.changing() as database:
            database.execute("UPDATE orders SET bytes = ?, settled = 1 WHERE job = ?", (size_bytes, job))

    def spent(self, day: int) -> dict[str, int]:
        """The bytes that count on a day, by site."""
        with self._database.using() as database:
            return dict(database.execute("SELECT site, sum(bytes) FROM orders WHERE day = ? GROUP BY site", (day,)))

    def orders(self) -> list[Ordered]:
        """The preheats that were ordered and are remembered, the oldest first."""
        with self._database.using() as database:
            rows = database.execute("SELECT job, at, image, site, day, bytes, settled FROM orders ORDER BY at")
            return [
                Ordered(job, at, image, site, day, size_bytes, bool(settled))
                for job, at, image, site, day, size_bytes, settled in rows
            ]

    def _trim(self, database: sqlite3.Connection, now: float) -> None:
        for table in ("pulls", "pushes", "orders"):
            keep_s = max(self._keep_s, 2 * 86_400.0) if table == "orders" else self._keep_s
            database.execute(f"DELETE FROM {table} WHERE at < ?", (now - keep_s,))  # noqa: S608 # a name of ours
        for table in ("pulls", "pushes"):
            (rows,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 # as above
            if rows > self._max_rows:
                database.execute(
                    f"DELETE FROM {table} WHERE at <= (SELECT at FROM {table} ORDER BY at LIMIT 1 OFFSET ?)",  # noqa: S608
                    (rows - self._max_rows - 1,),
                )


def _broken(error: Exception) -> HistoryStoreError:
    return HistoryStoreError(f"the history of pulls cannot be kept: {error}")
