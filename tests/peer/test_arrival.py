"""A blob on its way, as its readers see it: when they are told of it, what they wait for, and how it ends for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from peer.arrival import Arrival
from peer.errors import OriginBrokenError
from peer.origin.api import Credential
from peer.store import Store
from tests.peer.download_fixtures import CONTENT, DIGEST, PIECE, outcome_of, run, source
from tests.peer.fakes import FakeOrigin
from tests.peer.store_fixtures import create, land

ERROR = OriginBrokenError("it broke")


def on_a_loop(scene: Callable[[Arrival], Awaitable[None]]) -> None:
    async def begin() -> None:
        await scene(Arrival(DIGEST, "text/plain"))

    run(begin)


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestSources:
    def test_each_is_numbered_once(self, origin: FakeOrigin) -> None:
        async def scene(arrival: Arrival) -> None:
            other = source(origin, credential=Credential("other"))
            assert [arrival.add_source(each) for each in (source(origin), other, source(origin))] == [0, 1, None]
            assert arrival.sources == [source(origin), other]

        on_a_loop(scene)


class TestTheBlob:
    def test_its_pin_is_taken_over_and_let_go_at_the_end(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            blob = create(store, CONTENT)
            assert arrival.adopt(blob)
            assert (arrival.blob, blob.pinned) == (blob, True)
            arrival.end(None)
            assert not blob.pinned
            arrival.end(ERROR)
            arrival.raise_if_failed()  # it ended once, and well

        on_a_loop(scene)

    def test_a_second_one_is_let_go_at_once(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            blob = create(store, CONTENT)
            arrival.adopt(blob)
            blob.acquire()
            assert not arrival.adopt(blob)
            arrival.end(None)
            assert not blob.pinned

        on_a_loop(scene)

    def test_one_that_comes_after_the_end_is_let_go_at_once(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            arrival.end(None)
            blob = create(store, CONTENT)
            assert not arrival.adopt(blob)
            assert (arrival.blob, blob.pinned) == (None, False)

        on_a_loop(scene)


class TestWaiting:
    def test_a_client_is_told_of_a_blob_once_something_of_it_has_come(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            async with asyncio.TaskGroup() as clients:
                waiting = clients.create_task(arrival.known_blob())
                await turns()
                arrival.adopt(create(store, CONTENT))
                arrival.wake()
                await turns()
                assert not waiting.done(), "it has its place, and nobody has sent anything"
                arrival.answered = True
                arrival.wake()
            assert waiting.result() is arrival.blob
            assert await arrival.known_blob() is arrival.blob
            arrival.end(None)

        on_a_loop(scene)

    def test_the_error_that_ends_it_is_everybodys(self) -> None:
        async def scene(arrival: Arrival) -> None:
            async with asyncio.TaskGroup() as clients:
                waiting = [clients.create_task(outcome_of(arrival.known_blob())) for _ in range(3)]
                await turns()
                arrival.raise_if_failed()
                arrival.end(ERROR)
            assert [each.result() for each in waiting] == [ERROR] * 3
            assert await outcome_of(arrival.known_blob()) is ERROR
            with pytest.raises(OriginBrokenError):
                arrival.raise_if_failed()

        on_a_loop(scene)

    def test_one_that_has_failed_gives_no_blob_though_something_has_come(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            arrival.adopt(create(store, CONTENT))
            arrival.answered = True
            arrival.end(ERROR)
            with pytest.raises(OriginBrokenError):
                await arrival.known_blob()

        on_a_loop(scene)

    def test_for_the_bytes_where_it_stands_and_for_no_others(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            blob = create(store, CONTENT)
            arrival.adopt(blob)
            land(blob, CONTENT, [0])
            await arrival.change(0)
            async with asyncio.TaskGroup() as clients:
                waiting = clients.create_task(arrival.change(PIECE))
                await turns()
                for index in (2, 3):
                    land(blob, CONTENT, [index])
                    arrival.wake()
                    await turns()
                    assert not waiting.done(), "a reader that stands elsewhere has no news of this piece"
                land(blob, CONTENT, [1])
                arrival.wake()

        on_a_loop(scene)

    def test_no_longer_than_until_the_download_has_failed(self, store: Store) -> None:
        async def scene(arrival: Arrival) -> None:
            arrival.adopt(create(store, CONTENT))
            async with asyncio.TaskGroup() as clients:
                waiting = clients.create_task(arrival.change(0))
                await turns()
                assert not waiting.done()
                arrival.end(ERROR)

        on_a_loop(scene)
