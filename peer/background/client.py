"""The daemon's side of the process of the background transport. For threads.

It is started at the first question. One that has ended (it was idle, or killed) is started anew at the next question;
one that ends at once, or cannot be started, is left alone for a while.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from peer.background import messages
from peer.background.messages import Content, Count, Limit, MessageError, Question, Share, Unshare

log = structlog.get_logger("peer.background")

ANSWER_WITHIN_S: Final = 10.0
"""For all but a piece: a start takes a second on a slow machine."""

AT_ONCE_S: Final = 5.0
AGAIN_AFTER_S: Final = 60.0
END_WITHIN_S: Final = 5.0
ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
"""Its passwords and tokens are not for the process."""


class BackgroundError(Exception):
    """There is no answer from the process: it is not there, has ended, or says why."""


class BusyError(BackgroundError):
    """The other host gives to others now."""


class WrongPieceError(BackgroundError):
    """A piece came that is not what its digest says."""


def is_installed() -> bool:
    """Whether libtorrent is here (`pip install 'p2pd[bittorrent]'`). It is not loaded."""
    return importlib.util.find_spec("libtorrent") is not None


class BackgroundProcess:
    """The process, if it runs. `directory` is its own, for what is half received.

    It listens at `address`, an IP address or a name, and shares at the UDP port `port` there.
    """

    def __init__(self, directory: Path, address: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._directory = directory
        self._address = address
        self._port = port
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = -math.inf
        self._not_before = -math.inf
        self._closed = False
        self._limit = Limit(0, 0)
        self._sent_before = 0
        self._sent_now = 0

    @property
    def pid(self) -> int | None:
        """The id of the process that runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def sent_bytes(self) -> int:
        """What was sent to other hosts, as of the last `count`."""
        return self._sent_before + self._sent_now

    def share(self, content: Content, path: Path) -> bytes:
        """A ticket for the blob in a file. Raises BackgroundError."""
        ticket = self._answer(Share(content, str(path)))
        if not 0 < len(ticket) <= messages.MAX_TICKET_BYTES:
            raise BackgroundError("not a ticket")
        return ticket

    def unshare(self, digest: str) -> None:
        """Give a blob to nobody any more. Nothing is started for that."""
        if self._running() is not None:
            with suppress(BackgroundError):
                self._answer(Unshare(digest))

    def limit(self, upload: int, download: int) -> None:
        """From now on these rates hold, in bytes per second; 0 is none."""
        self._limit = Limit(min(upload, messages.MAX_RATE), min(download, messages.MAX_RATE))
        if self._running() is not None:
            with suppress(BackgroundError):
                self._answer(self._limit)

    def count(self) -> None:
        """Ask how much was sent."""
        if self._running() is not None:
            with suppress(BackgroundError, ValueError):
                self._sent_now = int(self._answer(Count()))

    def ask(self, question: Question) -> socket.socket:
        """Ask, and return the stream of the answer, which the caller closes. Raises BackgroundError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                packet = messages.encode(question)
                with self._lock:
                    control = self._started()
                    try:
                        socket.send_fds(control, [packet], [theirs.fileno()])
                    except OSError:  # it has ended since
                        self._reap()
                        socket.send_fds(self._started(), [packet], [theirs.fileno()])
            except (OSError, MessageError) as error:
                ours.close()
                raise BackgroundError(f"the process of the background transport does not listen: {error}") from None
            except BackgroundError:
                ours.close()
                raise
        return ours

    def restart(self) -> None:
        """End it, and with it all connections and tickets. The next question starts another."""
        with self._lock:
            self._reap()
            self._started_at = -math.inf

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
            self._reap()

    def _answer(self, question: Question) -> bytes:
        with self.ask(question) as stream:
            stream.settimeout(ANSWER_WITHIN_S)
            return read_answer(stream)

    def _running(self) -> socket.socket | None:
        with self._lock:
            return self._control if self._is_running() else None

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _started(self) -> socket.socket:
        if self._is_running() and self._control is not None:
            return self._control
        now = self._clock()
        if self._process is not None and now < self._started_at + AT_ONCE_S:
            self._not_before = now + AGAIN_AFTER_S
            log.warning("the process of the background transport has ended at once: HTTP is used", for_s=AGAIN_AFTER_S)
        self._reap()
        if self._closed or now < self._not_before:
            raise BackgroundError("the background transport does not run")
        self._started_at = now
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            shutil.rmtree(self._directory, ignore_errors=True)
            command = [sys.executable, "-P", "-m", "peer.background.process"]
            command += [str(theirs.fileno()), str(self._directory), self._address, str(self._port)]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise BackgroundError(f"the background transport cannot be started: {error}") from None
        ours.settimeout(ANSWER_WITHIN_S)
        self._control = ours
        log.info("the background transport runs", pid=self._process.pid)
        self._tell_limit(ours)
        return ours

    def _tell_limit(self, control: socket.socket) -> None:
        if self._limit != Limit(0, 0):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                socket.send_fds(control, [messages.encode(self._limit)], [theirs.fileno()])

    def _reap(self) -> None:
        if self._control is not None:
            self._control.close()
        process, self._control, self._process = self._process, None, None
        if process is None:
            return
        self._sent_before, self._sent_now = self._sent_before + self._sent_now, 0
        try:
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Of the daemon's environment. This package is found there as it was found here."""
    found = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    paths = [str(Path(__file__).parents[2]), found.get("PYTHONPATH", "")]
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def read_answer(stream: socket.socket) -> bytes:
    """The bytes of an answer. Raises BackgroundError."""
    length = read_header(stream, no_answer)
    data = bytearray(length)
    with memoryview(data) as view:
        fill(stream, view, no_answer)
    return bytes(data)


def read_header(stream: socket.socket, on_timeout: Callable[[], None]) -> int:
    """The length of an answer that is well. For `on_timeout` see `fill`. Raises BackgroundError."""
    head = bytearray(messages.HEADER_BYTES)
    with memoryview(head) as view:
        fill(stream, view, on_timeout)
    try:
        status, length = messages.parse_header(bytes(head))
    except MessageError as error:
        raise BackgroundError(str(error)) from None
    if status == messages.DONE:
        return length
    why = bytearray(min(length, messages.MAX_WHY_BYTES))
    with memoryview(why) as view:
        fill(stream, view, on_timeout)
    kind = BusyError if status == messages.BUSY else BackgroundError
    raise kind(why.decode(errors="replace"))


def no_answer() -> None:
    """Raises BackgroundError."""
    raise BackgroundError(f"no answer within {ANSWER_WITHIN_S:g} s")


def fill(stream: socket.socket, view: memoryview, on_timeout: Callable[[], None]) -> None:
    """Read as much as the view has room for. `on_timeout` is called each time that the stream's timeout is over.

    Raises BackgroundError if the stream ends, and what `on_timeout` raises.
    """
    at = 0
    while at < len(view):
        try:
            with view[at:] as rest:
                count = stream.recv_into(rest)
        except TimeoutError:
            on_timeout()
            continue
        except OSError as error:
            raise BackgroundError(f"no answer: {error}") from None
        if not count:
            raise BackgroundError("the process of the background transport has ended")
        at += count
