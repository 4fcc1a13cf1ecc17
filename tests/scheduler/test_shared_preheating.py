"""Preheats of several schedulers, with their cores and a real Redis: who tells which host, and who goes on for whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from scheduler.core.events import Connected, Disconnected, Event, PreheatChanged, Received, Send
from scheduler.core.preheat_hosts import Candidate
from scheduler.core.preheat_job import JobState, Order, TargetState
from scheduler.core.preheat_record import JobRecord
from scheduler.core.preheats import LATE_JOB
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import PREHEAT, PreheatReport, PreheatState
from scheduler.protocol.rendezvous import owner_of
from scheduler.protocol.to_host import Preheat, PreheatEnded
from scheduler.shared.live_list import Entry, LiveList, beat_of, encode
from scheduler.shared.preheating import SharedPreheating
from scheduler.shared.redis_clients import RedisPlace, blocking_client
from scheduler.shared.redis_preheats import RedisPreheats
from tests.scheduler.playbook import hello

NOW = 1_700_000_000.0
JOB = JobRecord(Order("j1", ("alpine",), ttl_s=60.0), ("all",), NOW, NOW, NOW + 3600.0)
DONE = PreheatReport("j1", 1, PreheatState.DONE, 10, 10, private=True)


class HourAhead:
    """The clock of a machine that is far from right. For the operator it is ten o'clock until a test says otherwise."""

    hour = 10

    def now(self) -> float:
        return NOW

    def of_day(self, seconds: float) -> float:  # noqa: ARG002 # the interface's
        return self.hour * 3600.0


class Member:
    """A scheduler of several, and what its hosts are told. It is its own `Turn`."""

    def __init__(self, cluster: Several, name: str) -> None:
        self.id, self.since, self.cluster = name * 16, 1, cluster
        self.known = LiveList()
        self.core = Scheduler(SchedulerSettings(settle_s=0.0))
        self.told: list[tuple[str, Preheat | PreheatEnded]] = []
        self.hosts: list[str] = []
        store = RedisPreheats(cluster.place, lambda: b"k" * 32)
        self.clock = HourAhead()
        self.service = SharedPreheating(
            self.core, self.handle, store, self.clock, self, cluster.candidates, settle_s=0.0
        )

    @property
    def name(self) -> str:
        entry = self.known.entry(self.id)
        return "" if entry is None else beat_of(entry)

    def runs(self, name: str) -> bool:
        return bool(self.name) and owner_of(name.encode(), [each.id for each in self.known.entries]) == self.id

    def not_ready(self) -> list[str]:
        return []

    def handle(self, event: Event) -> None:
        for each in self.core.handle(event, asyncio.get_running_loop().time()):
            if isinstance(each, PreheatChanged):
                self.service.changed(each)
            if isinstance(each, Send) and isinstance(each.message, Preheat | PreheatEnded):
                self.told += [(self.hosts[number], each.message) for number in each.connections]

    def connect(self, *hosts: str) -> None:
        for host in hosts:
            self.hosts.append(host)
            told = hello(host, features=(PREHEAT,))
            self.handle(Connected(len(self.hosts) - 1, told, "127.0.0.1"))

    def lose(self, host: str) -> None:
        self.handle(Disconnected(self.hosts.index(host)))

    def hear(self, host: str, report: PreheatReport = DONE) -> None:
        self.handle(Received(self.hosts.index(host), report))


class Several:
    def __init__(self, place: RedisPlace) -> None:
        self.place, self.epoch = place, 0
        self.all = {name: Member(self, name) for name in "ab"}
        self.live: list[Member] = []
        self.set_list(*self.all.values())

    def set_list(self, *members: Member) -> None:
        """These live from now on, and know it; the others have not heard."""
        self.epoch += 1
        self.live = list(members)
        known = LiveList(self.epoch, tuple(Entry(each.id, f"http://{each.id}", each.since) for each in members))
        blocking_client(self.place).set(self.place.key("live"), encode(known))
        for each in members:
            each.known = known

    async def candidates(self) -> set[Candidate]:
        return {Candidate(host, "", "", "") for each in self.all.values() for host in each.hosts}

    async def look(self, times: int = 3) -> None:
        for _ in range(times):
            for each in self.live:
                await each.service.look()

    def told(self) -> list[tuple[str, Preheat | PreheatEnded]]:
        return sorted((each for one in self.all.values() for each in one.told), key=lambda each: each[0])


