"""A blob of a host that is alone: recorded by prefixes, and the BLAKE3 of its pieces is made when somebody needs it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from peer.errors import StoreBrokenError, StoreError, StoreFullError
from peer.oci.digest import Digest
from peer.store import Blob, Store
from peer.store.blob_record import BlobRecord
from peer.store.data_file import DataFile
from peer.store.record import Record, decode
from scheduler.protocol.geometry import MIN_PIECE_BYTES
from tests.peer.fakes import content_of
from tests.peer.store_fixtures import a_store, create, files_of_at_most, flip, land, open_store, pinned
from tests.support.registry_server import PATIENCE_S

PIECE = MIN_PIECE_BYTES
CONTENT = content_of(7 * PIECE + 1000)
"""Eight pieces, the last of 1000 bytes."""

BLAKE3 = {index: blake3(CONTENT[index * PIECE : (index + 1) * PIECE]).digest() for index in range(8)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with a_store(tmp_path, alone=True) as store:
        yield store


@pytest.fixture
def blob(store: Store) -> Iterator[Blob]:
    with pinned(store, CONTENT) as blob:
        yield blob


@pytest.fixture(params=[True, False], ids=["still alone", "with others now"])
def alone_later(request: pytest.FixtureRequest) -> bool:
    """Whether the next process is alone."""
    return bool(request.param)


def _record(blob: Blob) -> Record:
    return decode(blob.record_path.read_bytes())


def _left(directory: Path, indices: list[int] | range, *, seal: bool = False, alone: bool = True) -> Blob:
    """The blob as the next process finds it, pinned, after a host that was alone has landed these pieces."""
    with a_store(directory, alone=True) as store:
        blob = create(store, CONTENT)
        land(blob, CONTENT, indices)
        if seal:
            blob.seal()
        blob.release()
    store = open_store(directory, alone=alone)
    store.close()
    return create(store, CONTENT)


class TestLanding:
    def test_pieces_in_order_have_no_blake3(self, blob: Blob) -> None:
        told: list[tuple[int, bytes]] = []
        for index in range(8):
            start, stop = blob.span(index)
            landed = blob.land(
                index, memoryview(CONTENT)[start:stop], on_held=lambda held, digest: told.append((held, digest))
            )
            assert landed.digest == b""
        assert told == [(index, b"") for index in range(8)]
        ends = [blob.span(index)[1] for index in range(8)]
        assert _record(blob).pieces == {}
        assert _record(blob).prefixes == {index: Digest.of(CONTENT[:end]).raw for index, end in enumerate(ends)}
        assert blob.whole
        assert blob.reread_bytes == 0

    def test_a_piece_out_of_order_has_one(self, blob: Blob) -> None:
        landed = land(blob, CONTENT, [0, 2, 1, 3])
        assert [one.digest for one in landed] == [b"", BLAKE3[2], b"", b""]
        assert (list(_record(blob).prefixes), _record(blob).pieces) == ([0, 1, 3], {2: BLAKE3[2]})
        assert blob.reread_bytes == PIECE

    def test_so_has_one_whose_digest_is_known(self, blob: Blob) -> None:
        assert blob.land(0, memoryview(CONTENT)[:PIECE], BLAKE3[0]).digest == BLAKE3[0]
        assert _record(blob).pieces == {0: BLAKE3[0]}

    @pytest.mark.parametrize("times", [1, 3])
    def test_one_that_cannot_be_recorded_is_not_held_and_can_come_again(
        self, blob: Blob, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        def full(_record: BlobRecord, _index: int, _digest: bytes) -> None:
            raise OSError(errno.ENOSPC, "no room")

        land(blob, CONTENT, [0])
        with monkeypatch.context() as disk:
            disk.setattr(BlobRecord, "add_prefix", full)
            for _ in range(times):
                with pytest.raises(StoreFullError):
                    land(blob, CONTENT, [1])
        assert list(blob.pieces) == [0]
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(land, blob, CONTENT, range(1, 8)).result(PATIENCE_S)[-1].whole

    def test_a_part_of_a_host_with_others_goes_on_as_it_began(self, tmp_path: Path) -> None:
        with a_store(tmp_path / "b") as store:
            blob = create(store, CONTENT)
            land(blob, CONTENT, [0, 1])
            blob.release()
        with a_store(tmp_path / "b", alone=True) as store:
            blob = create(store, CONTENT)
            blob.recover()
            land(blob, CONTENT, range(2, 8))
            blob.seal()
            assert (_record(blob).pieces, _record(blob).complete) == (BLAKE3, True)
            blob.release()


class TestRecovery:
    def test_what_is_right_is_held_with_its_blake3(self, tmp_path: Path, alone_later: bool) -> None:
        blob = _left(tmp_path, [0, 1, 4, 2], alone=alone_later)
        blob.recover()
        assert blob.piece_digests == {index: BLAKE3[index] for index in (0, 1, 2, 4)}
        assert (_record(blob).pieces, _record(blob).prefixes) == (blob.piece_digests, {})
        assert [one.digest for one in land(blob, CONTENT, [3, 5, 6, 7])] == [BLAKE3[each] for each in (3, 5, 6, 7)]
        assert blob.whole
        blob.seal()
        assert (_record(blob).pieces, _record(blob).complete) == (BLAKE3, True)
        blob.release()

    def test_the_sha_256_goes_on_from_there(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(8))
        blob.recover()
        assert (blob.whole, blob.reread_bytes) == (True, 0)
        blob.seal()
        assert _record(blob).complete
        blob.release()

    @pytest.mark.parametrize("changed", [0, 3, 7])
    def test_from_a_piece_whose_bytes_changed_on_only_those_with_a_blake3_are_held(
        self, tmp_path: Path, changed: int
    ) -> None:
        blob = _left(tmp_path, [0, 1, 5, 2, 3, 4, 6, 7])
        flip(blob.data_path, changed * PIECE + 500)
        blob.recover()
        right = sorted({*range(changed), *({5} if changed != 5 else ())})
        assert list(blob.pieces) == right
        assert list(_record(blob).pieces) == right
        assert blob.held_bytes == len(right) * PIECE
        assert land(blob, CONTENT)[-1].whole
        blob.release()

    def test_a_record_that_cannot_be_replaced_is_an_error_and_nothing_is_held(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(4))
        with files_of_at_most(100), pytest.raises(StoreError):
            blob.recover()
        assert (list(blob.pieces), len(_record(blob).prefixes)) == ([], 4)
        blob.recover()
        assert list(blob.pieces) == [0, 1, 2, 3]
        blob.release()


class TestCheck:
    """Of the whole blob, by the process after the one that fetched it."""

    def test_what_is_right_is_right(self, tmp_path: Path, alone_later: bool) -> None:
        blob = _left(tmp_path, range(8), seal=True, alone=alone_later)
        assert (blob.whole, blob.is_checked(5 * PIECE, 6 * PIECE)) == (True, False)
        blob.check(5 * PIECE, 6 * PIECE)
        assert (blob.is_checked(0, 6 * PIECE), blob.is_checked(6 * PIECE, len(CONTENT))) == (True, False)
        assert len(_record(blob).prefixes) == 8
        blob.check(0, len(CONTENT))
        assert blob.is_checked(0, len(CONTENT))
        blob.release()

    def test_with_the_last_piece_all_have_their_blake3(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, [0, 2, 1, *range(3, 8)], seal=True)
        blob.check(7 * PIECE, len(CONTENT))
        record = _record(blob)
        assert (record.pieces, record.prefixes, record.complete) == (BLAKE3, {}, True)
        blob.release()
        again = open_store(tmp_path)
        blob = create(again, CONTENT)
        assert (blob.whole, blob.header.by_prefix) == (True, False)
        flip(blob.data_path, 0)
        blob.check(6 * PIECE, 7 * PIECE)
        blob.release()
        again.close()

    def test_those_that_come_after_a_piece_was_read_are_found_too(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(8), seal=True)
        blob.check(0, 4 * PIECE)
        flip(blob.data_path, 2 * PIECE)
        assert not blob.is_checked(2 * PIECE, 3 * PIECE)
        with pytest.raises(StoreBrokenError, match="piece 2 "):
            blob.check(2 * PIECE, 3 * PIECE)
        blob.release()

    def test_no_piece_is_read_twice_by_who_asks_for_one_range_after_the_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blob = _left(tmp_path, range(8), seal=True)
        blob.release()
        read: list[int] = []
        chunks = DataFile.chunks

        def counted(file: DataFile, start: int, stop: int, scratch: bytearray) -> Iterator[memoryview]:
            read.append(start // PIECE)
            return chunks(file, start, stop, scratch)

        monkeypatch.setattr(DataFile, "chunks", counted)
        for index in (2, 5, 3, 7):
            with blob.pin():
                blob.check(index * PIECE, index * PIECE + 1)
        assert read == list(range(8))
        assert _record(blob).pieces == BLAKE3

    def test_several_clients_at_once_share_what_is_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else one finds a piece without its BLAKE3 that another has just made, and the blob is dropped."""
        blob = _left(tmp_path, range(8), seal=True)
        together, read = threading.Barrier(4), BlobRecord.read
        locked: list[bool] = []

        def counted(record: BlobRecord) -> Record:
            locked.append(record._reading.locked())
            return read(record)

        def digests() -> dict[int, bytes]:
            together.wait(PATIENCE_S)
            return blob.record.digests()

        monkeypatch.setattr(BlobRecord, "read", counted)
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(digests) for _ in range(4)]
            assert [each.result(PATIENCE_S) for each in asked] == [BLAKE3] * 4
        assert locked == [True, True], "for what is known, and for reading on"
        blob.release()

    def test_several_clients_at_once(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(8), seal=True)
        with ThreadPoolExecutor(4) as threads:
            checks = [threads.submit(blob.check, index * PIECE, len(CONTENT)) for index in (7, 0, 3, 0)]
            for check in checks:
                check.result(PATIENCE_S)
        assert blob.is_checked(0, len(CONTENT))
        assert _record(blob).pieces == BLAKE3
        blob.release()


