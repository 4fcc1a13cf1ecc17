"""A SQLite database in a scheduler's directory: one connection, which any thread may use. All of it blocks.

Its tables are made when it is opened for the first time, and `user_version` has the version of their layout.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scheduler.trust.files import create_private

LOCK_WITHIN_S: Final = 5.0
"""How long another process may hold the database, such as `p2pd token` beside a scheduler."""


class Database:
    """What SQLite says is wrong is raised as what `failed` makes of it."""

    def __init__(self, connection: sqlite3.Connection, failed: Callable[[sqlite3.Error], Exception]) -> None:
        self._connection = connection
        self._failed = failed
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: Path | None, tables: str, layout: int, failed: Callable[[sqlite3.Error], Exception]
    ) -> Database:
        """The database in a file, which is for its owner alone; in memory without one. Raises TrustError, too."""
        if path is not None:
            create_private(path)
        try:
            connection = sqlite3.connect(
                path or ":memory:", timeout=LOCK_WITHIN_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise failed(error) from None
        opened = cls(connection, failed)
        try:
            with opened.using() as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA secure_delete = ON")
            with opened.changing() as database:
                (found,) = database.execute("PRAGMA user_version").fetchone()
                if found == 0:
                    for statement in tables.split(";"):
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {layout}")
                elif found != layout:
                    raise sqlite3.DatabaseError(f"it is of another version of p2pd (layout {found}, not {layout})")
        except BaseException:
            connection.close()
            raise
        return opened

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise self._failed(error) from None

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is done and on the disk, or nothing."""
        with self.using() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # SQLite ends it itself when the disk is full
                    database.execute("ROLLBACK")
                raise
