"""Schedulers on the live list in a real Redis, which is killed, frozen, wiped, filled, slow, and failed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from scheduler.shared.live import Live
from scheduler.shared.live_list import LiveList, Membership, Pace
from scheduler.shared.redis_clients import RedisPlace
from scheduler.shared.redis_live import RedisLiveStore
from scheduler.shared.redis_url import parse_redis_url
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.registry_server import PATIENCE_S
from tests.support.tap import Tap

QUICK: Final = Pace(beat_s=0.05, lease_s=0.6, gap_s=0.3)
BY_CHANGES_ALONE: Final = Pace(beat_s=600.0, lease_s=3000.0, gap_s=1500.0)


class Scheduler:
    """One on the list. `told` are the lists that its hosts would hear."""

    def __init__(self, place: RedisPlace, name: str, pace: Pace) -> None:
        self.told: list[LiveList] = []
        self.outdated = False
        """Whether its hosts have heard that the list is."""
        self.membership = Membership(f"https://{name}:65003", pace)
        self.store = RedisLiveStore(place)
        self.live = Live(self.membership, self.store, self._tell)
        self.task: asyncio.Task[None] | None = None

    def _tell(self, found: LiveList, outdated: bool) -> None:
        self.told.append(found)
        self.outdated = outdated

    @property
    def names(self) -> set[str]:
        """The schedulers that it knows."""
        return {each.url.removeprefix("https://").partition(":")[0] for each in self.live.known.entries}

    async def stop(self) -> None:
        """As kill -9 does: it leaves nothing."""
        self.live.stop()  # the library may swallow that a task is cancelled
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None


@asynccontextmanager
async def running(place: RedisPlace, *names: str, pace: Pace = QUICK) -> AsyncIterator[list[Scheduler]]:
    """Schedulers that all know each other."""
    started = [Scheduler(place, name, pace) for name in names]
    try:
        async with asyncio.TaskGroup() as group:
            for each in started:
                each.task = group.create_task(each.live.run())
            try:
                await until(lambda: all(each.names == set(names) for each in started))
                yield started
            finally:
                for each in started:
                    await each.stop()
    finally:
        for each in started:
            await each.store.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 # another process makes it so
            await asyncio.sleep(0.01)


def place_of(server: RedisServer) -> RedisPlace:
    return RedisPlace(parse_redis_url(server.url))


def test_one_that_is_killed_is_off_the_list_and_comes_back_at_a_new_epoch(redis_place: RedisPlace) -> None:
    async def scenario() -> None:
        async with running(redis_place, "a", "b", "c") as (a, b, c):
            before = c.live.known
            await c.stop()
            await until(lambda: a.names == b.names == {"a", "b"})
            assert a.live.known.epoch > before.epoch
            again = Scheduler(redis_place, "c", QUICK)
            await again.live.beat()
            own = again.live.known.entry(again.membership.id)
            assert own is not None
            assert own.since > a.live.known.epoch
            await until(lambda: a.names == b.names == {"a", "b", "c"})
            await again.store.close()

    asyncio.run(scenario())


def test_changes_are_heard_as_they_happen(redis_place: RedisPlace) -> None:
    """The next beat would come in ten minutes."""

    async def scenario() -> None:
        async with running(redis_place, "a", "b", pace=BY_CHANGES_ALONE) as (a, b):
            await b.stop()
            await b.live.leave()
            await until(lambda: a.names == {"a"})
            assert [known.epoch for known in a.told] == sorted({known.epoch for known in a.told})

    asyncio.run(scenario())


def test_a_redis_that_hangs_strikes_out_nobody(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with running(place_of(own_redis), "a", "b") as (a, b):
            before = a.live.known
            own_redis.freeze()
            await until(lambda: bool(a.live.not_ready() and b.live.not_ready()))
            await until(lambda: not a.live.is_reached)
            assert "redis is unreachable since" in a.live.not_ready()[0]
            assert a.live.known == before, "hosts keep the list that they have"
            own_redis.thaw()
            await until(lambda: not a.live.not_ready() and not b.live.not_ready())
            assert a.live.known == b.live.known == before

    asyncio.run(scenario())


def test_a_redis_that_was_killed_and_restarted_is_caught_up_with(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with running(place_of(own_redis), "a", "b") as (a, b):
            own_redis.kill()
            await until(lambda: bool(a.live.not_ready() and b.live.not_ready()))
            assert a.names == b.names == {"a", "b"}
            assert not a.outdated, "the others may have struck it out after as long again, and not before"
            await until(lambda: a.outdated and b.outdated)
            assert a.told[-1] == a.told[-2]
            own_redis.start()
            await until(lambda: not a.live.not_ready() and not b.live.not_ready())
            await until(lambda: a.names == b.names == {"a", "b"})
            await until(lambda: not a.outdated and not b.outdated)

    asyncio.run(scenario())


def test_a_wiped_redis_moves_no_blob(redis_place: RedisPlace, own_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with running(place_of(own_redis), "a", "b", "c") as (a, b, c):
            before = a.live.known
            own_redis.client.flushall()
            await until(lambda: all(each.live.known.epoch > before.epoch for each in (a, b, c)))
            for each in (a, b, c):
                assert all(len(known.entries) == 3 for known in each.told if known.epoch >= before.epoch)
            await until(lambda: not (a.live.not_ready() or b.live.not_ready() or c.live.not_ready()))

    asyncio.run(scenario())


def test_a_full_redis_is_said_and_strikes_out_nobody(own_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with running(place_of(own_redis), "a", "b") as (a, b):
            before = a.live.known
            own_redis.client.config_set("maxmemory", 1)
            await until(lambda: bool(a.live.not_ready() and b.live.not_ready()))
            assert "no room left" in a.live.not_ready()[0]
            own_redis.client.config_set("maxmemory", 0)
            await until(lambda: not a.live.not_ready() and not b.live.not_ready())
            assert a.live.known == b.live.known == before

    asyncio.run(scenario())


def test_a_redis_that_is_slow_by_500_ms_is_no_reason(own_redis: RedisServer) -> None:
    """Each call takes as long as five beats; the schedulers stay, and know each other."""

    async def scenario() -> None:
        tap = Tap(own_redis.port)
        tap.delay_s = 0.5
        async with tap.open():
            place = RedisPlace(parse_redis_url(f"redis://127.0.0.1:{tap.port}"))
            async with running(place, "a", "b", pace=Pace(beat_s=0.1, lease_s=9.0, gap_s=4.5)) as (a, b):
                before = b.live.known
                beats = own_redis.client.hgetall("{p2pd}:beats")
                await until(lambda: all(
                    int(own_redis.client.hgetall("{p2pd}:beats")[name]) > int(count) + 1
                    for name, count in beats.items()
                ))  # fmt: skip
                assert a.live.known == b.live.known == before
                assert not a.live.not_ready()

    asyncio.run(scenario())


def test_sentinel_fails_over_and_nobody_is_lost(tmp_path: Path, own_redis: RedisServer) -> None:
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_redis.port))
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor p2pd 127.0.0.1 {own_redis.port} 1\nsentinel down-after-milliseconds p2pd 300\n"
        "sentinel failover-timeout p2pd 2000\n"
    )
    sentinel = RedisServer(tmp_path / "sentinel", str(config), program="redis-sentinel", port=port)

    async def scenario() -> None:
        place = RedisPlace(parse_redis_url(f"redis+sentinel://127.0.0.1:{port}/p2pd"))
        async with running(place, "a", "b") as (a, b):
            before = a.live.known
            await until(lambda: replica.client.get("{p2pd}:live") == own_redis.client.get("{p2pd}:live"))
            await until(lambda: bool(sentinel.client.sentinel_slaves("p2pd")))
            own_redis.kill()
            await until(lambda: replica.client.role()[0] == b"master")
            await until(lambda: a.live.is_reached and not a.live.not_ready() and not b.live.not_ready())
            assert a.names == b.names == {"a", "b"}
            assert a.live.known.epoch >= before.epoch

    try:
        replica.start()
        sentinel.start()
        asyncio.run(scenario())
    finally:
        sentinel.kill()
        replica.kill()
