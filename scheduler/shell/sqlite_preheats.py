"""The preheats of one scheduler, on its disk: SQLite, in the directory of its ledger (`scheduler.core.preheat_record`).

Credentials are encrypted with a key that has a file of its own (0600).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from scheduler.core.preheat_job import JobState, Target, TargetState
from scheduler.core.preheat_record import MAX_KEPT, JobRecord, PreheatStoreError, decode_spec, encode_spec
from scheduler.trust.errors import TrustError
from scheduler.trust.files import create_private, read_private, write_private
from scheduler.trust.sealing import KEY_BYTES, Sealer

LAYOUT: Final = 1
"""Of tables that a version before this one can use as well. It has no column `held`, which is added."""

_TABLES: Final = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, idempotency_key TEXT UNIQUE, spec TEXT NOT NULL,
    created REAL NOT NULL, begins REAL NOT NULL, ends REAL NOT NULL, finished REAL, state TEXT NOT NULL,
    reason TEXT NOT NULL, credential BLOB, held TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE TABLE targets (
    job TEXT NOT NULL, host TEXT NOT NULL, site TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL,
    reason TEXT NOT NULL, size_bytes INTEGER NOT NULL, fetched_bytes INTEGER NOT NULL, unpinned_bytes INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, PRIMARY KEY (job, host)
) STRICT, WITHOUT ROWID;
"""


class SqlitePreheats:
    """One connection. Every method may be called from any thread, and raises PreheatStoreError."""

    def __init__(self, connection: sqlite3.Connection, directory: Path | None) -> None:
        self._connection = connection
        self._directory = directory
        self._lock = threading.Lock()
        self._sealer = Sealer(self._key)

    @classmethod
    def open(cls, directory: Path | None) -> SqlitePreheats:
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
        with _sealing():
            sealed = self._sealer.sealed(credential) if credential else None
        with self._changing() as database:
            if key is not None:
                known = _jobs(database, "WHERE idempotency_key = ?", key)
                if known:
                    return known[0]
            cursor = database.execute(
                "INSERT INTO jobs (id, idempotency_key, spec, created, begins, ends, state, reason, credential)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    key,
                    encode_spec(job),
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

    def keep(
        self,
        job: str,
        state: JobState,
        reason: str,
        finished: float | None,
        targets: Iterable[Target],
        held_images: Sequence[str] = (),
    ) -> None:
        """Keep the state of a job, and what came of these hosts."""
        held = json.dumps(held_images) if held_images else None
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
                "UPDATE jobs SET state = ?1, reason = ?2, held = coalesce(?5, held),"
                " finished = CASE WHEN ?3 IS NOT NULL THEN coalesce(finished, ?3) END,"
                " credential = CASE WHEN ?3 IS NULL THEN credential END WHERE id = ?4",
                (state.name, reason, finished, job, held),
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

    def held_images(self, job: str) -> tuple[str, ...]:
        """The images by digest, once hosts hold them: of a job with a credential."""
        with self._using() as database:
            row = database.execute("SELECT held FROM jobs WHERE id = ?", (job,)).fetchone()
        return tuple(json.loads(row[0])) if row is not None else ()

    # -- credentials -----------------------------------------------------------------------------------------------

    def credential(self, job: str) -> str:
        """The credential of a job; "" if it has none, or if the key that it was encrypted with is gone."""
        with self._using() as database:
            row = database.execute("SELECT credential FROM jobs WHERE id = ?", (job,)).fetchone()
        sealed = row[0] if row is not None else None
        if not sealed:
            return ""
        with _sealing():
            return self._sealer.opened(sealed)

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


@contextmanager
def _sealing() -> Iterator[None]:
    try:
        yield
    except (TrustError, ValueError) as error:
        raise PreheatStoreError(f"the key of the credentials cannot be used: {error}") from None


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
        if "held" not in [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]:
            connection.execute("ALTER TABLE jobs ADD COLUMN held TEXT NOT NULL DEFAULT '[]'")
    except BaseException:
        connection.close()
        raise
    return connection


def _jobs(database: sqlite3.Connection, rest: str, *values: object) -> list[JobRecord]:
    rows = database.execute(
        f"SELECT id, spec, number, created, begins, ends, finished, state, reason FROM jobs {rest}",  # noqa: S608 # ours
        values,
    ).fetchall()
    return [decode_spec(*row) for row in rows]
