"""The id of this host: made at the first start, and the same after every restart of the same host on the same disk.

A disk image or a directory that is copied takes the file of the id along, and two hosts of one id cannot both be in the
swarm. So the file has a second line: a fingerprint of the machine and of the directory that the id was made for. The
fingerprint of a copy is another one, unless all of machine-id, host name and inode were copied; such a clone is found
by the scheduler (`renew`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
from pathlib import Path

from p2pd.daemon import logs
from peer.store.disk import read_file, write_durably

log = logs.get("p2pd.daemon")

MACHINE_ID = Path("/etc/machine-id")
"""Absent or empty in many containers."""

_HOST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""As `scheduler.protocol.fields.HostId`."""


def host_id(file: Path) -> str:
    """The id in `file`, or a new one. One that cannot be kept serves until the end of this process.

    A host whose id changes is a new host to the cluster: nothing is lost but what was known of the old one.
    """
    try:
        found, _, made_for = read_file(file)[:1024].decode("ascii", "replace").strip().partition("\n")
        if not _HOST_ID.fullmatch(found.strip()):
            log.warning("the file of the host id has none in it, a new one is made", path=str(file))
        elif made_for and made_for.strip() != _fingerprint(file):
            text = "this host is a copy of another one, or was renamed: it is given an id of its own"
            log.warning(text, path=str(file), before=found.strip())
        else:
            if not made_for:
                _keep(file, found.strip())
            return found.strip()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the file of the host id cannot be read, a new one is made", path=str(file), error=error.strerror)
    return renew(file)


def renew(file: Path) -> str:
    """A new id, which replaces the one in `file`."""
    name = re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname())[:40]
    made = f"{name or 'host'}-{secrets.token_hex(8)}"
    _keep(file, made)
    return made


def _keep(file: Path, made: str) -> None:
    try:
        write_durably(file, f"{made}\n{_fingerprint(file)}\n".encode())
    except OSError as error:
        log.warning(
            "the host id could not be kept, it is another after a restart", path=str(file), error=error.strerror
        )


def _fingerprint(file: Path) -> str:
    """Of this machine and of the directory of `file`. The machine-id is hashed: it is not to leave its file."""
    try:
        machine = MACHINE_ID.read_bytes()[:256].strip()
    except OSError:
        machine = b""
    inode = file.parent.stat().st_ino
    return hashlib.sha256(b"p2pd\0%b\0%b\0%d" % (machine, socket.gethostname().encode(), inode)).hexdigest()[:32]
