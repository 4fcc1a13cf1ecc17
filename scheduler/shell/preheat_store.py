"""Preheats on the disk of a scheduler: SQLite, in the directory of its ledger. Every method blocks.

Rules:
1. A job is on the disk before any host is told of it. What hosts report is written soon after; what was not written
   when the scheduler is killed is reported again.
2. An idempotency key belongs to one job. The job of a key that comes again is the answer.
3. A credential is encrypted with a key that has a file of its own (0600), and is removed when its job is over.
4. Jobs that are over are kept for a while: the newest `MAX_KEPT`.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scheduler.core.preheat_job import JobState, Order, Target, TargetState
from scheduler.trust.errors import TrustError
from scheduler.trust.files import create_private, read_private, write_private

MAX_KEPT: Final = 1000
LAYOUT: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_TABLES: Final = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, idempotency_key TEXT UNIQUE, spec TEXT NOT NULL,
    created REAL NOT NULL, begins REAL NOT NULL, ends REAL NOT NULL, finished REAL, state TEXT NOT NULL,
    reason TEXT NOT NULL, credential BLOB
) STRICT;
CREATE TABLE targets (
    job TEXT NOT NULL, host TEXT NOT NULL, site TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL,
    reason TEXT NOT NULL, size_bytes INTEGER NOT NULL, fetched_bytes INTEGER NOT NULL, unpinned_bytes INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, PRIMARY KEY (job, host)
) STRICT, WITHOUT ROWID;
"""


