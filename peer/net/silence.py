"""Notices that a scheduler has fallen silent: frozen, or cut off, with a connection that nobody has ended.

It is the connection's heartbeat. A host that has something to say wants to know soon, because blobs can move:

1. If nothing comes for `QUIET_S` after a message was sent, a ping follows: most messages have no answer. While this
   host says nothing, a ping follows every `HEARTBEAT_S`.
2. If then nothing comes for `SILENT_S`, the scheduler is silent. A scheduler that is merely busy answers within that.
3. The time is counted in steps. A step that took longer than it should shows that this host was busy itself, or
   frozen: it says nothing of the scheduler, and does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import aiohttp

HEARTBEAT_S: Final = 2.0
QUIET_S: Final = 0.25
SILENT_S: Final = 1.25
"""With `QUIET_S`, and the time to move blobs, that is below 2 s."""

STEP_S: Final = 0.125
LATE_S: Final = 0.05
"""How late a step may end that counts."""


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
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._said.wait()
            self._said.clear()
            if await self._is_quiet_for(QUIET_S, _nothing) and await self._is_quiet_for(SILENT_S, ping):
                return

    async def _is_quiet_for(self, for_s: float, first: Callable[[], Awaitable[None]]) -> bool:
        """Whether nothing comes for so long. `first` may wait too: a scheduler that does not read takes no ping."""
        loop = asyncio.get_running_loop()
        self._heard.clear()
        async with asyncio.TaskGroup() as group:
            beginning = group.create_task(_begin(first))
            while for_s > 0.0 and not self._heard.is_set():
                until = loop.time() + min(for_s, STEP_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._heard.wait()
                if loop.time() < until + LATE_S:
                    for_s -= STEP_S
            beginning.cancel()
        return not self._heard.is_set()


async def _nothing() -> None:
    pass


async def _begin(first: Callable[[], Awaitable[None]]) -> None:
    with suppress(aiohttp.ClientError, OSError):  # the connection has broken, which whoever reads it notices
        await first()
