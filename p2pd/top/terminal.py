"""A terminal that shows one screen after another, and takes keys.

Plain ANSI sequences (ECMA-48) and termios: a screen of text needs no more. curses wants a terminfo entry for each TERM,
which small images lack; `rich` redraws by ways of its own and reads no keys.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""The alternate screen, without a cursor."""

_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _PLAIN = "\x1b[1m", "\x1b[m"

QUIT: Final = frozenset({b"q", b"Q", b"\x1b"})


class Terminal:
    """The terminal of this process, while `shown`."""

    def __init__(self) -> None:
        self._before: list[Any] = []
        self._wake_from, self._wake_to = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @staticmethod
    def is_one() -> bool:
        """Whether this process reads from a terminal and writes to one."""
        return sys.stdin.isatty() and sys.stdout.isatty()

    @staticmethod
    def size() -> tuple[int, int]:
        """Columns and lines."""
        return shutil.get_terminal_size()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Use the terminal, and leave it as it was, however the block ends."""
        handlers = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGWINCH, self._wake),
                (signal.SIGTERM, _end),
                (signal.SIGHUP, _end),
                (signal.SIGTSTP, self._stop),
            )
        }
        self._before = termios.tcgetattr(sys.stdin)
        self._enter()
        try:
            yield
        finally:
            self._leave()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(self._wake_from)
            os.close(self._wake_to)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, the titles of tables in bold. They fit, and have no control characters."""
        shown = [f"{_BOLD}{line}{_PLAIN}" if line[:3].isupper() or not at else line for at, line in enumerate(lines)]
        sys.stdout.write(_HOME + f"{_END_OF_LINE}\n".join(shown) + _END_OF_LINE + _BELOW)
        sys.stdout.flush()

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or until the terminal has another size. Returns whether the user wants to quit."""
        ready, _, _ = select.select([sys.stdin, self._wake_from], [], [], seconds)
        if self._wake_from in ready:
            os.read(self._wake_from, 512)
        if sys.stdin not in ready:
            return False
        key = os.read(sys.stdin.fileno(), 64)
        return not key or key in QUIT

    def _enter(self) -> None:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()

    def _leave(self) -> None:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def _wake(self, *_: object) -> None:
        os.write(self._wake_to, b"\0")

    def _stop(self, *_: object) -> None:
        """Ctrl-Z: the shell has its terminal until this goes on."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()
        self._wake()


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)
