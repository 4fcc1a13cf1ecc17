"""What guards an nginx before an open registry: HTTP Basic with a file of passwords, or PAM, which asks LDAP.

A guard knows repositories, so that each of its users may read one of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.real.packages import PAM_MODULE, PATH
from tests.real.slapd import Slapd
from tests.real.web import Credentials

_BIND: Final = """#!/bin/sh
# pam_exec(8): the user is in PAM_USER, the password comes by stdin and ends with NUL
tr -d '\\0' | exec /usr/bin/ldapwhoami -x -H {url} -D "cn=$PAM_USER,$1" -y /dev/stdin
"""


@dataclass(frozen=True)
class Guard:
    """nginx's directives for each path, and below it; the longest path counts. `/` is there.

    `modules` are files that nginx loads, `wrapper` is a command that starts nginx.
    """

    directives: Mapping[str, str] = field(default_factory=lambda: {"/": ""})
    modules: tuple[Path, ...] = ()
    wrapper: tuple[str, ...] = ()


def htpasswd(file: Path, *users: Credentials) -> Path:
    """Write a file of users and hashed passwords, which docker-registry (bcrypt only) and nginx read."""
    for user in users:
        how = "-bB" if file.exists() else "-cbB"
        subprocess.run(
            ["htpasswd", how, str(file), user.username, user.password],
            env={"PATH": PATH},
            capture_output=True,
            check=True,
        )
    return file


def basic_guard(directory: Path, readers: Mapping[Credentials, str]) -> Guard:
    """Each of `readers` may read the repository beside it, by nginx's `auth_basic`."""

    def basic(name: str, *users: Credentials) -> str:
        return f"auth_basic tests; auth_basic_user_file {htpasswd(directory / name, *users)};"

    below = {f"/v2/{repository}/": basic(user.username, user) for user, repository in readers.items()}
    return Guard({"/": basic("all", *readers), **below})


def ldap_guard(directory: Path, ldap: Slapd, readers: Mapping[Credentials, str]) -> Guard:
    """Each of `readers` may read the repository beside it, by nginx's `auth_pam`, which asks `ldap`.

    A service of PAM is a file in /etc/pam.d. nginx gets a mount namespace, so that the machine's /etc/pam.d stays.
    """
    services = directory / "pam.d"
    services.mkdir()
    bind = directory / "bind"
    bind.write_text(_BIND.format(url=ldap.url), encoding="utf-8")
    bind.chmod(0o755)

    def pam(service: str, *users: Credentials) -> str:
        asked = [f"pam_exec.so quiet expose_authtok {bind} {ldap.parent(user)}" for user in users]
        auth = [*(f"auth sufficient {each}" for each in asked), "auth required pam_deny.so"]
        (services / service).write_text("\n".join([*auth, "account required pam_permit.so", ""]), encoding="utf-8")
        return f"auth_pam tests; auth_pam_service_name {service};"

    below = {f"/v2/{repository}/": pam(user.username, user) for user, repository in readers.items()}
    mount = f'mount --bind {services} /etc/pam.d && exec "$@"'
    return Guard(
        {"/": pam("all", *readers), **below}, (PAM_MODULE,), ("unshare", "--mount", "sh", "-c", mount, "nginx")
    )
