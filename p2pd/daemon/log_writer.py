"""Writes the log to a file descriptor from a thread of its own, so that the event loop waits for no reader of the log.

1. `put` never waits. If `MAX_WAITING` lines wait already, the new line is dropped and counted.
2. The thread waits as long as the reader does: for a pipe that is full, a terminal that is stopped, a slow disk. A
   write that fails (disk full, pipe closed) costs its lines, which are counted, and the thread goes on.
3. When lines can be written again, one line says how many were dropped.
4. `close` gives the waiting lines `FLUSH_S`, and no longer: the thread is a daemon thread, and may wait for ever.

The descriptor is written to without Python's buffers. The interpreter flushes the buffer of `sys.stderr` at exit, and
would wait for the lock that a writing thread holds.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_WAITING: Final = 4096
"""Lines that may wait: about 1 MiB, and some seconds of a busy node's log."""

FLUSH_S: Final = 1.0


class LogWriter:
    """The thread, and the lines that wait for it. `notice(count)` makes the line that tells of dropped lines."""

    def __init__(self, descriptor: int, notice: Callable[[int], str], *, max_waiting: int = MAX_WAITING) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._max_waiting = max_waiting
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._untold = 0
        self._is_within_line = False
        """Whether the last write failed within a line."""
        self.dropped = 0
        """Lines that were dropped since the start."""
        self._thread = threading.Thread(target=self._run, name="p2pd-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Have a line written, with a line feed behind it. From any thread."""
        with self._changed:
            if len(self._lines) >= self._max_waiting:
                self._drop(1)
                return
            self._lines.append(line)
            self._changed.notify()

    def close(self, within_s: float = FLUSH_S) -> None:
        """Wait until what waits is written, at most `within_s` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                if not self._lines:
                    return
                line = self._lines.popleft()
                untold, self._untold = self._untold, 0
            if untold and not self._write(self._notice(untold)):
                with self._changed:
                    self._untold += untold
            if not self._write(line):
                with self._changed:
                    self._drop(1)

    def _write(self, line: str) -> bool:
        """Whether the whole line was written."""
        data = b"\n" * self._is_within_line + line.encode(errors="backslashreplace") + b"\n"
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
                self._is_within_line = bool(data)
            except BlockingIOError:  # whoever gave us the descriptor made it non-blocking
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll(1000)
            except OSError:
                return False
        return True
