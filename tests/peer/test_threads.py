"""A pool of threads when the system gives no more of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from peer.errors import P2pdError
from peer.threads import Threads
from tests.support.registry_server import PATIENCE_S


@pytest.fixture
def limit_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """After it is called, the system starts no thread."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    yield lambda: monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.undo()


def test_work_waits_for_the_threads_that_there_are(limit_threads: Callable[[], None]) -> None:
    go = threading.Event()
    with Threads(8, "test") as threads:
        limit_threads()
        with capture_logs() as logs:
            first = threads.submit(go.wait, PATIENCE_S)
            others = [threads.submit(pow, 2, number) for number in range(20)]
        assert not any(other.done() for other in others)
        go.set()
        assert first.result(PATIENCE_S)
        assert [other.result(PATIENCE_S) for other in others] == [2**number for number in range(20)]
    assert [(each["log_level"], each["pool"], each["threads"]) for each in logs] == [("warning", "test", 1)]


def test_without_a_single_thread_there_is_no_pool(limit_threads: Callable[[], None]) -> None:
    limit_threads()
    with pytest.raises(P2pdError, match=r"pids\.max"):
        Threads(8, "test")
    lazy = Threads(8, "test", ready=False)
    with pytest.raises(P2pdError, match=r"pids\.max"):
        lazy.submit(int)


def test_as_many_threads_as_work_needs() -> None:
    together = threading.Barrier(3)
    with Threads(3, "test") as threads:
        waiting = [threads.submit(together.wait, PATIENCE_S) for _ in range(3)]
        assert sorted(each.result(PATIENCE_S) for each in waiting) == [0, 1, 2]
