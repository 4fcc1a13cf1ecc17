"""The early end of the demonstration, after Ctrl-C or a signal: it leaves nothing behind.

The problem: Python raises KeyboardInterrupt between any two steps of the main thread. That may be between the start of
a process and the line that registers it to be stopped, or within the lines that stop it. So all work is done in a
second thread, in which Python never raises KeyboardInterrupt. The main thread only waits, and a signal only sets a
flag. The work checks the flag where it waits or takes long, and ends by an ordinary error, through its `finally`.
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
"""The main thread's sleep. Python runs handlers only in the main thread, and a signal does not always wake it: not if
the signal comes just before the sleep, and one in ten did not while another thread started a process."""


class EndedError(P2pdError):
    """The demonstration was asked to end."""


class Shutdown:
    """The flag. `signal` is the number of the signal that set it, or 0."""

    def __init__(self) -> None:
        self.signal = 0
        self._asked = threading.Event()

    def ask(self, number: int, _frame: object = None) -> None:
        """Ask for the end; a signal handler.

        Only the first signal sets the event: a handler that interrupts another handler would wait for the lock that
        the other holds.
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
    """Run `work`, and return or raise its result. It is for the main thread, whose signal handlers it restores.

    After a signal it raises SystemExit, with the code that a shell gives to a process ended by that signal.
    """
    shutdown = Shutdown()
    before = {number: signal.signal(number, shutdown.ask) for number in _SIGNALS}
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="demo") as thread:
            result = thread.submit(work, shutdown)
            while not wait([result], timeout=_LOOK_EVERY_S).done:
                pass
            return result.result()
    except P2pdError:  # Ctrl-C ends the daemons too, and the errors that follow from that are not reported
        if not shutdown.signal:
            raise
        raise SystemExit(128 + shutdown.signal) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
