"""How the demonstration ends before its time, after Ctrl-C or a signal, and leaves nothing behind.

Python raises KeyboardInterrupt between any two steps of the main thread: also between the start of a process and the
line that notes that it has to be stopped, and within the lines that stop it. So all work is done in a thread of its
own, where nothing of the kind is raised. The main thread only waits, and a signal only sets a mark; the work looks at
the mark wherever it waits or takes long, and ends by an ordinary error, through its ordinary `finally`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

from peer.errors import P2pdError

R = TypeVar("R")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LOOK_EVERY_S: Final = 0.1
"""How long the main thread sleeps. Python has handlers run there alone, and a signal does not always wake it: not one
that comes just before it sleeps, and one in ten was seen not to while another thread started a process."""


class EndedError(P2pdError):
    """The demonstration was asked to end."""


class Shutdown:
    """The mark. `signal` is the number of the signal that set it, or 0."""

    def __init__(self) -> None:
        self.signal = 0
        self._asked = threading.Event()

    def ask(self, number: int, _frame: object = None) -> None:
        """End, as soon as that is possible: a handler of signals.

        Only the first one sets the event: a handler that interrupts another would wait for a lock that this one has.
        """
        if not self.signal:
            self.signal = number
            self._asked.set()

    def check(self) -> None:
        """Raises EndedError once the end was asked for."""
        if self._asked.is_set():
            raise EndedError("the demonstration was ended")

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises EndedError as soon as the end is asked for."""
        self._asked.wait(seconds)
        self.check()


def until_ended(work: Callable[[Shutdown], R]) -> R:
    """What `work` returns or raises; to be called in the main thread, of which it keeps the handlers of signals.

    Raises SystemExit, with the code that a shell gives to a process that a signal ended, if one came.
    """
    shutdown = Shutdown()
    before = {number: signal.signal(number, shutdown.ask) for number in _SIGNALS}
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="demo") as thread:
            result = thread.submit(work, shutdown)
            while not wait([result], timeout=_LOOK_EVERY_S).done:
                pass
            return result.result()
    except P2pdError:  # with Ctrl-C the daemons are ended too, and what fails because of that is nothing to tell
        if not shutdown.signal:
            raise
        raise SystemExit(128 + shutdown.signal) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
