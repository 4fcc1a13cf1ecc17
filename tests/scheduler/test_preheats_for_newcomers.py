"""Hosts that join after a preheat: a scheduler with its disk, and several with their Redis, do the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from scheduler.core.events import Connected, Disconnected, Event, PreheatChanged, Received, Send
from scheduler.core.preheat_job import JobState, Order, TargetState
from scheduler.core.preheat_record import JobRecord, JobView, PreheatService
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import PREHEAT, PreheatState
from scheduler.protocol.rendezvous import owner_of
from scheduler.protocol.to_host import Preheat, PreheatEnded
from scheduler.shared.redis_clients import RedisPlace, blocking_client
from scheduler.shell.preheating import Preheating
from scheduler.shell.sqlite_preheats import SqlitePreheats
from tests.scheduler.playbook import hello
from tests.scheduler.test_shared_preheating import DONE, NOW, HourAhead, Several

JOB = JobRecord(Order("j1", ("alpine",), ttl_s=60.0), ("all",), NOW, NOW, NOW + 3600.0)


class Alone:
    """One scheduler on its disk."""

    service: Preheating

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.chmod(0o700)
        self.told: list[tuple[str, Preheat | PreheatEnded]] = []

    async def start(self) -> None:
        self._core = Scheduler(SchedulerSettings(settle_s=0.0))
        self._hosts: list[str] = []
        self.service = Preheating(self._core, self._handle, SqlitePreheats.open(self._directory), HourAhead())
        await self.service.resume()

    async def restart(self) -> None:
        await self.look()
        self.close()
        await self.start()

    def _handle(self, event: Event) -> None:
        for each in self._core.handle(event, asyncio.get_running_loop().time()):
            if isinstance(each, PreheatChanged):
                self.service.changed(each)
            if isinstance(each, Send) and isinstance(each.message, Preheat | PreheatEnded):
                self.told += [(self._hosts[number], each.message) for number in each.connections]

    def connect(self, *hosts: str) -> None:
        for host in hosts:
            self._hosts.append(host)
            self._handle(Connected(len(self._hosts) - 1, hello(host, features=(PREHEAT,)), "127.0.0.1"))

    def lose(self, host: str) -> None:
        self._handle(Disconnected(self._hosts.index(host)))
        self._hosts[self._hosts.index(host)] = ""

    def hear(self, host: str, state: PreheatState = PreheatState.DONE, attempt: int = 1) -> None:
        self._handle(Received(self._hosts.index(host), structs.replace(DONE, state=state, attempt=attempt)))

    async def look(self) -> None:
        await self.service.flush()

    def close(self) -> None:
        self._core.validate()
        self.service.close()


class AmongSeveral:
    """Two schedulers with one Redis. Each host is connected to both, and the one that has told it hears it."""

    def __init__(self, place: RedisPlace) -> None:
        self._place = place

    async def start(self) -> None:
        self._several = Several(self._place)
        self.service: PreheatService = self._several.all["a"].service

    async def restart(self) -> None:
        """Both, at a later epoch."""
        await self.look()
        told = self.told
        self.close()
        self._several = Several(self._place)
        self._several.epoch = 7
        for each in self._several.all.values():
            each.since = 2
        self._several.set_list(*self._several.all.values())
        self._several.all["a"].told[:] = told
        self.service = self._several.all["a"].service

    @property
    def told(self) -> list[tuple[str, Preheat | PreheatEnded]]:
        return [each for one in self._several.all.values() for each in one.told]

    def connect(self, *hosts: str) -> None:
        for one in self._several.all.values():
            one.connect(*hosts)

    def lose(self, host: str) -> None:
        for one in self._several.all.values():
            one.lose(host)
            one.hosts[one.hosts.index(host)] = ""

    def hear(self, host: str, state: PreheatState = PreheatState.DONE, attempt: int = 1) -> None:
        for one in self._several.all.values():
            one.hear(host, structs.replace(DONE, state=state, attempt=attempt))

    async def look(self) -> None:
        await self._several.look()

    def close(self) -> None:
        for each in self._several.all.values():
            each.core.validate()
            each.service.close()


Cluster = Alone | AmongSeveral
Test = Callable[[Cluster], Awaitable[None]]
Run = Callable[[Test], None]


@pytest.fixture(params=["sqlite", "redis"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_it(test: Test) -> None:
        asyncio.run(main(test))

    async def main(test: Test) -> None:
        cluster: Cluster
        if request.param == "sqlite":
            cluster = Alone(request.getfixturevalue("tmp_path"))
        else:
            cluster = AmongSeveral(request.getfixturevalue("redis_place"))
        await cluster.start()
        try:
            await test(cluster)
        finally:
            cluster.close()

    return run_it


def orders(cluster: Cluster, job: str = "j1") -> list[tuple[str, int]]:
    """Who was told, and for which attempt."""
    return sorted((host, each.attempt) for host, each in cluster.told if isinstance(each, Preheat) and each.job == job)


async def view(cluster: Cluster, job: str = "j1") -> JobView:
    await cluster.look()
    found = await cluster.service.job(job)
    assert found is not None
    return found


async def over(cluster: Cluster, record: JobRecord = JOB) -> JobView:
    """A preheat that host h1 has carried out."""
    cluster.connect("h1")
    await cluster.service.add(record, credential="s3cret")
    await cluster.look()
    cluster.hear("h1")
    return await view(cluster)


def test_a_host_that_joins_is_told_once_and_what_came_of_it_shows(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        before = (await over(cluster)).record
        assert before.newcomers_until == before.pinned_until == (before.finished or 0.0) + 60.0
        cluster.connect("h2", "h3")
        await cluster.look()
        cluster.hear("h2")
        cluster.hear("h3", PreheatState.FAILED)
        found = await view(cluster)
        assert orders(cluster) == [("h1", 1), ("h2", 1), ("h3", 1)]
        late = next(each for host, each in cluster.told if host == "h2" and isinstance(each, Preheat))
        assert (0.0 < late.ttl_s <= 60.0, late.credential) == (True, "")
        assert found.record == before, "how it has ended, and until when it is pinned"
        assert found.counts == {TargetState.DONE: 2, TargetState.FAILED: 1}

    run(test)


def test_who_has_it_is_not_told_when_it_comes_back_and_who_has_not_is(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        await over(cluster)
        cluster.connect("h2", "h3")
        await cluster.look()
        cluster.hear("h2", PreheatState.FAILED)
        await cluster.look()
        for host in ("h1", "h2", "h3"):
            cluster.lose(host)
        await cluster.look()
        cluster.connect("h1", "h2", "h3")
        await cluster.look()
        assert orders(cluster) == [("h1", 1), ("h2", 1), ("h2", 2), ("h3", 1), ("h3", 1)]

    run(test)


def test_it_stands_after_a_restart(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        await over(cluster)
        cluster.connect("h2", "h3")
        await cluster.look()
        cluster.hear("h2")
        await cluster.restart()
        cluster.connect("h1", "h2", "h3", "h4")
        await cluster.look()
        assert orders(cluster) == [("h1", 1), ("h2", 1), ("h3", 1), ("h3", 1), ("h4", 1)]
        cluster.hear("h3")
        cluster.hear("h4")
        assert (await view(cluster)).counts == {TargetState.DONE: 4}

    run(test)


def test_a_host_that_joins_while_it_runs_is_one_of_its_hosts(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.connect("h1")
        await cluster.service.add(JOB)
        await cluster.look()
        cluster.connect("h2")
        await cluster.look()
        cluster.hear("h1")
        assert (await view(cluster)).record.state is JobState.RUNNING
        cluster.hear("h2")
        assert (await view(cluster)).record.state is JobState.SUCCEEDED
        assert orders(cluster) == [("h1", 1), ("h2", 1)]

    run(test)


@pytest.mark.parametrize("to", [("1",), ("100%",), ("h1",), ("site=elsewhere", "1")])
def test_numbers_and_named_hosts_do_not_grow(run: Run, to: tuple[str, ...]) -> None:
    async def test(cluster: Cluster) -> None:
        found = await over(cluster, replace(JOB, to=to))
        assert found.record.newcomers_until is None
        cluster.connect("h2")
        await cluster.look()
        assert "h2" not in dict(orders(cluster))

    run(test)


def test_cancelled_it_is_for_nobody_and_tried_again_for_those_that_failed(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        await over(cluster)
        cluster.connect("h2", "h3")
        await cluster.look()
        cluster.hear("h2", PreheatState.FAILED)
        await cluster.look()
        ended = await cluster.service.cancel("j1")
        assert ended is not None
        assert (ended.record.state, ended.record.newcomers_until) == (JobState.CANCELLED, None)
        await cluster.look()
        assert [host for host, each in cluster.told if isinstance(each, PreheatEnded)] == ["h3"]
        cluster.connect("h4")
        await cluster.look()
        await cluster.service.retry("j1")
        await cluster.look()
        told = [("h1", 1), ("h2", 1), ("h2", 2), ("h3", 1), ("h3", 2)]
        assert [each for each in orders(cluster) if each[0] != "h4"] == told
        for host in ("h2", "h3"):
            cluster.hear(host, attempt=2)
        cluster.hear("h4")
        found = await view(cluster)
        if not found.record.is_open:
            assert found.record.newcomers_until is not None

    run(test)


def test_tried_again_while_it_stands_it_is_not_over_also_after_a_restart(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        await over(cluster)
        cluster.connect("h2", "h3")
        await cluster.look()
        cluster.hear("h2", PreheatState.FAILED)
        await cluster.look()
        await cluster.service.retry("j1")
        await cluster.restart()
        assert (await view(cluster)).record.state is JobState.RUNNING
        cluster.connect("h1", "h2", "h3")
        await cluster.look()
        cluster.hear("h2", attempt=2)
        cluster.hear("h3")
        found = await view(cluster)
        assert (found.record.state, found.counts) == (JobState.SUCCEEDED, {TargetState.DONE: 3})
        assert found.record.newcomers_until is not None

    run(test)


def test_of_those_that_order_the_same_the_last_stands(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        await over(cluster)
        await cluster.service.add(replace(JOB, order=replace(JOB.order, id="j2")))
        await cluster.look()
        for host, each in list(cluster.told):
            if isinstance(each, Preheat) and each.job == "j2":
                hear(cluster, host, "j2")
        assert (await view(cluster, "j2")).record.newcomers_until is not None
        assert (await view(cluster)).record.newcomers_until is None
        cluster.connect("h2")
        await cluster.look()
        assert (len(orders(cluster)), orders(cluster, "j2")) == (1, [("h1", 1), ("h2", 1)])

    run(test)


def hear(cluster: Cluster, host: str, job: str) -> None:
    report = structs.replace(DONE, job=job)
    if isinstance(cluster, Alone):
        cluster._handle(Received(cluster._hosts.index(host), report))  # of this file
        return
    for one in cluster._several.all.values():  # of this file
        one.hear(host, report)


def test_outside_of_its_hours_nobody_is_told(run: Run) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.connect("h1")
        for name, window in (("j1", "09:00-11:00"), ("j2", "11:00-13:00")):
            await cluster.service.add(replace(JOB, order=replace(JOB.order, id=name), window=window, ends=NOW + 1e6))
        await cluster.look()
        cluster.hear("h1")
        cluster.connect("h2")
        await cluster.look()
        assert (orders(cluster), orders(cluster, "j2")) == ([("h1", 1), ("h2", 1)], [])

    run(test)


def test_hosts_of_several_schedulers_stop_when_the_hours_are_over(redis_place: RedisPlace) -> None:
    async def test() -> None:
        cluster = AmongSeveral(redis_place)
        await cluster.start()
        clocks = [each.clock for each in cluster._several.all.values()]  # of this file
        await over(cluster, replace(JOB, window="09:00-11:00", ends=NOW + 1e6))
        cluster.connect("h2")
        await cluster.look()
        for clock in clocks:
            clock.hour = 12
        await cluster.look()
        assert [host for host, each in cluster.told if isinstance(each, PreheatEnded)] == ["h2"]
        cluster.connect("h3")
        await cluster.look()
        for clock in clocks:
            clock.hour = 10
        await cluster.look()
        assert orders(cluster) == [("h1", 1), ("h2", 1), ("h2", 1), ("h3", 1)]
        cluster.hear("h2")
        cluster.hear("h3")
        assert (await view(cluster)).counts == {TargetState.DONE: 3}
        cluster.close()

    asyncio.run(test())


def test_a_host_is_told_by_whichever_scheduler_it_is_connected_to(redis_place: RedisPlace) -> None:
    async def test() -> None:
        cluster = AmongSeveral(redis_place)
        await cluster.start()
        await over(cluster)
        one = cluster._several.all["a"]  # of this file
        names = {f"n{number}" for number in range(20)}
        assert {owner_of(name.encode(), ["a" * 16, "b" * 16]) for name in names} == {"a" * 16, "b" * 16}
        one.connect(*names)
        await cluster.look()
        assert {host for host, _ in one.told if host != "h1"} == names
        cluster.close()

    asyncio.run(test())


def test_what_a_scheduler_tells_is_told_by_another_once_that_one_is_gone(redis_place: RedisPlace) -> None:
    """And no host is told by two that live."""

    async def test() -> None:
        cluster = AmongSeveral(redis_place)
        await cluster.start()
        await over(cluster)
        names = [f"n{number}" for number in range(20)]
        cluster.connect(*names)
        await cluster.look()
        one, other = cluster._several.all.values()  # of this file
        by_one, by_other = ({host for host, _ in each.told if host != "h1"} for each in (one, other))
        assert not by_one & by_other
        assert by_one | by_other == set(names)
        cluster._several.set_list(other)  # of this file
        await cluster.look()
        assert {host for host, _ in other.told if host != "h1"} == set(names)
        for host in names:
            other.hear(host)
        await cluster.look()
        found = await other.service.job("j1")
        assert found is not None
        assert found.counts == {TargetState.DONE: 21}
        cluster.close()

    asyncio.run(test())


def test_redis_keeps_no_secret_of_one_that_stands(redis_place: RedisPlace) -> None:
    async def test() -> None:
        cluster = AmongSeveral(redis_place)
        await cluster.start()
        await over(cluster)
        client = blocking_client(redis_place)
        assert client.hget(redis_place.key("preheat:j1"), "stands")
        assert client.hget(redis_place.key("preheat:j1"), "credential") is None
        cluster.close()

    asyncio.run(test())
