"""Notices that a scheduler has fallen silent: frozen, or cut off, with a connection that nobody has ended.

A heartbeat finds an idle connection dead within seconds. A host that has something to say wants to know sooner:

1. If nothing comes for `QUIET_S` after a message was sent, a ping follows. Most messages have no answer, so only the
   ping does.
2. If then nothing comes for `SILENT_S`, the scheduler is silent. A scheduler that is merely busy answers within that;
   the heartbeat waits no longer for its pings.
3. A wait that took longer than it should shows that this host was busy itself, or frozen: it says nothing of the
   scheduler, and a ping is sent anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

QUIET_S: Final = 0.25
SILENT_S: Final = 1.25
"""With `QUIET_S`, and the time to move blobs, that is below 2 s."""

LATE_S: Final = 0.25


class Silence:
    """Of one connection, on the event loop."""

    def __init__(self) -> None:
        self._said = asyncio.Event()
        self._heard = asyncio.Event()

    def said(self) -> None:
        """A message was sent."""
        self._said.set()

    def heard(self) -> None:
        """Anything has come, be it the answer to a ping."""
        self._heard.set()

    async def wait(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Return once the scheduler is silent."""
        while True:
            await self._said.wait()
            self._said.clear()
            if await self._is_quiet_for(QUIET_S, _nothing) and await self._is_quiet_for(SILENT_S, ping):
                return

    async def _is_quiet_for(self, for_s: float, first: Callable[[], Awaitable[None]]) -> bool:
        """Whether nothing comes for so long. `first` may wait too: a scheduler that does not read takes no ping."""
        loop = asyncio.get_running_loop()
        self._heard.clear()
        until = loop.time() + for_s
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await first()
                await self._heard.wait()
        if self._heard.is_set():
            return False
        if loop.time() < until + LATE_S:
            return True
        self._said.set()
        return False


async def _nothing() -> None:
    pass
