"""The preheats in Redis, as an event loop uses them: calls in a thread, and times by Redis's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from scheduler.core.preheat_record import Clock, JobRecord
from scheduler.core.preheat_window import parse_window
from scheduler.shared.redis_preheats import Look, RedisPreheats

P = ParamSpec("P")
T = TypeVar("T")


class PreheatCalls:
    """Made and used on the event loop. Every `async` method raises PreheatStoreError."""

    def __init__(self, store: RedisPreheats, clock: Clock) -> None:
        self.store: Final = store
        self._clock: Final = clock
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="preheats")
        self._ahead_s = 0.0
        """How far Redis's clock is ahead of this machine's."""

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of `store`, after all calls that were made before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    async def look(self) -> Look:
        """Which preheats are open, or stand. `now` is right from then on."""
        found = await self.call(self.store.look)
        self._ahead_s = found.now - self._clock.now()
        return found

    def now(self) -> float:
        """Unix seconds, by Redis's clock."""
        return self._clock.now() + self._ahead_s

    def hours(self, record: JobRecord) -> tuple[float, float]:
        """From when and until when a preheat may run, as of now (Unix seconds)."""
        if not record.window:
            return record.begins, record.ends
        window, at = parse_window(record.window), max(record.begins, self.now())
        begins = at + window.opens_in(self._clock.of_day(at))
        return begins, at + window.closes_in(self._clock.of_day(at))

    def close(self) -> None:
        """Wait for the calls that were made, and close the store."""
        self._thread.shutdown(wait=True)
        self.store.close()
