"""Many nodes pull by a tag: each asks the registry what it means, and no other host's word decides it.

The registry's log is counted exactly. While the registry is gone, a node that never saw the tag gets what most nodes
were told, and never what one says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from peer.oci.manifest import OCI_IMAGE
from scheduler.protocol import from_host, to_host
from tests.support.client import Reply, ask
from tests.support.images import Image, content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import PATIENT, REPOSITORY, UPSTREAM, Apart, Cluster, Host, cluster, together, until_true
from tests.swarm.scripted import ScriptedHost, scripted

HOSTS = 5
OLD, IMAGE = make_image(content_of("old", 1000)), make_image(content_of("app", 200_000))
LAYER = IMAGE.layers[0]
ALICE, BOB = "Bearer alice", "Bearer bob"
LOOKUP = from_host.TagLookup(UPSTREAM, REPOSITORY, "latest")
AT_ONCE = replace(PATIENT, settle_s=0.0, tag_ttl_s=0.0, tag_tell_s=15.0)
STALE = {"serve_stale_tags": True, "tag_ttl_s": 0}


@pytest.fixture
def registry(registry: ImageRegistry) -> ImageRegistry:
    registry.push(REPOSITORY, "old", OLD)
    registry.push(REPOSITORY, "latest", IMAGE)
    return registry


async def pull(hosts: Sequence[Host], who: str | None = None, tag: str = "latest") -> list[Reply]:
    """What the hosts answer when all are asked for the tag at once."""
    path = f"/v2/{REPOSITORY}/manifests/{tag}"
    return await together([ask(host.mirror, "GET", path, authorization=who) for host in hosts])


def assert_pulled(replies: Sequence[Reply], image: Image = IMAGE) -> None:
    assert {reply.status for reply in replies} == {200}
    assert {reply.body for reply in replies} == {image.manifest}
    assert {reply.headers["content-type"] for reply in replies} == {OCI_IMAGE}


def questions(registry: ImageRegistry, who: str | None = None) -> tuple[int, int, int]:
    """What the registry was asked: for the tag (HEAD), for the digest (HEAD), and to send the manifest.

    `who`: only by this client. Once an hour each host asks, without its client, whether the repository is public.
    """
    seen = [each for each in tuple(registry.seen) if who is None or each.headers.get("authorization") == who]
    tag = [each.method for each in seen if each.path.endswith("/manifests/latest")]
    digest = [each.method for each in seen if each.path.endswith(IMAGE.digest)]
    return tag.count("HEAD"), digest.count("HEAD"), digest.count("GET") + tag.count("GET")


@asynccontextmanager
async def liar(swarm: Cluster, name: str = "z-liar", image: Image = OLD) -> AsyncIterator[ScriptedHost]:
    """A host that answers each question for a tag at once: its origin has just said that it names `image`."""
    async with scripted(swarm, name, image.manifest) as host, asyncio.TaskGroup() as group:

        async def lie() -> None:
            answered = 0
            while not host.ending.is_set():
                for query in host.heard_of(to_host.TagQuery)[answered:]:
                    answered += 1
                    asked = (query.upstream, query.repository, query.tag, 200)
                    size_bytes = len(image.manifest)
                    await host.tell(from_host.TagAnswer(*asked, host.raw_digest, size_bytes, OCI_IMAGE, public=True))
                await asyncio.sleep(0.002)

        lying = group.create_task(lie())
        yield host
        lying.cancel()


class TestWhileTheRegistryAnswers:
    @asynchronous
    async def test_each_asks_for_the_tag_and_the_manifest_is_sent_once(
        self, tmp_path: Path, registry: ImageRegistry
    ) -> None:
        async with cluster(tmp_path, registry) as swarm:
            hosts = await swarm.add_many(HOSTS)
            for _ in range(2):
                assert_pulled(await pull(hosts))
                assert questions(registry) == (HOSTS, 0, 1), "no more than that until `tag_ttl_s` is over"

    @asynchronous
    async def test_a_registry_that_wants_a_token(self, tmp_path: Path, registry: ImageRegistry) -> None:
        registry.wants_token = True
        async with cluster(tmp_path, registry) as swarm:
            assert_pulled(await pull(await swarm.add_many(HOSTS, allow_open=True), ANONYMOUS))
            tag, digest, body = questions(registry, ANONYMOUS)
            assert (tag, body) == (HOSTS, 1)
            assert digest <= HOSTS, "by which each finds out that anyone may have the image"

    @asynchronous
    async def test_a_private_image_is_for_those_who_may_have_it(self, tmp_path: Path, registry: ImageRegistry) -> None:
        registry.members[REPOSITORY] = {ALICE}
        async with cluster(tmp_path, registry) as swarm:
            hosts = await swarm.add_many(HOSTS, allow_open=True)
            assert_pulled(await pull(hosts, ALICE))
            assert questions(registry, ALICE) == (HOSTS, 0, 1)
            for reply in await pull(hosts, BOB):
                assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
                assert reply.headers["www-authenticate"] == registry.challenge(REPOSITORY)
            assert questions(registry, BOB) == (HOSTS, 0, 0)

    @asynchronous
    async def test_a_tag_that_is_not_there_has_the_origins_answer_at_each_host(
        self, tmp_path: Path, registry: ImageRegistry
    ) -> None:
        async with cluster(tmp_path, registry) as swarm:
            for reply in await pull(await swarm.add_many(HOSTS), tag="missing"):
                assert (reply.status, reply.code, reply.message) == (404, "MANIFEST_UNKNOWN", "the registry says so")
            assert registry.asked("GET", "/manifests/missing") == HOSTS

    @pytest.mark.parametrize("serve_stale_tags", [False, True])
    def test_hosts_that_lie_bring_no_old_image(
        self, tmp_path: Path, registry: ImageRegistry, serve_stale_tags: bool
    ) -> None:
        """Even two of them, before anybody else has asked for the tag."""

        @asynchronous
        async def test() -> None:
            async with cluster(tmp_path, registry, AT_ONCE) as swarm, liar(swarm) as one, liar(swarm, "z-liar-2"):
                await one.tell(LOOKUP)
                await until_true(lambda: bool(one.heard_of(to_host.TagResult)))
                hosts = await swarm.add_many(2, serve_stale_tags=serve_stale_tags)
                assert_pulled(await pull(hosts))

        test()


class TestWhileTheRegistryIsGone:
    @pytest.mark.parametrize("liars", [0, 1, 2])
    def test_newcomers_get_by_the_tag_what_most_nodes_were_told(
        self, tmp_path: Path, registry: ImageRegistry, liars: int
    ) -> None:
        """The whole image, though one or two others say that the tag names an older one."""

        @asynchronous
        async def test() -> None:
            async with cluster(tmp_path, registry, AT_ONCE, kind=Apart) as swarm:
                holders = await swarm.add_many(3, **STALE)
                assert_pulled(await pull(holders))
                for host in holders:
                    assert (await host.blob(digest_of(LAYER))).body == LAYER
                await pull(holders[:1], tag="old")
                registry.stop()
                async with AsyncExitStack() as lying:
                    for number in range(liars):
                        await lying.enter_async_context(liar(swarm, f"z-liar-{number}"))
                    newcomers = await swarm.add_many(2, **STALE)
                    assert_pulled(await pull(newcomers))
                    for host in newcomers:
                        assert (await host.blob(digest_of(LAYER))).body == LAYER
                    assert_pulled(await pull(holders))

        test()

    @asynchronous
    async def test_what_one_node_was_told_is_for_its_own_clients(self, tmp_path: Path, registry: ImageRegistry) -> None:
        async with cluster(tmp_path, registry, AT_ONCE, kind=Apart) as swarm:
            (holder,) = await swarm.add_many(1, **STALE)
            assert_pulled(await pull([holder]))
            registry.stop()
            newcomers = await swarm.add_many(2, **STALE)
            for _ in range(2):  # what the first newcomer asked for makes it no second witness
                assert [reply.status for reply in await pull(newcomers)] == [404, 404]
            async with liar(swarm):
                assert [reply.status for reply in await pull(newcomers)] == [404, 404]
            assert_pulled(await pull([holder]))

    @asynchronous
    async def test_of_a_tag_that_moved_they_get_the_newer(self, tmp_path: Path, registry: ImageRegistry) -> None:
        async with cluster(tmp_path, registry, AT_ONCE, kind=Apart) as swarm:
            holders = await swarm.add_many(3, **STALE)
            registry.push(REPOSITORY, "latest", OLD)
            assert_pulled(await pull(holders), OLD)
            registry.push(REPOSITORY, "latest", IMAGE)
            assert_pulled(await pull(holders[1:]))
            registry.stop()
            assert_pulled(await pull(await swarm.add_many(2, **STALE)))

    @asynchronous
    async def test_a_scheduler_that_was_started_again_asks_again(self, tmp_path: Path, registry: ImageRegistry) -> None:
        async with cluster(tmp_path, registry, kind=Apart) as swarm:
            holders = await swarm.add_many(3, **STALE)
            assert_pulled(await pull(holders))
            registry.stop()
            newcomers = await swarm.add_many(1, **STALE)
            await swarm.scheduler.stop()
            await swarm.scheduler.start()
            await until_true(lambda: swarm.scheduler.core.statistics().hosts == 4)
            assert_pulled(await pull(newcomers))

    @asynchronous
    async def test_an_index_of_a_registry_that_gives_tokens_to_anyone(
        self, tmp_path: Path, registry: ImageRegistry
    ) -> None:
        """Holders find out beside the pull that it is public. Newcomers get all that is below the index."""
        index = registry.push_index(REPOSITORY, "multi", IMAGE)
        registry.wants_token = True
        paths = [f"manifests/{index}", f"manifests/{IMAGE.digest}", f"blobs/{digest_of(LAYER)}"]
        async with cluster(tmp_path, registry, AT_ONCE, kind=Apart) as swarm:
            holders = await swarm.add_many(2, **STALE)
            for host in holders:
                for path in ("manifests/multi", *paths):
                    url = f"/v2/{REPOSITORY}/{path}"
                    assert (await ask(host.mirror, "GET", url, authorization=ANONYMOUS)).status == 200
                async with asyncio.timeout(PATIENCE_S):
                    while (await host.manifest(index)).status != 200:
                        pass
            registry.stop()
            (newcomer,) = await swarm.add_many(1, **STALE)
            for path in ("manifests/multi", *paths):
                assert (await ask(newcomer.mirror, "GET", f"/v2/{REPOSITORY}/{path}")).status == 200

    @asynchronous
    async def test_a_private_image_is_nobodys(self, tmp_path: Path, registry: ImageRegistry) -> None:
        registry.members[REPOSITORY] = {ALICE}
        async with cluster(tmp_path, registry, AT_ONCE, kind=Apart) as swarm:
            assert_pulled(await pull(await swarm.add_many(3, **STALE), ALICE))
            registry.stop()
            newcomers = await swarm.add_many(1, **STALE)
            for who in (None, ALICE):
                assert [reply.status for reply in await pull(newcomers, who)] == [404]

    @asynchronous
    async def test_a_node_whose_operator_does_not_want_it_does_not_ask(
        self, tmp_path: Path, registry: ImageRegistry
    ) -> None:
        async with cluster(tmp_path, registry, AT_ONCE, kind=Apart) as swarm:
            assert_pulled(await pull(await swarm.add_many(3, **STALE)))
            registry.stop()
            assert [reply.status for reply in await pull(await swarm.add_many(1))] == [404]
            assert not len(swarm.scheduler.core._tags)
