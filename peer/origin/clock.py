"""The seam to time: monotonic time for deadlines, wall time for HTTP dates, and a wait that can be ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from threading import Event


class Clock(Protocol):
    """All times are seconds."""

    def monotonic(self) -> float:
        """Never goes back; its zero means nothing."""
        ...

    def unix(self) -> float:
        """Wall time since 1970."""
        ...

    def wait(self, ended: Event, seconds: float) -> bool:
        """Wait for `seconds`, or until `ended` is set. Returns whether it is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def unix(self) -> float:
        return time.time()

    def wait(self, ended: Event, seconds: float) -> bool:
        return ended.wait(seconds)