def run(place: RedisPlace, test: Callable[[Several, Member, Member], Awaitable[None]]) -> None:
    async def main() -> None:
        several = Several(place)
        runner = next(each for each in several.all.values() if each.runs("j1"))
        other = next(each for each in several.all.values() if each is not runner)
        try:
            await test(several, runner, other)
        finally:
            for each in several.all.values():
                each.core.validate()
                each.service.close()

    asyncio.run(main())


def test_each_host_is_told_once_whichever_scheduler_is_asked(redis_place: RedisPlace) -> None:
    async def test(several: Several, runner: Member, other: Member) -> None:
        runner.connect("h1", "h2")
        other.connect("h2", "h3")
        view = await other.service.add(JOB)
        assert view.record.created == view.record.begins > NOW + 1e7, "by the clock of Redis, which is years ahead"
        await several.look()
        assert [host for host, _ in several.told()] == ["h1", "h2", "h3"]
        for one in (runner, other):
            for host in one.hosts:
                one.hear(host)
        await several.look()
        for one in (runner, other):
            found = await one.service.job(1)
            assert found is not None
            assert (found.record.state, len(found.targets)) == (JobState.SUCCEEDED, 3)
        assert len(several.told()) == 3, "nobody is told to stop, or told again"

    run(redis_place, test)


def test_a_runner_that_was_frozen_is_taken_over_and_spoils_nothing(redis_place: RedisPlace) -> None:
    async def test(several: Several, runner: Member, other: Member) -> None:
        runner.connect("h1")
        other.connect("h2")
        await runner.service.add(JOB)
        await several.look()
        several.set_list(other)  # the runner has not heard
        other.connect("h1")
        await several.look()
        assert [host for host, _ in other.told] == ["h2", "h1"]
        runner.hear("h1", replace(DONE, state=PreheatState.FAILED, reason="of before"))
        await runner.service.look()
        await runner.service.look()
        other.hear("h1")
        other.hear("h2")
        await several.look()
        found = await other.service.job("j1")
        assert found is not None
        assert found.record.state is JobState.SUCCEEDED, json.dumps([each.reason for each in found.targets])
        runner.since = 9
        several.set_list(runner, other)
        await several.look()
        stands = runner.core.preheat("j1")
        assert stands is not None
        assert stands.pinned_until
        assert not stands.still_open, "what was told before is nothing of its own now"

    run(redis_place, test)


def test_a_host_that_moves_is_told_elsewhere(redis_place: RedisPlace) -> None:
    async def test(several: Several, runner: Member, other: Member) -> None:
        runner.connect("h1", "h2")
        await runner.service.add(JOB)
        await several.look()
        runner.lose("h1")
        other.connect("h1")
        await several.look()
        assert [host for host, _ in other.told] == ["h1"]
        other.hear("h1")
        runner.hear("h2")
        await several.look()
        found = await runner.service.job("j1")
        assert found is not None
        assert found.record.state is JobState.SUCCEEDED

    run(redis_place, test)


def test_a_host_that_is_late_takes_nothing_from_those_that_are_done(redis_place: RedisPlace) -> None:
    async def test(several: Several, runner: Member, other: Member) -> None:
        runner.connect("h1")
        other.connect("h2")
        await runner.service.add(JOB)
        await several.look()
        other.hear("h2")
        await several.look()
        runner.service._store.reopen("j1", NOW)  # it is over by the clock of Redis
        await several.look()
        found = await other.service.job("j1")
        assert found is not None
        assert [each.state for each in found.targets] == [TargetState.FAILED, TargetState.DONE]
        assert (found.record.state, found.record.reason) == (JobState.PARTLY, LATE_JOB)

    run(redis_place, test)


def test_it_is_cancelled_and_tried_again_at_any_scheduler(redis_place: RedisPlace) -> None:
    async def test(several: Several, runner: Member, other: Member) -> None:
        runner.connect("h1")
        other.connect("h2")
        await runner.service.add(JOB)
        await several.look()
        ended = await other.service.cancel("j1")
        assert ended is not None
        assert ended.record.state is JobState.CANCELLED
        await several.look()
        assert [each for _, each in several.told() if isinstance(each, PreheatEnded)] == [PreheatEnded("j1")] * 2
        await other.service.retry("j1")
        await several.look()
        again = [(host, each.attempt) for host, each in several.told() if isinstance(each, Preheat)]
        assert again == [("h1", 1), ("h1", 2), ("h2", 1), ("h2", 2)]
        runner.hear("h1", replace(DONE, attempt=2))
        other.hear("h2", replace(DONE, attempt=2))
        await several.look()
        found = await other.service.job("j1")
        assert found is not None
        assert found.record.state is JobState.SUCCEEDED

    run(redis_place, test)
