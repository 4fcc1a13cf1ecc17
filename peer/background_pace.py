"""The pace of a blob on its way: while no client waits for it, it keeps to the rate of the background.

A client that comes is not held up by a wait that has begun: that is over within `LOOK_EVERY_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from peer.pacing import LOOK_EVERY_S, PACED_BYTES
from peer.peer_piece import Pace


class BackgroundPace(Pace):
    """`pace` is the host's, which everything keeps to, and `background` the one of what no client waits for."""

    def __init__(self, pace: Pace, background: Pace, is_background: Callable[[], bool]) -> None:
        super().__init__(0)
        self._pace = pace
        self._background = background
        self._is_background = is_background

    @property
    def slice_bytes(self) -> int | None:
        """What to take between two waits; None: all at once."""
        limited = self._background.slice_bytes if self._is_background() else None
        return PACED_BYTES if limited else self._pace.slice_bytes

    def owed_s(self, taken_bytes: int) -> float:
        """Count `taken_bytes` with both; returns how long to wait for having been allowed them."""
        owed_s = self._pace.owed_s(taken_bytes)
        return max(owed_s, self._background.owed_s(taken_bytes)) if self._is_background() else owed_s

    def wait(self, taken_bytes: int, stopped: threading.Event) -> None:
        """Wait for both, for the background's as long as no client waits for the blob."""
        self._pace.wait(taken_bytes, stopped)
        left_s = self._background.owed_s(taken_bytes) if self._is_background() else 0.0
        while left_s > 0 and self._is_background() and not stopped.is_set():
            self.clock.wait(stopped, min(left_s, LOOK_EVERY_S))
            left_s -= LOOK_EVERY_S
