"""Without certificates only public content is exchanged: nobody hears of what a client's credential got."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY, Cluster, Host, cluster, until_true

LAYER, TINY = content_of("layer", MIB), content_of("tiny", 1000)
IMAGE = make_image(LAYER, TINY)
ALICE = "Bearer alice"


async def pull(host: Host, authorization: str | None) -> None:
    for path in ("manifests/latest", *(f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs)):
        reply = await ask(host.mirror, "GET", f"/v2/{REPOSITORY}/{path}", authorization=authorization)
        assert reply.status == 200


async def served(host: Host) -> list[int]:
    """What the peer port of the host says of all that the image has."""
    statuses = []
    for blob in (IMAGE.manifest, *IMAGE.blobs):
        path, part = f"/v2/swarm/blobs/{digest_of(blob)}", {"Range": f"bytes=0-{len(blob) - 1}"}
        while (reply := await ask(host.peer, "GET", path, part)).status == 429:  # busy with the last one
            pass
        statuses.append(reply.status)
    return statuses


def members(swarm: Cluster) -> int:
    return swarm.scheduler.core.statistics().members


@pytest.mark.parametrize("depth", [0, 3], ids=["asked for", "fetched ahead"])
@asynchronous
async def test_a_private_image_stays_on_the_host_that_got_it(
    tmp_path: Path, registry: ImageRegistry, depth: int
) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    registry.members[REPOSITORY] = {ALICE}
    async with cluster(tmp_path, registry) as swarm:
        for host in [await swarm.add(prefetch_layers=depth) for _ in range(2)]:
            await pull(host, ALICE)
            assert members(swarm) == 0
            assert await served(host) == [404] * 4
        assert swarm.scheduler.core.statistics().swarms == 0
        assert swarm.sent_bytes(digest_of(LAYER)) == 2 * len(LAYER)


@asynchronous
async def test_it_is_exchanged_where_the_operator_answers_for_the_network(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    registry.members[REPOSITORY] = {ALICE}
    async with cluster(tmp_path, registry) as swarm:
        hosts = [await swarm.add(allow_open=True) for _ in range(2)]
        for host in hosts:
            await pull(host, ALICE)
        assert swarm.sent_bytes(digest_of(LAYER)) == len(LAYER)
        assert await served(hosts[0]) == [206] * 4


@asynchronous
async def test_a_public_image_is_exchanged_whatever_token_its_clients_have(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """As at Docker Hub. The manifest that shows that the image is public is fetched before that is known."""
    registry.push(REPOSITORY, "latest", IMAGE)
    registry.wants_token = True
    async with cluster(tmp_path, registry) as swarm:
        hosts = [await swarm.add() for _ in range(2)]
        for host in hosts:
            await pull(host, ANONYMOUS)
        for blob in IMAGE.blobs:
            assert swarm.sent_bytes(digest_of(blob)) == len(blob)
        assert registry.asked("HEAD", digest_of(LAYER)) == 0
        await until_true(lambda: members(swarm) == 2 * 4)
        assert await served(hosts[0]) == [206] * 4


@asynchronous
async def test_what_proves_public_later_is_exchanged_from_then_on(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    registry.members[REPOSITORY] = {ALICE}
    async with cluster(tmp_path, registry) as swarm:
        host = await swarm.add()
        await pull(host, ALICE)
        assert members(swarm) == 0
        del registry.members[REPOSITORY]
        await pull(host, None)
        await until_true(lambda: members(swarm) == 4)
        assert await served(host) == [206] * 4
