"""Receive one blob as a container runtime does: `python -m benchmarks.receive URL FILE`.

Like containerd's content store, the client reads into one buffer, hashes the bytes and writes them to the file, in
turns and in one thread (1 MiB, the buffer of containerd's content.Copy). It prints JSON: the seconds from before the
connection to after the last write, the length, the status, and the digest.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

BUFFER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """A registry's answer."""

    status: int
    size_bytes: int
    digest: str


def receive(connection: http.client.HTTPConnection, path: str, write: Callable[[memoryview], object]) -> ReceivedBody:
    """GET a blob, hash it, and give its bytes to `write`."""
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    size_bytes = 0
    connection.request("GET", path)
    response = connection.getresponse()
    while count := response.readinto(buffer):
        sha256.update(buffer[:count])
        write(buffer[:count])
        size_bytes += count
    return ReceivedBody(response.status, size_bytes, f"sha256:{sha256.hexdigest()}")


def main(url: str, output: str) -> None:
    parts = urlsplit(url)
    started = time.perf_counter()
    connection = http.client.HTTPConnection(parts.netloc)
    with Path(output).open("wb", buffering=0) as file:
        received = receive(connection, parts.path, file.write)
    seconds = time.perf_counter() - started
    connection.close()
    print(json.dumps({"seconds": seconds, **asdict(received)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
