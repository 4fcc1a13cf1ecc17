"""The threads that move bytes, and the buffers that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from peer.store.buffers import BufferPool
from peer.threads import Threads
from scheduler.protocol.geometry import MAX_PIECE_BYTES

T = TypeVar("T")

MAX_THREADS = 64
BUFFER_BUDGET_BYTES = 8 * MAX_PIECE_BYTES


class Workers:
    """For the event loop on which it was made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffers = BufferPool(BUFFER_BUDGET_BYTES)
        self.closed = False
        self._threads = Threads(MAX_THREADS, "transfer")

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """The result of `work` in a thread. Raises what it raises."""
        if self.closed:
            raise asyncio.CancelledError  # as is what waits for a thread when they are shut down
        return await self.loop.run_in_executor(self._threads, partial(work, *args))

    def start(self, work: Callable[..., None], *args: object) -> None:
        """Have `work` done in a thread, which tells of its end itself: half as costly as a task that waits for it.

        From any thread. Nothing begins once they are shut down.
        """
        try:
            if not self.closed:
                self._threads.submit(work, *args)
        except RuntimeError:
            if not self.closed:
                raise

    def close(self) -> None:
        """Begin nothing new, nor what waits for a thread."""
        self.closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
