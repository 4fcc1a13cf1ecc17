"""This host's part in asking for tags together: who is told what, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from peer.net.tag_lookups import TagFound, TagLookups, TagName, Turn
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FromHost
from tests.support.registry_server import PATIENCE_S

NAME = TagName(Repository(UpstreamName("docker.io"), RepositoryName("library/app")), Tag("v1"))
FIELDS = ("docker.io", "library/app", "v1")
RAW = b"d" * 32
FOUND = TagFound(Descriptor("application/json", Digest.from_raw(RAW), 7), public=True)
LOOKUP = from_host.TagLookup(*FIELDS)
RESOLVE = to_host.TagResolve(*FIELDS, 5.0)
RESULT = to_host.TagResult(*FIELDS, 200, RAW, 7, "application/json", public=True)


@dataclass
class Scene:
    """A host's lookups, what it told the scheduler, and its clients that wait."""

    patience_s: float = PATIENCE_S
    connected: bool = True
    told: list[FromHost] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lookups = TagLookups(self.told.append, lambda: self.connected, patience_s=self.patience_s)

    async def waiting(self, group: asyncio.TaskGroup, count: int) -> list[asyncio.Task[TagFound | Turn | None]]:
        tasks = [group.create_task(self.lookups.look_up(NAME)) for _ in range(count)]
        while len(self.lookups._waiting.get(NAME, ())) < count:  # noqa: ASYNC110 # there is no event to wait for
            await asyncio.sleep(0)
        return tasks


def play(scene: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            await scene(group)

    asyncio.run(bounded())


def test_all_clients_of_a_host_ask_once_and_are_told() -> None:
    async def scene(group: asyncio.TaskGroup) -> None:
        it = Scene()
        tasks = await it.waiting(group, 3)
        it.lookups.on_message(to_host.TagResult("docker.io", "library/app", "other", 200, RAW, 7, "application/json"))
        it.lookups.on_message(RESULT)
        assert await asyncio.gather(*tasks) == [FOUND] * 3
        assert it.told == [LOOKUP]
        it.lookups.on_message(RESULT)  # nobody waits for it any more

    play(scene)


def test_the_turn_is_one_clients_and_the_others_wait_for_what_it_finds() -> None:
    async def scene(group: asyncio.TaskGroup) -> None:
        it = Scene()
        first, second = await it.waiting(group, 2)
        it.lookups.on_message(RESOLVE)
        assert await first is Turn.OURS
        it.lookups.answer(NAME, 200, FOUND)
        assert it.told == [LOOKUP, from_host.TagAnswer(*FIELDS, 200, RAW, 7, "application/json", public=True)]
        assert not second.done()
        it.lookups.on_message(RESULT)
        assert await second == FOUND

    play(scene)


def test_what_the_origin_said_to_one_client_is_not_said_to_another() -> None:
    async def scene(group: asyncio.TaskGroup) -> None:
        it = Scene()
        first, second = await it.waiting(group, 2)
        it.lookups.on_message(RESOLVE)
        await first
        it.lookups.answer(NAME, 401)
        assert it.told == [LOOKUP, from_host.TagAnswer(*FIELDS, 401)]
        it.lookups.on_message(to_host.TagResult(*FIELDS, 401))
        assert await second is None

    play(scene)


def test_a_turn_that_comes_when_nobody_waits_is_passed_on() -> None:
    async def scene(_: asyncio.TaskGroup) -> None:
        it = Scene()
        it.lookups.on_message(RESOLVE)
        assert it.told == [from_host.TagAnswer(*FIELDS, 0)]

    play(scene)


def test_nobody_waits_without_a_scheduler() -> None:
    async def scene(group: asyncio.TaskGroup) -> None:
        it = Scene(connected=False)
        assert await it.lookups.look_up(NAME) is None
        assert it.told == []
        it.connected = True
        tasks = await it.waiting(group, 2)
        it.lookups.scheduler_lost()
        assert await asyncio.gather(*tasks) == [None, None]

    play(scene)


def test_patience_ends_and_the_next_client_asks_anew() -> None:
    async def scene(_: asyncio.TaskGroup) -> None:
        it = Scene(patience_s=0.001)
        assert await it.lookups.look_up(NAME) is None
        assert await it.lookups.look_up(NAME) is None
        assert it.told == [LOOKUP, LOOKUP]

    play(scene)


@pytest.mark.parametrize(
    "result",
    [
        to_host.TagResult(*FIELDS, 0),
        to_host.TagResult(*FIELDS, 200),
        to_host.TagResult(*FIELDS, 200, RAW),
        to_host.TagResult(*FIELDS, 200, RAW, 7),
        to_host.TagResult(*FIELDS, 200, RAW, 0, "application/json"),
        to_host.TagResult(*FIELDS, 404, RAW, 7, "application/json"),
    ],
)
def test_a_result_that_tells_too_little_is_none(result: to_host.TagResult) -> None:
    async def scene(group: asyncio.TaskGroup) -> None:
        it = Scene()
        (task,) = await it.waiting(group, 1)
        it.lookups.on_message(result)
        assert await task is None

    play(scene)
