"""The catalog: each tag's last digest, and the digests that anyone may have. It survives restarts.

The mirror needs the catalog while an origin is gone. The catalog is a cache: a file that is damaged, or of another
version, is renamed and replaced by an empty one, and a row that cannot be read counts as missing.
Writes are not flushed to the disk one by one: `kill -9` loses none of them, a power cut may lose some.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import structlog

from peer.errors import InvalidNameError, StoreBrokenError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository, Tag

log = structlog.get_logger("proxy.catalog")

MAX_PUBLIC = 500_000
"""Rows of the table `public`; the oldest are dropped at start (a row takes some 200 bytes)."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS tags (
    upstream TEXT, repository TEXT, tag TEXT, digest TEXT, media_type TEXT, size_bytes INTEGER, seen REAL,
    PRIMARY KEY (upstream, repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS public (
    upstream TEXT, repository TEXT, digest TEXT, PRIMARY KEY (upstream, repository, digest)
);
SELECT upstream, repository, tag, digest, media_type, size_bytes, seen FROM tags LIMIT 0;
SELECT upstream, repository, digest FROM public LIMIT 0;
"""
"""The last two statements fail if the tables are of another version."""


class Catalog:
    """One SQLite file. Used from the event loop: each call takes some tens of microseconds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection

    @classmethod
    def open(cls, path: Path, *, max_public: int = MAX_PUBLIC) -> Catalog:
        """Raises StoreBrokenError if the file can neither be used nor be renamed."""
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

    def remember_tag(self, repository: Repository, tag: Tag, manifest: Descriptor) -> None:
        self._write(
            "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    repository.upstream,
                    repository.name,
                    tag,
                    manifest.digest,
                    manifest.media_type,
                    manifest.size_bytes,
                    time.time(),
                )
            ],
        )

    def last_known(self, repository: Repository, tag: Tag) -> Descriptor | None:
        row = self._read(
            "SELECT digest, media_type, size_bytes FROM tags WHERE upstream = ? AND repository = ? AND tag = ?",
            (repository.upstream, repository.name, tag),
        )
        if row is None:
            return None
        digest, media_type, size_bytes = row
        try:
            return Descriptor(media_type, AnyDigest(digest), size_bytes)
        except (InvalidNameError, TypeError) as error:
            log.warning("the catalog has a tag without a digest", tag=tag, error=str(error))
            return None

    def remember_public(self, repository: Repository, digests: Iterable[AnyDigest]) -> None:
        self._write(
            "INSERT OR IGNORE INTO public VALUES (?, ?, ?)",
            [(repository.upstream, repository.name, digest) for digest in digests],
        )

    def forget_public(self, repository: Repository, digest: AnyDigest) -> None:
        """The origin refused `digest` to a client without a credential."""
        self._write(
            "DELETE FROM public WHERE upstream = ? AND repository = ? AND digest = ?",
            [(repository.upstream, repository.name, digest)],
        )

    def is_public(self, repository: Repository, digest: AnyDigest) -> bool:
        row = self._read(
            "SELECT 1 FROM public WHERE upstream = ? AND repository = ? AND digest = ?",
            (repository.upstream, repository.name, digest),
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
        except sqlite3.Error as error:  # a full disk: the origin is asked again for what is missing
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
