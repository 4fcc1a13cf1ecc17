"""A host on a real event loop: what its downloads share, its one timer, and how it ends.

The time of the timer's tests stands still until they move it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from peer.arrival import Arrival
from peer.core import events
from peer.core.events import Event, Tick
from peer.core.session import SessionState
from peer.errors import OriginUnreachableError
from peer.host import Host, Limits
from peer.host_schedulers import Identity
from peer.store import Store
from peer.tasks import BackgroundTasks
from scheduler.protocol.geometry import piece_length
from tests.peer.download_fixtures import (
    CONTENT,
    DIGEST,
    LARGE,
    PIECE,
    covers_once,
    eventually,
    fetch_ahead,
    outcome_of,
    read,
    run,
    source,
    started,
    until,
)
from tests.peer.fakes import FakeOrigin, content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import hold, hold_part, land


class TestBetweenDownloads:
    def test_never_more_transfers_at_one_origin_than_the_limit(self, store: Store) -> None:
        contents = [content_of(PIECE * 2, seed) for seed in range(10)]
        origin = FakeOrigin(contents)

        async def scene() -> None:
            origin.hold_at(0)
            async with started(store, transfers_per_origin=3) as (_, readers):
                async with asyncio.TaskGroup() as clients:
                    tasks = [clients.create_task(read(readers, source(origin, one), one)) for one in contents]
                    await until(origin, lambda: origin.waiting == 3)
                    origin.release()
                assert [task.result() for task in tasks] == contents

        run(scene)
        assert origin.most_open == 3

    def test_an_origin_that_hangs_does_not_keep_another(self, store: Store, origin: FakeOrigin) -> None:
        content = content_of(PIECE, 5)
        other = FakeOrigin([content])

        async def scene() -> None:
            origin.hold_at(0)
            async with started(store, transfers_per_origin=1) as (_, readers), asyncio.TaskGroup() as clients:
                hanging = clients.create_task(read(readers, source(origin)))
                await until(origin, lambda: origin.waiting == 1)
                assert await read(readers, source(other, content, upstream="other.test"), content) == content
                origin.release()
                assert await hanging == CONTENT

        run(scene)

    def test_clients_come_before_what_is_fetched_ahead(self, store: Store) -> None:
        contents = [content_of(PIECE, seed) for seed in range(4)]
        first, ahead, joined, client = contents
        origin = FakeOrigin(contents)

        async def scene() -> None:
            origin.hold_at(0)
            async with started(store, transfers_per_origin=1) as (_, readers), asyncio.TaskGroup() as clients:
                clients.create_task(read(readers, source(origin, first), first))
                await until(origin, lambda: origin.waiting == 1)
                for content in (ahead, joined):
                    clients.create_task(fetch_ahead(readers, source(origin, content), content))
                for _ in range(10):
                    await asyncio.sleep(0)
                clients.create_task(read(readers, source(origin, joined), joined))
                clients.create_task(read(readers, source(origin, client), client))
                for _ in range(10):
                    await asyncio.sleep(0)
                origin.release()

        run(scene)
        assert [request.digest for request in origin.requests] == [
            digest_of(content) for content in (first, joined, client, ahead)
        ]

    def test_what_is_fetched_ahead_is_fetched_once_with_a_client(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(PIECE)
            async with started(store) as (_, readers), asyncio.TaskGroup() as clients:
                ahead = clients.create_task(fetch_ahead(readers, source(origin), CONTENT))
                await until(origin, lambda: origin.waiting == 1)
                client = clients.create_task(read(readers, source(origin)))
                origin.release()
                assert await client == CONTENT
                await ahead

        run(scene)
        assert len(origin.requests) == 1


class TestOneRequestAtATime:
    """Bytes come in order."""

    def test_nothing_is_read_back_from_the_disk(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            async with started(store, transfers_per_blob=1) as (host, readers):
                assert await read(readers, source(origin, LARGE), LARGE) == LARGE
                await eventually(lambda: not host.statistics().active)
                assert host.statistics().reread_bytes == 0

        run(scene)
        assert origin.most_open == 1
        assert covers_once([(each.start, each.stop or 0) for each in origin.requests], len(LARGE))


class TestClosing:
    def test_readers_that_wait_get_an_error_and_all_ends(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(piece_length(len(LARGE)))
            async with started(store) as (host, readers), asyncio.TaskGroup() as clients:
                tasks = [
                    clients.create_task(outcome_of(read(readers, source(origin, content), content)))
                    for content in (CONTENT, LARGE)
                ]
                await until(origin, lambda: origin.waiting >= 2)
                host.close()
                outcomes = [await task for task in tasks]
                assert [type(outcome) for outcome in outcomes] == [OriginUnreachableError] * 2
                assert all("stopping" in str(outcome) for outcome in outcomes)
                assert host.statistics().active == 0
                await until(origin, lambda: origin.open_bodies == 0)
                for _ in range(100):
                    await asyncio.sleep(0)  # nothing new is begun

        with capture_logs() as logs:
            run(scene)
        assert logs == []

    def test_afterwards_only_what_is_held_can_be_read(self, store: Store, origin: FakeOrigin) -> None:
        hold(store, CONTENT)

        async def scene() -> None:
            async with started(store) as (host, readers):
                host.close()
                assert await read(readers, source(origin)) == CONTENT
                with pytest.raises(OriginUnreachableError, match="stopping"):
                    await read(readers, source(origin, LARGE), LARGE)

        run(scene)
        assert origin.requests == []

    def test_what_had_landed_is_kept(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(3 * PIECE)
            async with started(store) as (host, readers), readers.open(DIGEST, source(origin)) as reader:
                await reader.readable(2 * PIECE, len(CONTENT))
                host.close()
                with pytest.raises(OriginUnreachableError):
                    await reader.readable(3 * PIECE, len(CONTENT))
            await until(origin, lambda: origin.open_bodies == 0)

        run(scene)
        info = store.peek(DIGEST)
        assert info is not None
        assert (info.held_bytes, info.complete, info.in_use) == (3 * PIECE, False, False)

    def test_also_what_the_threads_have_not_told_of_yet(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(0)
            async with started(store) as (host, readers), readers.open(DIGEST, source(origin)) as reader:
                land(reader.blob, CONTENT, [0, 1])
                host.close()
            await until(origin, lambda: origin.open_bodies == 0)

        run(scene)
        info = store.peek(DIGEST)
        assert info is not None
        assert info.held_bytes == 2 * PIECE

    def test_a_place_with_nothing_in_it_is_given_up(self, store: Store, origin: FakeOrigin) -> None:
        async def scene() -> None:
            origin.hold_at(0)
            async with started(store) as (host, readers), readers.open(DIGEST, source(origin)):
                assert len(store.blobs()) == 1
                host.close()
                assert store.blobs() == []
            await until(origin, lambda: origin.open_bodies == 0)

        run(scene)

    def test_while_the_store_is_asked_what_it_has_nothing_is_lost(self, store: Store, origin: FakeOrigin) -> None:
        hold_part(store, CONTENT, range(9))

        async def scene() -> None:
            async with started(store) as (host, readers), asyncio.TaskGroup() as clients:
                waiting = clients.create_task(outcome_of(read(readers, source(origin))))
                await asyncio.sleep(0)
                assert host.statistics().active == 1
                host.close()
                assert "stopping" in str(await waiting)

        run(scene)
        info = store.peek(DIGEST)
        assert info is not None
        assert info.held_bytes == 9 * PIECE


LINGER_S = 30.0
SCHEDULER = "http://scheduler:65003"
TIMEOUT_S = 3.0
RAW = DIGEST.raw
BEGAN = 1000.0


class StillLoop(asyncio.SelectorEventLoop):
    """Its time moves when a test says so. `set_for` has the time of every timer of a host that was ever set."""

    def __init__(self) -> None:
        self.now = BEGAN - 2 * LINGER_S
        self.set_for: list[float] = []
        super().__init__()

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override] # typeshed ties the arguments to the callback
        self, when: float, callback: Callable[..., object], *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        if isinstance(getattr(callback, "__self__", None), Host):
            self.set_for.append(when)
        return super().call_at(when, callback, *args, **options)

    async def passes(self, seconds: float) -> None:
        """Let time pass, and what is due then happen."""
        self.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)


class UvLoop(StillLoop):
    """Calls timers before their time, as uvloop may by less than a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self._clock_resolution = 0.5


