"""An event loop in virtual time: time passes only when nothing is left to do. No socket works on it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class NothingToWaitForError(AssertionError):
    """All tasks wait, and no timer is set: they would wait for ever."""


class _VirtualTime(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingToWaitForError
        self.now += timeout
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _VirtualTime()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    """Run a test. Raises NothingToWaitForError if it would wait for ever."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.run(main)
