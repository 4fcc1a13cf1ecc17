"""Many nodes pull by a tag: one of them asks for it, and a host that fails or lies does no harm.

The registry's log is counted exactly: the questions for the tag, and those for the digest, by which the origin says for
each host that its client may have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from peer.oci.manifest import OCI_IMAGE
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import from_host, to_host
from tests.support.client import Reply, ask
from tests.support.images import content_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.swarm.cluster import REPOSITORY, UPSTREAM, Cluster, Host, cluster, together, until_true
from tests.swarm.scripted import ScriptedHost, scripted

HOSTS = 5
IMAGE, OTHER = make_image(content_of("app", 1000)), make_image(content_of("other", 1000))
ALICE, BOB = "Bearer alice", "Bearer bob"
LOOKUP = from_host.TagLookup(UPSTREAM, REPOSITORY, "latest")
NEVER_LATE = SchedulerSettings(tag_resolve_s=3600.0)
SOON_LATE = SchedulerSettings(tag_resolve_s=0.2)


@pytest.fixture
def registry(registry: ImageRegistry) -> ImageRegistry:
    registry.push(REPOSITORY, "latest", IMAGE)
    return registry


async def pull(hosts: Sequence[Host], who: str | None = None, tag: str = "latest") -> list[Reply]:
    """What the hosts answer when all are asked for the tag at once."""
    path = f"/v2/{REPOSITORY}/manifests/{tag}"
    return await together([ask(host.mirror, "GET", path, authorization=who) for host in hosts])


def assert_pulled(replies: Sequence[Reply]) -> None:
    assert {reply.status for reply in replies} == {200}
    assert {reply.body for reply in replies} == {IMAGE.manifest}
    assert {reply.headers["content-type"] for reply in replies} == {OCI_IMAGE}


def questions(registry: ImageRegistry, who: str | None = None) -> tuple[int, int, int]:
    """What the registry was asked: for the tag, for the digest (HEAD), and to send the manifest.

    `who`: only by this client. Once an hour each host asks, without its client, whether the repository is public.
    """
    seen = [each for each in tuple(registry.seen) if who is None or each.headers.get("authorization") == who]
    tag = sum(each.path.endswith("/manifests/latest") for each in seen)
    digest = [each.method for each in seen if each.path.endswith(IMAGE.digest)]
    return tag, digest.count("HEAD"), digest.count("GET")


@asynchronous
async def test_one_asks_for_the_tag_and_each_other_whether_its_client_may_have_it(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(HOSTS)
        assert_pulled(await pull(hosts))
        assert questions(registry) == (1, HOSTS - 1, 1)
        assert_pulled(await pull(hosts))
        assert questions(registry) == (1, HOSTS - 1, 1), "both are remembered"


@pytest.mark.parametrize(("wants_token", "who", "asked"), [(False, None, 1), (False, ALICE, 1), (True, ANONYMOUS, 2)])
def test_where_hosts_trust_each_other_a_public_image_costs_one_question(
    tmp_path: Path, registry: ImageRegistry, wants_token: bool, who: str | None, asked: int
) -> None:
    """Two where the registry wants a token that it gives to anyone: the first is answered with a challenge."""

    @asynchronous
    async def test() -> None:
        registry.wants_token = wants_token
        async with cluster(tmp_path, registry) as swarm:
            hosts = await swarm.add_many(HOSTS, trust_hosts=True)
            assert_pulled(await pull(hosts, who))
            tag, digest, body = questions(registry)
            assert (tag, digest) == (asked, 0)
            assert registry.asked("GET", "/token") <= 1 + wants_token  # its own, and that of who fetched the manifest
            assert body <= 1 + wants_token

    test()


@asynchronous
async def test_a_private_image_is_for_those_who_may_have_it(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.members[REPOSITORY] = {ALICE}
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(HOSTS, allow_open=True)
        assert_pulled(await pull(hosts, ALICE))
        assert questions(registry, ALICE) == (1, HOSTS - 1, 1)
        for reply in await pull(hosts, BOB):
            assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
            assert reply.headers["www-authenticate"] == registry.challenge(REPOSITORY)
        # Each is told the digest, is refused that, and gets the origin's own answer for the tag.
        assert questions(registry, BOB) == (HOSTS, HOSTS, 0)


@pytest.mark.parametrize("trust_hosts", [False, True])
@asynchronous
async def test_without_certificates_each_asks_for_a_private_image_itself(
    tmp_path: Path, registry: ImageRegistry, trust_hosts: bool
) -> None:
    registry.members[REPOSITORY] = {ALICE}
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(HOSTS, trust_hosts=trust_hosts)
        assert_pulled(await pull(hosts, ALICE))
        assert questions(registry, ALICE) == (HOSTS, 0, HOSTS)


@asynchronous
async def test_a_tag_that_is_not_there_has_the_origins_answer_at_each_host(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(HOSTS)
        for reply in await pull(hosts, tag="missing"):
            assert (reply.status, reply.code, reply.message) == (404, "MANIFEST_UNKNOWN", "the registry says so")
        assert registry.asked("GET", "/manifests/missing") == HOSTS


@asynchronous
async def test_a_host_that_does_not_answer_when_it_is_its_turn_makes_way(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    async with cluster(tmp_path, registry, SOON_LATE) as swarm, scripted(swarm, "z-silent", b"x") as silent:
        hosts = await swarm.add_many(HOSTS)
        await has_its_turn(silent)
        assert_pulled(await pull(hosts))
        assert questions(registry) == (1, HOSTS - 1, 1)


@asynchronous
async def test_a_host_that_dies_when_it_is_its_turn_makes_way_at_once(tmp_path: Path, registry: ImageRegistry) -> None:
    async with cluster(tmp_path, registry, NEVER_LATE) as swarm:
        hosts = await swarm.add_many(HOSTS)
        async with asyncio.TaskGroup() as group, scripted(swarm, "z-dies", b"x") as dying:
            await has_its_turn(dying)
            replies = group.create_task(pull(hosts))
            await until_true(lambda: waiting_hosts(swarm) == 1 + HOSTS)
            assert registry.seen == []
        assert_pulled(replies.result())
        assert questions(registry) == (1, HOSTS - 1, 1)


@asynchronous
async def test_hosts_whose_patience_ends_ask_for_themselves(tmp_path: Path, registry: ImageRegistry) -> None:
    async with cluster(tmp_path, registry, NEVER_LATE) as swarm, scripted(swarm, "z-silent", b"x") as silent:
        hosts = await swarm.add_many(HOSTS, scheduler_wait_s=0.2)
        await has_its_turn(silent)
        assert_pulled(await pull(hosts))
        assert questions(registry) == (HOSTS, 0, 1)


@asynchronous
async def test_without_the_scheduler_they_ask_for_themselves_at_once(tmp_path: Path, registry: ImageRegistry) -> None:
    async with cluster(tmp_path, registry, NEVER_LATE) as swarm, scripted(swarm, "z-silent", b"x") as silent:
        hosts = await swarm.add_many(HOSTS, scheduler_wait_s=0.5)
        await has_its_turn(silent)
        async with asyncio.TaskGroup() as group:
            replies = group.create_task(pull(hosts))
            await until_true(lambda: waiting_hosts(swarm) == 1 + HOSTS)
            await swarm.scheduler.stop()
        assert_pulled(replies.result())
        assert questions(registry)[:2] == (HOSTS, 0)


@pytest.mark.parametrize("holds_it", [True, False])
def test_a_host_that_lies_gives_nobody_a_private_image(tmp_path: Path, registry: ImageRegistry, holds_it: bool) -> None:
    """It says that a public tag is a private image's, which this host or its neighbour holds, and that anyone may have
    it."""
    registry.push("secret", "latest", OTHER)
    registry.members["secret"] = {ALICE}

    @asynchronous
    async def test() -> None:
        async with cluster(tmp_path, registry) as swarm, scripted(swarm, "z-liar", OTHER.manifest) as liar:
            asked, neighbour = await swarm.add_many(2)
            holder = asked if holds_it else neighbour
            private = await ask(holder.mirror, "GET", "/v2/secret/manifests/latest", authorization=ALICE)
            assert private.body == OTHER.manifest
            await has_its_turn(liar)
            lie = from_host.TagAnswer(
                UPSTREAM, REPOSITORY, "latest", 200, liar.raw_digest, len(OTHER.manifest), OCI_IMAGE, public=True
            )
            await liar.tell(lie)
            await until_true(lambda: bool(liar.heard_of(to_host.TagResult)))
            assert_pulled(await pull([asked]))
            reply = await ask(asked.mirror, "GET", f"/v2/{REPOSITORY}/manifests/{OTHER.digest}")
            assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")

    test()


async def has_its_turn(host: ScriptedHost) -> None:
    """It is the first to ask for the tag."""
    await host.tell(LOOKUP)
    await until_true(lambda: bool(host.heard_of(to_host.TagResolve)))


def waiting_hosts(swarm: Cluster) -> int:
    """How many wait for the tag."""
    return sum(len(lookup.waiting) for lookup in swarm.scheduler.core._tags._lookups.values())
