"""The credentials that `docker login` has stored in docker's config.json, under `auths`.

Credential helpers (`credsStore`, `credHelpers`) are foreign programs, and are not run. A file that is missing, or not
of docker's form, has no credentials: the pull is then anonymous, and the registry decides about it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_BYTES = 1024 * 1024
_HUB_KEY = "https://index.docker.io/v1/"
"""docker's key for Docker Hub in this file."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user of a registry, and the user's password."""

    username: str
    password: str = field(repr=False)


def docker_login(upstream: str, environ: Mapping[str, str]) -> Login | None:
    """The login for the registry `upstream`, from `$DOCKER_CONFIG` or `~/.docker`."""
    folder = environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path(environ.get("HOME", "/")) / ".docker") / "config.json"
    try:
        with path.open("rb") as file:
            auths = json.loads(file.read(_MAX_BYTES))["auths"]
        keys = [upstream, f"https://{upstream}", f"https://{upstream}/v1/", f"https://{upstream}/v2/"]
        if upstream == "docker.io":
            keys.append(_HUB_KEY)
        entry = next(auths[key] for key in keys if key in auths)
        username, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError, binascii.Error):
        return None
    return Login(username, password) if username and colon else None
