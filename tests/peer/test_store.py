"""The store directory: whose it is, and what survives in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from peer.errors import (
    BlobInUseError,
    ForeignDirectoryError,
    StoreInUseError,
)
from peer.oci.digest import Digest
from peer.store import Store
from peer.store.directory import MARK, MARKER
from peer.store.held_blobs import TOUCH_EVERY_S
from peer.store.record import COMPLETE, decode, encode_entry, encode_header
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import (
    MEDIA_TYPE,
    a_store,
    create,
    files_in,
    files_of,
    flip,
    hold,
    hold_part,
    land,
    open_store,
)
from tests.peer.storing_process import CONTENT as THEIR_CONTENT
from tests.peer.storing_process import COUNT, PIECE, storing_process

CONTENT = content_of(3 * PIECE + 5, seed=4)
DIGEST = digest_of(CONTENT)


class TestTheDirectory:
    def test_a_new_one_is_made_for_us_alone(self, tmp_path: Path) -> None:
        directory = tmp_path / "below" / "store"
        with a_store(directory):
            assert directory.stat().st_mode & 0o777 == 0o700
            assert (directory / MARKER).read_bytes() == MARK

    def test_an_empty_one_is_taken(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            assert store.blobs() == []

    @pytest.mark.parametrize("name", ["file", ".hidden", "blobs", "lock"])
    def test_one_with_something_in_it_is_refused_and_not_touched(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("data")
        with pytest.raises(ForeignDirectoryError, match="not a store of p2pd's"):
            open_store(tmp_path)
        assert files_in(tmp_path) == [f"{name}/precious"]

    @pytest.mark.parametrize(("mark", "why"), [(b"store format 2\n", "of a version"), (b"\xff\xfe", "is damaged")])
    def test_a_mark_that_we_do_not_know_is_refused(self, tmp_path: Path, mark: bytes, why: str) -> None:
        (tmp_path / MARKER).write_bytes(mark)
        with pytest.raises(ForeignDirectoryError, match=why):
            open_store(tmp_path)
        assert files_in(tmp_path) == [MARKER]

    @pytest.mark.parametrize("mark", [b"", b"store", bytes(len(MARK))])
    def test_one_that_was_being_made_when_we_were_killed_is_taken(self, tmp_path: Path, mark: bytes) -> None:
        (tmp_path / MARKER).write_bytes(mark)
        with a_store(tmp_path):
            assert (tmp_path / MARKER).read_bytes() == MARK

    @pytest.mark.parametrize("below", [".", "below"])
    def test_a_file_is_no_directory(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("data")
        with pytest.raises(ForeignDirectoryError, match="name a directory"):
            open_store(tmp_path / "file" / below)
        assert (tmp_path / "file").read_text() == "data"

    def test_one_that_another_process_uses_is_refused(self, tmp_path: Path) -> None:
        with storing_process(tmp_path, 0) as (process, says):
            assert says.readline() == "idle\n"
            with pytest.raises(StoreInUseError, match="another p2pd uses"):
                open_store(tmp_path)
            process.kill()
            process.wait()
            with a_store(tmp_path) as store:
                assert len(store.blobs()) == 1

    def test_one_that_was_given_up_is_free(self, tmp_path: Path) -> None:
        store = open_store(tmp_path)
        with pytest.raises(StoreInUseError):
            open_store(tmp_path)
        store.close()
        store.close()
        with a_store(tmp_path):
            pass


class TestWhatIsThere:
    def test_a_blob_and_what_is_told_of_it(self, store: Store) -> None:
        assert (store.peek(DIGEST), store.acquire(DIGEST), store.blobs()) == (None, None, [])
        blob = create(store, CONTENT)
        info = store.peek(DIGEST)
        assert info is not None
        assert (info.size_bytes, info.held_bytes, info.complete, info.in_use) == (len(CONTENT), 0, False, True)
        assert info.media_type == MEDIA_TYPE
        assert os.stat(blob.data_path).st_blocks * 512 >= len(CONTENT), "its room is taken"
        land(blob, CONTENT)
        blob.release()
        assert store.acquire(DIGEST) is blob
        blob.release()
        (info,) = store.blobs()
        assert (info.held_bytes, info.complete, info.in_use) == (len(CONTENT), True, False)

    def test_to_create_what_is_there_gives_it(self, store: Store) -> None:
        blob = create(store, CONTENT)
        assert create(store, CONTENT) is blob
        assert store.statistics().used_bytes == len(CONTENT)
        blob.release()
        assert blob.pinned
        blob.release()

    def test_another_length_replaces_it_and_who_has_it_open_keeps_it(self, store: Store) -> None:
        old = create(store, CONTENT)
        land(old, CONTENT, [0])
        new = store.create(DIGEST, len(CONTENT) - 1, "")
        assert new is not old
        assert new.held_bytes == 0
        assert old.read(0, 10) == CONTENT[:10]
        assert store.statistics().used_bytes == len(CONTENT) - 1
        old.release()
        new.release()

    def test_a_part_in_other_pieces_makes_room_for_them_and_a_whole_blob_stays(self, store: Store) -> None:
        content = bytes(24 << 20)
        size_bytes, digest = len(content), digest_of(content)
        part = store.create(digest, size_bytes, "")
        assert (part.count, part.header.told_piece_length) == (24, 0)
        short = store.create(digest, size_bytes, "", told_length=1 << 19)
        assert (short.count, short.header.told_piece_length) == (48, 1 << 19)
        assert store.statistics().used_bytes == size_bytes
        land(short, content)
        assert store.create(digest, size_bytes, "") is short
        for blob in (part, short, short):
            blob.release()

    def test_remove_and_discard(self, store: Store) -> None:
        blob = create(store, CONTENT)
        with pytest.raises(BlobInUseError, match="read or written"):
            store.remove(DIGEST)
        blob.release()
        assert store.remove(DIGEST)
        assert not store.remove(DIGEST)
        store.discard(DIGEST)
        assert files_in(store.directory / "blobs") == []
        assert store.statistics().used_bytes == 0

    def test_discard_takes_even_what_is_open(self, store: Store) -> None:
        blob = create(store, CONTENT)
        land(blob, CONTENT)
        store.discard(DIGEST)
        assert store.peek(DIGEST) is None
        assert blob.read(0, 10) == CONTENT[:10]
        blob.seal()
        blob.release()
        assert files_in(store.directory / "blobs") == []


_DAMAGES: list[Callable[[Path, Path], object]] = [
    lambda _, record: record.write_bytes(b""),
    lambda _, record: record.write_bytes(b"x" * 1000),
    lambda _, record: flip(record, 20),
    lambda _, record: record.unlink(),
    lambda data, _: data.unlink(),
    lambda data, _: os.truncate(data, 10),
    lambda _, record: record.rename(record.with_name(f"{'0' * 64}.record")),
    lambda data, _: data.rename(data.with_name("0" * 64)),
]
"""What can have been done to a blob's data file and its record, while nobody used the store."""


