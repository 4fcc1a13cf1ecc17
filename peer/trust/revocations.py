"""The hosts that were revoked, as the scheduler has told: a host that restarts without a scheduler knows them too.

The file has an id in each line, those told last at its end. If the file cannot be read or written, the log says so, and
the process knows what it was told itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from scheduler.trust.errors import UnsafeFileError
from scheduler.trust.files import make_private_directory, read_private, write_private

log = structlog.get_logger("peer.trust")

MAX_REVOKED: Final = 65_536
MAX_KEPT: Final = 16_000
"""Ids in the file: an id has at most 64 characters, and the file at most 1 MiB."""


class Revocations:
    """In `file`; None: in memory alone. `add` blocks for a few milliseconds if it is told of new ones."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._hosts: dict[str, None] = {}
        if file is not None:
            try:
                make_private_directory(file.parent)
                with suppress(FileNotFoundError):
                    self._hosts = dict.fromkeys(read_private(file).decode("ascii", "replace").split())
            except UnsafeFileError as error:
                log.warning("revoked hosts of earlier runs are not known", reason=str(error))

    def __contains__(self, host: str) -> bool:
        return host in self._hosts

    def add(self, hosts: Iterable[str]) -> list[str]:
        """The hosts among these that were not known as revoked, in their order."""
        new = [host for host in dict.fromkeys(hosts) if host not in self._hosts]
        new = new[: MAX_REVOKED - len(self._hosts)]
        self._hosts.update(dict.fromkeys(new))
        if new and self._file is not None:
            kept = list(islice(reversed(self._hosts), MAX_KEPT))
            try:
                write_private(self._file, "".join(f"{host}\n" for host in reversed(kept)).encode())
            except UnsafeFileError as error:
                log.warning("revoked hosts are forgotten when p2pd restarts", reason=str(error))
        return new
