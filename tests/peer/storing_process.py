"""Another process that uses a store, for tests that kill it: `python -m tests.peer.storing_process DIRECTORY PIECES`.

It lands that many pieces of `CONTENT`, from two threads and in no order, and says `landed INDEX` after each, then
`idle`. It never seals, and stays until it is killed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import IO

from scheduler.protocol.geometry import MIN_PIECE_BYTES
from tests.peer.fakes import content_of
from tests.peer.store_fixtures import create, land, open_store

PIECE = MIN_PIECE_BYTES
COUNT = 20
CONTENT = content_of((COUNT - 1) * PIECE + 7, seed=9)


@contextmanager
def storing_process(directory: Path, pieces: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The process, and what it says; killed with SIGKILL at the end of the block at the latest."""
    command = [sys.executable, "-m", "tests.peer.storing_process", str(directory), str(pieces)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout
        finally:
            process.kill()


def main(directory: Path, pieces: int) -> None:
    """Be that process."""
    store = open_store(directory)
    blob = create(store, CONTENT)
    order = Random(3).sample(range(COUNT), pieces)
    saying = threading.Lock()

    def land_all(indices: list[int]) -> None:
        for index in indices:
            land(blob, CONTENT, [index])
            with saying:
                print(f"landed {index}", flush=True)  # noqa: T201 - this is how it tells the test

    with ThreadPoolExecutor(2) as threads:
        for part in [threads.submit(land_all, order[first::2]) for first in range(2)]:
            part.result()
    print("idle", flush=True)  # noqa: T201 - this is how it tells the test
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
