"""The ledger of one scheduler: SQLite, so that commands can use it too.

A use of a token is taken in one transaction, which is on the disk before the certificate is given.
"""

from __future__ import annotations

import hmac
import sqlite3
from functools import partial
from pathlib import Path
from typing import Final

from scheduler.trust.certificates import CLOCK_SKEW
from scheduler.trust.database import Database
from scheduler.trust.errors import JoinRefusedError, TrustError
from scheduler.trust.ledger import SAME_REQUEST_S, HostRecord, TokenRecord
from scheduler.trust.token import JoinToken

LAYOUT: Final = 1
"""The version of the tables (`PRAGMA user_version`)."""

_TABLES: Final = """
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, secret_sha256 BLOB NOT NULL, note TEXT NOT NULL, created REAL NOT NULL,
    expires REAL, uses_left INTEGER, revoked REAL
) STRICT;
CREATE TABLE hosts (
    id TEXT PRIMARY KEY, key_sha256 BLOB NOT NULL, token TEXT NOT NULL, first_seen REAL NOT NULL, joined REAL NOT NULL,
    last_renewed REAL NOT NULL, serial TEXT NOT NULL, expires REAL NOT NULL
) STRICT;
CREATE TABLE revocations (host TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
CREATE INDEX hosts_by_key ON hosts (key_sha256);
"""


