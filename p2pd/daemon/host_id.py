"""The id of this host: made at the first start, and the same after every restart."""

from __future__ import annotations

import re
import secrets
import socket
from pathlib import Path

from p2pd.daemon import logs
from peer.store.disk import write_durably

log = logs.get("p2pd.daemon")

_HOST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def host_id(file: Path) -> str:
    """The id in `file`, or a new one. One that cannot be kept serves until the end of this process.

    A host whose id changes is a new host to the cluster: nothing is lost but what was known of the old one.
    """
    try:
        found = file.read_bytes()[:1024].decode("ascii", "replace").strip()
        if _HOST_ID.fullmatch(found):
            return found
        log.warning("the file of the host id has none in it, a new one is made", path=str(file))
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the file of the host id cannot be read, a new one is made", path=str(file), error=error.strerror)
    name = re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname())[:40]
    made = f"{name or 'host'}-{secrets.token_hex(8)}"
    try:
        write_durably(file, f"{made}\n".encode())
    except OSError as error:
        log.warning(
            "the host id could not be kept, it is another after a restart", path=str(file), error=error.strerror
        )
    return made
