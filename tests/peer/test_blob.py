"""One blob: what may be served while it arrives, from whatever threads, and what an earlier process left of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Self

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import PeerCorruptError, StoreBrokenError
from peer.oci.digest import Digest
from peer.store import Blob, Landed, Store
from peer.store.blob import EMPTY_DIGEST
from peer.store.data_file import DataFile
from peer.store.record import ENTRY_BYTES, Header, decode, encode_entry, encode_header
from scheduler.protocol.geometry import MIN_PIECE_BYTES
from tests.peer.fakes import content_of
from tests.peer.store_fixtures import a_store, create, flip, hold, hold_part, land, open_store, pinned
from tests.support.registry_server import PATIENCE_S

PIECE = MIN_PIECE_BYTES
CONTENT = content_of(7 * PIECE + 1000)
"""Eight pieces, the last of 1000 bytes."""

WRONG = bytes([CONTENT[3 * PIECE] ^ 1]).join([CONTENT[: 3 * PIECE], CONTENT[3 * PIECE + 1 :]])
"""The same but for one byte of piece 3."""


@pytest.fixture(params=[False, True], ids=["of a host with others", "alone"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with a_store(tmp_path / "store", alone=request.param) as store:
        yield store


@pytest.fixture
def blob(store: Store) -> Iterator[Blob]:
    with pinned(store, CONTENT) as blob:
        yield blob


def _left(directory: Path, content: bytes = CONTENT) -> Blob:
    """The blob as the next process finds it, pinned."""
    store = open_store(directory)
    store.close()
    return create(store, content)


class TestLanding:
    def test_pieces_in_order_make_it_whole_with_the_last(self, blob: Blob) -> None:
        landed = land(blob, CONTENT)
        assert [one.index for one in landed] == list(range(8))
        assert [one.whole for one in landed] == [None] * 7 + [True]
        assert (blob.whole, blob.verdict, blob.held_bytes) == (True, True, len(CONTENT))
        assert blob.read(0, len(CONTENT)) == CONTENT

    def test_pieces_in_any_order_make_it_whole_with_the_last(self, blob: Blob) -> None:
        landed = land(blob, CONTENT, [7, 3, 0, 2, 1, 6, 5, 4])
        assert [one.whole for one in landed] == [None] * 7 + [True]

    @pytest.mark.parametrize("order", [range(8), range(7, -1, -1)])
    def test_wrong_bytes_are_never_whole(self, blob: Blob, order: range) -> None:
        landed = land(blob, WRONG, order)
        assert [one.whole for one in landed] == [None] * 7 + [False]
        assert (blob.whole, blob.verdict) == (False, False)
        assert blob.servable_until(0) == 7 * PIECE

    def test_a_piece_of_another_digest_than_the_map_says_is_not_held(self, blob: Blob) -> None:
        start, stop = blob.span(3)
        right = blake3(CONTENT[start:stop]).digest()
        with pytest.raises(PeerCorruptError):
            blob.land(3, memoryview(WRONG)[start:stop], right)
        assert list(blob.pieces) == []
        blob.land(3, memoryview(CONTENT)[start:stop], right)
        assert blob.read(start, stop) == CONTENT[start:stop]

    def test_a_piece_has_its_length(self, blob: Blob) -> None:
        for index, size in ((0, PIECE - 1), (0, PIECE + 1), (7, PIECE), (7, 0)):
            with pytest.raises(ValueError, match=f"not {size}"):
                blob.land(index, memoryview(bytes(size)))
        with pytest.raises(IndexError):
            blob.land(8, memoryview(b""))
        assert list(blob.pieces) == []

    def test_held_bytes_are_what_has_landed(self, blob: Blob) -> None:
        land(blob, CONTENT, [1, 7])
        assert blob.held_bytes == PIECE + 1000

    def test_a_held_piece_is_never_written_over(self, blob: Blob) -> None:
        first = land(blob, CONTENT, [3])
        again = land(blob, WRONG, [3])
        assert again == first
        assert land(blob, CONTENT)[-1].whole
        assert blob.read(0, len(CONTENT)) == CONTENT

    def test_nor_is_one_of_a_whole_blob(self, blob: Blob) -> None:
        land(blob, CONTENT)
        blob.seal()
        assert land(blob, WRONG, [3])[0].whole
        assert blob.read(0, len(CONTENT)) == CONTENT
        assert decode(blob.record_path.read_bytes()).complete


class TestThreads:
    @pytest.fixture(autouse=True)
    def _often_switched(self) -> Iterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("content", [CONTENT, WRONG], ids=["right", "wrong"])
    def test_from_several_threads_in_any_order(self, blob: Blob, content: bytes, seed: int) -> None:
        order = list(range(8))
        Random(seed).shuffle(order)
        with ThreadPoolExecutor(4) as threads:
            parts = [threads.submit(land, blob, content, order[first::4]) for first in range(4)]
            landed = [one for part in parts for one in part.result(PATIENCE_S)]
        assert blob.verdict is (content is CONTENT)
        assert {one.whole for one in landed} == {None, content is CONTENT}
        assert blob.read(0, len(content)) == content

    @pytest.mark.parametrize("seed", range(6))
    def test_the_same_pieces_from_several_threads_and_one_of_them_lies(self, blob: Blob, seed: int) -> None:
        orders = [Random(seed + thread).sample(range(8), 8) for thread in range(3)]
        with ThreadPoolExecutor(3) as threads:
            parts = [threads.submit(land, blob, *one) for one in zip((CONTENT, WRONG, CONTENT), orders, strict=True)]
            for part in parts:
                assert len(part.result(PATIENCE_S)) == 8
        held = blob.read(0, len(CONTENT))
        assert held in (CONTENT, WRONG)
        assert blob.verdict is (held == CONTENT)
        record = decode(blob.record_path.read_bytes())
        assert sorted([*record.pieces, *record.prefixes]) == list(range(8))

    def test_what_is_servable_has_landed_at_every_moment(self, blob: Blob) -> None:
        ended = threading.Event()

        def watch() -> None:
            while not ended.is_set():
                whole_before = blob.whole
                for index in range(8):
                    start = index * PIECE
                    stop = blob.servable_until(start)
                    assert blob.read(start, stop) == CONTENT[start:stop]
                    assert stop <= 7 * PIECE or blob.whole
                assert blob.whole >= whole_before

        with ThreadPoolExecutor(3) as threads:
            watcher = threads.submit(watch)
            landers = [
                threads.submit(land, blob, CONTENT, [5, 1, 7, 3]),
                threads.submit(land, blob, CONTENT, [2, 0, 6, 4]),
            ]
            for lander in landers:
                lander.result(PATIENCE_S)
            ended.set()
            watcher.result(PATIENCE_S)
        assert blob.servable_until(0) == len(CONTENT)


class TestAtHand:
    """What waits for its turn in the SHA-256, and what is left to be read back."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with a_store(tmp_path / "store") as store:
            yield store

    def test_a_piece_may_be_served_before_its_turn_comes(self, blob: Blob) -> None:
        told: list[tuple[int, bool]] = []
        for index in (1, 0):
            start, stop = blob.span(index)
            landed = blob.land(
                index,
                memoryview(CONTENT)[start:stop],
                on_held=lambda held, _digest: told.append((held, held in blob.pieces)),
            )
            assert landed.whole is None
        assert told == [(1, True), (0, True)]

    def test_one_that_is_held_already_is_told_too(self, blob: Blob) -> None:
        land(blob, CONTENT, [0])
        told: list[int] = []
        blob.land(0, memoryview(CONTENT)[:PIECE], on_held=lambda index, _digest: told.append(index))
        assert told == [0]

    def test_one_whose_news_cannot_be_told_is_hashed_all_the_same(self, blob: Blob) -> None:
        """Else who lands the next piece would wait for it for ever."""

        def cannot(_index: int, _digest: bytes) -> None:
            raise RuntimeError("the event loop is closed")

        with pytest.raises(RuntimeError, match="closed"):
            blob.land(0, memoryview(CONTENT)[:PIECE], on_held=cannot)
        assert land(blob, CONTENT, range(1, blob.count))[-1].whole is True

    def test_what_follows_a_piece_at_hand_is_hashed_from_memory(self, blob: Blob) -> None:
        with ThreadPoolExecutor(2) as threads, _Paused(blob, 0) as first:
            first.start(threads)
            held = threading.Event()
            second = threads.submit(
                blob.land, 1, memoryview(CONTENT)[PIECE : 2 * PIECE], None, lambda _index, _digest: held.set()
            )
            assert held.wait(PATIENCE_S)
            assert not second.done()
            flip(blob.data_path, PIECE)  # so that reading it back would make the SHA-256 wrong
            first.go_on()
            assert second.result(PATIENCE_S).whole is None
        assert land(blob, CONTENT, range(2, 8))[-1].whole

    def test_nobody_waits_for_a_piece_that_no_thread_has(self, blob: Blob) -> None:
        with ThreadPoolExecutor(1) as threads, _Paused(blob, 0) as first:
            first.start(threads)
            assert land(blob, CONTENT, [2])[0].whole is None  # piece 1 is still to come
        assert land(blob, CONTENT, [1, 3, 4, 5, 6, 7])[-1].whole

    def test_who_waits_is_let_go_when_a_piece_cannot_be_read_back(self, blob: Blob) -> None:
        land(blob, CONTENT, [1])
        with ThreadPoolExecutor(2) as threads, _Paused(blob, 0) as first:
            first.start(threads)
            held = threading.Event()
            third = threads.submit(
                blob.land, 2, memoryview(CONTENT)[2 * PIECE : 3 * PIECE], None, lambda _index, _digest: held.set()
            )
            assert held.wait(PATIENCE_S)
            with blob.data_path.open("r+b") as data:
                data.truncate(PIECE + 1)
            first.go_on()
            with pytest.raises(StoreBrokenError, match="shorter than its record says"):
                first.result()
            assert third.result(PATIENCE_S).whole is None


