"""What stands while many examples are tried at it: an event loop in a thread, and a log in which nothing is to be."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

import aiofastnet
import uvloop

from tests.support.registry_server import PATIENCE_S

T = TypeVar("T")

QUIET_S = 0.02
"""How long to listen when nothing comes: for the answer to what may be half a request."""


class Errors(logging.Handler):
    """Collects errors, and tracebacks at any level."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg if isinstance(record.msg, dict) else {}
        if record.levelno >= logging.ERROR or record.exc_info or event.get("exc_info"):
            self.told.append(logging.Formatter().format(record))


@contextmanager
def watched_log() -> Iterator[Errors]:
    """The errors that are logged within the block."""
    handler, root = Errors(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler
    finally:
        root.removeHandler(handler)


@contextmanager
def standing(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Run what stands in a thread, on the loop that the daemon runs on."""
    began: list[T] = []
    is_up, ends, loops = threading.Event(), asyncio.Event(), []

    async def stand() -> None:
        loops.append(asyncio.get_running_loop())
        async with server as it:
            began.append(it)
            is_up.set()
            await ends.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=aiofastnet.loop_factory(uvloop.new_event_loop)) as runner:
                runner.run(stand())
        finally:
            is_up.set()

    thread = threading.Thread(target=run, name="standing")
    thread.start()
    assert is_up.wait(PATIENCE_S)
    try:
        yield began[0]
    finally:
        if began:
            loops[0].call_soon_threadsafe(ends.set)
        thread.join(PATIENCE_S)


def converse(port: int, parts: Sequence[bytes], *, ends: bool) -> bytes:
    """Send the parts; what is answered until the connection ends or nothing more comes. `ends`: no request follows."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(QUIET_S)
            while received := connection.recv(1 << 16):
                answer += received
        except OSError:  # it is quiet, or the server has ended it
            pass
        return answer


def ask(port: int, request: bytes) -> bytes:
    """The whole answer to a request that asks for its connection to be closed."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(request)
        answer = b""
        while received := connection.recv(1 << 16):
            answer += received
        return answer
