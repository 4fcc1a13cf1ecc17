"""The threads that receive one range: in turns, in order, and without waiting for one that never begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from peer.errors import OriginBrokenError
from peer.origin_range import OriginRange, _Turns
from peer.store import Blob, Store
from peer.store.buffers import BufferPool
from tests.peer.download_fixtures import DIGEST, PIECE, source
from tests.peer.fakes import FakeOrigin
from tests.support.registry_server import PATIENCE_S


@dataclass
class Report:
    """Keeps what is told. `on_received` is called with the index of each piece, by the thread that lands it."""

    on_received: Callable[[int], None] = lambda _index: None
    pieces: list[int] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)

    def opened(self, blob: Blob, first: int, stop: int) -> None:
        assert (first, stop) == (0, blob.count)
        blob.release()

    def received(self, blob: Blob, index: int, digest: bytes) -> None:
        assert blob.piece_digests[index] == digest
        self.pieces.append(index)
        self.on_received(index)

    def verified(self, blob: Blob, ok: bool) -> None:
        assert blob.reread_bytes == 0
        self.verdicts.append(ok)


def receive(store: Store, origin: FakeOrigin, report: Report, *, buffers: int = 2) -> None:
    with ThreadPoolExecutor(1) as threads:

        def spawn(*work: Any) -> None:
            threads.submit(*work)

        OriginRange(source(origin), None, 0, None).run(store, BufferPool(buffers * PIECE), report, spawn)


def test_the_next_piece_is_received_while_one_is_landed(store: Store, origin: FakeOrigin) -> None:
    """The first piece is landed only when the origin has been asked for the second."""
    origin.hold_at(PIECE)

    def on_received(index: int) -> None:
        if not index:
            origin.wait_for(lambda: origin.waiting == 1)
            origin.release()

    report = Report(on_received)
    receive(store, origin, report)
    assert sorted(report.pieces) == list(range(10))
    assert report.verdicts == [True]


def test_one_thread_has_all_turns_where_there_is_no_second_buffer(store: Store, origin: FakeOrigin) -> None:
    report = Report()
    receive(store, origin, report, buffers=1)
    assert (report.pieces, report.verdicts) == (list(range(10)), [True])


def test_a_second_thread_that_never_begins_is_not_waited_for(store: Store, origin: FakeOrigin) -> None:
    report = Report()
    OriginRange(source(origin), None, 0, None).run(store, BufferPool(2 * PIECE), report, lambda *_: None)
    assert (report.pieces, report.verdicts) == (list(range(10)), [True])


def test_a_thread_without_memory_waits_for_what_the_other_lands(
    store: Store, origin: FakeOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second thread lands piece 1 while the first one, whose turn it is, finds no memory."""
    begins, lands = threading.Event(), threading.Event()
    wait_for_turn = _Turns._wait_for_turn

    def waits(self: _Turns) -> bool:
        if begins.is_set():  # the first thread has given its buffer back, and the second one may go on
            origin.release()
        return wait_for_turn(self)

    monkeypatch.setattr(_Turns, "_wait_for_turn", waits)

    class NoMemory(BufferPool):
        @contextmanager
        def buffer(self, size_bytes: int) -> Iterator[memoryview]:
            if begins.is_set():
                lands.set()
                raise OSError("no memory")
            with super().buffer(size_bytes) as view:
                yield view

    pinned = []

    def on_received(index: int) -> None:
        if index == 0:
            origin.wait_for(lambda: origin.waiting == 1)  # by the second thread
            begins.set()
        elif index == 1:
            assert lands.wait(PATIENCE_S)
            blob = store.acquire(DIGEST)
            assert blob is not None
            blob.release()
            pinned.append(blob.pinned)

    origin.hold_at(PIECE)
    with ThreadPoolExecutor(1) as threads:

        def spawn(*work: Any) -> None:
            threads.submit(*work)

        ranged, report = OriginRange(source(origin), None, 0, None), Report(on_received)
        with pytest.raises(OSError, match="no memory"):
            ranged.run(store, NoMemory(2 * PIECE), report, spawn)
        assert pinned == [True]


def test_a_buffer_that_there_is_no_memory_for_counts_no_longer() -> None:
    pool = BufferPool(2 * PIECE)
    with pytest.raises((OSError, MemoryError, ValueError, OverflowError)), pool.buffer(2**62):
        pass
    with pool.spare(PIECE) as view:
        assert view is not None


def test_an_error_of_either_thread_ends_both(store: Store, origin: FakeOrigin) -> None:
    origin.breaks_after = 5 * PIECE
    report = Report()
    with pytest.raises(OriginBrokenError):
        receive(store, origin, report)
    assert sorted(report.pieces) == list(range(5))
    blob = store.acquire(DIGEST)
    assert blob is not None
    blob.release()
    assert not blob.pinned, "the second thread has ended, too"
