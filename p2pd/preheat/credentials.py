"""The credentials that a preheat may carry: docker's config.json, as in a Kubernetes secret of that type.

Of an entry in `auths`, `auth` (base64 of `user:password`), `username` with `password`, and `registrytoken` (a bearer
token, which the registry is shown as it is) are taken.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from p2pd.pull.docker_config import Login
from peer.errors import InvalidNameError, P2pdError
from peer.oci.reference import UpstreamName, parse_upstream_name

MAX_CHARACTERS: Final = 32 * 1024


class CredentialError(P2pdError):
    """The text is no docker config.json with registries in it. The error does not repeat it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login or an `Authorization` field for each registry."""

    logins: Mapping[UpstreamName, Login] = field(default_factory=dict)
    bearers: Mapping[UpstreamName, str] = field(default_factory=dict, repr=False)


def parse_credentials(text: str) -> Credentials:
    """The credentials in a config.json; none in an empty text. Raises CredentialError."""
    if not text:
        return Credentials()
    if len(text) > MAX_CHARACTERS or not text.isascii() or not text.isprintable():
        raise CredentialError(f"credentials are one line of at most {MAX_CHARACTERS} printable ASCII characters")
    logins: dict[UpstreamName, Login] = {}
    bearers: dict[UpstreamName, str] = {}
    try:
        for key, entry in json.loads(text)["auths"].items():
            name = parse_upstream_name(str(key).removeprefix("https://").removeprefix("http://").partition("/")[0])
            if token := _text(entry, "registrytoken"):
                bearers[name] = f"Bearer {token}"
                continue
            user, password = _text(entry, "username"), _text(entry, "password")
            if coded := _text(entry, "auth"):
                user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
            if not user or not password:
                raise ValueError
            logins[name] = Login(user, password)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error, InvalidNameError):
        raise CredentialError(
            'credentials are a docker config.json: {"auths": {"REGISTRY": {"auth": "base64 of USER:PASSWORD"}}}'
        ) from None
    return Credentials(logins, bearers)


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str) or any(character in value for character in "\r\n\0"):
        raise TypeError
    return value
