"""Downloads on a real event loop, from an origin in memory into a real store: one fetch for all, and in order.

What the threads do is told by the origin: no test waits for time, and all of them end within `PATIENCE_S`.
"""

from __future__ import annotations

import asyncio

import pytest

from peer.core.events import Phase
from peer.errors import (
    OriginUnreachableError,
)
from peer.store import Store
from scheduler.protocol.geometry import piece_length
from tests.peer.download_fixtures import (
    CONTENT,
    DIGEST,
    LARGE,
    PIECE,
    covers_once,
    eventually,
    read,
    run,
    source,
    started,
    until,
)
from tests.peer.fakes import FakeOrigin
from tests.peer.lanes import Wide
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import hold_part
from tests.peer.swarm_fixtures import RAW, scripted
from tests.support.registry_server import PATIENCE_S


class TestOneFetchForAll:
    @pytest.mark.parametrize(
        ("content", "count"),
        [(CONTENT, 50), (b"small", 50), (LARGE, 5)],
        ids=["one span", "one piece", "several spans"],
    )
    def test_many_readers_at_once(self, store: Store, content: bytes, count: int) -> None:
        origin = FakeOrigin([content])

        async def scene() -> None:
            async with started(store) as (host, readers):
                async with asyncio.TaskGroup() as clients:
                    tasks = [clients.create_task(read(readers, source(origin, content), content)) for _ in range(count)]
                assert all(task.result() == content for task in tasks)
                assert host.statistics().origin_bytes == len(content)
            assert covers_once(origin.ranges(digest_of(content)), len(content))

        run(scene)
        assert store.blobs()[0].complete

    def test_who_comes_later_is_served_from_the_store(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with started(store) as (host, readers):
                assert await read(readers, source(origin)) == CONTENT
                await eventually(lambda: not host.statistics().active)
                asked = len(origin.requests)
                async with readers.open(DIGEST, None) as reader:
                    assert reader.from_store
                    assert await reader.readable(5, 100) == 100
                assert await read(readers, None) == CONTENT
                assert len(origin.requests) == asked

        run(scene)

    def test_the_empty_blob_needs_no_origin(self, store: Store) -> None:
        async def scene() -> None:
            async with started(store) as (_, readers), readers.open(digest_of(b""), None) as reader:
                assert (reader.blob.size_bytes, await reader.readable(0, 0)) == (0, 0)

        run(scene)

    def test_without_an_origin_only_what_is_there_or_on_its_way(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with started(store) as (_, readers):
                with pytest.raises(OriginUnreachableError, match="not held here"):
                    await read(readers, None)
                origin.hold_at(0)
                async with asyncio.TaskGroup() as clients:
                    first = clients.create_task(read(readers, source(origin)))
                    await until(origin, lambda: origin.waiting == 1)
                    second = clients.create_task(read(readers, None))
                    origin.release()
                assert first.result() == second.result() == CONTENT

        run(scene)

    def test_readers_that_wait_do_not_wake_each_other(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(2 * PIECE)
            async with started(store) as (host, readers), asyncio.TaskGroup() as clients:
                for _ in range(3):
                    clients.create_task(read(readers, source(origin)))
                await until(origin, lambda: origin.waiting == 1)
                download = host.machine.downloads[DIGEST.raw]
                await eventually(lambda: download.pieces.held == 0b11)
                stories = []
                for _ in range(2):
                    for _ in range(200):
                        await asyncio.sleep(0)
                    stories.append(download.story())
                assert stories[0] == stories[1]
                origin.release()

        run(scene)

    def test_a_large_blob_is_fetched_over_several_connections_within_the_limit(
        self, store: Store, origin: FakeOrigin
    ) -> None:
        async def scene() -> None:
            async with started(store, transfers_per_blob=3) as (host, readers):
                host.machine.lanes = Wide(host.machine.slots.used())
                origin.hold_at(piece_length(len(LARGE)))
                async with asyncio.TaskGroup() as clients:
                    task = clients.create_task(read(readers, source(origin, LARGE), LARGE))
                    await until(origin, lambda: origin.waiting == 3)
                    origin.release()
                assert task.result() == LARGE
            assert origin.most_open == 3
            assert covers_once(origin.ranges(digest_of(LARGE)), len(LARGE))

        run(scene)


class TestInOrder:
    def test_the_prefix_is_readable_as_it_lands_and_the_last_piece_when_all_is_right(
        self, store: Store, origin: FakeOrigin
    ) -> None:
        async def scene() -> None:
            origin.hold_at(PIECE)
            async with started(store) as (_, readers), readers.open(DIGEST, source(origin)) as reader:
                assert not reader.from_store
                assert await reader.readable(0, len(CONTENT)) == PIECE
                assert await reader.readable(10, 20) == 20
                origin.hold_at(9 * PIECE)
                end = PIECE
                while end < 9 * PIECE:
                    end = await reader.readable(end, len(CONTENT))
                assert end == 9 * PIECE
                assert not reader.blob.whole
                origin.release()
                assert await reader.readable(end, len(CONTENT)) == len(CONTENT)
                assert reader.blob.whole

        run(scene)

    def test_what_a_reader_waits_for_comes_first(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, [0])
        hold_part(store, LARGE, [0])
        far = len(LARGE) - 100

        async def scene() -> None:
            async with started(store, transfers_per_blob=1) as (_, readers):
                origin.hold_at(0)
                async with readers.open(digest_of(LARGE), source(origin, LARGE)) as reader:
                    await until(origin, lambda: origin.waiting == 1)
                    async with asyncio.TaskGroup() as clients:
                        clients.create_task(reader.readable(far, far + 1))
                        await asyncio.sleep(0)
                        origin.release()
            length = piece_length(len(LARGE))
            assert [request.start for request in origin.requests[:2]] == [length, far // length * length]

        run(scene)

    def test_a_reader_that_leaves_does_not_disturb_the_others(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(PIECE)
            async with started(store) as (_, readers):
                async with asyncio.TaskGroup() as clients:
                    stays = clients.create_task(read(readers, source(origin)))
                    leaves = clients.create_task(read(readers, source(origin)))
                    await until(origin, lambda: origin.waiting == 1)
                    leaves.cancel()
                    await asyncio.wait([leaves])
                    origin.release()
                assert stays.result() == CONTENT

        run(scene)

    def test_one_that_leaves_before_it_has_headers_is_gone_too(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with scripted(store, linger_s=0.0) as swarm, asyncio.TaskGroup() as clients:
                leaves = clients.create_task(read(swarm.readers, source(origin)))
                await eventually(lambda: swarm.phase_of(RAW) is Phase.FETCHING)
                leaves.cancel()
                await asyncio.wait([leaves])
                assert swarm.host.statistics().active == 0

        run(scene)

    def test_after_the_last_one_left_it_goes_on_for_a_while(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with started(store, linger_s=PATIENCE_S) as (host, readers):
                origin.hold_at(PIECE)
                async with readers.open(DIGEST, source(origin)):
                    pass
                origin.release()
                await eventually(lambda: not host.statistics().active)

        run(scene)
        assert store.blobs()[0].complete

    @pytest.mark.parametrize("early_s", [0.0, 1.0])
    def test_and_is_then_abandoned_with_what_it_has(self, store: Store, origin: FakeOrigin, early_s: float) -> None:
        class EarlyLoop(asyncio.SelectorEventLoop):
            """Calls timers before their time, as uvloop may by less than a millisecond."""

            def __init__(self) -> None:
                super().__init__()
                self._clock_resolution = early_s

        async def scene() -> None:
            async with asyncio.timeout(PATIENCE_S), started(store, linger_s=0.02) as (host, readers):
                origin.hold_at(2 * PIECE)
                async with readers.open(DIGEST, source(origin)) as reader:
                    assert await reader.readable(PIECE, len(CONTENT)) == 2 * PIECE
                await eventually(lambda: not host.statistics().active)
                await until(origin, lambda: origin.open_bodies == 0)

        with asyncio.Runner(loop_factory=EarlyLoop) as runner:
            runner.run(scene())
        assert store.blobs()[0].held_bytes == 2 * PIECE
        assert not store.blobs()[0].in_use
