"""The catalog: each tag's last digest, and which digests each repository is known to have. It survives restarts.

The mirror needs the catalog while an origin is gone. The catalog is a cache: a file that is damaged, or of another
version, is renamed and replaced by an empty one, and a row that cannot be read counts as missing. The last such file is
kept. Writes are not flushed to the disk one by one: `kill -9` loses none of them, a power cut may lose some.

A file that cannot be opened for lack of room, or on a disk that may not be written, is kept: it is read if that is
possible, else nothing is known, and `try_again` opens it later.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from enum import IntEnum
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from peer.errors import InvalidNameError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.reference import Repository, Tag, UpstreamName
from peer.store.disk import make_private_file
from proxy.core.routing import Endpoint

log = structlog.get_logger("proxy.catalog")

MAX_KNOWN = 500_000
"""Rows of the table `known`; the oldest are dropped at start (a row takes some 200 bytes)."""

MAX_READ_AS_KNOWN = 10_000
"""Rows of `known` that are kept in memory: a client's every request asks for one. What is known stays known."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS tags (
    upstream TEXT, repository TEXT, tag TEXT, digest TEXT, media_type TEXT, size_bytes INTEGER, seen REAL,
    PRIMARY KEY (upstream, repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known (
    upstream TEXT, repository TEXT, digest TEXT, public INTEGER, PRIMARY KEY (upstream, repository, digest)
);
CREATE INDEX IF NOT EXISTS known_digests ON known (digest) WHERE public;
CREATE TABLE IF NOT EXISTS operators (upstream TEXT PRIMARY KEY, user TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vouched (
    upstream TEXT, repository TEXT, tag TEXT, digest TEXT, PRIMARY KEY (upstream, repository, tag)
) WITHOUT ROWID;
DROP TABLE IF EXISTS public;
"""
_PROOF = """
SELECT upstream, repository, tag, digest, media_type, size_bytes, seen FROM tags LIMIT 0;
SELECT upstream, repository, digest, public FROM known LIMIT 0;
"""
"""These fail if the tables are of another version.

A row of `known` says that a repository has a digest: the origin has answered for it there, or it arrived because of
that repository alone. The digest has its endpoint before it (`blobs/sha256:…`). `public` is a `Public`. `operators` has
a hash of the user by whose credentials something is `Public.HERE`: of another user's nothing is. The table `public` of
older versions held what manifests named, which is not known. A row of `vouched` says that the operator has said what a
tag means, which holds as long as `tags` has the same digest: until the origin has told another.
"""


class Public(IntEnum):
    """Who may have a digest."""

    NO = 0
    """The clients that the origin lets have it."""
    HERE = 1
    """Every client of this node, by the operator's credentials."""
    EVERYWHERE = 2
    """Everybody: the origin gives it without credentials."""


class ToldTag(Struct, frozen=True):
    """The manifest that the origin gave for a tag, and how long ago."""

    manifest: Descriptor
    age_s: float


class Catalog:
    """One SQLite file. Used from the event loop: each call takes some tens of microseconds."""

    def __init__(self, path: Path, max_known: int, operators: Mapping[UpstreamName, str]) -> None:
        self._path = path
        self._max_known = max_known
        self._operators = {upstream: _hashed(upstream, user) for upstream, user in operators.items()}
        self._writes_fail = False
        self._read_as_known: set[tuple[Repository, Endpoint, AnyDigest]] = set()
        self._database, self._identity = self._opened()

    @classmethod
    def open(
        cls, path: Path, *, max_known: int = MAX_KNOWN, operators: Mapping[UpstreamName, str] | None = None
    ) -> Catalog:
        """The catalog in `path`, or as much of it as the disk allows.

        `operators` are the users whose credentials the operator gave for upstreams. What another user's credentials
        opened is closed.
        """
        return cls(path, max_known, operators or {})

    @property
    def is_well(self) -> bool:
        """Whether it is in its file, and what is written stays."""
        return self._identity is not None and not self._writes_fail

    def try_again(self) -> None:
        """If it could not be opened for writing, or its file is another now, open it again."""
        if self._identity is None or self._identity != _identity(self._path):
            before = self._database
            self._database, self._identity = self._opened()
            before.close()

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

    def last_told(self, repository: Repository, tag: Tag) -> ToldTag | None:
        """What the origin said last of a tag."""
        row = self._read(
            "SELECT digest, media_type, size_bytes, seen FROM tags WHERE upstream = ? AND repository = ? AND tag = ?",
            (repository.upstream, repository.name, tag),
        )
        if row is None:
            return None
        digest, media_type, size_bytes, seen = row
        try:
            return ToldTag(Descriptor(media_type, AnyDigest(digest), size_bytes), max(0.0, time.time() - seen))
        except (InvalidNameError, TypeError) as error:
            log.warning("the catalog has a tag without a digest", tag=tag, error=str(error))
            return None

    def vouch_for_tag(self, repository: Repository, tag: Tag, manifest: Descriptor) -> None:
        """The operator says what a tag means, which replaces what the origin said last."""
        self.remember_tag(repository, tag, manifest)
        row = (repository.upstream, repository.name, tag, manifest.digest)
        self._write("INSERT OR REPLACE INTO vouched VALUES (?, ?, ?, ?)", [row])

    def vouched_for(self, repository: Repository, tag: Tag) -> Descriptor | None:
        """What the operator said that a tag means, if the origin has told nothing else since."""
        told = self.last_told(repository, tag)
        row = self._read(
            "SELECT digest FROM vouched WHERE upstream = ? AND repository = ? AND tag = ?",
            (repository.upstream, repository.name, tag),
        )
        return told.manifest if told is not None and row is not None and row[0] == told.manifest.digest else None

    def knows_tags(self, repository: Repository) -> bool:
        """Whether an origin has ever told this host a tag of the repository."""
        statement = "SELECT 1 FROM tags WHERE upstream = ? AND repository = ? LIMIT 1"
        return self._read(statement, (repository.upstream, repository.name)) is not None

    def forget_manifest(self, repository: Repository, digest: AnyDigest) -> None:
        """`digest` is no manifest: no tag names it."""
        self._write(
            "DELETE FROM tags WHERE upstream = ? AND repository = ? AND digest = ?",
            [(repository.upstream, repository.name, digest)],
        )

    def remember(
        self, repository: Repository, endpoint: Endpoint, digests: Iterable[AnyDigest], public: Public = Public.NO
    ) -> None:
        """The repository has `digests` at that endpoint."""
        self._write(
            "INSERT INTO known VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET public = max(public, excluded.public)",
            [(*_row(repository, endpoint, digest), public) for digest in digests],
        )

    def publish(self, repository: Repository, endpoint: Endpoint, digests: Iterable[AnyDigest], public: Public) -> None:
        """Anyone may have `digests` at that endpoint, those of them that the repository is known to have."""
        self._write(
            "UPDATE known SET public = max(public, ?) WHERE upstream = ? AND repository = ? AND digest = ?",
            [(public, *_row(repository, endpoint, digest)) for digest in digests],
        )

    def forget_public(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> None:
        """The origin does not give `digest` to everyone at that endpoint."""
        self._write(
            "UPDATE known SET public = 0 WHERE upstream = ? AND repository = ? AND digest = ?",
            [_row(repository, endpoint, digest)],
        )

    def is_known(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> bool:
        """Whether the repository has `digest` at that endpoint."""
        known = repository, endpoint, digest
        if known not in self._read_as_known and self._public(repository, endpoint, digest) is not None:
            if len(self._read_as_known) >= MAX_READ_AS_KNOWN:
                self._read_as_known.clear()
            self._read_as_known.add(known)
        return known in self._read_as_known

    def is_public(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> bool:
        """Whether the repository has `digest` at that endpoint for anyone."""
        public = self._public(repository, endpoint, digest)
        if public == Public.HERE:  # the file has the present operator, unless it could not be written
            row = self._read("SELECT user FROM operators WHERE upstream = ?", (repository.upstream,))
            return row is not None and row[0] == self._operators.get(repository.upstream)
        return public == Public.EVERYWHERE

    def is_for_everybody(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> bool:
        """Whether the origin gives `digest` of this repository without credentials, the operator's included."""
        return self._public(repository, endpoint, digest) == Public.EVERYWHERE

    def is_public_everywhere(self, digest: AnyDigest) -> bool:
        """Whether some repository has `digest` for everybody."""
        row = self._read(
            "SELECT max(public) FROM known WHERE public AND digest IN (?, ?)",
            tuple(f"{endpoint.value}/{digest}" for endpoint in (Endpoint.BLOB, Endpoint.MANIFEST)),
        )
        return row is not None and row[0] == Public.EVERYWHERE

    def _public(self, repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> int | None:
        row = self._read(
            "SELECT public FROM known WHERE upstream = ? AND repository = ? AND digest = ?",
            _row(repository, endpoint, digest),
        )
        return None if row is None else int(row[0] or 0)

    def _opened(self) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
        """The database, and which file it is; None for one that nothing can be written to."""
        try:
            try:
                database = _connect(self._path, self._max_known, self._operators)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                log.warning("the catalog is damaged and is begun anew", path=str(self._path), error=str(error))
                _set_aside(self._path)
                database = _connect(self._path, self._max_known, self._operators)
        except (sqlite3.Error, OSError) as error:
            if not self._writes_fail:
                log.warning("the catalog cannot be written for now", path=str(self._path), error=str(error))
            self._writes_fail = True
            return _read_only(self._path, self._operators), None
        if self._writes_fail:
            log.info("the catalog is written again", path=str(self._path))
        self._writes_fail = False
        return database, _identity(self._path)

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
            if not self._writes_fail:
                log.warning("the catalog cannot be written for now", path=str(self._path), error=str(error))
            self._writes_fail = True
            return
        if self._identity is not None and self._writes_fail:
            log.info("the catalog is written again", path=str(self._path))
            self._writes_fail = False


def _row(repository: Repository, endpoint: Endpoint, digest: AnyDigest) -> tuple[str, str, str]:
    return repository.upstream, repository.name, f"{endpoint.value}/{digest}"


def _hashed(upstream: str, user: str) -> str:
    """The user of an upstream: no part of a credential is kept."""
    return hashlib.sha256(f"{upstream} {user}".encode()).hexdigest()


def _connect(path: Path, max_known: int, operators: Mapping[UpstreamName, str]) -> sqlite3.Connection:
    for journal in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if journal.exists():
            make_private_file(journal)
    make_private_file(path)  # SQLite gives its journals the mode of the file
    database = sqlite3.connect(path)
    try:
        database.executescript(_SCHEMA + _PROOF)
        with database:
            database.execute(
                "DELETE FROM known WHERE rowid <= (SELECT max(rowid) FROM known) - ?",
                (max_known,),
            )
            _close_others(database, operators)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _close_others(database: sqlite3.Connection, operators: Mapping[UpstreamName, str]) -> None:
    """Make `operators` the users by whom something is `Public.HERE`, and nothing so by others."""
    before = dict(database.execute("SELECT upstream, user FROM operators"))
    changed = [name for name in {*before, *operators} if before.get(name) != operators.get(name)]
    if not changed:  # nothing is written to a full disk
        return
    database.executemany(
        "UPDATE known SET public = ? WHERE upstream = ? AND public = ?",
        [(Public.NO, name, Public.HERE) for name in changed],
    )
    database.execute("DELETE FROM operators")
    database.executemany("INSERT INTO operators VALUES (?, ?)", operators.items())


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA})
"""What SQLite says of a file that is no database, or has other tables than ours. All else is the disk's doing."""


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _DAMAGE


def _set_aside(path: Path) -> None:
    """Rename a damaged file, and remove its journals: they would be applied to the next. Raises OSError."""
    path.replace(path.with_suffix(".damaged"))
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _read_only(path: Path, operators: Mapping[UpstreamName, str]) -> sqlite3.Connection:
    """The database as it is, without a write to the disk; an empty one if it cannot be read so.

    What its journal has is not seen that way. Grants may have been taken back there, so such a file is not read.
    """
    journal = path.with_name(f"{path.name}-wal")
    try:
        if path.is_symlink():
            raise sqlite3.OperationalError("links are not followed there")
        if journal.exists() and journal.stat().st_size:
            raise sqlite3.OperationalError("there is a journal")
        database = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
        try:
            database.executescript(_PROOF)
        except sqlite3.Error:
            database.close()
            raise
    except (sqlite3.Error, OSError):
        database = sqlite3.connect(":memory:")
        database.executescript(_SCHEMA)
        _close_others(database, operators)
    return database


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
