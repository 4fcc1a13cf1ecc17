"""Room: what is fetched ahead takes none from clients, and a client has the room of what is fetched ahead."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.arrival import Arrival
from peer.core.events import StoreFailed
from peer.core.eviction import COLD_S
from peer.errors import StoreFullError
from peer.oci.descriptor import Descriptor
from peer.readers import Readers
from peer.store import Store
from peer.store_work import StoreWork
from peer.workers import Workers
from tests.peer.download_fixtures import PIECE, eventually, outcome_of, read, run, source, started
from tests.peer.fakes import FakeOrigin, content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import hold, open_store

CONTENTS = [content_of(2 * PIECE, seed) for seed in range(5)]
TWO_BLOBS = 5 * PIECE


def held(store: Store) -> set[int]:
    digests = {blob.digest for blob in store.blobs()}
    return {number for number, content in enumerate(CONTENTS) if digest_of(content) in digests}


async def ahead(readers: Readers, origin: FakeOrigin, number: int) -> None:
    """Fetch as nobody does who waits for it; the length is known from a manifest."""
    content = CONTENTS[number]
    expected = Descriptor("", digest_of(content), len(content))
    wanted = source(origin, content)
    async with readers.open(digest_of(content), wanted, expected=expected, background=True) as reader:
        await reader.readable(len(content) - 1, len(content))


@pytest.fixture
def origin() -> FakeOrigin:
    return FakeOrigin(CONTENTS)


class TestTheStore:
    def test_what_is_fetched_ahead_evicts_what_is_cold_alone(self, tmp_path: Path) -> None:
        elapsed = 0.0
        store = open_store(tmp_path, max_bytes=TWO_BLOBS, elapsed=lambda: elapsed)
        hold(store, CONTENTS[0])
        hold(store, CONTENTS[1])
        with pytest.raises(StoreFullError):
            store.create(digest_of(CONTENTS[2]), 2 * PIECE, "", background=True)
        elapsed += COLD_S
        store.create(digest_of(CONTENTS[2]), 2 * PIECE, "", background=True).release()
        assert held(store) == {1, 2}
        store.close()

    def test_a_client_has_the_room_of_what_is_being_fetched_ahead(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=TWO_BLOBS)
        first = store.create(digest_of(CONTENTS[0]), 2 * PIECE, "")
        second = store.create(digest_of(CONTENTS[1]), 2 * PIECE, "", background=True)
        third = store.create(digest_of(CONTENTS[2]), 2 * PIECE, "")
        assert held(store) == {0, 2}
        assert (second.preempted, second.discarded) == (True, True)
        with pytest.raises(StoreFullError) as full:
            store.create(digest_of(CONTENTS[3]), 2 * PIECE, "")
        assert full.value.passing
        with pytest.raises(StoreFullError) as full:
            store.create(digest_of(CONTENTS[3]), 6 * PIECE, "")
        assert not full.value.passing
        for blob in (first, second, third):
            blob.release()
        store.close()

    def test_a_client_s_download_that_waits_for_room_says_so(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=TWO_BLOBS)
        others = [store.create(digest_of(content), 2 * PIECE, "") for content in CONTENTS[:2]]

        async def scenario() -> None:
            workers, arrival = Workers(), Arrival(digest_of(CONTENTS[2]), "")
            arrival.client_came()
            work = StoreWork({arrival.raw: arrival}, store, workers, lambda _event: None)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work.prepare(arrival, 2 * PIECE))
                await eventually(lambda: arrival.waits_for_room)
                for blob in others:
                    blob.release()
                    store.discard(blob.digest)
            assert arrival.blob is not None
            assert not arrival.waits_for_room
            arrival.end(None)
            workers.close()

        asyncio.run(scenario())
        store.close()

    def test_what_was_fetched_ahead_and_not_read_yet_goes_last(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=TWO_BLOBS)
        store.create(digest_of(CONTENTS[0]), 2 * PIECE, "", background=True).release()
        hold(store, CONTENTS[1])
        hold(store, CONTENTS[2])
        assert held(store) == {0, 2}
        blob = store.acquire(digest_of(CONTENTS[0]))
        assert blob is not None
        blob.release()
        hold(store, CONTENTS[3])
        assert held(store) == {0, 3}, "it was used last"
        hold(store, CONTENTS[4])
        assert held(store) == {3, 4}
        store.close()

    def test_upkeep_protects_nothing(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=TWO_BLOBS)
        hold(store, CONTENTS[0])
        hold(store, CONTENTS[1])
        blob = store.acquire(digest_of(CONTENTS[0]))
        assert blob is not None
        with blob.upkeep():
            blob.release()
            assert not store.blobs()[0].in_use
            hold(store, CONTENTS[2])
            hold(store, CONTENTS[3])
            assert blob.read(0, 10) == CONTENTS[0][:10]
        store.close()


class TestDownloads:
    def test_a_client_ends_what_is_fetched_ahead_and_has_its_room(self, tmp_path: Path, origin: FakeOrigin) -> None:
        store = open_store(tmp_path, max_bytes=TWO_BLOBS)

        async def scene() -> None:
            async with started(store) as (host, readers), asyncio.TaskGroup() as group:
                origin.hold_at(PIECE)
                fetching = [group.create_task(outcome_of(ahead(readers, origin, number))) for number in (1, 2)]
                await eventually(lambda: held(store) == {1, 2})
                client = group.create_task(read(readers, source(origin, CONTENTS[0]), CONTENTS[0]))
                await eventually(lambda: 0 in held(store))
                done, _ = await asyncio.wait(fetching, return_when=asyncio.FIRST_COMPLETED)
                assert isinstance(done.pop().result(), StoreFullError)
                origin.release()
                assert await client == CONTENTS[0]
                await asyncio.gather(*fetching)
                assert host.statistics().active == 0

        with capture_logs():
            run(scene)
        store.close()

    def test_one_that_a_client_has_joined_is_its_own(self, tmp_path: Path, origin: FakeOrigin) -> None:
        store = open_store(tmp_path, max_bytes=TWO_BLOBS)

        async def scene() -> None:
            async with started(store) as (host, readers), asyncio.TaskGroup() as group:
                origin.hold_at(PIECE)
                fetching = group.create_task(ahead(readers, origin, 1))
                await eventually(lambda: any(arrival.blob for arrival in host.arrivals.values()))
                joined = group.create_task(read(readers, source(origin, CONTENTS[1]), CONTENTS[1]))
                await eventually(lambda: any(blob.in_use for blob in store.blobs()))
                second = store.create(digest_of(CONTENTS[2]), 2 * PIECE, "")
                with pytest.raises(StoreFullError):
                    store.create(digest_of(CONTENTS[3]), 2 * PIECE, "")
                assert held(store) == {1, 2}
                second.release()
                origin.release()
                assert await joined == CONTENTS[1]
                await fetching

        with capture_logs():
            run(scene)
        store.close()

    def test_a_client_waits_for_room_that_another_is_about_to_leave(self, tmp_path: Path, origin: FakeOrigin) -> None:
        store = open_store(tmp_path, max_bytes=3 * PIECE)

        async def scene() -> None:
            expected = Descriptor("", digest_of(CONTENTS[1]), len(CONTENTS[1]))
            wanted = source(origin, CONTENTS[1])

            async def second() -> None:
                async with readers.open(digest_of(CONTENTS[1]), wanted, expected=expected) as other:
                    await other.readable(len(CONTENTS[1]) - 1, len(CONTENTS[1]))

            async with (
                started(store) as (_, readers),
                asyncio.TaskGroup() as group,
                readers.open(digest_of(CONTENTS[0]), source(origin, CONTENTS[0])) as reader,
            ):
                await reader.readable(len(CONTENTS[0]) - 1, len(CONTENTS[0]))
                group.create_task(second())
                await eventually(lambda: digest_of(CONTENTS[1]).raw in readers._host.arrivals)
            assert held(store) == {1}

        with capture_logs():
            run(scene)
        store.close()

    def test_what_the_last_client_has_left_makes_room(self, tmp_path: Path, origin: FakeOrigin) -> None:
        store = open_store(tmp_path, max_bytes=3 * PIECE)

        async def scene() -> None:
            async with started(store) as (_, readers):
                origin.hold_at(PIECE)
                async with readers.open(digest_of(CONTENTS[0]), source(origin, CONTENTS[0])) as reader:
                    await reader.readable(0, PIECE)
                    with pytest.raises(StoreFullError):
                        store.create(digest_of(CONTENTS[1]), 2 * PIECE, "")
                store.create(digest_of(CONTENTS[1]), 2 * PIECE, "").release()
                assert held(store) == {1}
                origin.release()

        with capture_logs():
            run(scene)
        store.close()

    def test_a_client_that_joins_one_that_has_no_room_begins_it_anew(self, tmp_path: Path, origin: FakeOrigin) -> None:
        store = open_store(tmp_path)

        async def scene() -> None:
            async with started(store) as (host, readers), asyncio.TaskGroup() as group:
                origin.hold_at(0)
                wanted = source(origin, CONTENTS[1])
                fetching = group.create_task(outcome_of(ahead(readers, origin, 1)))
                await eventually(lambda: bool(host.arrivals))
                client = group.create_task(read(readers, wanted, CONTENTS[1]))
                (arrival,) = host.arrivals.values()
                await eventually(lambda: bool(arrival.clients))
                arrival.last_error = StoreFullError("no room")
                host.feed(StoreFailed(arrival.raw))
                origin.release()
                assert isinstance(await fetching, StoreFullError)
                assert await client == CONTENTS[1]

        with capture_logs():
            run(scene)
        store.close()
