"""A value that is made of files, and made again when the files have changed: a password, certificate authorities.

Rules:
1. The files are looked at when the value is used, at most once in a second: by stat, which follows the link that a
   mounted Kubernetes Secret swaps.
2. While the files cannot be read, or make no value (a file that is being written is empty for a moment), the value
   stays, and the log says why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from peer.origin.clock import Clock

log = structlog.get_logger("peer.origin.watched")

_LOOK_EVERY_S = 1.0

T = TypeVar("T")


class Watched(Generic[T]):
    """The value that `load` makes of `path`, a file or a directory of files. Raises the ValueError of the first `load`.

    From any thread.
    """

    def __init__(self, path: Path, load: Callable[[], T], clock: Clock) -> None:
        self._path = path
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = clock.monotonic()
        self._state = _state_of(path)
        self._value = load()

    def get(self) -> T:
        """The value by the files of a second ago, or newer."""
        with self._lock:
            if self._clock.monotonic() - self._looked_at >= _LOOK_EVERY_S:
                self._look()
            return self._value

    def look(self) -> bool:
        """Look at the files now. Returns whether the value is made anew."""
        with self._lock:
            return self._look()

    def _look(self) -> bool:
        self._looked_at = self._clock.monotonic()
        state = _state_of(self._path)
        if state == self._state:
            return False
        self._state = state
        try:
            self._value = self._load()
        except ValueError as error:
            log.warning("a file has changed and cannot be used, what it said before stays", reason=str(error))
            return False
        log.info("read again what has changed", path=str(self._path))
        return True


def _state_of(path: Path) -> object:
    """Compares unequal once a file is written, replaced, or made readable."""
    try:
        found = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        return [(str(each), _stat(each)) for each in found]
    except OSError as error:
        return error.errno


def _stat(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
