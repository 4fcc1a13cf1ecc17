"""Downloads when something breaks: the origin, the store, or this process. An error, or nothing that is noticed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginUnreachableError,
    StoreBrokenError,
    StoreFullError,
)
from peer.origin.api import Credential
from peer.store import Store
from scheduler.protocol.geometry import piece_length
from tests.peer.download_fixtures import (
    CONTENT,
    DIGEST,
    LARGE,
    PIECE,
    eventually,
    fetch_ahead,
    read,
    run,
    source,
    started,
    until,
)
from tests.peer.fakes import FakeOrigin
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import a_store, create, flip, hold_part, land, open_store


class TestWhenItBreaks:
    def test_wrong_bytes_are_an_error_to_all_and_nothing_stays(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.instead[DIGEST] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
            async with started(store) as downloads:
                outcomes = await asyncio.gather(
                    *(read(downloads, source(origin)) for _ in range(5)), return_exceptions=True
                )
                assert [type(outcome) for outcome in outcomes] == [OriginCorruptError] * 5
                assert "another SHA-256" in str(outcomes[0])
                assert store.blobs() == []
                assert downloads.statistics().corrupt == 1
                origin.instead.clear()
                assert await read(downloads, source(origin)) == CONTENT

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["wrong bytes from an origin"]

    def test_nobody_gets_a_whole_wrong_blob(self, store: Store, origin: FakeOrigin) -> None:
        got = bytearray()

        async def scene() -> None:
            origin.instead[DIGEST] = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
            async with started(store) as downloads, downloads.open(DIGEST, source(origin)) as reader:
                while True:
                    end = await reader.readable(len(got), len(CONTENT))
                    got.extend(reader.blob.read(len(got), end))

        with pytest.raises(OriginCorruptError):
            run(scene)
        assert len(got) < len(CONTENT)

    @pytest.mark.parametrize("announced", [len(CONTENT) + 1, len(CONTENT) + PIECE, 10**15, 0])
    def test_a_length_that_is_a_lie(self, store: Store, origin: FakeOrigin, announced: int) -> None:
        async def scene() -> None:
            origin.announced_bytes[DIGEST] = announced
            async with started(store) as downloads:
                with pytest.raises(OriginCorruptError):
                    await read(downloads, source(origin))
                assert store.blobs() == []
                origin.announced_bytes.clear()
                assert await read(downloads, source(origin)) == CONTENT

        run(scene)

    @pytest.mark.parametrize("kept", [len(CONTENT) - 1, PIECE, 1])
    def test_content_that_is_shorter_than_it_should_be(self, store: Store, origin: FakeOrigin, kept: int) -> None:
        async def scene() -> None:
            origin.announced_bytes[DIGEST] = kept
            async with started(store) as downloads:
                with pytest.raises(OriginCorruptError, match="another SHA-256"):
                    await read(downloads, source(origin))
            assert store.blobs() == []

        run(scene)

    def test_a_length_that_changes_on_the_way(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, [0])

        async def scene() -> None:
            origin.announced_bytes[DIGEST] = len(CONTENT) - 1
            async with started(store) as downloads:
                with pytest.raises(OriginCorruptError, match="before, it had"):
                    await read(downloads, source(origin))

        run(scene)

    def test_a_body_that_breaks_is_gone_on_with_where_it_broke(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.breaks_after = 3 * PIECE + 10
            async with started(store) as downloads:
                assert await read(downloads, source(origin)) == CONTENT
            starts = [request.start for request in origin.requests]
            assert starts[0] == 0
            assert 3 * PIECE in starts
            assert all(start >= 3 * PIECE for start in starts[1:])

        run(scene)

    def test_an_origin_that_never_brings_a_piece_is_given_up(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.breaks_after = PIECE - 1
            async with started(store, transfers_per_blob=1) as downloads:
                with pytest.raises(OriginBrokenError):
                    await read(downloads, source(origin))
                assert len(origin.requests) == 3
                origin.breaks_after = None
                assert await read(downloads, source(origin)) == CONTENT

        run(scene)

    def test_a_refusal_reaches_the_reader_as_it_is(self, store: Store, origin: FakeOrigin) -> None:
        nobody = Credential()
        origin.refused = {nobody}

        async def scene() -> None:
            async with started(store) as downloads:
                with pytest.raises(OriginRefusedError) as refusal:
                    await read(downloads, source(origin))
                assert refusal.value.status == 401
                assert refusal.value.headers == {"WWW-Authenticate": "Basic"}

        run(scene)
        assert len(origin.requests) == 1

    def test_a_refused_credential_gives_way_to_another_one(self, store: Store, origin: FakeOrigin) -> None:
        bad, good = Credential("bad"), Credential("good")
        origin.refused = {bad}

        async def scene() -> None:
            async with started(store) as downloads, asyncio.TaskGroup() as readers:
                tasks = [
                    readers.create_task(read(downloads, source(origin, credential=one))) for one in (bad, good, bad)
                ]
                await asyncio.wait(tasks)
                assert [task.result() for task in tasks] == [CONTENT] * 3

        run(scene)
        assert [request.credential for request in origin.requests] == [bad, good]

    def test_an_origin_out_of_reach(self, store: Store, origin: FakeOrigin) -> None:
        origin.unreachable = True

        async def scene() -> None:
            async with started(store) as downloads:
                with pytest.raises(OriginUnreachableError):
                    await read(downloads, source(origin))

        run(scene)
        assert store.blobs() == []

    def test_an_origin_that_ignores_range(self, store: Store, origin: FakeOrigin) -> None:
        origin.ignores_range = True

        async def scene() -> None:
            async with started(store) as downloads:
                assert await read(downloads, source(origin, LARGE), LARGE) == LARGE
            assert len(origin.requests) == 1

        run(scene)

    def test_an_origin_that_ignores_range_when_a_part_is_held(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, LARGE, [0, 1, 7])
        origin.ignores_range = True

        async def scene() -> None:
            async with started(store) as downloads:
                assert await read(downloads, source(origin, LARGE), LARGE) == LARGE

        run(scene)

    def test_a_store_without_room(self, tmp_path: Path, origin: FakeOrigin) -> None:
        async def scene() -> None:
            store = open_store(tmp_path / "small", max_bytes=len(CONTENT) - 1)
            async with started(store) as downloads:
                outcomes = await asyncio.gather(
                    *(read(downloads, source(origin)) for _ in range(3)), return_exceptions=True
                )
                assert [type(outcome) for outcome in outcomes] == [StoreFullError] * 3
            assert store.blobs() == []
            store.close()

        run(scene)

    def test_a_disk_that_fails(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            (store.directory / "blobs").rmdir()
            (store.directory / "blobs").touch()
            async with started(store) as downloads:
                with pytest.raises(StoreBrokenError):
                    await read(downloads, source(origin))
                (store.directory / "blobs").unlink()
                (store.directory / "blobs").mkdir()
                assert await read(downloads, source(origin)) == CONTENT

        run(scene)

    def test_a_blob_that_cannot_be_read_back_is_not_gone_on_with(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(1, 10))

        async def scene() -> None:
            async with started(store) as downloads:
                blob = create(store, CONTENT)
                write_only = os.open(blob.data_path, os.O_WRONLY)
                os.dup2(write_only, blob.fileno())
                os.close(write_only)
                with pytest.raises(StoreBrokenError, match="check the disk"):
                    await fetch_ahead(downloads, source(origin), CONTENT)
                blob.release()
                assert store.blobs() == []
                assert await read(downloads, source(origin)) == CONTENT

        run(scene)

    def test_a_blob_that_is_removed_while_it_arrives_reaches_its_readers(
        self, store: Store, origin: FakeOrigin
    ) -> None:
        async def scene() -> None:
            async with started(store, transfers_per_blob=1) as downloads:
                origin.hold_at(piece_length(len(LARGE)))
                async with asyncio.TaskGroup() as readers:
                    task = readers.create_task(read(downloads, source(origin, LARGE), LARGE))
                    await until(origin, lambda: origin.waiting == 1)
                    store.discard(digest_of(LARGE))
                    origin.release()
                assert task.result() == LARGE
                assert store.blobs() == []

        run(scene)


class TestAfterARestart:
    def test_only_the_missing_pieces_are_asked_for(self, store: Store, origin: FakeOrigin) -> None:
        with a_store(store.directory.parent / "other") as earlier:
            hold_part(earlier, CONTENT, [0, 1, 4, 9])

        async def scene() -> None:
            with a_store(store.directory.parent / "other") as later:
                async with started(later) as downloads:
                    async with asyncio.TaskGroup() as readers:
                        tasks = [readers.create_task(read(downloads, source(origin))) for _ in range(20)]
                    assert all(task.result() == CONTENT for task in tasks)
                assert later.blobs()[0].complete

        run(scene)
        assert origin.ranges(DIGEST) == [(2 * PIECE, 4 * PIECE), (5 * PIECE, 9 * PIECE)]

    def test_a_client_that_comes_during_the_recovery_does_not_start_it_anew(
        self, tmp_path: Path, origin: FakeOrigin
    ) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(9))
        other = Credential("another client's")

        async def scene() -> None:
            with a_store(tmp_path / "other") as later:
                async with started(later) as downloads, asyncio.TaskGroup() as readers:
                    tasks = [
                        readers.create_task(read(downloads, source(origin, credential=one)))
                        for one in (Credential(), other)
                    ]
                    await asyncio.wait(tasks)
                assert [task.result() for task in tasks] == [CONTENT] * 2

        run(scene)
        assert origin.ranges(DIGEST) == [(9 * PIECE, len(CONTENT))]

    def test_a_changed_byte_costs_its_piece_alone(self, tmp_path: Path, origin: FakeOrigin) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(10))
            flip(earlier._paths(DIGEST)[0], 6 * PIECE + 3)

        async def scene() -> None:
            with a_store(tmp_path / "other") as later:
                async with started(later) as downloads:
                    assert await read(downloads, source(origin)) == CONTENT

        run(scene)
        assert origin.ranges(DIGEST) == [(6 * PIECE, 7 * PIECE)]

    def test_what_was_whole_and_not_sealed_needs_no_origin_and_is_sealed_now(
        self, tmp_path: Path, origin: FakeOrigin
    ) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(10))

        async def scene(store: Store) -> None:
            async with started(store) as downloads:
                assert await read(downloads, source(origin)) == CONTENT
                await eventually(lambda: not store.blobs()[0].in_use)

        with a_store(tmp_path / "other") as later:
            run(lambda: scene(later))
        assert origin.requests == []
        with a_store(tmp_path / "other") as latest:
            assert latest.blobs()[0].complete

    def test_all_there_and_their_digest_wrong_is_fetched_again(self, tmp_path: Path, origin: FakeOrigin) -> None:
        with a_store(tmp_path / "other") as earlier:
            blob = create(earlier, CONTENT)
            land(blob, bytes(len(CONTENT)))
            blob.release()

        async def scene() -> None:
            with a_store(tmp_path / "other") as later:
                async with started(later) as downloads:
                    assert await read(downloads, source(origin)) == CONTENT

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["a damaged blob was removed, it is fetched again"]

    def test_a_part_that_cannot_be_read_is_fetched_again(self, tmp_path: Path, origin: FakeOrigin) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(5))

        async def scene() -> None:
            with a_store(tmp_path / "other") as later:
                later._paths(DIGEST)[1].write_bytes(b"")
                async with started(later) as downloads:
                    assert await read(downloads, source(origin)) == CONTENT
                assert later.blobs()[0].complete

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["a damaged blob was removed, it is fetched again"]

    def test_a_download_that_failed_is_gone_on_with(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with started(store) as downloads:
                origin.hold_at(2 * PIECE)
                async with downloads.open(DIGEST, source(origin)) as reader:
                    await reader.readable(PIECE, len(CONTENT))
                    origin.unreachable = True
                    origin.breaks_after = 2 * PIECE
                    origin.release()
                    with pytest.raises(OriginUnreachableError):
                        await reader.readable(2 * PIECE, len(CONTENT))
                origin.unreachable = False
                origin.breaks_after = None
                assert await read(downloads, source(origin)) == CONTENT
            starts = [request.start for request in origin.requests[1:]]
            assert min(starts) == 2 * PIECE

        run(scene)

    def test_what_an_earlier_download_lands_late_counts_for_the_next(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(9))

        async def scene() -> None:
            blob = create(store, CONTENT)
            async with started(store, linger_s=0.0) as downloads, asyncio.TaskGroup() as readers:
                with blob._appending:  # no piece can be recorded
                    leaves = readers.create_task(read(downloads, source(origin)))
                    await eventually(lambda: blob._at_hand == {9})
                    leaves.cancel()
                    await asyncio.wait([leaves])
                    assert downloads.statistics().active == 0
                    origin.hold_at(0)
                    comes = readers.create_task(read(downloads, source(origin)))
                    await until(origin, lambda: origin.waiting == 1)
                assert await comes == CONTENT
                blob.release()

        run(scene)
