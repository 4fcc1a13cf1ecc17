"""A download by which the swarm misled this host: it begins anew, and who waits for headers never knows."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from peer.core.swarm_member import MAP_DISPROVED, RESIZED
from peer.errors import OriginUnreachableError
from peer.readers import MAX_BEGINNINGS, Readers
from peer.store import Store
from scheduler.protocol import to_host
from tests.peer.download_fixtures import CONTENT, DIGEST, PIECE, eventually, outcome_of, read, run, source
from tests.peer.fakes import FakeOrigin
from tests.peer.store_fixtures import hold_part
from tests.peer.swarm_fixtures import RAW, SIZE, digests, lease, neighbour, scripted

WRONG_SIZE = SIZE + 1
"""Of as many pieces."""

WRONG = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


async def read_into(got: bytearray, readers: Readers, origin: FakeOrigin) -> None:
    """Read all that may be sent."""
    async with readers.open(DIGEST, source(origin)) as reader:
        while len(got) < SIZE:
            end = await reader.readable(len(got), SIZE)
            got.extend(reader.blob.read(len(got), end))


class TestWhoWaitsForHeaders:
    def test_is_served_by_the_new_beginning(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                waiting = [clients.create_task(read(swarm.readers, source(origin))) for _ in range(3)]
                await swarm.joins(WRONG_SIZE)
                swarm.says(lease(1))
                await swarm.joins(SIZE)
                swarm.says(lease(2))
                assert await asyncio.gather(*waiting) == [CONTENT] * 3
                assert len(swarm.beginnings) == 2
                assert swarm.host.statistics().corrupt == 1

        with capture_logs() as logs:
            run(scene)
        assert logs == [], "the origin has done nothing wrong"
        assert store.blobs()[0].complete

    def test_is_not_led_on_for_ever(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                waiting = clients.create_task(outcome_of(read(swarm.readers, source(origin))))
                await swarm.joins(WRONG_SIZE)
                swarm.says(lease(1))
                for _ in range(MAX_BEGINNINGS - 1):
                    await asyncio.sleep(0)
                    assert not waiting.done()
                    await swarm.joins(WRONG_SIZE)  # the origin's own word is known by now
                outcome = await waiting
                assert isinstance(outcome, OriginUnreachableError)
                assert str(outcome) == RESIZED
                assert len(swarm.beginnings) == MAX_BEGINNINGS
                await swarm.joins(SIZE)
                swarm.says(lease(2))
                assert await read(swarm.readers, source(origin)) == CONTENT

        run(scene)

    def test_and_who_comes_in_between_too(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                waiting = clients.create_task(read(swarm.readers, source(origin)))
                await swarm.joins(WRONG_SIZE)
                swarm.says(to_host.Sized(RAW, 1, SIZE))
                late = clients.create_task(read(swarm.readers, None))
                await swarm.joins(SIZE)
                swarm.says(lease(2))
                assert (await waiting, await late) == (CONTENT, CONTENT)

        run(scene)

    def test_also_when_every_source_had_been_given_up(self, store: Store, origin: FakeOrigin) -> None:
        """Whoever leased the blob has it from others, as long as the swarm does not lie: then all are asked again."""

        async def scene() -> None:
            async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                waiting = clients.create_task(read(swarm.readers, source(origin)))
                await swarm.joins(WRONG_SIZE)
                origin.unreachable = True
                swarm.says(lease(1))
                await eventually(lambda: not swarm.beginnings[0].origin.sources)
                origin.unreachable = False
                swarm.says(to_host.Sized(RAW, 1, SIZE))
                await swarm.joins(SIZE)
                swarm.says(lease(2))
                assert await waiting == CONTENT

        run(scene)


class TestWhoHasGotHeaders:
    def test_gets_the_error_and_the_next_client_the_blob(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(5))

        async def scene() -> None:
            async with scripted(store) as swarm:
                async with swarm.readers.open(DIGEST, source(origin)) as reader:
                    await swarm.joins(SIZE)
                    swarm.says(digests(CONTENT))
                    assert swarm.host.machine.may_serve(RAW, 0, 5 * PIECE)
                    swarm.says(to_host.Reset(RAW, 2))
                    assert not swarm.host.machine.may_serve(RAW, 0, PIECE)
                    with pytest.raises(OriginUnreachableError, match=MAP_DISPROVED):
                        await reader.readable(5 * PIECE, SIZE)
                assert store.blobs() == [], "what was received by that map is not to be trusted"
                await swarm.joins(SIZE, 2)
                swarm.says(lease(1, 2))
                assert await read(swarm.readers, source(origin)) == CONTENT
                assert len(swarm.beginnings) == 2
                assert swarm.host.statistics().corrupt == 1

        run(scene)
        assert origin.ranges(DIGEST)[0][0] == 0, "all of it is fetched again"

    def test_and_the_blob_is_fetched_though_nobody_asks_again(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(5))

        async def scene() -> None:
            async with scripted(store) as swarm:
                async with swarm.readers.open(DIGEST, source(origin)):
                    await swarm.joins(SIZE)
                    swarm.says(digests(CONTENT), to_host.Reset(RAW, 2))
                await swarm.joins(SIZE, 2)
                swarm.says(lease(1, 2))
                await eventually(lambda: not swarm.host.statistics().active)

        run(scene)
        assert store.blobs()[0].complete

    def test_a_piece_that_lands_late_in_the_file_that_was_thrown_away(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(5))

        async def scene() -> None:
            async with scripted(store) as swarm:
                async with swarm.readers.open(DIGEST, source(origin)) as reader:
                    await swarm.joins(SIZE)
                    swarm.says(digests(CONTENT), to_host.Reset(RAW, 2))
                    swarm.host._transfers.range_received(reader.blob, 0, 7, b"x" * 32)
                    swarm.host._transfers.verified(reader.blob, False)
                    await swarm.joins(SIZE, 2)
                    swarm.host._transfers.range_received(reader.blob, 0, 7, b"x" * 32)
                    swarm.host._transfers.verified(reader.blob, False)
                assert swarm.beginnings[1].pieces.held == 0
                assert not swarm.host.arrivals[RAW].answered
                assert not swarm.beginnings[1].is_over()

        run(scene)

    def test_also_one_that_waits_for_more_at_that_moment(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(5))

        async def scene() -> None:
            async with scripted(store) as swarm, swarm.readers.open(DIGEST, source(origin)) as reader:
                await swarm.joins(SIZE)
                swarm.says(digests(CONTENT))
                async with asyncio.TaskGroup() as clients:
                    waiting = clients.create_task(outcome_of(reader.readable(5 * PIECE, SIZE)))
                    await asyncio.sleep(0)
                    swarm.says(to_host.Reset(RAW, 2))
                assert str(waiting.result()) == MAP_DISPROVED

        run(scene)

    def test_of_wrong_bytes_that_all_neighbours_agree_upon(self, store: Store, origin: FakeOrigin) -> None:
        """Only the SHA-256 of the whole shows it; no client has got the whole by then."""
        got = bytearray()

        async def scene() -> None:
            with neighbour(WRONG) as (liar, says):
                async with scripted(store) as swarm, asyncio.TaskGroup() as clients:
                    client = clients.create_task(outcome_of(read_into(got, swarm.readers, origin)))
                    await swarm.joins(SIZE, 1, liar)
                    swarm.host.feed(says)
                    swarm.says(digests(WRONG))
                    assert str(await client) == MAP_DISPROVED
                    await swarm.joins(SIZE, 2)
                    swarm.says(lease(1, 2))
                    assert await read(swarm.readers, source(origin)) == CONTENT
                    assert swarm.host.statistics().corrupt == 1
                    assert swarm.host.statistics().peer_bytes == SIZE

        run(scene)
        assert bytes(got) == WRONG[: len(got)]
        assert len(got) < SIZE
        assert store.blobs()[0].complete
