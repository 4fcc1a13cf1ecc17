"""Hosts that only adopted an image, from the content stores of their runtimes, give it to the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, Cluster, Host, cluster, until_true

LAYERS = [content_of("first", 6 * MIB), content_of("second", MIB), content_of("tiny", 1000)]
IMAGE = make_image(*LAYERS)
ALL = [IMAGE.manifest, *IMAGE.blobs]
ALICE = "Bearer alice"
OTHERS = 15


def content_store(directory: Path) -> Path:
    """What a runtime has that has pulled the image."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in ALL:
        (blobs / digest_of(blob).hex).write_bytes(blob)
    return directory


async def add_adopting(swarm: Cluster, directory: Path, count: int, **options: object) -> list[Host]:
    hosts = [
        await swarm.add(adopt=[str(content_store(directory / f"content-{number}"))], **options)  # type: ignore[arg-type]
        for number in range(count)
    ]
    async with asyncio.timeout(PATIENCE_S):
        for host in hosts:
            while sum(each["adopted"] for each in await host.cached()) < len(ALL):
                pass
    return hosts


def members(swarm: Cluster) -> int:
    return swarm.scheduler.core.statistics().members


async def pull(host: Host, authorization: str | None = None) -> list[bytes]:
    """The bodies of manifest and blobs."""
    paths = ["manifests/latest", *(f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs)]
    replies = [await ask(host.mirror, "GET", f"/v2/{REPOSITORY}/{path}", authorization=authorization) for path in paths]
    return [reply.body for reply in replies if reply.status == 200]


@asynchronous
async def test_no_byte_leaves_the_origin_for_what_others_have_only_adopted(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    async with cluster(tmp_path, registry) as swarm:
        await add_adopting(swarm, tmp_path, OTHERS, allow_open=True)
        await until_true(lambda: members(swarm) == OTHERS * len(ALL))
        host = await swarm.add(allow_open=True)
        assert await pull(host) == ALL
        assert sum(registry.sent.values()) == 0


@asynchronous
async def test_a_client_gets_what_its_own_node_has_only_adopted(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    async with cluster(tmp_path, registry) as swarm:
        [host] = await add_adopting(swarm, tmp_path, 1, allow_open=True)
        assert await pull(host) == ALL
        assert sum(registry.sent.values()) == 0
        assert (await host.status())["cache"]["used_bytes"] == 0


@asynchronous
async def test_what_is_adopted_is_for_whom_the_origin_lets_have_it(tmp_path: Path, registry: ImageRegistry) -> None:
    """That a runtime holds content says nothing of who may have it."""
    registry.push(REPOSITORY, "latest", IMAGE)
    registry.members[REPOSITORY] = {ALICE}
    async with cluster(tmp_path, registry) as swarm:
        [host] = await add_adopting(swarm, tmp_path, 1, allow_open=True)
        assert await pull(host) == []
        assert await pull(host, "Bearer mallory") == []
        assert await pull(host, ALICE) == ALL


@asynchronous
async def test_without_certificates_nobody_hears_of_what_is_not_known_to_be_public(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    async with cluster(tmp_path, registry) as swarm:
        [host] = await add_adopting(swarm, tmp_path, 1)
        assert members(swarm) == 0
        path = f"/v2/swarm/blobs/{digest_of(LAYERS[0])}"
        assert (await ask(host.peer, "GET", path, {"Range": "bytes=0-9"})).status == 404
        assert await pull(host) == ALL  # now the origin has given it to everybody
        await until_true(lambda: members(swarm) == len(ALL))


@asynchronous
async def test_what_the_runtime_removes_is_announced_no_longer(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    async with cluster(tmp_path, registry) as swarm:
        [host] = await add_adopting(swarm, tmp_path, 1, allow_open=True)
        await until_true(lambda: members(swarm) == len(ALL))
        for file in (tmp_path / "content-0" / "blobs" / "sha256").iterdir():
            file.unlink()
        async with asyncio.timeout(PATIENCE_S):
            while members(swarm):
                await host.status()
        assert await host.cached() == []
        assert await pull(host) == ALL
