"""This host's part in tags whose origin is gone: what it asks, what it tells, and which result it believes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from msgspec import structs

from peer.net.tag_lookups import TagLookups, TagName, TagWord
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest, Digest
from peer.oci.reference import Repository, RepositoryName, Tag, UpstreamName
from peer.tasks import BackgroundTasks
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import FromHost
from tests.support.registry_server import PATIENCE_S

NAME = TagName(Repository(UpstreamName("docker.io"), RepositoryName("library/app")), Tag("v1"))
FIELDS = ("docker.io", "library/app", "v1")
RAW = b"d" * 32
S = "http://one:65003"
T = "http://two:65003"
MANIFEST = Descriptor("application/json", Digest.from_raw(RAW), 7)
LOOKUP = from_host.TagLookup(*FIELDS)
QUERY = to_host.TagQuery(*FIELDS, 5.0)
RESULT = to_host.TagResult(*FIELDS, 200, RAW, 7, "application/json", public=True, hosts=2)


@dataclass
class Scene:
    """A host's lookups, and what it told the scheduler."""

    tasks: BackgroundTasks
    patience_s: float = PATIENCE_S
    connected: bool = True
    schedulers: list[str] = field(default_factory=lambda: [S])
    told: list[FromHost] = field(default_factory=list)
    told_at: list[tuple[str, FromHost]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lookups = TagLookups(
            self._tell, lambda: self.schedulers if self.connected else [], self.tasks, patience_s=self.patience_s
        )

    def _tell(self, scheduler: str, message: FromHost) -> None:
        self.told.append(message)
        self.told_at.append((scheduler, message))

    async def waiting(self, group: asyncio.TaskGroup, count: int) -> list[asyncio.Task[Descriptor | None]]:
        tasks = [group.create_task(self.lookups.most_were_told(NAME)) for _ in range(count)]
        while not self.told:  # noqa: ASYNC110 # there is no event to wait for
            await asyncio.sleep(0)
        return tasks


def play(scene: Callable[[asyncio.TaskGroup, BackgroundTasks], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background, asyncio.TaskGroup() as group:
            await scene(group, background)

    asyncio.run(bounded())


def test_all_clients_of_a_host_ask_once_and_are_told() -> None:
    async def scene(group: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background)
        tasks = await it.waiting(group, 3)
        it.lookups.on_message(structs.replace(RESULT, repository="library/other"), S)
        it.lookups.on_message(RESULT, S)
        it.lookups.on_message(structs.replace(RESULT, digest=b"x" * 32), S)  # too late to change it
        assert await asyncio.gather(*tasks) == [MANIFEST] * 3
        assert it.told == [LOOKUP]
        it.lookups.on_message(RESULT, S)  # nobody waits for it any more

    play(scene)


def test_it_tells_what_its_own_origin_said_and_always_answers() -> None:
    async def scene(_: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background)
        it.lookups.on_message(QUERY, S)
        words = {NAME: TagWord(MANIFEST, 3.5)}
        it.lookups.own_word = words.get
        it.lookups.on_message(QUERY, S)
        it.lookups.on_message(structs.replace(QUERY, tag="other"), S)
        words[NAME] = TagWord(MANIFEST, 1e12)
        it.lookups.on_message(QUERY, S)
        words[NAME] = TagWord(replace(MANIFEST, digest=AnyDigest("sha512:" + "a" * 128)), 1.0)
        it.lookups.on_message(QUERY, S)
        answer = from_host.TagAnswer(*FIELDS, 200, RAW, 7, "application/json", public=True, age_s=3.5)
        assert it.told == [
            from_host.TagAnswer(*FIELDS, 0),
            answer,
            from_host.TagAnswer(*FIELDS[:2], "other", 0),
            structs.replace(answer, age_s=from_host.MAX_AGE_S),
            from_host.TagAnswer(*FIELDS, 0),
        ]

    play(scene)


def test_nobody_waits_without_a_scheduler() -> None:
    async def scene(group: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background, connected=False)
        assert await it.lookups.most_were_told(NAME) is None
        assert it.told == []
        it.connected = True
        tasks = await it.waiting(group, 2)
        it.lookups.scheduler_lost(S)
        assert await asyncio.gather(*tasks) == [None, None]

    play(scene)


def test_several_schedulers_are_asked_and_the_word_of_most_hosts_counts() -> None:
    async def scene(group: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background, schedulers=[S, T])
        (task,) = await it.waiting(group, 1)
        assert sorted(it.told_at) == [(S, LOOKUP), (T, LOOKUP)]
        it.lookups.on_message(structs.replace(RESULT, hosts=9), "http://three:65003")  # it was not asked
        it.lookups.on_message(structs.replace(RESULT, digest=b"x" * 32), S)
        it.lookups.on_message(QUERY, T)
        assert it.told_at[-1] == (T, from_host.TagAnswer(*FIELDS, 0))
        assert not task.done()
        it.lookups.on_message(structs.replace(RESULT, hosts=3), T)
        assert await task == MANIFEST

    play(scene)


def test_what_one_scheduler_has_said_counts_if_another_is_lost_or_silent() -> None:
    async def scene(group: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background, schedulers=[S, T])
        (task,) = await it.waiting(group, 1)
        it.lookups.on_message(RESULT, S)
        it.lookups.scheduler_lost(T)
        assert await task == MANIFEST
        it = Scene(background, schedulers=[S, T], patience_s=0.2)
        (task,) = await it.waiting(group, 1)
        it.lookups.on_message(RESULT, S)
        assert await task == MANIFEST

    play(scene)


def test_patience_ends_and_the_next_client_asks_anew() -> None:
    async def scene(_: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background, patience_s=0.001)
        assert await it.lookups.most_were_told(NAME) is None
        assert await it.lookups.most_were_told(NAME) is None
        assert it.told == [LOOKUP, LOOKUP]

    play(scene)


@pytest.mark.parametrize(
    "result",
    [
        to_host.TagResult(*FIELDS, 0),
        structs.replace(RESULT, hosts=1),
        structs.replace(RESULT, hosts=0),
        structs.replace(RESULT, public=False),
        structs.replace(RESULT, digest=None),
        structs.replace(RESULT, size_bytes=None),
        structs.replace(RESULT, size_bytes=0),
        structs.replace(RESULT, media_type=""),
        structs.replace(RESULT, status=404),
    ],
    ids=["none", "one host", "an older scheduler", "private", "no digest", "no size", "empty", "no type", "404"],
)
def test_a_result_of_one_host_or_that_tells_too_little_is_not_believed(result: to_host.TagResult) -> None:
    async def scene(group: asyncio.TaskGroup, background: BackgroundTasks) -> None:
        it = Scene(background)
        (task,) = await it.waiting(group, 1)
        it.lookups.on_message(result, S)
        assert await task is None

    play(scene)
