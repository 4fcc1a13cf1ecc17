"""The bare reference for a transfer between hosts.

`python -m benchmarks.transfer.raw_receiver URL SIZE PIECE_BYTES FILE`.

The receiver does only the necessary work for each byte. Threads request one piece after the other on kept-alive
connections, read it into a reused buffer, take its BLAKE3, write it, and take the SHA-256 of the blob in order, while
the piece is still in the cache. No code of p2pd runs here. The output is JSON: the seconds from before the first
connection to the end of the last hash, the digest, and the CPU seconds of the process.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from blake3 import blake3

THREADS = 4


class RawTransfer:
    """One blob that is being received into a file."""

    def __init__(self, url: str, size_bytes: int, piece_bytes: int, file: int) -> None:
        self._address = urlsplit(url)
        self._size_bytes = size_bytes
        self._piece_bytes = piece_bytes
        self._file = file
        self._next = 0
        self._turn = threading.Condition()
        self._hashed = 0
        self._failed = False
        self.sha256 = hashlib.sha256()

    def run(self) -> None:
        """The work of one thread. Raises OSError, after which the other threads end too."""
        try:
            self._run()
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify_all()
            raise

    def _run(self) -> None:
        buffer = memoryview(bytearray(self._piece_bytes))
        connection = http.client.HTTPConnection(self._address.netloc)
        while (start := self._take()) < self._size_bytes:
            piece = buffer[: min(self._piece_bytes, self._size_bytes - start)]
            headers = {"Range": f"bytes={start}-{start + len(piece) - 1}"}
            connection.request("GET", self._address.path, headers=headers)
            response = connection.getresponse()
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise OSError(f"status {response.status}")
            at = 0
            while count := response.readinto(piece[at:]):
                at += count
            if at < len(piece):
                raise OSError(f"{at} of {len(piece)} bytes")
            blake3(piece).digest()
            os.pwrite(self._file, piece, start)
            if not self._has_turn(start):
                return
            self.sha256.update(piece)
            with self._turn:
                self._hashed += len(piece)
                self._turn.notify_all()
        connection.close()

    def _has_turn(self, start: int) -> bool:
        """Wait until the SHA-256 has reached byte `start`; False if it never will."""
        with self._turn:
            self._turn.wait_for(lambda: self._failed or self._hashed == start)
            return not self._failed

    def _take(self) -> int:
        with self._turn:
            start, self._next = self._next, self._next + self._piece_bytes
            return start


def main(url: str, size_bytes: str, piece_bytes: str, output: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.posix_fallocate(file, 0, int(size_bytes))
    transfer = RawTransfer(url, int(size_bytes), int(piece_bytes), file)
    started, cpu_started_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(THREADS) as threads:
        for part in [threads.submit(transfer.run) for _ in range(THREADS)]:
            part.result()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started_s
    os.close(file)
    print(json.dumps({"seconds": seconds, "digest": f"sha256:{transfer.sha256.hexdigest()}", "cpu_s": cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
