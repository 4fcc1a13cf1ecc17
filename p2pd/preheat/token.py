"""The token with which other programs order preheats from other machines: Harbor, a registry, a pipeline.

It is a file in the scheduler's directory that only the scheduler's user can read, made by `p2pd preheat --token`.
Without the file nobody is let in from elsewhere. It opens what is about preheats, and nothing else. The admin port has
no TLS: the token is for a network that the operator trusts, or for a proxy with TLS in front.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from pathlib import Path
from typing import Final

from scheduler.trust.errors import TrustError
from scheduler.trust.files import make_private_directory, read_private, write_private

NAME: Final = "preheat-token"


class PreheatToken:
    """The token in a directory, which is read anew for each request: it may be replaced at any time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> str | None:
        """None if there is none, or if it cannot be read. Blocks, for less than a disk's turn."""
        try:
            return read_private(self._directory / NAME).decode("ascii").strip() or None
        except (FileNotFoundError, TrustError, UnicodeDecodeError):
            return None

    def make(self) -> str:
        """A new token, in the place of the one before. Raises TrustError."""
        make_private_directory(self._directory)
        token = secrets.token_urlsafe(32)
        write_private(self._directory / NAME, f"{token}\n".encode())
        return token

    def is_shown(self, authorization: str) -> bool:
        """Whether an Authorization field shows the token: as Bearer, or as the password of Basic."""
        token = self.read()
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":
            given = _password(given)
        elif scheme.lower() != "bearer":
            return False
        return token is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _password(coded: str) -> str:
    try:
        return base64.b64decode(coded, validate=True).decode().partition(":")[2]
    except (ValueError, binascii.Error):
        return ""
