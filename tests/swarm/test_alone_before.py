"""A host that was alone, and joins others: they have from it what it fetched, and it serves it after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from peer.store.record import Header, peek
from tests.peer.store_fixtures import flip
from tests.support.images import content_of, digest_of
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM, cluster, until_true

LAYER = content_of("layer", 6 * MIB)
DIGEST = digest_of(LAYER)
PATH = f"{REPOSITORY}/blobs/{DIGEST}"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """That of the blob in the store of the cluster's first host."""
    return tmp_path / "host-1" / "blobs" / DIGEST.hex[:2] / f"{DIGEST.hex}.record"


async def fetch_alone(tmp_path: Path, registry: ImageRegistry, record: Path) -> Header:
    """Have the blob in that store, by a node that is alone; returns the header of its record."""
    async with node_at(tmp_path / "host-1", f"{UPSTREAM}={registry.url}") as node:
        assert (await node.get(PATH)).body == LAYER
        await until_true(lambda: peek(record)[2])
        return peek(record)[0]


@pytest.fixture
def registry(registry: ImageRegistry) -> ImageRegistry:
    registry.put_blob(REPOSITORY, LAYER)
    return registry


@asynchronous
async def test_others_have_it_from_there(tmp_path: Path, registry: ImageRegistry, record: Path) -> None:
    assert (await fetch_alone(tmp_path, registry, record)).by_prefix
    registry.sent.clear()
    async with cluster(tmp_path, registry) as swarm:
        first = await swarm.add()
        second = await swarm.add()
        assert (await second.blob(DIGEST)).body == LAYER
        assert sum(registry.sent.values()) == 0
        assert not peek(record)[0].by_prefix
        assert (await first.blob(DIGEST)).body == LAYER
        assert sum(registry.sent.values()) == 0


@asynchronous
async def test_what_rots_meanwhile_is_fetched_again(tmp_path: Path, registry: ImageRegistry, record: Path) -> None:
    await fetch_alone(tmp_path, registry, record)
    flip(record.with_suffix(""), len(LAYER) // 2)
    async with cluster(tmp_path, registry) as swarm:
        await swarm.add()
        second = await swarm.add()
        async with asyncio.timeout(PATIENCE_S):
            assert (await second.blob(DIGEST)).body == LAYER


@asynchronous
async def test_it_serves_it_alone_after_a_restart(tmp_path: Path, registry: ImageRegistry, record: Path) -> None:
    await fetch_alone(tmp_path, registry, record)
    registry.sent.clear()
    async with node_at(tmp_path / "host-1", f"{UPSTREAM}={registry.url}") as node:
        assert (await node.get(PATH, {"Range": "bytes=3000000-3999999"})).body == LAYER[3_000_000:4_000_000]
        assert peek(record)[0].by_prefix
        assert (await node.get(PATH)).body == LAYER
        assert not peek(record)[0].by_prefix
        assert sum(registry.sent.values()) == 0


@asynchronous
async def test_one_with_others_records_blake3(tmp_path: Path, registry: ImageRegistry, record: Path) -> None:
    async with cluster(tmp_path, registry) as swarm:
        host = await swarm.add()
        assert (await host.blob(DIGEST)).body == LAYER
        assert not peek(record)[0].by_prefix
