"""What is checked before a held blob is sent, and what becomes of one whose file is gone or has other bytes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.core import events
from peer.errors import OriginUnreachableError, StoreBrokenError, StoreError
from peer.sendfile import send_file
from peer.store import Blob, Store
from peer.store.check import AGAIN_S, FRESH_S, HOLDS_S, Check, Signature
from tests.peer.download_fixtures import CONTENT, DIGEST, PIECE, eventually, outcome_of, read, run, source, started
from tests.peer.fakes import FakeOrigin
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import a_store, create, files_of, flip, hold, land
from tests.peer.swarm_fixtures import scripted

LOST = "a blob was lost, it is fetched again when it is wanted"
ONE, OTHER = Signature(3, 1, 100, 5, 5), Signature(3, 1, 100, 5, 6)


@contextmanager
def acquired(store: Store) -> Iterator[Blob]:
    """The blob, pinned while the block runs."""
    blob = store.acquire(DIGEST)
    assert blob is not None
    try:
        yield blob
    finally:
        blob.release()


class TestHowLongACheckHolds:
    def test_what_was_stored_here_is_right_until_somebody_writes_to_it(self) -> None:
        check = Check(4)
        assert not check.covers(ONE, 0, 1)
        check.stored(ONE, 10.0)
        assert check.covers(ONE, 0, 4)
        assert not check.covers(OTHER, 0, 1)

    def test_pieces_count_one_by_one(self) -> None:
        check = Check(4)
        check.read(ONE, 1, 10.0)
        check.read(ONE, 2, 10.0)
        assert check.covers(ONE, 1, 3)
        assert not check.covers(ONE, 0, 2)
        check.read(OTHER, 3, 11.0)
        assert check.covers(OTHER, 3, 4)
        assert not check.covers(OTHER, 1, 2), "they were read in another state of the file"

    def test_a_day_later_it_is_read_again(self) -> None:
        check = Check(4)
        check.stored(ONE, 10.0)
        check.asked(10.0 + HOLDS_S)
        assert check.covers(ONE, 0, 4)
        check.asked(10.1 + HOLDS_S)
        assert not check.covers(ONE, 0, 1)

    def test_who_asks_again_for_what_was_sent_whole_gets_it_checked(self) -> None:
        check = Check(1)
        check.stored(ONE, 0.0)
        check.sent_whole(100.0)
        check.asked(100.0 + AGAIN_S)
        assert check.covers(ONE, 0, 1), "much later it is another pull"
        check.sent_whole(2000.0)
        check.asked(2001.0)
        assert not check.covers(ONE, 0, 1)

    def test_many_who_ask_cost_one_check(self) -> None:
        check = Check(1)
        check.sent_whole(100.0)
        check.read(ONE, 0, 101.0)
        check.sent_whole(101.0)
        check.asked(101.0 + FRESH_S)
        assert check.covers(ONE, 0, 1)
        check.asked(101.1 + FRESH_S)
        assert not check.covers(ONE, 0, 1)

    def test_nothing_is_left_of_what_was_known_before_a_doubt(self) -> None:
        check = Check(2)
        check.stored(ONE, 0.0)
        check.void()
        check.read(ONE, 1, 1.0)
        assert not check.covers(ONE, 0, 1)


class TestABlob:
    def test_what_landed_here_is_not_read_again(self, store: Store) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            assert blob.is_checked(0, len(CONTENT))

    def test_nor_what_was_read_since_the_start(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as earlier:
            hold(earlier, CONTENT)
        with a_store(tmp_path) as store, acquired(store) as blob:
            assert not blob.is_checked(0, 1), "nobody knows what was done to it meanwhile"
            blob.check(PIECE, 3 * PIECE)
            assert blob.is_checked(PIECE + 1, 3 * PIECE)
            assert not blob.is_checked(PIECE, 3 * PIECE + 1)

    def test_a_changed_byte_is_found_in_its_piece_alone(self, store: Store) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            flip(blob.data_path, 2 * PIECE)
            assert not blob.is_checked(0, 1), "somebody has written to the file"
            blob.check(0, 2 * PIECE)
            with pytest.raises(StoreBrokenError, match=r"piece 2 of .* has other bytes than were stored"):
                blob.check(0, len(CONTENT))
            blob.check(3 * PIECE, len(CONTENT))

    def test_times_that_were_set_back_do_not_hide_it(self, store: Store) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            times = blob.data_path.stat()
            flip(blob.data_path, 0)
            os.utime(blob.data_path, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert not blob.is_checked(0, 1)

    @pytest.mark.parametrize("size_bytes", [0, len(CONTENT) - 1, len(CONTENT) + 1])
    def test_another_length(self, store: Store, size_bytes: int) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            os.truncate(blob.data_path, size_bytes)
            with pytest.raises(StoreBrokenError, match=f"has {size_bytes} bytes"):
                blob.check(0, 1)
            if size_bytes < len(CONTENT):
                with pytest.raises(StoreBrokenError, match="shorter"):
                    blob.read(0, len(CONTENT))

    @pytest.mark.parametrize("content", [None, b"", b"x" * 1000])
    def test_a_record_that_says_nothing(self, tmp_path: Path, content: bytes | None) -> None:
        with a_store(tmp_path) as earlier:
            hold(earlier, CONTENT)
        with a_store(tmp_path) as store, acquired(store) as blob:
            if content is None:
                blob.record_path.unlink()
            else:
                blob.record_path.write_bytes(content)
            with pytest.raises(StoreBrokenError):
                blob.check(0, len(CONTENT))

    def test_a_doubt_has_it_read_again(self, store: Store) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            blob.doubt()
            assert not blob.is_checked(0, 1)
            blob.check(0, len(CONTENT))
            assert blob.is_checked(0, len(CONTENT))

    def test_one_that_was_sent_whole_and_is_asked_for_again(self, store: Store) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            blob.sent_whole()
            blob.asked()
            assert not blob.is_checked(0, 1)

    @pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: os.truncate(path, 10)])
    def test_one_that_was_cut_or_removed_while_it_arrived_is_not_sealed(
        self, store: Store, harm: Callable[[Path], None]
    ) -> None:
        blob = create(store, CONTENT)
        land(blob, CONTENT)
        harm(blob.data_path)
        with pytest.raises(StoreBrokenError, match="while it arrived"):
            blob.seal()
        assert not blob.is_checked(0, 1)
        blob.release()

    def test_a_whole_one_is_opened_for_reading_only(self, store: Store) -> None:
        hold(store, CONTENT)
        with acquired(store) as blob, pytest.raises(OSError, match="Bad file descriptor"):
            os.write(blob.fileno(), b"x")

    def test_one_that_is_whole_and_not_sealed_can_be_sealed_after_it_was_closed(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            blob = create(store, CONTENT)
            land(blob, CONTENT)
            blob.release()
            blob.seal()
        with a_store(tmp_path) as store:
            assert store.blobs()[0].complete


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        path.unlink()
        make(path)

    return do


HARM: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "its directory removed": lambda path: shutil.rmtree(path.parent),
    "all directories removed": lambda path: shutil.rmtree(path.parent.parent),
    "a link in its place": in_its_place(lambda path: path.symlink_to("/dev/zero")),
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, PIECE + 1),
    "longer": lambda path: os.truncate(path, len(CONTENT) + PIECE),
    "the first byte changed": lambda path: flip(path, 0),
    "the last byte changed": lambda path: flip(path, len(CONTENT) - 1),
}
"""What can be done to the file of a blob that is held."""


@pytest.mark.parametrize("harm", HARM)
class TestWhoAsksForALostBlob:
    def test_gets_it_fetched_again(self, store: Store, origin: FakeOrigin, harm: str) -> None:
        async def scene() -> None:
            async with started(store) as (_, readers):
                hold(store, CONTENT)
                HARM[harm](files_of(store, DIGEST)[0])
                assert await read(readers, source(origin)) == CONTENT
                assert await read(readers, None) == CONTENT

        with capture_logs() as logs:
            run(scene)
        assert LOST in [log["event"] for log in logs]
        assert store.blobs()[0].complete

    def test_gets_an_error_where_there_is_nobody_to_fetch_it_from(self, store: Store, harm: str) -> None:
        async def scene() -> None:
            async with started(store) as (_, readers):
                hold(store, CONTENT)
                HARM[harm](files_of(store, DIGEST)[0])
                with pytest.raises(OriginUnreachableError, match="not held here"):
                    await read(readers, None)

        with capture_logs():
            run(scene)
        assert store.blobs() == []


def test_a_directory_in_the_place_of_a_file_stops_that_blob_alone(store: Store, origin: FakeOrigin) -> None:
    async def scene() -> None:
        async with started(store) as (_, readers):
            hold(store, CONTENT)
            path = files_of(store, DIGEST)[0]
            path.unlink()
            (path / "precious").mkdir(parents=True)
            with pytest.raises(StoreBrokenError, match="something else is in its place"):
                await read(readers, source(origin))
            assert (path / "precious").is_dir()
            assert store.state.is_well

    with capture_logs():
        run(scene)


def test_a_reader_in_the_middle_goes_on_with_what_is_fetched_again(store: Store, origin: FakeOrigin) -> None:
    async def scene() -> None:
        async with started(store) as (_, readers):
            hold(store, CONTENT)
            async with readers.open(DIGEST, source(origin)) as reader:
                end = await reader.readable(0, 2 * PIECE)
                got = reader.blob.read(0, end)
                flip(reader.blob.data_path, 5 * PIECE)
                while end < len(CONTENT):
                    start, end = end, await reader.readable(end, len(CONTENT))
                    got += reader.blob.read(start, end)
                assert got == CONTENT
        assert store.statistics().lost == 1

    with capture_logs():
        run(scene)


def test_what_is_read_first_is_right_when_the_reader_is_there(store: Store, origin: FakeOrigin) -> None:
    """A manifest is read from the blob itself."""

    async def scene() -> None:
        async with started(store) as (_, readers):
            hold(store, CONTENT)
            flip(files_of(store, DIGEST)[0], 5)
            async with readers.open(DIGEST, source(origin)) as reader:
                await reader.readable(0, len(CONTENT))
                assert reader.blob.read(0, 10) == CONTENT[:10]
                assert not reader.from_store

    with capture_logs():
        run(scene)


def test_a_file_that_is_cut_while_it_is_sent_ends_the_answer_with_an_error(store: Store) -> None:
    async def scene() -> None:
        hold(store, CONTENT)
        with acquired(store) as blob:
            os.truncate(blob.data_path, PIECE)

            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                errors.append(await outcome_of(send_file(writer.transport, blob, 0, len(CONTENT))))
                writer.close()

            errors: list[object] = []
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
                assert await reader.read() == CONTENT[:PIECE]
                writer.close()
            (error,) = errors
            assert isinstance(error, StoreBrokenError)
            assert "shorter" in str(error)
            os.truncate(blob.data_path, len(CONTENT))
            assert not blob.is_checked(0, 1)

    run(scene)


def test_no_rotten_tiny_blob_goes_to_the_scheduler(store: Store) -> None:
    tiny = b"a manifest"

    async def scene() -> None:
        hold(store, tiny)
        async with scripted(store) as it:
            it.host.start("127.0.0.1:1")
            flip(files_of(store, digest_of(tiny))[0], 0)
            assert it.host._store_work._recorded(digest_of(tiny).raw) == events.DigestsRead(digest_of(tiny).raw, {})
        assert store.blobs() == []

    with capture_logs():
        run(scene)


def test_other_hosts_are_told_and_get_none_of_it(store: Store) -> None:
    """A host that sends wrong bytes is put into quarantine."""

    async def scene() -> None:
        hold(store, CONTENT)
        async with scripted(store) as it:
            it.host.start("127.0.0.1:1")
            assert it.host.machine.may_serve(DIGEST.raw, 0, PIECE)
            blob = await it.host.servable(DIGEST, 0, PIECE)
            assert blob is not None
            blob.release()
            flip(files_of(store, DIGEST)[0], 0)
            with pytest.raises(StoreError):
                await it.host.servable(DIGEST, 0, PIECE)
            await eventually(lambda: not it.host.machine.may_serve(DIGEST.raw, 0, PIECE))

    with capture_logs() as logs:
        run(scene)
    assert LOST in [log["event"] for log in logs]


def test_a_seed_whose_record_is_gone_is_no_seed_any_more(store: Store) -> None:
    async def scene() -> None:
        hold(store, CONTENT)
        async with scripted(store) as it:
            it.host.start("127.0.0.1:1")
            files_of(store, DIGEST)[1].unlink()
            await it.host._store_work.read_digests(DIGEST.raw)
            await eventually(lambda: not it.host.machine.may_serve(DIGEST.raw, 0, PIECE))

    with capture_logs():
        run(scene)
    assert store.blobs() == []
