"""The operator's user and password for an upstream, as its password file says now.

Rules: a password may change at any time (ECR's does every 12 hours). The file is looked at as `watched` says, and at
once when somebody refuses what it said.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from peer.origin.watched import Watched

if TYPE_CHECKING:
    from pathlib import Path

    from peer.origin.clock import Clock
    from peer.origin.upstream import Upstream

REFRESH_TOKEN_USER = "<token>"  # noqa: S105  # docker's name for a user whose password is an OAuth2 refresh token


class Credentials:
    """The credentials of one upstream; `username` is None if it has none. Raises ValueError for an unusable file."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self.username = upstream.username
        self._name = upstream.name
        self._fixed = upstream.password
        self._file: Watched[str] | None = None
        if upstream.password_file is not None:
            path = upstream.password_file
            self._file = Watched(path, lambda: self._read(path), clock)

    @property
    def password(self) -> str:
        """The password now; empty without credentials."""
        return self._file.get() if self._file else self._fixed or ""

    @property
    def basic(self) -> str | None:
        """The `Authorization` by the scheme Basic; None without credentials."""
        if self.username is None:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def look(self) -> bool:
        """Somebody refused the password: look at its file now. Returns whether there is another password."""
        return self._file is not None and self._file.look()

    def _read(self, path: Path) -> str:
        try:
            text = path.read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise ValueError(f"upstream {self._name}: the password file {path} cannot be read: {error}") from None
        if not text:
            raise ValueError(f"upstream {self._name}: the password file {path} is empty")
        return text