class TestTheTimer:
    """`begun` is a download that waits for its origin and is read by reader 1: nothing is due."""

    @asynccontextmanager
    async def begun(self, store: Store, timeout_s: float | None = None) -> AsyncIterator[tuple[Host, StillLoop]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StillLoop)
        origin = FakeOrigin([CONTENT])
        origin.hold_at(0)
        async with BackgroundTasks() as background:
            identity = None if timeout_s is None else Identity("me", scheduler_timeout_s=timeout_s)
            host = Host(store, Limits(linger_s=LINGER_S), background, identity, [SCHEDULER])
            arrival = host.arrivals[RAW] = Arrival(DIGEST, "")
            arrival.add_source(source(origin))
            host.feed(events.SourceAdded(RAW, 0, "reg.test", "app"))
            host.feed(events.ReaderMoved(RAW, 1, 0, None))
            await loop.passes(0.0)
            await loop.passes(BEGAN - loop.now)
            assert (host._timer, host._timer_at) == (None, math.inf), "all that was due at first is over"
            loop.set_for.clear()
            try:
                yield host, loop
            finally:
                host.close()
        origin.close()

    def play(self, scene: Callable[[], Any], loop_factory: Callable[[], StillLoop] = StillLoop) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(scene())

    def test_none_is_set_where_nothing_is_due(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store) as (host, loop):
                host.feed(events.ReaderMoved(RAW, 1, 5, None))
                assert host.machine.next_deadline() == math.inf
                assert (host._timer, loop.set_for) == (None, [])

        self.play(scene)

    def test_a_deadline_that_moves_to_later_costs_no_other_timer(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store) as (host, loop):
                for _ in range(10):
                    host.feed(events.ReaderLeft(RAW, 1))
                    loop.now += 1.0
                    host.feed(events.ReaderMoved(RAW, 1, 0, None))
                host.feed(events.ReaderLeft(RAW, 1))
                assert loop.set_for == [BEGAN + LINGER_S]
                await loop.passes(LINGER_S - 10.0)
                assert loop.set_for[1:] == [BEGAN + 10.0 + LINGER_S], "it was early, and is set again"
                await loop.passes(9.9)
                assert RAW in host.arrivals
                await loop.passes(0.1)
                assert RAW not in host.arrivals
                assert host._timer is None

        self.play(scene)

    def test_one_that_was_early_and_has_nothing_to_wait_for_any_more(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store) as (host, loop):
                host.feed(events.ReaderLeft(RAW, 1))
                host.feed(events.ReaderMoved(RAW, 1, 0, None))
                await loop.passes(2 * LINGER_S)
                assert (host._timer, host._timer_at) == (None, math.inf)
                host.feed(events.ReaderLeft(RAW, 1))
                assert host._timer_at == loop.now + LINGER_S

        self.play(scene)

    def test_a_deadline_that_is_sooner_takes_its_place(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store, TIMEOUT_S) as (host, loop):
                host.feed(events.ReaderLeft(RAW, 1))
                later = host._timer
                assert later is not None
                host.feed(events.SchedulerLost(SCHEDULER))
                assert host._timer_at == loop.now + TIMEOUT_S
                assert later.cancelled()
                await loop.passes(TIMEOUT_S)
                assert host.machine.schedulers.state is SessionState.MISSING
                assert host._timer_at == BEGAN + LINGER_S

        self.play(scene)

    def test_a_deadline_that_has_passed_already_is_told_once_and_can_be_set_again(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store, TIMEOUT_S) as (host, loop):
                host.machine.handle(events.ReaderLeft(RAW, 1), loop.now - LINGER_S - 10.0)
                assert host.machine.next_deadline() < loop.now
                host._set_timer()
                host._set_timer()
                assert loop.set_for == [loop.now - 10.0]
                await loop.passes(0.0)
                assert RAW not in host.arrivals
                assert (host._timer, host._timer_at) == (None, math.inf)
                host.machine.downloads.clear()
                host.feed(events.SchedulerLost(SCHEDULER))
                assert host._timer_at == loop.now + TIMEOUT_S
                assert len(loop.set_for) == 2

        self.play(scene)

    def test_one_that_the_loop_calls_before_its_time(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store) as (host, loop):
                host.feed(events.ReaderLeft(RAW, 1))
                await loop.passes(LINGER_S - 0.25)
                assert RAW in host.arrivals, "the machine goes by the time"
                assert host._timer_at == BEGAN + LINGER_S
                await loop.passes(0.25)
                assert RAW not in host.arrivals

        self.play(scene, UvLoop)

    def test_none_after_the_end(self, store: Store) -> None:
        async def scene() -> None:
            async with self.begun(store) as (host, loop):
                host.feed(events.ReaderLeft(RAW, 1))
                timer = host._timer
                assert timer is not None
                host.close()
                assert timer.cancelled()
                told = len(loop.set_for)
                late: list[Event] = [events.SchedulerLost(), Tick(), events.ReaderLeft(RAW, 1)]
                for event in late:
                    host.feed(event)
                assert len(loop.set_for) == told

        self.play(scene)
