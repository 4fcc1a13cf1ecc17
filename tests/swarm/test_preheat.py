"""Real hosts are preheated: what they hold then, what a client gets, and what gives way to whom."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from msgspec import structs

from p2pd.daemon.preheating import WallClock
from p2pd.preheat.api import record_of
from p2pd.preheat.images import more_of
from p2pd.preheat.request import parse_request
from peer.readers import BlobReader
from peer.tasks import BackgroundTasks
from scheduler.core.events import Connected, Event, Instruction, Send
from scheduler.core.preheat_job import JobState, Target, TargetState
from scheduler.core.preheat_record import JobView
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.to_host import Preheat
from scheduler.shell.preheating import Preheating, preheating
from scheduler.shell.sqlite_preheats import SqlitePreheats
from scheduler.trust.files import make_private_directory
from tests.support.images import Image, content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering
from tests.swarm.cluster import MIB, PATIENT, REPOSITORY, UPSTREAM, Cluster, Host, RunningScheduler, cluster, together

SETTLED = replace(PATIENT, settle_s=0.0)
IMAGE = f"{UPSTREAM}/{REPOSITORY}:v1"


@asynccontextmanager
async def preheats(scheduler: RunningScheduler, directory: Path) -> AsyncIterator[Preheating]:
    """The service of a scheduler that runs."""
    make_private_directory(directory)
    async with (
        BackgroundTasks() as tasks,
        preheating(scheduler.core, scheduler.server, SqlitePreheats.open(directory), WallClock()) as service,
    ):
        tasks.start(service.write())
        yield service


async def order(service: Preheating, *images: str, **body: object) -> str:
    now = time.time()
    request = parse_request({"images": images or (IMAGE,), **body}, now)
    view = await service.add(record_of(request, "api", now), credential=request.credentials)
    return view.record.id


async def ended(service: Preheating, job: str) -> JobView:
    async with asyncio.timeout(PATIENCE_S):
        while (view := await service.job(job)) is None or view.record.is_open:  # noqa: ASYNC110 # a look, as an API has
            await asyncio.sleep(0.01)
    return view


def states(view: JobView) -> dict[str, TargetState]:
    return {target.host: target.state for target in view.targets}


def app(registry: ImageRegistry, *sizes: int, tag: str = "v1") -> Image:
    image = make_image(*(content_of(f"layer {tag} {size}", size) for size in sizes))
    registry.push(REPOSITORY, tag, image)
    return image


async def holds(host: Host, image: Image) -> bool:
    whole = {blob["digest"] for blob in await host.cached() if blob["complete"]}
    return {*map(digest_of, image.blobs), image.digest} <= whole


@asynccontextmanager
async def three(
    tmp_path: Path, registry: ImageRegistry, **options: object
) -> AsyncIterator[tuple[Cluster, list[Host], Preheating]]:
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        yield swarm, await swarm.add_many(3, **options), service


@asynchronous
async def test_hosts_have_the_image_before_a_client_asks(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, 3 * MIB + 1, 4096)
    async with three(tmp_path, registry, allow_open=True) as (swarm, hosts, service):
        view = await ended(service, await order(service))
        assert view.record.state is JobState.SUCCEEDED, [target.reason for target in view.targets]
        assert all(target.confirmed for target in view.targets)
        assert [await holds(host, image) for host in hosts] == [True] * 3
        before = registry.sent.total()
        for content in image.blobs:
            replies = await together([host.blob(digest_of(content)) for host in hosts])
            assert {reply.body for reply in replies} == {content}
        assert registry.sent.total() == before
        assert all(blob["pinned_s"] > 6 * 86_400 for blob in await hosts[0].cached())
        assert swarm.sent_bytes(digest_of(image.blobs[1])) < 2 * len(image.blobs[1])


@asynchronous
async def test_only_the_hosts_that_are_selected(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, MIB)
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        east, west = await swarm.add(site="east"), await swarm.add(site="west")
        view = await ended(service, await order(service, to="site=east"))
        assert [target.site for target in view.targets] == ["east"]
        assert (await holds(east, image), await holds(west, image)) == (True, False)


@asynchronous
async def test_what_does_not_exist_fails_with_the_origin_s_word(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, MIB)
    async with three(tmp_path, registry) as (_, hosts, service):
        names = (f"{UPSTREAM}/{REPOSITORY}:none", "elsewhere.test/app", IMAGE)
        view = await ended(service, await order(service, *names))
        assert view.record.state is JobState.FAILED
        reason = view.targets[0].reason
        assert "404" in reason
        assert "elsewhere.test is no upstream of this host" in reason
        assert await holds(hosts[0], image), "the others are fetched all the same"


@asynchronous
async def test_a_host_that_comes_back_is_told_again(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, MIB)
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        job = await order(service, to="late")
        host = await swarm.add(host_id="late")
        assert (await ended(service, job)).record.state is JobState.SUCCEEDED
        assert await holds(host, image)


@asynchronous
async def test_a_job_survives_the_scheduler(tmp_path: Path, registry: ImageRegistry) -> None:
    """It is killed while hosts are at it: nothing is written at its end."""
    image = app(registry, 2 * MIB)
    layer = image.layer_digests[0]
    hold = registry.hold(REPOSITORY, layer, MIB)
    async with cluster(tmp_path, registry, SETTLED) as swarm:
        hosts = await swarm.add_many(2)
        async with preheats(swarm.scheduler, tmp_path / "jobs") as service:
            job = await order(service)
            await asyncio.to_thread(hold.reached.wait, PATIENCE_S)
            swarm.scheduler.server.on_preheat = lambda _: None  # as if it had been killed: nothing more is kept
            await swarm.scheduler.stop()
        hold.go.set()
        await swarm.scheduler.start()
        async with preheats(swarm.scheduler, tmp_path / "jobs") as service:
            view = await ended(service, job)
            assert view.record.state is JobState.SUCCEEDED
            assert [await holds(host, image) for host in hosts] == [True, True]


@asynchronous
async def test_a_client_takes_over_what_is_being_preheated(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, 4 * MIB)
    layer = image.layer_digests[0]
    hold = registry.hold(REPOSITORY, layer, 1000)
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        host = await swarm.add()
        job = await order(service, rate="1kB")  # the client keeps to no such rate
        await asyncio.to_thread(hold.reached.wait, PATIENCE_S)
        asked = asyncio.ensure_future(host.blob(layer))  # noqa: TID251 # a client beside the test
        hold.go.set()
        assert (await asked).body == image.blobs[1]
        assert (await ended(service, job)).record.state is JobState.SUCCEEDED
        assert (await preheated(host))[1] == 4 * MIB
        assert swarm.sent_bytes(layer) <= 5 * MIB, "no piece is lost, and few are asked for again"


@asynchronous
async def test_a_preheat_waits_while_a_client_waits(tmp_path: Path, registry: ImageRegistry) -> None:
    """The download ends, so that its leases go to others; it goes on with what it has when the client is served."""
    ahead, wanted = app(registry, 4 * MIB), app(registry, MIB, tag="v2")
    layer, other = ahead.layer_digests[0], wanted.layer_digests[0]
    slow, clients = registry.hold(REPOSITORY, layer, 2 * MIB), registry.hold(REPOSITORY, other, 1000)
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        host = await swarm.add()
        job = await order(service)
        await asyncio.to_thread(slow.reached.wait, PATIENCE_S)
        asked = asyncio.ensure_future(host.blob(other))  # noqa: TID251 # a client beside the test
        await asyncio.to_thread(clients.reached.wait, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            while (await host.status())["downloads"]["active"] != 1:
                pass
        clients.go.set()
        slow.go.set()
        assert (await asked).body == wanted.blobs[1]
        assert (await ended(service, job)).record.state is JobState.SUCCEEDED


@asynchronous
async def test_an_image_that_needs_a_login(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, MIB)
    registry.members[REPOSITORY] = {"Bearer good"}
    registry.tokens["Basic dTpw"] = "Bearer good"
    async with three(tmp_path, registry, allow_open=True) as (_, hosts, service):
        job = await order(service)
        assert (await ended(service, job)).record.state is JobState.FAILED
        secret = {"auths": {UPSTREAM: {"auth": "dTpw"}}}
        job = await order(service, credentials=secret)
        view = await ended(service, job)
        assert view.record.state is JobState.SUCCEEDED
        assert await holds(hosts[0], image)
        for file in (tmp_path / "jobs").iterdir():
            assert b"dTpw" not in file.read_bytes()
        assert SqlitePreheats.open(tmp_path / "jobs").credential(job) == "", "it is forgotten at the end"
        replies = await hosts[0].blob(image.layer_digests[0]), await hosts[0].manifest(image.digest)
        assert [reply.status for reply in replies] == [401, 401], "the job's login opens nothing to clients"


class Certified(Scheduler):
    """Takes each host for one with a certificate, and writes down to whom a credential was told."""

    told: ClassVar[list[tuple[bool, bool]]] = []

    def handle(self, event: Event, now: float) -> list[Instruction]:
        if isinstance(event, Connected):
            event = structs.replace(event, certified=True)
        instructions = super().handle(event, now)
        sent = [each for each in instructions if isinstance(each, Send) and isinstance(each.message, Preheat)]
        for each in sent:
            assert isinstance(each.message, Preheat)
            self.told.extend([(bool(each.message.credential), each.message.from_hosts)] * len(each.connections))
        return instructions


@asynchronous
async def test_hosts_without_the_credential_have_a_private_image_from_those_that_fetch(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    image = app(registry, MIB)
    registry.members[REPOSITORY] = {"Bearer good"}
    registry.tokens["Basic dTpw"] = "Bearer good"
    Certified.told.clear()
    async with (
        cluster(tmp_path, registry, SETTLED, kind=Certified) as swarm,
        preheats(swarm.scheduler, tmp_path / "jobs") as service,
    ):
        hosts = await swarm.add_many(4, allow_open=True)
        view = await ended(service, await order(service, credentials={"auths": {UPSTREAM: {"auth": "dTpw"}}}))
        assert view.record.state is JobState.SUCCEEDED, [target.reason for target in view.targets]
        assert [await holds(host, image) for host in hosts] == [True] * 4
        assert Certified.told == [(True, False)] * 2 + [(False, True)] * 2


@asynchronous
async def test_hostile_names_and_answers(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.rules[f"/v2/{REPOSITORY}/manifests/v1"] = Answering(body=json.dumps({"schemaVersion": 2}).encode())
    async with three(tmp_path, registry) as (_, _hosts, service):
        view = await ended(service, await order(service))
        assert view.record.state is JobState.FAILED


class Never(BlobReader):
    """A blob of which nothing comes."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def readable(self, start: int, stop: int) -> int:  # noqa: ARG002 # the interface's
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


