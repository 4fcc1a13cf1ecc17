"""Receive one blob as a container runtime does: `python -m benchmarks.receive URL FILE`.

Like containerd's content store it reads into one buffer, hashes what came and writes it to the file, in turns
and in one thread (1 MiB, the buffer of containerd's content.Copy). It prints JSON: the seconds from before
the connection to after the last write, the length, the status, and the digest.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

BUFFER_BYTES = 2**20


def main(url: str, output: str) -> None:
    parts = urlsplit(url)
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    size_bytes = 0
    started = time.perf_counter()
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", parts.path)
    response = connection.getresponse()
    with Path(output).open("wb", buffering=0) as file:
        while count := response.readinto(buffer):
            sha256.update(buffer[:count])
            file.write(buffer[:count])
            size_bytes += count
    seconds = time.perf_counter() - started
    connection.close()
    digest = f"sha256:{sha256.hexdigest()}"
    print(json.dumps({"seconds": seconds, "size_bytes": size_bytes, "status": response.status, "digest": digest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
