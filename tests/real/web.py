"""Plain HTTP requests, for what no container client does: asking without a token, or an admin port."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import Final, NamedTuple

from tests.support.client import Reply
from tests.support.registry_server import PATIENCE_S

_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores the proxies of the developer's environment: everything asked here is on loopback."""


class Credentials(NamedTuple):
    """A user of a private registry."""

    username: str
    password: str

    @property
    def basic(self) -> str:
        """The value after `Basic ` in an Authorization header, and of `auth` in Docker's config.json."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def get(url: str, headers: Mapping[str, str] | None = None) -> Reply:
    """GET `url`; any status is a reply. Raises OSError when nobody answers."""
    request = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with _DIRECT.open(request, timeout=PATIENCE_S) as answer:
            return Reply(answer.status, _lower(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, _lower(error.headers), error.read())


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