@asynchronous
async def test_a_client_ends_the_wait_for_more_at_once() -> None:
    reader, on_client = Never(), set[Callable[[], None]]()
    waiting = asyncio.ensure_future(more_of(reader, 5, 9, on_client, within_s=3600.0))  # noqa: TID251 # beside the test
    await reader.asked.wait()
    for tell in (*on_client, *on_client):  # another one that comes at the same moment changes nothing
        tell()
    assert await waiting == 5
    assert not on_client


@asynchronous
async def test_what_is_preheated_and_what_clients_use_of_it_is_counted(tmp_path: Path, registry: ImageRegistry) -> None:
    image = app(registry, 2 * MIB, 4096)
    async with three(tmp_path, registry, allow_open=True) as (_, hosts, service):
        await ended(service, await order(service))
        host = hosts[0]
        whole = 2 * MIB + 4096 + len(image.blobs[0])
        assert await preheated(host) == (whole, 0)
        for _ in range(2):
            await host.blob(image.layer_digests[0])
        assert await preheated(host) == (whole, 2 * MIB)
        await ended(service, await order(service))
        assert await preheated(host) == (whole, 2 * MIB), "what is held is not preheated"


async def preheated(host: Host) -> tuple[int, int]:
    cache = (await host.status())["cache"]
    return cache["preheated_bytes"], cache["preheated_used_bytes"]


