"""What the mirror remembers across restarts: tags' last digests, and which digests anyone may have where.

It is needed when an origin is gone. It is a cache as well: if the file is damaged it is put aside and begun anew.
Writes are not flushed to the disk one by one: `kill -9` loses none of them, a power cut may.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from peer.errors import StoreBrokenError
from proxy.core.grants import Place

log = structlog.get_logger("proxy.catalog")

MAX_PUBLIC = 500_000
"""Rows of digests that anyone may have; the oldest are dropped at start (a row takes some 200 bytes)."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tags (
    namespace TEXT, repository TEXT, tag TEXT, digest TEXT, media_type TEXT, size_bytes INTEGER, seen REAL,
    PRIMARY KEY (namespace, repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS public (
    namespace TEXT, repository TEXT, digest TEXT, PRIMARY KEY (namespace, repository, digest)
);
"""


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
    def open(cls, path: Path) -> Catalog:
        """Raises StoreBrokenError if the file can neither be used nor be put aside."""
        try:
            return cls(_connect(path))
        except sqlite3.DatabaseError as error:
            log.warning("the catalog is damaged and is begun anew", path=str(path), error=str(error))
        try:
            path.replace(path.with_suffix(".damaged"))
            return cls(_connect(path))
        except (OSError, sqlite3.Error) as error:
            raise StoreBrokenError(f"{path}: {error}; remove it") from error

    def close(self) -> None:
        self._database.close()

    def remember_tag(self, place: Place, tag: str, resolved: Resolved) -> None:
        self._write(
            "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    place.namespace,
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
        row = self._database.execute(
            "SELECT digest, media_type, size_bytes FROM tags WHERE namespace = ? AND repository = ? AND tag = ?",
            (place.namespace, place.repository, tag),
        ).fetchone()
        return None if row is None else Resolved(*row)

    def remember_public(self, place: Place, digests: Iterable[str]) -> None:
        self._write(
            "INSERT OR IGNORE INTO public VALUES (?, ?, ?)",
            [(place.namespace, place.repository, digest) for digest in digests],
        )

    def forget_public(self, place: Place, digest: str) -> None:
        """The origin has said no since."""
        self._write(
            "DELETE FROM public WHERE namespace = ? AND repository = ? AND digest = ?",
            [(place.namespace, place.repository, digest)],
        )

    def is_public(self, place: Place, digest: str) -> bool:
        with closing(
            self._database.execute(
                "SELECT 1 FROM public WHERE namespace = ? AND repository = ? AND digest = ?",
                (place.namespace, place.repository, digest),
            )
        ) as rows:
            return rows.fetchone() is not None

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:  # a full disk: what is not remembered is asked again
            log.warning("the catalog could not be written", error=str(error))


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + _SCHEMA)
        with database:
            database.execute(
                "DELETE FROM public WHERE rowid <= (SELECT max(rowid) FROM public) - ?",
                (MAX_PUBLIC,),
            )
    except sqlite3.Error:
        database.close()
        raise
    return database
