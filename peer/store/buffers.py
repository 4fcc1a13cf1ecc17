"""Buffers of one piece each, for the worker threads that receive: memory does not grow with blobs or with clients.

A buffer is anonymous mapped memory, which is certain to go back to the system when it is freed. Buffers are kept while
anything is being received (mapping and zeroing 4 MiB takes a tenth of the time of receiving them) and freed after that.
The kernel may map a buffer in huge pages: two page faults for 4 MiB and not 1,024 (docs/decisions/0070).
"""

from __future__ import annotations

import mmap
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class BufferPool:
    """Buffers of at most `budget_bytes` together. When all are in use, a thread waits for one."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._free: dict[int, list[mmap.mmap]] = defaultdict(list)
        self._out_bytes = 0
        self._free_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def buffer(self, size_bytes: int) -> Iterator[memoryview]:
        """A buffer of `size_bytes` (at least one) for the block. Its content is arbitrary.

        Slices of the view are released before the block ends.
        """
        size_bytes = max(1, size_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(size_bytes))
            memory = self._take(size_bytes)
        with self._lent(memory, size_bytes) as view:
            yield view

    @contextmanager
    def spare(self, size_bytes: int) -> Iterator[memoryview | None]:
        """As `buffer`, but None if a thread would have to wait for it."""
        size_bytes = max(1, size_bytes)
        with self._changed:
            memory = self._take(size_bytes) if self._has_room(size_bytes) else None
        if memory is None:
            yield None
            return
        with self._lent(memory, size_bytes) as view:
            yield view

    @contextmanager
    def _lent(self, memory: mmap.mmap, size_bytes: int) -> Iterator[memoryview]:
        view = memoryview(memory)
        try:
            yield view
        finally:
            view.release()
            self._give_back(memory, size_bytes)

    def _has_room(self, size_bytes: int) -> bool:
        return not self._out_bytes or self._out_bytes + size_bytes <= self.budget_bytes

    def _take(self, size_bytes: int) -> mmap.mmap:
        self._out_bytes += size_bytes
        if self._free[size_bytes]:
            self._free_bytes -= size_bytes
            return self._free[size_bytes].pop()
        if self._out_bytes + self._free_bytes > self.budget_bytes:
            self._forget_free()
        try:
            memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except BaseException:
            self._out_bytes -= size_bytes
            raise
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

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
            with suppress(BufferError):  # an error still has a view of the buffer, which is freed with it
                memory.close()
        self._free.clear()
        self._free_bytes = 0
