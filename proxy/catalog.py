"""What the mirror remembers across restarts: tags' last digests, and which digests anyone may have where.

It is needed when an origin is gone. It is a cache as well: if the file is damaged, or of another version, it is put
aside and begun anew; what cannot be read is not known.
Writes are not flushed to the disk one by one: `kill -9` loses none of them, a power cut may.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from peer.errors import StoreBrokenError
from proxy.core.grants import Place

log = structlog.get_logger("proxy.catalog")

MAX_PUBLIC = 500_000
"""Rows of digests that anyone may have; the oldest are dropped at start (a row takes some 200 bytes)."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS tags (
    namespace TEXT, repository TEXT, tag TEXT, digest TEXT, media_type TEXT, size_bytes INTEGER, seen REAL,
    PRIMARY KEY (namespace, repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS public (
    namespace TEXT, repository TEXT, digest TEXT, PRIMARY KEY (namespace, repository, digest)
);
SELECT namespace, repository, tag, digest, media_type, size_bytes, seen FROM tags LIMIT 0;
SELECT namespace, repository, digest FROM public LIMIT 0;
"""
"""The last two fail if the tables are another version's."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a tag means: the manifest's digest, media type and length."""

    digest: str
    media_type: str
    size_bytes: int


class Catalog:
    """One SQLite file. Used from the event loop: each call takes some tens of microseconds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection

    @classmethod
    def open(cls, path: Path, *, max_public: int = MAX_PUBLIC) -> Catalog:
        """Raises StoreBrokenError if the file can neither be used nor be put aside."""
        try:
            return cls(_connect(path, max_public))
        except sqlite3.DatabaseError as error:
            log.warning("the catalog is damaged and is begun anew", path=str(path), error=str(error))
        try:
            path.replace(path.with_suffix(".damaged"))
            return cls(_connect(path, max_public))
        except (OSError, sqlite3.Error) as error:
            raise StoreBrokenError(f"{path}: {error}; remove it") from error

    def close(self) -> None:
        self._database.close()

    def remember_tag(self, place: Place, tag: str, resolved: Resolved) -> None:
        self._write(
            "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    place.upstream,
                    place.repository,
                    tag,
                    resolved.digest,
                    resolved.media_type,
                    resolved.size_bytes,
                    time.time(),
                )
            ],
        )

    def last_known(self, place: Place, tag: str) -> Resolved | None:
        row = self._read(
            "SELECT digest, media_type, size_bytes FROM tags WHERE namespace = ? AND repository = ? AND tag = ?",
            (place.upstream, place.repository, tag),
        )
        return None if row is None else Resolved(*row)

    def remember_public(self, place: Place, digests: Iterable[str]) -> None:
        self._write(
            "INSERT OR IGNORE INTO public VALUES (?, ?, ?)",
            [(place.upstream, place.repository, digest) for digest in digests],
        )

    def forget_public(self, place: Place, digest: str) -> None:
        """The origin has said no since."""
        self._write(
            "DELETE FROM public WHERE namespace = ? AND repository = ? AND digest = ?",
            [(place.upstream, place.repository, digest)],
        )

    def is_public(self, place: Place, digest: str) -> bool:
        row = self._read(
            "SELECT 1 FROM public WHERE namespace = ? AND repository = ? AND digest = ?",
            (place.upstream, place.repository, digest),
        )
        return row is not None

    def _read(self, statement: str, values: tuple[str, ...]) -> tuple[Any, ...] | None:
        """The first row."""
        try:
            with closing(self._database.execute(statement, values)) as rows:
                row: tuple[Any, ...] | None = rows.fetchone()
                return row
        except sqlite3.Error as error:
            log.warning("the catalog could not be read", error=str(error))
            return None

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:  # a full disk: what is not remembered is asked again
            log.warning("the catalog could not be written", error=str(error))


def _connect(path: Path, max_public: int) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        database.executescript(_SCHEMA)
        with database:
            database.execute(
                "DELETE FROM public WHERE rowid <= (SELECT max(rowid) FROM public) - ?",
                (max_public,),
            )
    except sqlite3.Error:
        database.close()
        raise
    return database
