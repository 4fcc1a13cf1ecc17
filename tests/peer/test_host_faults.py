"""Downloads when something breaks: the origin, the store, or this process. An error, or nothing that is noticed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.core.events import Phase
from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginUnreachableError,
    OriginUnusableError,
    StoreBrokenError,
    StoreFullError,
)
from peer.oci.descriptor import Descriptor
from peer.origin.api import Credential
from peer.origin_range import OriginSource
from peer.readers import Readers
from peer.store import Blob, Store
from scheduler.protocol.geometry import piece_length
from scheduler.protocol.to_host import InlineBlob
from tests.peer.download_fixtures import (
    CONTENT,
    DIGEST,
    LARGE,
    PIECE,
    eventually,
    fetch_ahead,
    outcome_of,
    read,
    run,
    source,
    started,
    until,
)
from tests.peer.fakes import FakeOrigin
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import a_store, create, files_of, files_of_at_most, flip, hold_part, land, open_store
from tests.peer.swarm_fixtures import digests, neighbour, scripted

TINY = b"a manifest"


@contextmanager
def only(mode: int, blob: Blob) -> Iterator[None]:
    """The blob's file may only be read, or only be written: whatever else is tried fails."""
    before = os.dup(blob.fileno())
    file = os.open(blob.data_path, mode)
    os.dup2(file, blob.fileno())
    os.close(file)
    try:
        yield
    finally:
        if blob.pinned:
            os.dup2(before, blob.fileno())
        os.close(before)


async def known(readers: Readers, wanted: OriginSource, expected: Descriptor) -> None:
    """Wait for headers of a blob of which a manifest has said the length."""
    async with readers.open(DIGEST, wanted, expected=expected):
        pass


