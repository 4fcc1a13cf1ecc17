"""p2pd as a process of its own: the command line, a neutral environment, and the log that the process writes.

Demonstration, benchmarks and tests start p2pd by this module. All of the log is read, because a daemon waits when
nobody reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from peer.errors import P2pdError

_STOP_WITHIN_S: Final = 10.0
_ENDS_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.05
_KEPT_LINES: Final = 20


class NodeFailedError(P2pdError):
    """A daemon did not start, or found no scheduler; the text is the end of its log."""


def command(name: str, flags: Mapping[str, object]) -> list[str]:
    """`p2pd NAME --flag=value …` without this machine's configuration file, and with a log that can be read.

    A value of None makes a switch; a list or tuple gives the flag once for each of its values.
    """
    pairs = [
        (flag.replace("_", "-"), value)
        for flag, given in {"config": os.devnull, "log-format": "json", **flags}.items()
        for value in (given if isinstance(given, list | tuple) else [given])
    ]
    words = (f"--{flag}" if value is None else f"--{flag}={value}" for flag, value in pairs)
    return [sys.executable, "-m", "p2pd", name, *words]


def output_of(*words: str) -> str:
    """What `p2pd WORDS …`, without this machine's configuration file, prints until it ends. Raises NodeFailedError.

    Ctrl-C in a terminal does not reach the command, which ends by itself.
    """
    argv = [sys.executable, "-m", "p2pd", *words, f"--config={os.devnull}"]
    done = subprocess.run(
        argv,
        env=neutral_environ(),
        capture_output=True,
        text=True,
        process_group=0,
        check=False,
        timeout=_ENDS_WITHIN_S,
    )
    if done.returncode != 0:
        raise NodeFailedError(f"p2pd {' '.join(words[:2])} failed: {' / '.join(done.stderr.splitlines()[-3:])}")
    return done.stdout.strip()


def join_token(data: Path) -> str:
    """A new join token of the scheduler that has its CA in `data`, as its operator makes it. Raises NodeFailedError."""
    return output_of("token", "create", f"--data={data}")


def neutral_environ() -> dict[str, str]:
    """This process's environment, without settings of p2pd's and without proxies: all traffic stays on loopback."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("P2PD_") and not name.lower().endswith("_proxy")
    }


class DaemonProcess:
    """A running `command`. `events` is its log, `other_lines` the last lines that are no events: a traceback."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self.process = self._start(command, {**neutral_environ(), **(environ or {})})
        self.events: list[dict[str, Any]] = []
        self.other_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._last_lines: deque[str] = deque(maxlen=3)
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for_event(self, name: str, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The first event of this name in the log. `check` is called now and then, and ends the wait by an error.

        Raises NodeFailedError when the process ends without such an event.
        """
        while True:
            with self._changed:
                found = next((event for event in self.events if event.get("event") == name), None)
                if found is not None:
                    return found
                if self._ended:
                    raise NodeFailedError(f"a daemon ended before its event {name}: {' / '.join(self._last_lines)}")
                self._changed.wait(_LOOK_EVERY_S)
            check()

    def wait(self, within_s: float = _STOP_WITHIN_S) -> int:
        """Wait until the process has ended, and kill it if it takes longer; returns its exit code."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(within_s)
        return self.process.returncode

    def _start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)

    def _read(self) -> None:
        assert self.process.stderr is not None
        try:
            with self.process.stderr as log:
                for line in log:
                    self._take(line.decode(errors="replace").strip())
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _take(self, line: str) -> None:
        event = _event(line)
        with self._changed:
            self._last_lines.append(line)
            if event is None:
                self.other_lines.append(line)
            else:
                self.events.append(event)
            self._changed.notify_all()


def _event(line: str) -> dict[str, Any] | None:
    """A line of the log; None for a line of a traceback."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
