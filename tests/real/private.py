"""Private registries of four kinds, with two users of two repositories, and an image in each repository.

    htpasswd   docker-registry with a file of users; every user may read everything
    token      docker-registry with a token server
    nginx      nginx with `auth_basic` before an open docker-registry
    LDAP       nginx with `auth_pam` before an open docker-registry; PAM asks slapd

Each user but those of htpasswd may read one repository.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.real.guards import Guard, basic_guard, ldap_guard
from tests.real.origin import Origin
from tests.real.paths import new_directory
from tests.real.registry import Registry, basic_auth, token_auth
from tests.real.slapd import Slapd
from tests.real.tokens import TokenServer
from tests.real.web import Credentials

OPEN: Final = "open"
"""The kind of a registry that is not private: everybody may read."""

KINDS: Final = ("htpasswd", "token", "nginx", "LDAP")

OWNER: Final = Credentials("owner", "correct horse")
NEIGHBOUR: Final = Credentials("neighbour", "staple remover")
STRANGER: Final = Credentials("stranger", "battery staple")
"""Somebody whom no registry knows."""

OWNED: Final = "team/owned"
NEIGHBOURING: Final = "team/neighbouring"
READERS: Final = {OWNER: OWNED, NEIGHBOUR: NEIGHBOURING}


@dataclass(frozen=True)
class PrivateRegistry:
    """A registry of `kind`; `origin` puts a new nginx before it, which is what p2pd knows."""

    kind: str
    url: str
    guard: Guard
    tokens: TokenServer | None

    def origin(self, directory: Path) -> Origin:
        return Origin(directory, self.url, guard=self.guard)

    def authorization(self, who: Credentials, repository: str) -> str:
        """What a client sends that pulls from `repository` as `who`."""
        if self.tokens is None:
            return f"Basic {who.basic}"
        granted = READERS.get(who) if READERS.get(who) == repository else None
        return f"Bearer {self.tokens.token([f'repository:{repository}:pull'], granted)}"


def start_private(kind: str, place: Path, storage: Path, everybodys: Registry, started: ExitStack) -> PrivateRegistry:
    """A registry of `kind` over `storage`, which `everybodys` serves to everybody. It ends with `started`."""
    directory = new_directory(place)
    url, guard, tokens = everybodys.url, Guard(), None
    if kind == OPEN:
        pass
    elif kind == "nginx":
        guard = basic_guard(directory, READERS)
    elif kind == "LDAP":
        ldap = Slapd(directory, READERS)
        started.callback(ldap.stop)
        guard = ldap_guard(directory, ldap, READERS)
    else:
        if kind == "token":
            tokens = TokenServer(directory, READERS)
            started.callback(tokens.stop)
        settings = basic_auth(directory, *READERS) if tokens is None else token_auth(tokens)
        registry = Registry(directory, storage, settings)
        started.callback(registry.stop)
        url = registry.url
    return PrivateRegistry(kind, url, guard, tokens)