class SqliteLedger:
    """One connection to the ledger. Every method may be called from any thread, and raises TrustError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> SqliteLedger:
        """Open the ledger, made if there is none. Raises TrustError."""
        return cls(Database.open(path, _TABLES, LAYOUT, partial(_broken, path)))

    def close(self) -> None:
        self._database.close()

    def belongs_to(self, cluster: str) -> None:
        """The CA is beside this file, or the operator's to change: any cluster's."""

    def version(self) -> int:
        """Another number when another connection has changed the ledger."""
        with self._database.using() as database:
            (number,) = database.execute("PRAGMA data_version").fetchone()
        return int(number)

    # -- tokens ----------------------------------------------------------------------------------------------------

    def add_token(self, token: JoinToken, note: str, expires: float | None, uses: int | None, now: float) -> None:
        with self._database.changing() as database:
            values = (token.id, token.secret_sha256, note, now, expires, uses)
            database.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, NULL)", values)

    def tokens(self) -> list[TokenRecord]:
        """All tokens, the oldest first."""
        with self._database.using() as database:
            rows = database.execute(
                "SELECT id, note, created, expires, uses_left, revoked FROM tokens ORDER BY created, id"
            ).fetchall()
        return [TokenRecord(*row) for row in rows]

    def check_token(self, token: JoinToken, now: float) -> None:
        """Raise JoinRefusedError for a token that is not good, before any work is done for its bearer."""
        with self._database.using() as database:
            _uses_left(database, token, now)

    def revoke_token(self, token_id: str, now: float) -> bool:
        """Whether there was such a token."""
        with self._database.changing() as database:
            statement = "UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE id = ?"
            return database.execute(statement, (now, token_id)).rowcount == 1

    # -- hosts -----------------------------------------------------------------------------------------------------

    def admit(self, token: JoinToken, host: str, key_sha256: bytes, serial: str, expires: float, now: float) -> None:
        """Take a use of the token for a host, whose certificate is to be `serial`. Raises JoinRefusedError."""
        with self._database.changing() as database:
            uses_left = _uses_left(database, token, now)
            if not self._asks_again(database, token.id, host, key_sha256, now):
                if uses_left == 0:
                    raise JoinRefusedError("token-used", f"the join token {token.id} has no uses left: create another")
                database.execute("UPDATE tokens SET uses_left = uses_left - 1 WHERE id = ?", (token.id,))
            database.execute(
                "INSERT INTO hosts VALUES (?1, ?2, ?3, ?4, ?4, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE"
                " SET token = ?3, joined = ?4, last_renewed = ?4, serial = ?5, expires = max(expires, ?6)",
                (host, key_sha256, token.id, now, serial, expires),
            )

    def renew(self, host: str, key_sha256: bytes, serial: str, expires: float, now: float) -> None:
        """Record a host's new certificate. Raises JoinRefusedError."""
        with self._database.changing() as database:
            self._check_host(database, host, key_sha256)
            statement = "UPDATE hosts SET last_renewed = ?, serial = ?, expires = max(expires, ?) WHERE id = ?"
            if not database.execute(statement, (now, serial, expires, host)).rowcount:
                raise JoinRefusedError("unknown", f"the scheduler's ledger has no host {host}: join anew with a token")

    def hosts(self) -> list[HostRecord]:
        """All hosts by id."""
        with self._database.using() as database:
            rows = database.execute(
                "SELECT id, token, first_seen, last_renewed, serial, expires, at FROM hosts"
                " LEFT JOIN revocations ON host = id ORDER BY id"
            ).fetchall()
        return [HostRecord(*row) for row in rows]

    def host_ids(self) -> frozenset[str]:
        with self._database.using() as database:
            return frozenset(host for (host,) in database.execute("SELECT id FROM hosts"))

    def revoke_host(self, host: str, now: float) -> None:
        """Revoke a host id, whether the ledger knows the host or not."""
        with self._database.changing() as database:
            database.execute("INSERT OR IGNORE INTO revocations VALUES (?, ?)", (host, now))

    def revoked(self, now: float) -> frozenset[str]:
        """The revoked hosts that may have a certificate which is not over: those that must be told to others."""
        with self._database.using() as database:
            statement = "SELECT host FROM revocations LEFT JOIN hosts ON host = id WHERE expires IS NULL OR expires > ?"
            earliest = now - CLOCK_SKEW.total_seconds()  # for hosts whose clocks are late
            return frozenset(host for (host,) in database.execute(statement, (earliest,)))

    def _asks_again(self, database: sqlite3.Connection, token: str, host: str, key: bytes, now: float) -> bool:
        """Whether this is a request that was answered a moment ago. Raises JoinRefusedError."""
        self._check_host(database, host, key)
        known = database.execute("SELECT token, joined FROM hosts WHERE id = ?", (host,)).fetchone()
        return known is not None and known[0] == token and now - known[1] < SAME_REQUEST_S

    def _check_host(self, database: sqlite3.Connection, host: str, key: bytes) -> None:
        revoked = database.execute(
            "SELECT host FROM revocations WHERE host = ?1 OR host IN (SELECT id FROM hosts WHERE key_sha256 = ?2)",
            (host, key),
        ).fetchone()
        if revoked is not None:
            raise JoinRefusedError("revoked", f"host {revoked[0]} was revoked")
        for (known_key,) in database.execute("SELECT key_sha256 FROM hosts WHERE id = ?", (host,)):
            if known_key != key:
                raise JoinRefusedError("id-taken", f"the host id {host} belongs to another key")


def _uses_left(database: sqlite3.Connection, token: JoinToken, now: float) -> int | None:
    """The uses left of a token that is good but for them; None for any number. Raises JoinRefusedError."""
    known = database.execute(
        "SELECT secret_sha256, expires, uses_left, revoked FROM tokens WHERE id = ?", (token.id,)
    ).fetchone()
    if known is None or not hmac.compare_digest(known[0], token.secret_sha256):
        raise JoinRefusedError("token", f"the scheduler knows no join token {token.id} with this secret")
    _, expires, uses_left, revoked = known
    if revoked is not None:
        raise JoinRefusedError("token-revoked", f"the join token {token.id} was revoked")
    if expires is not None and now >= expires:
        raise JoinRefusedError("token-expired", f"the join token {token.id} has expired: create another")
    return None if uses_left is None else int(uses_left)


def _broken(path: Path, error: sqlite3.Error) -> TrustError:
    return TrustError(f"the ledger {path} cannot be used: {error}")
