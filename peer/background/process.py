"""The process of the background transport: `python -m peer.background.process SOCKET DIRECTORY ADDRESS PORT`.

The daemon starts it at the first use (`peer.background.client`). It ends when it has been idle for a while, after an
hour, when strangers have taken all room for connections, and when the daemon's end of the socket is closed, as it is
when the daemon dies. It has its own memory, up to a bound, its own interpreter, and a low priority; nothing that goes
wrong in it harms the daemon.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from peer.background import messages
from peer.background.messages import Count, Fetch, Limit, Question, Share, Unshare, decode
from peer.background.ticket import parse_ticket
from peer.background.torrents import Fetched, Fetching, Sharing

IDLE_S: Final = 120.0
MAX_AGE_S: Final = 3600.0
"""Its tickets end with it: the certificate of the host that got one may be over, and a connection shows it no more."""

TEND_EVERY_S: Final = 0.5
MAX_QUESTIONS: Final = 256
"""At a time. The daemon has 64 threads that fetch."""

NICE: Final = 10
MAX_MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Where it needs more, it ends. It has a tenth, and less than the half with as many connections as there may be."""


class _Answer:
    """The stream of one question's answer, and what of the answer is still to be sent."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self.stream = stream
        self.left = memoryview(b"")

    def send(self) -> bool:
        """Send what the stream takes; whether that was all."""
        while self.left:
            try:
                self.left = self.left[self.stream.send(self.left) :]
            except BlockingIOError:
                return False
        return True


class Process:
    """The loop."""

    def __init__(
        self,
        control: socket.socket,
        directory: Path,
        address: str,
        port: int,
        *,
        idle_s: float = IDLE_S,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._address = address
        self._idle_s = idle_s
        self._ends_at = time.monotonic() + max_age_s
        self._control = control
        self._directory = directory
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._alerts, self._alert_sink = socket.socketpair()
        self._alerts.setblocking(False)
        self._alert_sink.setblocking(False)
        self._sharing: Sharing | None = None
        self._fetching: Fetching | None = None
        self._limit = Limit(0, 0)
        self._answers: dict[int, _Answer] = {}
        self._numbers = iter(range(2**62))
        self._used_at = time.monotonic()

    def run(self) -> None:
        """Until the daemon is gone, or it is better to begin anew."""
        self._selector.register(self._control, selectors.EVENT_READ, None)
        self._selector.register(self._alerts, selectors.EVENT_READ, None)
        tended_at = 0.0
        while True:
            for key, events in self._selector.select(TEND_EVERY_S):
                if key.fileobj is self._control:
                    if not self._take():
                        return
                elif key.fileobj is self._alerts:
                    self._look()
                else:
                    self._serve(key.data, events)
            now = time.monotonic()
            if now >= tended_at + TEND_EVERY_S:
                tended_at = now
                if self._fetching is not None:
                    self._finish(self._fetching.tend())
                is_crowded = self._sharing is not None and self._sharing.tend()
                if is_crowded or now > self._ends_at or self._is_idle(now):
                    return

    def close(self) -> None:
        self._selector.close()
        for each in (self._alerts, self._alert_sink, *(answer.stream for answer in self._answers.values())):
            each.close()
        if self._fetching is not None:
            self._fetching.close()

    def _is_idle(self, now: float) -> bool:
        if self._answers or (self._fetching and self._fetching.is_used) or (self._sharing and self._sharing.is_used()):
            self._used_at = now
        return now > self._used_at + self._idle_s

    def _take(self) -> bool:
        """A question, or the daemon's end: whether it was a question."""
        packet, descriptors, flags, _ = socket.recv_fds(self._control, messages.MAX_QUESTION_BYTES + 1, 4)
        streams = [socket.socket(fileno=each) for each in descriptors]
        if not packet:
            return False
        self._used_at = time.monotonic()
        if len(streams) != 1 or flags & socket.MSG_TRUNC or len(self._answers) >= MAX_QUESTIONS:
            for stream in streams:
                stream.close()
            return True
        number = next(self._numbers)
        self._answers[number] = _Answer(streams[0])
        self._selector.register(streams[0], selectors.EVENT_READ, number)
        try:
            answer = self._answered(number, decode(packet))
        except Exception as error:  # whatever is wrong with one question, others are answered
            self._end(number, messages.FAILED, str(error))
        else:
            if answer is not None:
                self._end(number, messages.DONE, answer)
        return True

    def _answered(self, number: int, question: Question) -> bytes | None:
        """The answer; None: it comes later."""
        match question:
            case Share(content, path):
                if self._sharing is None:
                    self._sharing = Sharing(self._address, self._port, self._alert_sink.fileno())
                    self._sharing.limit(self._limit.upload)
                return self._sharing.share(content, Path(path)).encode()
            case Unshare(digest):
                if self._sharing is not None:
                    self._sharing.unshare(digest)
                return b""
            case Fetch(content, index, address, ticket, rate):
                if self._fetching is None:
                    self._fetching = Fetching(self._directory, self._address, self._alert_sink.fileno())
                self._fetching.limit(min(filter(None, (self._limit.download, rate)), default=0))
                self._fetching.fetch(number, content, index, address, parse_ticket(ticket))
                return None
            case Limit():
                self._limit = question
                if self._sharing is not None:
                    self._sharing.limit(question.upload)
                if self._fetching is not None:
                    self._fetching.limit(question.download)
                return b""
            case Count():
                return str(self._sharing.sent_bytes() if self._sharing else 0).encode()

    def _look(self) -> None:
        """Something has happened in libtorrent."""
        while True:
            try:
                if not self._alerts.recv(4096):
                    break
            except BlockingIOError:
                break
        if self._sharing is not None:
            self._sharing.pop_alerts()
        if self._fetching is not None:
            self._finish(self._fetching.ended())

    def _finish(self, ended: Iterable[Fetched]) -> None:
        for each in ended:
            if each.piece is not None:
                self._end(each.question, messages.DONE, each.piece)
            else:
                self._end(each.question, messages.BUSY if each.busy else messages.FAILED, each.error)

    def _end(self, number: int, status: int, what: bytes | str) -> None:
        answer = self._answers.get(number)
        if answer is None:
            return
        data = what if isinstance(what, bytes) else what.encode()[: messages.MAX_WHY_BYTES]
        answer.left = memoryview(messages.header(status, len(data)) + data)
        self._selector.modify(answer.stream, selectors.EVENT_READ | selectors.EVENT_WRITE, number)
        self._serve(number, selectors.EVENT_WRITE)

    def _serve(self, number: int, events: int) -> None:
        answer = self._answers.get(number)
        if answer is None:
            return
        try:
            sent = bool(events & selectors.EVENT_WRITE) and answer.send()
            said = answer.stream.recv(16) if events & selectors.EVENT_READ and not sent else None
            gone = said is not None
        except BlockingIOError:
            return
        except OSError:
            gone, sent, said = True, False, b""
        if gone and self._fetching is not None:
            self._fetching.cancel(number, keep=said == messages.KEEP)
        if gone or sent:
            del self._answers[number]
            self._selector.unregister(answer.stream)
            answer.stream.close()


def main() -> None:
    """Until the daemon is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both are for the daemon, at whose end this ends
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):  # a sandbox may forbid it
        os.nice(NICE)
    with suppress(OSError, ValueError):  # the bound is lower as it is
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    descriptor, directory, address, port = sys.argv[1:]
    process = Process(socket.socket(fileno=int(descriptor)), Path(directory), address, int(port))
    status = 0
    try:
        process.run()
    except Exception:
        traceback.print_exc()
        status = 1
    process.close()
    sys.stderr.flush()
    os._exit(status)  # libtorrent would say goodbye to each peer first, for seconds


if __name__ == "__main__":
    main()
