"""The process that forks daemons for the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FROM_TWO_THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from tests.support.forked import _forking
together = threading.Barrier(2)
def ask(_):
    together.wait()
    return id(_forking())
with ThreadPoolExecutor(2) as threads:
    print(len({*threads.map(ask, range(2))}))
"""


def test_there_is_one_though_two_threads_ask_at_once() -> None:
    """Where there are two, a daemon can become the child of a process that does not wait for it."""
    done = subprocess.run(
        [sys.executable, "-c", FROM_TWO_THREADS], cwd=Path(__file__).parents[2], capture_output=True, check=True
    )
    assert done.stdout == b"1\n"
