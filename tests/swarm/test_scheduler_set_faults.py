"""Faults of three schedulers on one Redis, and of that Redis, each in the middle of a pull.

In each no client notices, and the origin sends nothing twice but for pieces that were in flight. One scheduler's clock
is an hour ahead in all of these tests, and another's an hour behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from peer.net.scheduler_client import CONNECT_WITHIN_S
from peer.net.silence import QUIET_S, SILENT_S
from scheduler.protocol.from_host import TagAnswer, TagLookup
from scheduler.protocol.to_host import TagQuery, TagResult
from tests.real import packages
from tests.support.node import asynchronous
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, install
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import Host, together, until_true
from tests.swarm.scripted import ScriptedHost
from tests.swarm.several import (
    Running,
    SchedulerOfSeveral,
    Several,
    connections,
    is_connected,
    running,
    several,
    until,
)

MEMORY: Final = Path("/dev/shm")  # noqa: S108 # where libfaketime has what the threads of a process share


def clock(offset: str) -> Mapping[str, str]:
    return {"LD_PRELOAD": str(packages.FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    install(packages.FAKETIME)
    directory = tmp_path_factory.mktemp("several")
    redis = RedisServer(directory / "redis", "--appendonly", "yes", "--appendfsync", "always")
    redis.start()
    try:
        with ImageRegistry() as registry, running(directory, registry, redis, [{}, clock("+1h"), clock("-1h")]) as made:
            yield made
    finally:
        redis.kill()
        for left in MEMORY.glob("*faketime_*_*"):  # a process that is killed leaves it
            if not Path("/proc", left.name.rpartition("_")[2]).exists():
                left.unlink(missing_ok=True)


Scenario = Callable[[Several], Awaitable[None]]


@pytest.fixture
def run(shared: Running) -> Callable[[Scenario], None]:
    """Runs a scenario between two states in which nothing is broken."""

    async def whole(scenario: Scenario) -> None:
        await shared.several.until_whole()
        await scenario(shared.several)
        await shared.several.until_whole()
        assert not any([(await host.status())["swarm"]["alone"] for host in shared.several.hosts])

    return lambda scenario: shared.run(whole(scenario))


def test_clocks_that_are_an_hour_apart(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        started = [datetime.fromisoformat(each.process.logged("ready")[0]["timestamp"]) for each in made.schedulers]
        assert started[1] - started[0] > timedelta(minutes=30) < started[0] - started[2]
        await made.pull()

    run(scenario)


def test_one_is_killed(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        victim = made.schedulers[0]

        async def fault() -> None:
            victim.kill()
            await until(lambda: made.some_is_at(made.others(victim)))
            assert all(victim.url in each.listed for each in made.others(victim)), "hosts have waited for the list"
            await made.until_at(made.others(victim))

        await made.pull(victim, fault, goes_on=True)
        await victim.start()

    run(scenario)


def test_each_shows_what_all_have_seen_also_once_one_was_killed(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        blobs = made.push("shown")
        whole = sum(map(len, blobs.values())) * len(made.hosts)

        async def all_show_it() -> bool:
            shown = await made.shown_by_all("shown")
            assert shown is None or shown[2] <= whole, "nothing twice"
            return shown == (3, len(made.hosts), whole)

        await made.fetch(blobs, "shown")
        await until(all_show_it)
        victim = made.schedulers[1]
        victim.kill()
        await victim.start()
        await until(all_show_it)

    run(scenario)


def test_a_tag_is_what_hosts_of_all_were_told(run: Callable[[Scenario], None]) -> None:
    """Who asks is connected to one scheduler, and the two that know are connected to the others."""

    async def scenario(made: Several) -> None:
        hosts = [ScriptedHost(f"z-{number}", b"a manifest") for number in range(3)]
        async with AsyncExitStack() as stack:
            for host, at in zip(hosts, made.schedulers, strict=True):
                await stack.enter_async_context(host.running(f"http://{at.process.at['listen']}"))
            newcomer, *others = hosts
            for number in range(1, 6):  # whoever tells too late, on a busy machine, is not heard
                tag = ("docker.io", "library/gone", f"v{number}")
                await newcomer.tell(TagLookup(*tag))
                for host in others:
                    await until_true(lambda: len(host.heard_of(TagQuery)) >= number)  # noqa: B023 # it waits for it here
                    await host.tell(TagAnswer(*tag, 200, host.raw_digest, 10, "application/json", public=True))
                await until_true(lambda: len(newcomer.heard_of(TagResult)) >= number)  # noqa: B023
                result = newcomer.heard_of(TagResult)[-1]
                if result.hosts == 2:
                    break
            assert (result.status, result.digest, result.hosts) == (200, newcomer.raw_digest, 2)

    run(scenario)


def test_one_is_frozen_and_thawed(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        victim = made.schedulers[1]

        async def fault() -> None:
            victim.freeze()
            await made.until_at(made.others(victim))

            assert await is_silent(made, victim)

        await made.pull(victim, fault)
        victim.thaw()

    run(scenario)


async def is_silent(made: Several, victim: SchedulerOfSeveral) -> bool:
    """Whether all hosts noticed by what they wanted, and not by a heartbeat, which takes twice as long.

    On a busy machine some have tried in vain to connect again.
    """
    told = {(await connections(host))[victim.url]["last_error"] for host in made.hosts}
    return told <= {f"no answer within {seconds:g} s" for seconds in (QUIET_S + SILENT_S, CONNECT_WITHIN_S)}


def test_one_is_cut_off_from_redis(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        victim = made.schedulers[2]
        idle = await made.add_idle_host(victim)

        async def fault() -> None:
            victim.to_redis.cut()

        await made.pull(victim, fault)
        await until_true(lambda: all(victim.url not in each.listed for each in made.others(victim)))
        await made.until_at(made.others(victim))
        assert "redis is unreachable since" in (await victim.not_ready())[0]
        await until(lambda: is_connected(idle, *made.others(victim)))
        await together([idle.blob(digest) for digest in made.push()])
        assert not (await blobs_at(idle))[victim.url], "it is still asked"
        await idle.stop()
        victim.to_redis.mend()

    run(scenario)


def test_two_are_cut_off_from_redis_at_once(run: Callable[[Scenario], None]) -> None:
    """A host that is connected to one of them, and asks the other next, hears of it from the third."""

    async def scenario(made: Several) -> None:
        *victims, third = made.schedulers
        idle = await made.add_idle_host(*victims)
        for each in victims:
            each.to_redis.cut()
        await until_true(lambda: third.listed == {third.url})
        await until(lambda: is_connected(idle, third))
        await made.until_at([third])
        await together([idle.blob(digest) for digest in made.push()])
        at = await blobs_at(idle)
        assert (at[third.url] > 0, [at[each.url] for each in victims]) == (True, [0, 0]), "they are still asked"
        await idle.stop()
        for each in victims:
            each.to_redis.mend()

    run(scenario)


def test_one_is_cut_off_from_hosts(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        victim = made.schedulers[0]
        before = victim.lists[-1]

        async def fault() -> None:
            victim.to_hosts.cut()
            await made.until_at(made.others(victim))
            assert await is_silent(made, victim)

        await made.pull(victim, fault)
        assert victim.lists[-1] == before, "it lives, as far as the schedulers know"
        victim.to_hosts.mend()

    run(scenario)


def test_one_is_cut_off_from_hosts_and_from_redis(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        victim = made.schedulers[1]

        async def fault() -> None:
            victim.to_hosts.cut()
            victim.to_redis.cut()
            await made.until_at(made.others(victim))

        await made.pull(victim, fault)
        victim.to_hosts.mend()
        victim.to_redis.mend()

    run(scenario)


def test_redis_is_killed_and_restarted(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        epoch = made.epoch()

        async def fault() -> None:
            made.redis.kill()

        await made.pull(fault=fault)
        await until(made.none_is_ready)
        assert "redis is unreachable since" in (await made.schedulers[0].not_ready())[0]
        await made.pull()
        shown = (await made.schedulers[0].page())["cluster"]
        assert (shown["schedulers"], shown["untold"], shown["hosts"] > 0) == (3, 2, True)
        assert "redis is unreachable since" in shown["problem"]
        made.redis.start()
        await until(made.are_ready)
        assert made.all_live(epoch)

    run(scenario)


def test_redis_is_full(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        epoch = made.epoch()

        async def fault() -> None:
            made.redis.client.config_set("maxmemory-policy", "noeviction")
            made.redis.client.config_set("maxmemory", 1)

        await made.pull(fault=fault)
        await until(made.none_is_ready)
        assert "no room left" in (await made.schedulers[0].not_ready())[0]
        made.redis.client.config_set("maxmemory", 0)
        await until(made.are_ready)
        assert made.all_live(epoch)

    run(scenario)


def test_redis_is_slow_by_500_ms(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        epoch = made.epoch()

        async def fault() -> None:
            for each in made.schedulers:
                each.to_redis.delay_s = 0.5
            before = made.beats()
            await until_true(lambda: sum(count > before[name] + 2 for name, count in made.beats().items()) == 3)
            assert await made.are_ready()

        await made.pull(fault=fault)
        for each in made.schedulers:
            each.to_redis.delay_s = 0.0
        assert made.epoch() == epoch

    run(scenario)


def test_redis_is_wiped(run: Callable[[Scenario], None]) -> None:
    async def scenario(made: Several) -> None:
        epoch = made.epoch()

        async def fault() -> None:
            made.redis.client.flushall()
            await until_true(lambda: all(each.lists[-1]["epoch"] > epoch for each in made.schedulers))

        await made.pull(fault=fault)
        assert made.all_live(epoch)

    run(scenario)


def test_one_is_added_and_one_leaves(run: Callable[[Scenario], None]) -> None:
    """Only its share of the blobs moves: there, and back."""

    async def scenario(made: Several) -> None:
        before = list(made.schedulers)
        added = await made.add_scheduler("scheduler-added")

        async def start() -> None:
            held = [await blobs_at(host) for host in made.hosts]
            await added.start()
            await made.until_at(made.schedulers)
            for host, were in zip(made.hosts, held, strict=True):
                now = await blobs_at(host)
                assert all(now[each.url] <= were[each.url] for each in before), "a blob has moved between old ones"

        async def leave() -> None:
            await added.stop()
            await made.until_at(before)

        await made.pull(added, start)
        await made.pull(added, leave)
        await made.remove_scheduler(added)

    run(scenario)


async def blobs_at(host: Host) -> Counter[str]:
    """How many blobs of a host are at each scheduler, by URL."""
    return Counter({url: each["blobs"] for url, each in (await connections(host)).items()})


def test_redis_is_failed_over_by_sentinel(tmp_path: Path, own_redis: RedisServer) -> None:
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_redis.port))
    port = free_port()
    (config := tmp_path / "sentinel.conf").write_text(
        f"sentinel monitor p2pd 127.0.0.1 {own_redis.port} 1\nsentinel down-after-milliseconds p2pd 300\n"
        "sentinel failover-timeout p2pd 2000\n"
    )
    sentinel = RedisServer(tmp_path / "sentinel", str(config), program="redis-sentinel", port=port)

    @asynchronous
    async def scenario() -> None:
        through = f"redis+sentinel://127.0.0.1:{port}/p2pd"
        with ImageRegistry() as registry:
            async with several(tmp_path, registry, own_redis, [{}, {}], through=through) as made:
                await made.until_whole()
                epoch = made.epoch()

                async def fault() -> None:
                    own_redis.kill()

                await until_true(lambda: bool(sentinel.client.sentinel_slaves("p2pd")))
                await made.pull(fault=fault)
                await until_true(lambda: replica.client.role()[0] == b"master")
                beats = made.beats(replica)
                await until_true(lambda: sum(count > beats[name] for name, count in made.beats(replica).items()) == 2)
                await made.until_whole()
                assert made.all_live(epoch)

    try:
        replica.start()
        sentinel.start()
        scenario()
    finally:
        sentinel.kill()
        replica.kill()
