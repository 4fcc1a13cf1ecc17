"""Real programs: run to their end, or in the background with a log, until the test is done with them.

Rules:
1. A program is ended by its process id, and by the kernel when the test run dies (PDEATHSIG).
2. What a program said is in the error when it fails.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.namespaces import NETWORK
from benchmarks.programs import spawn
from tests.real.packages import PATH
from tests.support.registry_server import PATIENCE_S

_POLL_INTERVAL_S: Final = 0.02
_TAIL_BYTES: Final = 8 * 1024

T = TypeVar("T")


class ProgramError(Exception):
    """A program failed, or did not do in time what it should."""


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a program: nothing of the developer's own, and no way out to the Internet.

    Clients that turn away from p2pd to docker.io are sent to a proxy that nobody listens as; what is on loopback or in
    a namespace is never asked of a proxy.
    """
    return {
        "PATH": PATH,
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "NO_PROXY": f"127.0.0.1,{NETWORK}",
        **(extra or {}),
    }


def run(args: Sequence[str], env: Mapping[str, str], timeout_s: float = PATIENCE_S) -> str:
    """Run `args` to the end and return what it wrote to stdout. Raises ProgramError on any other exit code than 0."""
    try:
        done = subprocess.run(args, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{' '.join(args)}: not done in {timeout_s} s; stderr: {error.stderr!r}") from error
    if done.returncode != 0:
        raise ProgramError(f"{' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until(ask: Callable[[], T | None], what: str, timeout_s: float = PATIENCE_S) -> T:
    """Ask until the answer is neither None nor False, and return it. Raises ProgramError when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise ProgramError(f"not within {timeout_s} s: {what}")
        time.sleep(_POLL_INTERVAL_S)


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


class Program:
    """A program in the background; what it writes goes to the end of `log`."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = Path(args[0]).name
        self.log = log
        self._process = spawn(args, log, env)
        self.pid = self._process.pid

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until `ready()`. If it ends before, or time is up, it is killed: ProgramError, with the log's end."""

        def ended_or_ready() -> bool:
            return self._process.poll() is not None or ready()

        try:
            wait_until(ended_or_ready, f"{self.name} is ready", timeout_s)
        except ProgramError as error:
            self.kill()
            raise ProgramError(f"{error}\n{tail(self.log)}") from None
        if self._process.poll() is not None:
            raise ProgramError(f"{self.name} ended with {self._process.returncode}\n{tail(self.log)}")

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end and return its exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        """End it by SIGTERM and return its exit code (-15 when the signal itself ended it), or the one it ended with.

        Raises ProgramError if it does not end in time, after killing it.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramError(f"{self.name} ignored SIGTERM for {timeout_s} s\n{tail(self.log)}") from None

    def kill(self) -> None:
        """End it by SIGKILL, at once."""
        self._process.kill()
        self._process.wait()


def tail(log: Path) -> str:
    """The end of a log."""
    if not log.exists():
        return f"({log} is not there)"
    return log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