class PreheatStoreError(Exception):
    """The disk does not take or give jobs. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is kept. Times are Unix seconds. `source` is what made it: `api`, `harbor`, `push`, …

    `window` is as `22:00-05:00`, or empty: the job is done in these hours of the scheduler's local time.
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

    @property
    def id(self) -> str:
        return self.order.id

    @property
    def is_open(self) -> bool:
        return self.state in (JobState.PENDING, JobState.RUNNING)


class PreheatStore:
    """One connection. Every method may be called from any thread, and raises PreheatStoreError."""

    def __init__(self, connection: sqlite3.Connection, directory: Path | None) -> None:
        self._connection = connection
        self._directory = directory
        self._lock = threading.Lock()
        self._sealer: Any = None

    @classmethod
    def open(cls, directory: Path | None) -> PreheatStore:
        """The jobs in a directory, which is the scheduler's own; in memory without one. Raises PreheatStoreError."""
        try:
            if directory is None:
                connection = _connected(":memory:")
            else:
                path = directory / "preheats.db"
                create_private(path)
                connection = _connected(str(path))
        except (sqlite3.Error, TrustError) as error:
            raise PreheatStoreError(f"the preheats cannot be kept: {error}") from None
        return cls(connection, directory)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # -- jobs ------------------------------------------------------------------------------------------------------

    def add(self, job: JobRecord, key: str | None = None, credential: str = "") -> JobRecord:
        """Keep a new job, or return the one that the idempotency key has already."""
        sealed = self._seal(credential) if credential else None
        with self._changing() as database:
            if key is not None:
                known = _jobs(database, "WHERE idempotency_key = ?", key)
                if known:
                    return known[0]
            order = job.order
            spec = {
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
            cursor = database.execute(
                "INSERT INTO jobs (id, idempotency_key, spec, created, begins, ends, state, reason, credential)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    key,
                    json.dumps(spec),
                    job.created,
                    job.begins,
                    job.ends,
                    job.state.name,
                    job.reason,
                    sealed,
                ),
            )
            number = cursor.lastrowid or 0
            database.execute(
                "DELETE FROM jobs WHERE finished IS NOT NULL AND number <= ?",
                (number - MAX_KEPT,),
            )
            database.execute("DELETE FROM targets WHERE job NOT IN (SELECT id FROM jobs)")
        return replace(job, number=number)

    def reopen(self, job: str, ends: float) -> None:
        """A job that was over goes on until `ends`."""
        with self._changing() as database:
            statement = "UPDATE jobs SET state = ?, reason = '', finished = NULL, ends = ? WHERE id = ?"
            database.execute(statement, (JobState.RUNNING.name, ends, job))

    def keep(self, job: str, state: JobState, reason: str, finished: float | None, targets: Iterable[Target]) -> None:
        """Keep the state of a job, and what came of these hosts."""
        rows = [
            (
                job,
                each.host,
                each.site,
                each.state.name,
                each.attempt,
                each.reason,
                each.size_bytes,
                each.fetched_bytes,
                each.unpinned_bytes,
                each.confirmed,
            )
            for each in targets
        ]
        with self._changing() as database:
            database.executemany("INSERT OR REPLACE INTO targets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            database.execute(
                "UPDATE jobs SET state = ?1, reason = ?2, finished = ?3,"
                " credential = CASE WHEN ?3 IS NULL THEN credential END WHERE id = ?4",
                (state.name, reason, finished, job),
            )

    def job(self, name: str | int) -> JobRecord | None:
        """A job by its id, or by its number."""
        column = "number" if isinstance(name, int) else "id"
        with self._using() as database:
            found = _jobs(database, f"WHERE {column} = ?", name)
        return found[0] if found else None

    def jobs(self, limit: int) -> list[JobRecord]:
        """The newest jobs first."""
        with self._using() as database:
            return _jobs(database, "ORDER BY number DESC LIMIT ?", limit)

    def open_jobs(self) -> list[JobRecord]:
        """The jobs that are not over, the oldest first."""
        with self._using() as database:
            return _jobs(database, "WHERE finished IS NULL ORDER BY number")

    def targets(self, job: str) -> list[Target]:
        """The hosts of a job, by id."""
        with self._using() as database:
            rows = database.execute(
                "SELECT host, site, state, attempt, reason, size_bytes, fetched_bytes, unpinned_bytes, confirmed"
                " FROM targets WHERE job = ? ORDER BY host",
                (job,),
            ).fetchall()
        return [
            Target(
                host,
                site,
                TargetState[state],
                attempt,
                reason,
                size_bytes=size_bytes,
                fetched_bytes=fetched_bytes,
                unpinned_bytes=unpinned_bytes,
                confirmed=bool(confirmed),
            )
            for host, site, state, attempt, reason, size_bytes, fetched_bytes, unpinned_bytes, confirmed in rows
        ]

    # -- credentials -----------------------------------------------------------------------------------------------

    def credential(self, job: str) -> str:
        """The credential of a job; "" if it has none, or if the key that it was encrypted with is gone."""
        with self._using() as database:
            row = database.execute("SELECT credential FROM jobs WHERE id = ?", (job,)).fetchone()
        sealed = row[0] if row is not None else None
        if not sealed:
            return ""
        from cryptography.exceptions import InvalidTag

        try:
            text: bytes = self._cipher().decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except InvalidTag:
            return ""
        return text.decode()

    def _seal(self, credential: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed: bytes = self._cipher().encrypt(nonce, credential.encode(), None)
        return nonce + sealed

    def _cipher(self) -> Any:
        """AES-GCM under the key in the directory, made at the first use."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 10 MiB, for jobs with credentials alone

        with self._lock:
            if self._sealer is None:
                try:
                    self._sealer = AESGCM(self._key())
                except (TrustError, ValueError) as error:
                    raise PreheatStoreError(f"the key of the credentials cannot be used: {error}") from None
            return self._sealer

    def _key(self) -> bytes:
        if self._directory is None:
            return secrets.token_bytes(KEY_BYTES)
        path = self._directory / "preheat-key"
        with suppress(FileNotFoundError):
            return read_private(path)
        write_private(path, secrets.token_bytes(KEY_BYTES))
        return read_private(path)

    # -- the database ----------------------------------------------------------------------------------------------

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise PreheatStoreError(f"the preheats cannot be kept: {error}") from None

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk, or nothing."""
        with self._using() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise


def _connected(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")
        elif layout != LAYOUT:
            raise sqlite3.DatabaseError(f"{path} is of another version of p2pd (layout {layout}, not {LAYOUT})")
    except BaseException:
        connection.close()
        raise
    return connection


def _jobs(database: sqlite3.Connection, rest: str, *values: object) -> list[JobRecord]:
    rows = database.execute(
        f"SELECT number, id, spec, created, begins, ends, finished, state, reason FROM jobs {rest}",  # noqa: S608 # ours
        values,
    ).fetchall()
    return [_job(*row) for row in rows]


def _job(
    number: int,
    name: str,
    spec_text: str,
    created: float,
    begins: float,
    ends: float,
    finished: float | None,
    state: str,
    reason: str,
) -> JobRecord:
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
