"""slapd, OpenLDAP's server, on a loopback port, with a directory of a few people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.real.programs import Program, environment, listens, run
from tests.real.web import Credentials
from tests.support.ports import free_port

_SUFFIX: Final = "dc=tests"

_CONFIG: Final = """
include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {directory}/slapd.pid
database mdb
suffix {suffix}
directory {directory}/database
maxsize 1048576
"""

_ROOT: Final = """
dn: dc=tests
objectClass: dcObject
objectClass: organization
dc: tests
o: tests
"""

_PERSON: Final = """
dn: ou={username},{suffix}
objectClass: organizationalUnit

dn: cn={username},ou={username},{suffix}
objectClass: person
sn: {username}
userPassword: {password}
"""


class Slapd:
    """Knows `users`, each in an organizational unit of the user's own (`parent`)."""

    def __init__(self, directory: Path, users: Iterable[Credentials]) -> None:
        config, people = directory / "slapd.conf", directory / "people.ldif"
        (directory / "database").mkdir()
        config.write_text(_CONFIG.format(directory=directory, suffix=_SUFFIX), encoding="utf-8")
        entries = (_PERSON.format(suffix=_SUFFIX, **user._asdict()) for user in users)
        people.write_text(_ROOT + "".join(entries), encoding="utf-8")
        env = environment(directory)
        run(["slapadd", "-f", str(config), "-l", str(people)], env)
        port = free_port()
        self.url = f"ldap://127.0.0.1:{port}"
        args = ["slapd", "-f", str(config), "-h", self.url, "-d", "none"]  # -d keeps it in the foreground
        self._program = Program(args, env, directory / "slapd.log")
        self._program.wait_ready(lambda: listens(port))

    def parent(self, user: Credentials) -> str:
        """The name of the entry that the user's is below."""
        return f"ou={user.username},{_SUFFIX}"

    def stop(self) -> None:
        self._program.terminate()