@asynchronous
async def test_a_host_fetches_no_more_than_an_order_lets_it_and_evicts_nothing(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """What is over the bound is not begun. What fits by evicting alone is not fetched either; without a bound it is."""
    app(registry, 2 * MIB)
    other = app(registry, MIB, tag="v2")
    async with cluster(tmp_path, registry, SETTLED) as swarm, preheats(swarm.scheduler, tmp_path / "jobs") as service:
        host = await swarm.add(max_bytes=2 * MIB)
        before = await bounded(service, IMAGE, MIB)
        assert (before.state, before.fetched_bytes < MIB) == (TargetState.FAILED, True)
        assert "may fetch" in before.reason
        assert (await bounded(service, f"{UPSTREAM}/{REPOSITORY}:v2", 2 * MIB)).state is TargetState.DONE
        (v2_is_held, evicting) = (await holds(host, other), await bounded(service, IMAGE, 3 * MIB))
        assert (v2_is_held, evicting.state, await holds(host, other)) == (True, TargetState.FAILED, True)
        assert "without evicting" in evicting.reason


async def bounded(service: Preheating, image: str, most_bytes: int) -> Target:
    now = time.time()
    record = record_of(parse_request({"images": [image], "ttl": 0}, now), "predict", now)
    view = await service.add(replace(record, order=replace(record.order, most_bytes=most_bytes)))
    (target,) = (await ended(service, view.record.id)).targets
    return target