class TestAfterARestart:
    def test_whole_and_part_and_nothing(self, tmp_path: Path) -> None:
        contents = [content_of(2 * PIECE, seed) for seed in range(3)]
        with a_store(tmp_path) as store:
            hold(store, contents[0])
            hold_part(store, contents[1], [1])
            hold_part(store, contents[2], [])
        with a_store(tmp_path) as store:
            infos = [store.peek(digest_of(content)) for content in contents]
            assert [info and (info.complete, info.held_bytes) for info in infos] == [
                (True, 2 * PIECE),
                (False, PIECE),
                (False, 0),
            ]
            assert store.statistics().used_bytes == 6 * PIECE
            blob = store.acquire(digest_of(contents[0]))
            assert blob is not None
            assert blob.read(0, blob.size_bytes) == contents[0]
            blob.release()

    def test_last_used_survives(self, tmp_path: Path) -> None:
        contents = [content_of(10, seed) for seed in range(3)]
        with a_store(tmp_path) as store:
            for content in contents:
                hold(store, content)
            long_ago = time.time() - 1000
            for age, content in enumerate(contents):
                _, record = files_of(store, digest_of(content))
                os.utime(record, (long_ago - age, long_ago - age))
        with a_store(tmp_path) as store:
            assert [info.digest for info in store.blobs()] == [digest_of(content) for content in contents]
            blob = store.acquire(digest_of(contents[2]))
            assert blob is not None
            blob.release()
        with a_store(tmp_path) as store:
            first, *_ = store.blobs()
            assert first.digest == digest_of(contents[2])
            assert abs(first.last_used - time.time()) < TOUCH_EVERY_S

    @pytest.mark.parametrize("damage", _DAMAGES)
    def test_what_is_damaged_goes_and_the_rest_stays(
        self, tmp_path: Path, damage: Callable[[Path, Path], object]
    ) -> None:
        other = content_of(10)
        with a_store(tmp_path) as store:
            hold(store, CONTENT)
            hold(store, other)
            data, record = files_of(store, DIGEST)
        damage(data, record)
        with a_store(tmp_path) as store:
            assert [info.digest for info in store.blobs()] == [digest_of(other)]
            assert len(files_in(tmp_path / "blobs")) == 2
            assert store.statistics().used_bytes == 10

    def test_a_record_that_names_another_file_touches_nothing_of_it(self, tmp_path: Path) -> None:
        with a_store(tmp_path / "store") as store:
            hold(store, CONTENT)
            _, record = files_of(store, DIGEST)
        (tmp_path / "precious").write_bytes(b"")
        header = decode(record.read_bytes()).header
        outside = type(header)(cast("Digest", "sha256:../../../precious"), 0, header.piece_length, "")
        record.write_bytes(encode_header(outside))
        with a_store(tmp_path / "store") as store:
            assert store.blobs() == []
        assert (tmp_path / "precious").exists()

    def test_a_record_of_pieces_that_no_such_blob_has_is_damaged(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold(store, CONTENT)
            _, record = files_of(store, DIGEST)
        header = decode(record.read_bytes()).header
        record.write_bytes(encode_header(replace(header, piece_length=3 * header.piece_length)))
        with a_store(tmp_path) as store:
            assert store.blobs() == []
        assert files_in(tmp_path / "blobs") == []

    def test_a_part_is_not_whole_because_its_record_says_so(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            hold_part(store, CONTENT, [0, 1])
            _, record = files_of(store, DIGEST)
        with record.open("ab") as file:
            file.write(encode_entry(COMPLETE))
        with a_store(tmp_path) as store:
            info = store.peek(DIGEST)
            assert info is not None
            assert not info.complete


class TestKilled:
    @pytest.mark.parametrize("landed_before", [1, 7, COUNT])
    def test_what_was_announced_is_kept_and_nothing_unverified_is_held(
        self, tmp_path: Path, landed_before: int
    ) -> None:
        announced = set()
        with storing_process(tmp_path, COUNT) as (process, says):
            for _ in range(landed_before):
                announced.add(int(says.readline().removeprefix("landed ")))
            process.kill()
            process.wait()
            announced |= {int(line.removeprefix("landed ")) for line in says if line.startswith("landed ")}
        content = THEIR_CONTENT
        with a_store(tmp_path) as store:
            blob = store.acquire(digest_of(content))
            assert blob is not None
            assert (blob.whole, list(blob.pieces)) == (False, [])
            blob.recover()
            assert announced <= set(blob.pieces)
            assert all(blob.read(*blob.span(index)) == content[slice(*blob.span(index))] for index in blob.pieces)
            missing = sorted(set(range(COUNT)) - set(blob.pieces))
            land(blob, content, missing)
            assert blob.whole
            blob.release()

    def test_between_whole_and_sealed(self, tmp_path: Path) -> None:
        with storing_process(tmp_path, COUNT) as (process, says):
            assert any(line == "idle\n" for line in says)
            process.kill()
            process.wait()
        with a_store(tmp_path) as store:
            blob = store.acquire(digest_of(THEIR_CONTENT))
            assert blob is not None
            assert (blob.whole, blob.servable_until(0)) == (False, 0)
            blob.recover()
            assert blob.verdict
            blob.seal()
            blob.release()
        with a_store(tmp_path) as store:
            assert store.blobs()[0].complete

    def test_a_changed_byte_of_a_recorded_piece_costs_that_piece_alone(self, tmp_path: Path) -> None:
        content = THEIR_CONTENT
        with storing_process(tmp_path, COUNT - 1) as (process, says):
            landed = [int(line.removeprefix("landed ")) for line in iter(says.readline, "idle\n")]
            process.kill()
            process.wait()
        with a_store(tmp_path) as store:
            blob = store.acquire(digest_of(content))
            assert blob is not None
            flip(blob.data_path, landed[0] * PIECE)
            blob.recover()
            assert set(blob.pieces) == set(landed[1:])
            blob.release()


class TestVerify:
    def test_what_is_wrong_is_found_and_removed(self, store: Store) -> None:
        contents = [content_of(PIECE + 10, seed) for seed in range(3)]
        hold(store, contents[0])
        hold(store, contents[1])
        hold_part(store, contents[2], [1])
        for content in contents[1:]:
            flip(files_of(store, digest_of(content))[0], PIECE + 5)
        report = store.verify()
        assert (report.checked, set(report.bad)) == (3, {digest_of(content) for content in contents[1:]})
        assert [info.digest for info in store.blobs()] == [digest_of(contents[0])]
        assert store.verify().bad == ()

    def test_what_cannot_be_read_is_wrong(self, store: Store) -> None:
        hold(store, CONTENT)
        files_of(store, DIGEST)[0].unlink()
        assert store.verify().bad == (DIGEST,)
        assert store.blobs() == []