class TestWhenItBreaks:
    def test_wrong_bytes_are_an_error_to_all_and_nothing_stays(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.instead[DIGEST] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
            async with started(store) as (host, readers):
                outcomes = await asyncio.gather(
                    *(read(readers, source(origin)) for _ in range(5)), return_exceptions=True
                )
                assert [type(outcome) for outcome in outcomes] == [OriginCorruptError] * 5
                assert "another SHA-256" in str(outcomes[0])
                assert store.blobs() == []
                assert host.statistics().corrupt == 1
                origin.instead.clear()
                assert await read(readers, source(origin)) == CONTENT

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["wrong bytes from an origin"]

    def test_nobody_gets_a_whole_wrong_blob(self, store: Store, origin: FakeOrigin) -> None:
        got = bytearray()

        async def scene() -> None:
            origin.instead[DIGEST] = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
            async with started(store) as (_, readers), readers.open(DIGEST, source(origin)) as reader:
                while len(got) < len(CONTENT):
                    end = await reader.readable(len(got), len(CONTENT))
                    got.extend(reader.blob.read(len(got), end))

        with pytest.raises(OriginCorruptError):
            run(scene)
        assert len(got) < len(CONTENT)

    @pytest.mark.parametrize("announced", [len(CONTENT) + 1, len(CONTENT) + PIECE, 10**15, 0])
    def test_a_length_that_is_a_lie(self, store: Store, origin: FakeOrigin, announced: int) -> None:
        async def scene() -> None:
            origin.announced_bytes[DIGEST] = announced
            async with started(store) as (_, readers):
                with pytest.raises(OriginUnusableError):
                    await read(readers, source(origin))
                assert store.blobs() == []
                origin.announced_bytes.clear()
                assert await read(readers, source(origin)) == CONTENT

        with capture_logs() as logs:
            run(scene)
        assert "wrong bytes from an origin" not in [log["event"] for log in logs]

    def test_an_answer_of_no_use_is_not_called_wrong_bytes(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.announced_bytes[DIGEST] = 0
            async with started(store) as (host, readers):
                with pytest.raises(OriginUnusableError):
                    await read(readers, source(origin))
                assert (host.statistics().unusable_answers, host.statistics().corrupt) == (1, 0)

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["an origin's answer could not be used"]

    @pytest.mark.parametrize("kept", [len(CONTENT) - 1, PIECE, 1])
    def test_content_that_is_shorter_than_it_should_be(self, store: Store, origin: FakeOrigin, kept: int) -> None:
        async def scene() -> None:
            origin.announced_bytes[DIGEST] = kept
            async with started(store) as (_, readers):
                with pytest.raises(OriginCorruptError, match="another SHA-256"):
                    await read(readers, source(origin))
            assert store.blobs() == []

        run(scene)

    def test_a_length_that_changes_on_the_way(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, [0])

        async def scene() -> None:
            origin.announced_bytes[DIGEST] = len(CONTENT) - 1
            async with started(store) as (_, readers):
                with pytest.raises(OriginUnusableError, match="before, it had"):
                    await read(readers, source(origin))

        run(scene)

    def test_a_body_that_breaks_is_gone_on_with_where_it_broke(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.breaks_after = 3 * PIECE + 10
            async with started(store) as (_, readers):
                assert await read(readers, source(origin)) == CONTENT
            starts = [request.start for request in origin.requests]
            assert starts[0] == 0
            assert 3 * PIECE in starts
            assert all(start >= 3 * PIECE for start in starts[1:])

        run(scene)

    def test_an_origin_that_never_brings_a_piece_is_given_up(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.breaks_after = PIECE - 1
            async with started(store, transfers_per_blob=1) as (_, readers):
                with pytest.raises(OriginBrokenError):
                    await read(readers, source(origin))
                assert len(origin.requests) == 3
                origin.breaks_after = None
                assert await read(readers, source(origin)) == CONTENT

        run(scene)

    def test_a_refusal_reaches_the_reader_as_it_is(self, store: Store, origin: FakeOrigin) -> None:
        nobody = Credential()
        origin.refused = {nobody}

        async def scene() -> None:
            async with started(store) as (_, readers):
                with pytest.raises(OriginRefusedError) as refusal:
                    await read(readers, source(origin))
                assert refusal.value.status == 401
                assert refusal.value.headers == {"WWW-Authenticate": "Basic"}

        run(scene)
        assert len(origin.requests) == 1

    def test_a_refused_credential_gives_way_to_another_one(self, store: Store, origin: FakeOrigin) -> None:
        bad, good = Credential("bad"), Credential("good")
        origin.refused = {bad}

        async def scene() -> None:
            async with started(store) as (_, readers), asyncio.TaskGroup() as clients:
                tasks = [clients.create_task(read(readers, source(origin, credential=one))) for one in (bad, good, bad)]
                await asyncio.wait(tasks)
                assert [task.result() for task in tasks] == [CONTENT] * 3

        run(scene)
        assert [request.credential for request in origin.requests] == [bad, good]

    def test_an_origin_out_of_reach(self, store: Store, origin: FakeOrigin) -> None:
        origin.unreachable = True

        async def scene() -> None:
            async with started(store) as (_, readers):
                with pytest.raises(OriginUnreachableError):
                    await read(readers, source(origin))

        run(scene)
        assert store.blobs() == []

    def test_an_origin_that_ignores_range(self, store: Store, origin: FakeOrigin) -> None:
        origin.ignores_range = True

        async def scene() -> None:
            async with started(store) as (_, readers):
                assert await read(readers, source(origin, LARGE), LARGE) == LARGE
            assert len(origin.requests) == 1

        run(scene)

    def test_an_origin_that_ignores_range_when_a_part_is_held(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, LARGE, [0, 1, 7])
        origin.ignores_range = True

        async def scene() -> None:
            async with started(store) as (_, readers):
                assert await read(readers, source(origin, LARGE), LARGE) == LARGE

        run(scene)

    def test_a_store_without_room(self, tmp_path: Path, origin: FakeOrigin) -> None:
        async def scene() -> None:
            store = open_store(tmp_path / "small", max_bytes=len(CONTENT) - 1)
            async with started(store) as (_, readers):
                outcomes = await asyncio.gather(
                    *(read(readers, source(origin)) for _ in range(3)), return_exceptions=True
                )
                assert [type(outcome) for outcome in outcomes] == [StoreFullError] * 3
            assert store.blobs() == []
            store.close()

        run(scene)

    def test_a_disk_that_fails(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            (store.directory / "blobs").rmdir()
            (store.directory / "blobs").touch()
            async with started(store) as (_, readers):
                with pytest.raises(StoreBrokenError):
                    await read(readers, source(origin))
                (store.directory / "blobs").unlink()
                (store.directory / "blobs").mkdir()
                assert await read(readers, source(origin)) == CONTENT

        run(scene)

    def test_a_blob_that_cannot_be_read_back_is_not_gone_on_with(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(1, 10))

        async def scene() -> None:
            async with started(store) as (_, readers):
                blob = create(store, CONTENT)
                write_only = os.open(blob.data_path, os.O_WRONLY)
                os.dup2(write_only, blob.fileno())
                os.close(write_only)
                with pytest.raises(StoreBrokenError, match="check the disk"):
                    await fetch_ahead(readers, source(origin), CONTENT)
                blob.release()
                assert store.blobs() == []
                assert await read(readers, source(origin)) == CONTENT

        run(scene)

    def test_a_blob_that_is_removed_while_it_arrives_reaches_its_readers(
        self, store: Store, origin: FakeOrigin
    ) -> None:
        async def scene() -> None:
            async with started(store, transfers_per_blob=1) as (_, readers):
                origin.hold_at(piece_length(len(LARGE)))
                async with asyncio.TaskGroup() as clients:
                    task = clients.create_task(read(readers, source(origin, LARGE), LARGE))
                    await until(origin, lambda: origin.waiting == 1)
                    store.discard(digest_of(LARGE))
                    origin.release()
                assert task.result() == LARGE
                assert store.blobs() == []

        run(scene)


class TestTheStoreFails:
    """A disk that is full keeps what it holds; what is on one that is broken is not to be trusted."""

    def test_full_when_the_blob_is_to_have_its_place(self, tmp_path: Path, origin: FakeOrigin) -> None:
        with_length = Descriptor("", DIGEST, len(CONTENT))

        async def scene() -> None:
            store = open_store(tmp_path / "small", max_bytes=len(CONTENT) - 1)
            async with started(store) as (host, readers):
                with pytest.raises(StoreFullError):
                    await known(readers, source(origin), with_length)
                assert host.statistics().active == 0
            assert store.blobs() == []
            store.close()

        run(scene)
        assert origin.requests == [], "nothing is asked for that could not be kept"

    def test_broken_when_the_blob_is_to_have_its_place(self, store: Store, origin: FakeOrigin) -> None:
        with_length = Descriptor("", DIGEST, len(CONTENT))

        async def scene() -> None:
            (store.directory / "blobs").rmdir()
            (store.directory / "blobs").touch()
            async with started(store) as (_, readers):
                with pytest.raises(StoreBrokenError):
                    await known(readers, source(origin), with_length)
                (store.directory / "blobs").unlink()
                (store.directory / "blobs").mkdir()
                assert await read(readers, source(origin)) == CONTENT

        run(scene)

    def test_full_while_the_origin_sends(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(4))

        async def scene() -> None:
            async with started(store, transfers_per_blob=1) as (_, readers):
                with files_of_at_most(6 * PIECE), pytest.raises(StoreFullError):
                    await read(readers, source(origin))
                assert store.blobs()[0].held_bytes == 6 * PIECE, "what landed is kept"
                assert await read(readers, source(origin)) == CONTENT

        run(scene)
        assert [start for start, _ in origin.ranges(DIGEST)] == [4 * PIECE, 6 * PIECE]

    def test_broken_while_the_origin_sends(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(4))

        async def scene() -> None:
            origin.hold_at(0)
            async with started(store) as (_, readers):
                async with readers.open(DIGEST, source(origin)) as reader:
                    await until(origin, lambda: origin.waiting >= 1)
                    with only(os.O_RDONLY, reader.blob):
                        origin.release()
                        outcome = await outcome_of(reader.readable(4 * PIECE, len(CONTENT)))
                assert isinstance(outcome, StoreBrokenError)
                assert store.blobs() == []
                assert await read(readers, source(origin)) == CONTENT

        run(scene)

    @pytest.mark.parametrize("broken", [False, True], ids=["full", "broken"])
    def test_while_a_neighbour_sends(self, store: Store, origin: FakeOrigin, broken: bool) -> None:
        hold_part(store, CONTENT, range(4))

        async def scene() -> None:
            with neighbour(CONTENT) as (other, says):
                async with scripted(store) as swarm:
                    async with swarm.readers.open(DIGEST, source(origin)) as reader:
                        fails = only(os.O_RDONLY, reader.blob) if broken else files_of_at_most(6 * PIECE)
                        with fails:
                            await swarm.joins(len(CONTENT), 1, other)
                            swarm.host.feed(says)
                            swarm.says(digests(CONTENT))
                            outcome = await outcome_of(reader.readable(6 * PIECE, len(CONTENT)))
                    assert type(outcome) is (StoreBrokenError if broken else StoreFullError)
                    assert swarm.host.statistics().active == 0
            assert [info.held_bytes >= 4 * PIECE for info in store.blobs()] == ([] if broken else [True])

        run(scene)
        assert origin.requests == []

    def test_full_when_the_scheduler_sends_all_of_a_tiny_blob(self, tmp_path: Path) -> None:
        origin = FakeOrigin([TINY])
        raw = digest_of(TINY).raw

        async def scene() -> None:
            store = open_store(tmp_path / "small", max_bytes=len(TINY) - 1)
            async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                waiting = clients.create_task(outcome_of(read(swarm.readers, source(origin, TINY), TINY)))
                await eventually(lambda: swarm.phase_of(raw) is Phase.FETCHING)
                swarm.says(InlineBlob(raw, TINY))
                assert isinstance(await waiting, StoreFullError)
            assert store.blobs() == []
            store.close()

        run(scene)


class TestTinyBlobs:
    @pytest.mark.parametrize("before", [(), (TINY + b"!",), (b"b" + TINY[1:],)], ids=["right", "longer", "wrong"])
    def test_what_the_scheduler_sends_is_taken_in_if_it_is_the_blob(
        self, store: Store, before: tuple[bytes, ...]
    ) -> None:
        origin = FakeOrigin([TINY])
        raw = digest_of(TINY).raw

        async def scene() -> None:
            async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                waiting = clients.create_task(read(swarm.readers, source(origin, TINY), TINY))
                await eventually(lambda: swarm.phase_of(raw) is Phase.FETCHING)
                swarm.says(*(InlineBlob(raw, each) for each in (*before, TINY)))
                assert await waiting == TINY
                assert swarm.host.statistics().peer_bytes == len(TINY)

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["the scheduler sent other bytes under a digest"] * len(before)
        assert (origin.requests, store.blobs()[0].complete) == ([], True)


class TestAfterARestart:
    def test_only_the_missing_pieces_are_asked_for(self, store: Store, origin: FakeOrigin) -> None:
        with a_store(store.directory.parent / "other") as earlier:
            hold_part(earlier, CONTENT, [0, 1, 4, 9])

        async def scene() -> None:
            with a_store(store.directory.parent / "other") as later:
                async with started(later) as (_, readers):
                    async with asyncio.TaskGroup() as clients:
                        tasks = [clients.create_task(read(readers, source(origin))) for _ in range(20)]
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
                async with started(later) as (_, readers), asyncio.TaskGroup() as clients:
                    tasks = [
                        clients.create_task(read(readers, source(origin, credential=one)))
                        for one in (Credential(), other)
                    ]
                    await asyncio.wait(tasks)
                assert [task.result() for task in tasks] == [CONTENT] * 2

        run(scene)
        assert origin.ranges(DIGEST) == [(9 * PIECE, len(CONTENT))]

    def test_a_changed_byte_costs_its_piece_alone(self, tmp_path: Path, origin: FakeOrigin) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(10))
            flip(files_of(earlier, DIGEST)[0], 6 * PIECE + 3)

        async def scene() -> None:
            with a_store(tmp_path / "other") as later:
                async with started(later) as (_, readers):
                    assert await read(readers, source(origin)) == CONTENT

        run(scene)
        assert origin.ranges(DIGEST) == [(6 * PIECE, 7 * PIECE)]

    def test_what_was_whole_and_not_sealed_needs_no_origin_and_is_sealed_now(
        self, tmp_path: Path, origin: FakeOrigin
    ) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(10))

        async def scene(store: Store) -> None:
            async with started(store) as (_, readers):
                assert await read(readers, source(origin)) == CONTENT
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
                async with started(later) as (_, readers):
                    assert await read(readers, source(origin)) == CONTENT

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["a damaged blob was removed, it is fetched again"]

    def test_a_part_that_cannot_be_read_is_fetched_again(self, tmp_path: Path, origin: FakeOrigin) -> None:
        with a_store(tmp_path / "other") as earlier:
            hold_part(earlier, CONTENT, range(5))

        async def scene() -> None:
            with a_store(tmp_path / "other") as later:
                files_of(later, DIGEST)[1].write_bytes(b"")
                async with started(later) as (_, readers):
                    assert await read(readers, source(origin)) == CONTENT
                assert later.blobs()[0].complete

        with capture_logs() as logs:
            run(scene)
        assert [log["event"] for log in logs] == ["a damaged blob was removed, it is fetched again"]

    def test_a_download_that_failed_is_gone_on_with(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with started(store) as (_, readers):
                origin.hold_at(2 * PIECE)
                async with readers.open(DIGEST, source(origin)) as reader:
                    await reader.readable(PIECE, len(CONTENT))
                    origin.refused = {source(origin).credential}
                    origin.breaks_after = 2 * PIECE
                    origin.release()
                    with pytest.raises(OriginRefusedError):
                        await reader.readable(2 * PIECE, len(CONTENT))
                origin.refused = set()
                origin.breaks_after = None
                assert await read(readers, source(origin)) == CONTENT
            starts = [request.start for request in origin.requests[1:]]
            assert min(starts) == 2 * PIECE

        run(scene)

    def test_what_an_earlier_download_lands_late_counts_for_the_next(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(9))

        async def scene() -> None:
            blob = create(store, CONTENT)
            async with started(store, linger_s=0.0) as (host, readers), asyncio.TaskGroup() as clients:
                with blob.record._appending:  # no piece can be recorded
                    leaves = clients.create_task(read(readers, source(origin)))
                    await eventually(lambda: blob._sha256._at_hand == {9})
                    leaves.cancel()
                    await asyncio.wait([leaves])
                    assert host.statistics().active == 0
                    origin.hold_at(0)
                    comes = clients.create_task(read(readers, source(origin)))
                    await until(origin, lambda: origin.waiting == 1)
                assert await comes == CONTENT
                blob.release()

        run(scene)