class _Paused:
    """A thread that has landed a piece of CONTENT, and has not gone on to hash it."""

    def __init__(self, blob: Blob, index: int) -> None:
        self._blob = blob
        self._index = index
        self._held = threading.Event()
        self._going_on = threading.Event()
        self._landing: Future[Landed] | None = None

    def start(self, threads: ThreadPoolExecutor) -> None:
        start, stop = self._blob.span(self._index)
        view = memoryview(CONTENT)[start:stop]
        self._landing = threads.submit(self._blob.land, self._index, view, None, self._pause)
        assert self._held.wait(PATIENCE_S)

    def go_on(self) -> None:
        self._going_on.set()

    def result(self) -> Landed:
        assert self._landing is not None
        return self._landing.result(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.go_on()

    def _pause(self, _index: int, _digest: bytes) -> None:
        self._held.set()
        assert self._going_on.wait(PATIENCE_S)


class TestServable:
    @given(st.sets(st.integers(0, 7)), st.integers(0, len(CONTENT) - 1))
    def test_only_the_run_of_held_pieces_and_never_the_last_before_it_is_whole(
        self, held: set[int], start: int
    ) -> None:
        header = Header(Digest("sha256:" + "0" * 64), len(CONTENT), PIECE, "")
        blob = Blob(
            header, DataFile(Path("data"), len(CONTENT)), Path("record"), whole=False, held_bytes=0, recovered=True
        )
        for index in held:
            blob.pieces.add(index)
        end = blob.servable_until(start)
        expected = start
        while expected // PIECE in held - {7}:
            expected = (expected // PIECE + 1) * PIECE
        assert end == expected

    def test_a_blob_of_one_piece_comes_all_at_once(self, store: Store) -> None:
        blob = create(store, b"small")
        assert blob.servable_until(0) == 0
        assert land(blob, b"small")[0].whole
        assert blob.servable_until(0) == 5
        blob.release()

    def test_the_empty_blob_is_whole_from_the_start(self, store: Store) -> None:
        blob = create(store, b"")
        assert blob.digest == EMPTY_DIGEST
        assert (blob.whole, blob.verdict, blob.count, blob.servable_until(0)) == (True, True, 0, 0)
        blob.seal()
        blob.release()


class TestPins:
    def test_the_file_is_open_as_long_as_anybody_has_it(self, store: Store) -> None:
        blob = create(store, CONTENT)
        with blob.pin():
            blob.release()
            assert (blob.pinned, blob.fileno() >= 0) == (True, True)
        assert (blob.pinned, blob.fileno()) == (False, -1)

    def test_a_blob_whose_file_is_gone_cannot_be_pinned(self, store: Store) -> None:
        blob = create(store, CONTENT)
        blob.release()
        blob.data_path.unlink()
        with pytest.raises(StoreBrokenError, match="check the disk"):
            blob.acquire()
        assert not blob.pinned

    def test_a_blob_that_was_removed_never_opens_its_successors_files(self, store: Store) -> None:
        old = create(store, CONTENT)
        old.release()
        store.discard(old.digest)
        new = create(store, CONTENT)
        assert new is not old
        with pytest.raises(StoreBrokenError, match="was removed"):
            old.acquire()
        new.release()


class TestRecovery:
    def test_nothing_is_held_before_it_was_hashed_again(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, [0, 1, 4])
        blob = _left(tmp_path)
        assert (list(blob.pieces), blob.servable_until(0), blob.held_bytes) == ([], 0, 3 * PIECE)
        blob.recover()
        assert (list(blob.pieces), blob.servable_until(0), blob.held_bytes) == ([0, 1, 4], 2 * PIECE, 3 * PIECE)
        assert blob.verdict is None
        assert [one.whole for one in land(blob, CONTENT, [2, 3, 5, 6, 7])] == [None] * 4 + [True]
        blob.release()

    def test_only_the_first_call_hashes(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, [0])
        blob = _left(tmp_path)
        blob.recover()
        flip(blob.data_path, 0)
        blob.recover()
        assert list(blob.pieces) == [0]
        blob.release()

    def test_who_asks_while_it_is_being_recovered_waits(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, range(8))
        blob = _left(tmp_path)
        together = threading.Barrier(4)

        def recover() -> bool | None:
            together.wait(PATIENCE_S)
            blob.recover()
            return blob.verdict

        with ThreadPoolExecutor(4) as threads:
            verdicts = [threads.submit(recover) for _ in range(4)]
            assert [verdict.result(PATIENCE_S) for verdict in verdicts] == [True] * 4
        blob.release()

    @pytest.mark.parametrize("index", [0, 3, 7])
    def test_a_piece_whose_bytes_changed_is_not_held(self, tmp_path: Path, index: int) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, range(8))
        blob = _left(tmp_path)
        flip(blob.data_path, index * PIECE + 500)
        blob.recover()
        assert sorted(set(range(8)) - set(blob.pieces)) == [index]
        assert blob.held_bytes == len(CONTENT) - (1000 if index == 7 else PIECE)
        assert land(blob, CONTENT, [index])[0].whole
        blob.release()
        again = _left(tmp_path)  # the record has two entries for the piece now, and the later one counts
        again.recover()
        assert again.verdict
        again.release()

    def test_all_pieces_there_and_not_sealed(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, range(8))
        blob = _left(tmp_path)
        assert not blob.whole
        blob.recover()
        assert (blob.whole, blob.verdict) == (True, True)
        blob.release()

    def test_all_pieces_there_and_their_digest_wrong(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            blob = create(store, CONTENT)
            land(blob, WRONG)
            blob.release()
        blob = _left(tmp_path)
        blob.recover()
        assert (blob.whole, blob.verdict) == (False, False)
        blob.release()

    @pytest.mark.parametrize("kept_entries", [0, 2])
    def test_a_torn_entry_does_not_hide_those_that_come_after_it(self, tmp_path: Path, kept_entries: int) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, range(kept_entries))
        blob = _left(tmp_path)
        with blob.record_path.open("ab") as record:
            record.write(encode_entry(kept_entries, bytes(32))[: ENTRY_BYTES // 2])
        blob.release()
        blob = _left(tmp_path)
        blob.recover()
        land(blob, CONTENT, range(4))
        blob.release()
        blob = _left(tmp_path)
        blob.recover()
        assert list(blob.pieces) == [0, 1, 2, 3]
        blob.release()

    def test_a_blob_that_is_whole_needs_none(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold(store, CONTENT)
        blob = _left(tmp_path)
        blob.recover()
        assert (blob.whole, blob.verdict, blob.servable_until(0)) == (True, True, len(CONTENT))
        blob.release()

    def test_a_record_that_is_damaged_meanwhile_is_an_error(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, [0])
        blob = _left(tmp_path)
        blob.record_path.write_bytes(encode_header(blob.header)[:-1])
        with pytest.raises(StoreBrokenError):
            blob.recover()
        blob.release()

    def test_a_data_file_that_is_shorter_meanwhile_is_an_error(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, [5])
        blob = _left(tmp_path)
        with blob.data_path.open("r+b") as data:
            data.truncate(5 * PIECE + 1)
        with pytest.raises(StoreBrokenError, match="shorter than its record says"):
            blob.recover()
        blob.release()


class TestVerify:
    def test_what_is_right_is_right(self, blob: Blob) -> None:
        assert blob.verify()
        land(blob, CONTENT, [2, 0])
        assert blob.verify()
        land(blob, CONTENT)
        assert blob.verify()
        blob.seal()
        assert blob.verify()

    @pytest.mark.parametrize("damage_record", [False, True])
    def test_a_flipped_byte_is_found(self, blob: Blob, damage_record: bool) -> None:
        land(blob, CONTENT)
        blob.seal()
        flip(blob.data_path, 5 * PIECE)
        if damage_record:
            flip(blob.record_path, len(encode_header(blob.header)))
        assert not blob.verify()

    def test_a_flipped_byte_of_a_part_is_found_where_something_was_held(self, blob: Blob) -> None:
        land(blob, CONTENT, [2])
        flip(blob.data_path, 0)
        assert blob.verify()
        flip(blob.data_path, 2 * PIECE)
        assert not blob.verify()