@pytest.mark.parametrize("changed", [0, 4, 7])
def test_other_bytes_are_found_before_they_are_sent(tmp_path: Path, changed: int) -> None:
    blob = _left(tmp_path, range(8), seal=True)
    flip(blob.data_path, changed * PIECE + 7)
    if changed:
        blob.check(0, changed * PIECE)
    for _ in range(2):
        with pytest.raises(StoreBrokenError, match=f"piece {changed} of .* has other bytes than were stored"):
            blob.check(changed * PIECE, len(CONTENT))
    assert not blob.is_checked(changed * PIECE, changed * PIECE + 1)
    assert len(_record(blob).prefixes) == 8
    blob.release()


class TestForOthers:
    """A host that was alone has joined others since."""

    def test_the_digests_are_made_when_they_are_asked_for(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(8), seal=True, alone=False)
        assert blob.record.digests() == BLAKE3
        assert (_record(blob).pieces, _record(blob).complete) == (BLAKE3, True)
        assert blob.record.digests() == BLAKE3
        blob.release()

    def test_a_file_with_other_bytes_has_none(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(8), seal=True, alone=False)
        flip(blob.data_path, 3 * PIECE)
        with pytest.raises(StoreBrokenError, match="piece 3 "):
            blob.record.digests()
        blob.release()

    def test_a_disk_without_room_hinders_nobody(self, tmp_path: Path) -> None:
        blob = _left(tmp_path, range(8), seal=True, alone=False)
        with files_of_at_most(100):
            assert blob.record.digests() == BLAKE3
        assert (len(_record(blob).prefixes), _record(blob).complete) == (8, True)
        blob.release()


class TestVerify:
    @pytest.mark.parametrize("indices", [range(8), [0, 1, 5], [5]])
    def test_a_flipped_byte_is_found_where_something_was_held(self, tmp_path: Path, indices: list[int]) -> None:
        blob = _left(tmp_path, indices, seal=len(indices) == 8)
        assert blob.verify()
        flip(blob.data_path, 3 * PIECE)
        assert blob.verify() is (3 not in indices)
        flip(blob.data_path, 5 * PIECE)
        assert not blob.verify()
        blob.release()
