"""Tasks that nobody awaits: they live in the daemon's TaskGroup, and none of them takes it down.

A TaskGroup cancels all its tasks when one raises. That is right for what belongs together, and wrong for a daemon,
where a defect in what one client asked for must not end what all the others receive.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, Self, TypeVar

import structlog

from peer.errors import P2pdError

log = structlog.get_logger("peer.tasks")

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


async def next_second() -> float:
    """Sleep until a whole second of the loop's clock, half a second from now or later. Returns that second.

    All that is done once a second is done in one wake-up of the event loop.
    """
    now = asyncio.get_running_loop().time()
    second = math.floor(now + 0.5) + 1.0
    await asyncio.sleep(second - now)
    return second


class BackgroundTasks:
    """Starts tasks that end at the latest with the `async with` block.

    What a task raises is logged with its traceback: it is a defect of ours.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_exc_info: Any) -> None:
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)  # what the block raised goes on as it is, not in a group

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start it, unless the block is ending: what a task that is being cancelled starts would outlive it."""
        if self._ending:
            coroutine.close()
            return
        task = self._group.create_task(self._guard(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: coroutine.close())  # if it was cancelled before its first step

    async def _guard(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception:  # a defect; see the module's text
            log.exception("a background task failed")


class SingleFlight(Generic[K, V]):
    """Work that several callers want at the same time is done once (single flight).

    It goes on when the caller that began it is cancelled, for the others wait for it too.
    """

    def __init__(self, background: BackgroundTasks) -> None:
        self._background = background
        self._running: dict[K, asyncio.Future[V]] = {}

    async def get(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """The result of `work` for `key`, from the one who is at it already if there is one. Raises what it raises."""
        future = self._running.get(key)
        if future is None:
            future = self._running[key] = asyncio.get_running_loop().create_future()
            self._background.start(self._run(key, work, future))
        return await asyncio.shield(future)

    async def settled(self, key: K) -> None:
        """Wait until nobody is at the work for `key`, whatever comes of it."""
        if (future := self._running.get(key)) is not None:
            await asyncio.wait([future])

    async def _run(self, key: K, work: Callable[[], Awaitable[V]], future: asyncio.Future[V]) -> None:
        try:
            future.set_result(await work())
        except P2pdError as error:
            future.set_exception(error)
            future.exception()  # seen: whoever waited may be gone
        finally:
            del self._running[key]
            future.cancel()  # only after a defect: nobody waits for ever
