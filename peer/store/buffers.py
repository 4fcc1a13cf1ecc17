"""Buffers of one piece each, for the worker threads that receive: memory does not grow with blobs or with clients.

A buffer is anonymous mapped memory, so that giving it back to the system is certain. They are kept while anything is
being received (mapping and zeroing 4 MiB costs a tenth of what receiving it does) and freed when nothing is.
"""

from __future__ import annotations

import mmap
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class BufferPool:
    """Buffers of at most `budget_bytes` together; who comes when that is out waits."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._free: dict[int, list[mmap.mmap]] = defaultdict(list)
        self._out_bytes = 0
        self._free_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def buffer(self, size_bytes: int) -> Iterator[memoryview]:
        """A buffer of `size_bytes` (at least one) for the length of the block; its content is whatever it was.

        Whoever slices the view releases the slice before the block ends.
        """
        size_bytes = max(1, size_bytes)
        memory = self._take(size_bytes)
        view = memoryview(memory)
        try:
            yield view
        finally:
            view.release()
            self._give_back(memory, size_bytes)

    def _take(self, size_bytes: int) -> mmap.mmap:
        with self._changed:
            self._changed.wait_for(lambda: not self._out_bytes or self._out_bytes + size_bytes <= self.budget_bytes)
            self._out_bytes += size_bytes
            if self._free[size_bytes]:
                self._free_bytes -= size_bytes
                return self._free[size_bytes].pop()
            if self._out_bytes + self._free_bytes > self.budget_bytes:
                self._forget_free()
        return mmap.mmap(-1, size_bytes)

    def _give_back(self, memory: mmap.mmap, size_bytes: int) -> None:
        with self._changed:
            self._out_bytes -= size_bytes
            self._free_bytes += size_bytes
            self._free[size_bytes].append(memory)
            if not self._out_bytes:
                self._forget_free()
            self._changed.notify_all()

    def _forget_free(self) -> None:
        for memory in (memory for sized in self._free.values() for memory in sized):
            with suppress(BufferError):  # an error on its way up still has a view of it: it is freed with that
                memory.close()
        self._free.clear()
        self._free_bytes = 0
