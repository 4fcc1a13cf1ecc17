"""Pools of threads that make do with fewer when the system gives no more.

A pod or a service may have a limit on threads (`pids.max`, `TasksMax`). Python's own pool raises RuntimeError for work
that it has queued already, though its threads would get to it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import structlog

from peer.errors import P2pdError

log = structlog.get_logger("peer.threads")


class Threads(ThreadPoolExecutor):
    """At most `most` threads. Work that has no thread waits for one.

    `ready`: the first thread is there from the start. If there is not even one, raises P2pdError: at the start, or when
    work is submitted.
    """

    def __init__(self, most: int, name: str, *, ready: bool = True) -> None:
        super().__init__(most, thread_name_prefix=name)
        self._name = name
        self._is_short = False
        if ready:
            self.submit(int)

    def _adjust_thread_count(self) -> None:
        """Start a thread if none is idle: `ThreadPoolExecutor.submit` calls this after it has queued the work."""
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise P2pdError(
                    f"no thread can be started ({self._name}): raise the limit on tasks (pids.max, TasksMax)"
                ) from error
            if not self._is_short:
                self._is_short = True
                log.warning(
                    "no more threads can be started, work waits for those that there are: raise the limit on tasks"
                    " (pids.max, TasksMax)",
                    pool=self._name,
                    threads=len(self._threads),
                    error=str(error),
                )
