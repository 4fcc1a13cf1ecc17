"""A cache that decides nothing: `python -m benchmarks.datapath.bare_cache PORT ORIGIN DIRECTORY`.

It serves one client after the other at 127.0.0.1, and asks ORIGIN, a host and port, for each path that it is asked for.
A body is received, hashed by SHA-256, written to a new file, and sent to the client from there, each by a thread of its
own. Nothing is looked up or kept in mind: a cache that verifies what it holds does at least this. No code of p2pd runs
here.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from queue import Queue
from typing import Final, TypeVar

BUFFER_BYTES: Final = 2**20
AHEAD: Final = 4
"""Buffers that wait for the next thread."""

BUFFERS: Final = 2 * AHEAD + 4
"""Those that wait for two threads, and one in the hands of each. A buffer is filled anew when it has been written."""

REQUEST_BYTES: Final = 2**16

Made = TypeVar("Made", memoryview, int)


def main(port: str, origin: str, directory: str) -> None:
    """Serve until a signal ends the process. Raises OSError."""
    with socket.create_server(("127.0.0.1", int(port))) as listening:
        while True:
            client, _ = listening.accept()
            with client:
                if request := client.recv(REQUEST_BYTES):  # else somebody only looked whether the port is served
                    _answer(client, request.split()[1].decode(), origin, Path(directory) / "body")


def _answer(client: socket.socket, path: str, origin: str, kept: Path) -> None:
    with closing(http.client.HTTPConnection(origin)) as connection, kept.open("w+b", buffering=0) as file:
        connection.request("GET", path)
        response = connection.getresponse()
        size_bytes = int(response.headers["Content-Length"])
        head = f"HTTP/1.1 {response.status} {response.reason}\r\nContent-Length: {size_bytes}\r\n\r\n"
        client.sendall(head.encode())
        os.posix_fallocate(file.fileno(), 0, max(1, size_bytes))
        sent = 0
        for end in _threaded(_written(_threaded(_hashed(_threaded(_received(response)))), file.fileno())):
            while sent < end:
                sent += os.sendfile(client.fileno(), file.fileno(), sent, end - sent)


def _received(response: http.client.HTTPResponse) -> Iterator[memoryview]:
    for buffer in cycle([memoryview(bytearray(BUFFER_BYTES)) for _ in range(BUFFERS)]):
        if not (count := response.readinto(buffer)):
            return
        yield buffer[:count]


def _hashed(parts: Iterator[memoryview]) -> Iterator[memoryview]:
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
        yield part


def _written(parts: Iterator[memoryview], file: int) -> Iterator[int]:
    """How many bytes are in the file."""
    end = 0
    for part in parts:
        end += os.pwrite(file, part, end)
        yield end


def _threaded(items: Iterator[Made]) -> Iterator[Made]:
    """The same items, or the same error. A thread makes them, at most `AHEAD` of them before they are taken."""
    waiting: Queue[Made | Exception | None] = Queue(AHEAD)

    def make() -> None:
        try:
            for item in items:
                waiting.put(item)
            waiting.put(None)
        except Exception as error:
            waiting.put(error)

    threading.Thread(target=make, daemon=True).start()
    while (item := waiting.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


if __name__ == "__main__":
    main(*sys.argv[1:])
