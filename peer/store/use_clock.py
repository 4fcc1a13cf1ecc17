"""The clock by which uses of blobs are dated: Unix seconds once, and from then on only the seconds that p2pd runs.

The machine's clock may jump: to 1970 with an empty battery, to the right time when NTP answers. By that clock, a jump
ahead would expire every blob at once. Nor does a node that was switched off for a month lose its cache by `ttl_s`.

    DIR/clock    the clock's reading, written every `SAVE_EVERY_S` and at the end
    mtime        of a blob's record: when the blob was last used
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from peer.store.disk import read_file, write_durably

SAVE_EVERY_S: Final = 600.0
SLACK_S: Final = 2 * SAVE_EVERY_S
"""Uses since the last save may be as much later than it. A date beyond that is none of ours."""


class UseClock:
    """A clock that is `start` now and goes on by `elapsed`, which never jumps."""

    def __init__(self, start: float, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._offset = start - elapsed()
        self._saved = -SAVE_EVERY_S + start

    @classmethod
    def of(cls, file: Path, uses: Iterable[float], elapsed: Callable[[], float] = time.monotonic) -> UseClock:
        """The clock of a directory, in which the records were last used at `uses`."""
        return cls(start_of(_read(file), list(uses), time.time()), elapsed)

    def now(self) -> float:
        return self._offset + self._elapsed()

    def to_unix(self, used: float) -> float:
        """The date by the machine's clock, for people."""
        return time.time() - (self.now() - used)

    def save(self, file: Path, *, at_once: bool = False) -> None:
        """Write the reading to `file`, if it is time to. Raises OSError."""
        now = self.now()
        if at_once or now - self._saved >= SAVE_EVERY_S:
            write_durably(file, f"{now:.0f}\n".encode())
            self._saved = now


def start_of(saved: float | None, uses: list[float], unix: float) -> float:
    """What the clock shows at the start. Without a reading (`saved`), the latest use that is not in the future."""
    if saved is not None:
        return max([saved, *(use for use in uses if use <= saved + SLACK_S)])
    past = [use for use in uses if use <= unix]
    return max(past) if past else max([unix, *uses])


def _read(file: Path) -> float | None:
    with suppress(OSError, ValueError):
        reading = float(read_file(file)[:64])
        if 0 < reading < 1e11:  # neither NaN nor infinity
            return reading
    return None
