"""Daemons that need not load p2pd: a process that has it loaded forks for each.

Rules:
1. The child is what `python -m p2pd` is once it has loaded its modules: it has its own arguments, environment, working
   directory and streams, the signals of a new process, and ends as an interpreter does.
2. It is a child of the process that asked for it, which waits for it as for any other.
3. The process that forks has one thread, and runs nothing of p2pd.
4. For tests that want a node or a scheduler. A test of how a process starts, ends or reads its command line starts the
   program itself (`DaemonProcess`).

As a program, this module is the process that forks.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

from p2pd.demo.process import DaemonProcess

OF_THE_DAEMON: Final = ("P2PD_", "NOTIFY_SOCKET", "PYTEST_")
"""What variables begin with that a daemon reads when it runs; others may matter while an interpreter starts."""

_MESSAGE_BYTES: Final = 1 << 17
_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MAKING: Final = threading.Lock()


class ForkedProcess(DaemonProcess):
    """A running `command`. It is forked, unless it needs an interpreter of its own: another Python, or path."""

    def _start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        if [*command[:3]] == [sys.executable, "-m", "p2pd"] and _forking().suits(environ):
            return Forked(command, environ)
        return super()._start(command, environ)


class Forked(subprocess.Popen[bytes]):
    """A forked process, whose stderr is a pipe. Its other streams are this process's."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        # Not Popen's own, which executes a program.
        self.args = [*command]
        self.returncode = None
        self.stdin = self.stdout = None
        read, write = os.pipe()
        try:
            self.pid = _forking().fork([*command[3:]], environ, write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.stderr = os.fdopen(read, "rb")
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        with self._waiting:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            ended = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                poll.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(ended)
        code = self.poll()
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


class _Forking:
    """The process that forks, as its parent sees it."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        self._environ = dict(os.environ)
        with theirs:
            words = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[2])

    def suits(self, environ: Mapping[str, str]) -> bool:
        """Whether an interpreter with these variables starts as this one's did."""
        differ = {name for name, _ in {*environ.items()} ^ {*self._environ.items()}}
        return all(name.startswith(OF_THE_DAEMON) or name.lower().endswith("_proxy") for name in differ)

    def fork(self, words: Sequence[str], environ: Mapping[str, str], stderr: int) -> int:
        """Start `p2pd WORDS …`; returns its process id."""
        request = json.dumps([words, dict(environ), str(Path.cwd())]).encode()
        with self._one_at_a_time:
            _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # the child's parent ends, and this one takes its place
            try:
                socket.send_fds(self._requests, [request], [0, 1, stderr])
                pid, done = self._requests.recv(_MESSAGE_BYTES), self._requests.recv(_MESSAGE_BYTES)
            finally:
                _LIBC.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert done == b"done"
        return int(pid)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


@cache
def _forking_once() -> _Forking:
    forking = _Forking()
    atexit.register(forking.close)
    return forking


def _forking() -> _Forking:
    """One for each process that runs tests, whichever of its threads asks first."""
    with _MAKING:
        return _forking_once()


def _fork_for(requests: socket.socket) -> None:
    """Fork for each request, and exit when nobody can ask any more. Returns in each child."""
    while True:
        message, streams, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 3)
        if not message:
            sys.exit()
        between = os.fork()
        if not between:
            child = os.fork()
            if child:
                requests.send(str(child).encode())
                os._exit(0)
            requests.close()
            return _become(json.loads(message), streams)
        os.waitpid(between, 0)
        for stream in streams:
            os.close(stream)
        requests.send(b"done")


def _become(request: tuple[list[str], dict[str, str], str], streams: Sequence[int]) -> None:
    words, environ, directory = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(directory)
    sys.argv[1:] = words
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _load() -> None:
    """What a node that is not alone and a scheduler have loaded when they are ready."""
    from p2pd.daemon.aiohttp_import import import_aiohttp

    import_aiohttp()
    for name in ("cli.run", "cli.scheduler", "daemon.node", "daemon.scheduler", "daemon.scheduler_inside"):
        import_module(f"p2pd.{name}")


if __name__ == "__main__":
    from p2pd.__main__ import main

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process that started it
    _load()
    gc.freeze()  # or each child goes through all of that when it ends, and has a copy of it then
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "who forks has one thread"
    _fork_for(socket.socket(fileno=int(sys.argv.pop())))
    main()
