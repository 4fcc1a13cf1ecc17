"""A node whose disk takes nothing: it starts, serves what it holds, says so wherever it is asked, and recovers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.store.record import peek
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at, until
from tests.support.registry import ImageRegistry
from tests.support.small_disk import fill, make_read_only, make_writable, small_disk

APP = "library/app"
LAYER, OTHER = content_of("layer", 700_000), content_of("other", 700_000)
IMAGE = make_image(LAYER, OTHER)
HELD, NEW = (f"{APP}/blobs/{digest_of(content)}" for content in (LAYER, OTHER))
TAKES_NOTHING, TAKES_AGAIN = "the store takes nothing new", "the store takes new blobs again"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=3m,nr_inodes=500") as disk:
        yield disk


def hub(registry: ImageRegistry) -> str:
    registry.push(APP, "1.0", IMAGE)
    return f"docker.io={registry.url}"


async def condition(node: Node) -> tuple[str, bool]:
    """What the metric says, and whether `/readyz` and `/status` say the same."""
    found = [
        name
        for name in ("writable", "full", "read-only", "failing")
        if await node.metric("p2pd_store_condition", condition=name)
    ]
    ready = await node.ask_admin("GET", "/readyz")
    status = (await node.ask_admin("GET", "/status")).json
    told = ready.json["degraded"]
    assert (ready.status, ready.json["reasons"]) == (200, []), "it serves all the same"
    assert told == status["degraded"]
    (name,) = found
    agree = status["cache"]["condition"] == name and (
        f"the store is {name}," in told[0] if told else name == "writable"
    )
    return name, agree


@pytest.mark.real
class TestReadOnly:
    @asynchronous
    async def test_what_is_held_is_served_and_it_is_said(self, registry: ImageRegistry, disk: Path) -> None:
        with capture_logs() as logs:
            async with node_at(disk / "data", hub(registry)) as node:
                assert (await node.get(HELD)).body == LAYER
                assert await condition(node) == ("writable", True)
                make_read_only(disk)
                await node.get(NEW)
                assert await condition(node) == ("read-only", True)
                assert (await node.get(HELD)).body == LAYER
                make_writable(disk)
                assert (await node.get(NEW)).body == OTHER
                assert await condition(node) == ("writable", True)
                assert len(await node.cached()) == 2
        assert [log["event"] for log in logs if log["event"] in (TAKES_NOTHING, TAKES_AGAIN)] == [
            TAKES_NOTHING,
            TAKES_AGAIN,
        ]

    @asynchronous
    async def test_it_starts_there(self, registry: ImageRegistry, disk: Path) -> None:
        async with node_at(disk / "data", hub(registry)) as node:
            assert (await node.get(HELD)).body == LAYER
            (record,) = (disk / "data" / "blobs").glob(f"*/{digest_of(LAYER).hex}.record")
            await until(lambda: peek(record)[2])
        make_read_only(disk)
        with capture_logs() as logs:
            async with node_at(disk / "data", hub(registry)) as node:
                assert (await node.get(HELD)).body == LAYER
                assert await condition(node) == ("read-only", True)
        assert TAKES_NOTHING in [log["event"] for log in logs]


@pytest.mark.real
class TestFull:
    @asynchronous
    async def test_it_starts_evicts_and_keeps_its_catalog(self, registry: ImageRegistry, disk: Path) -> None:
        async with node_at(disk / "data", hub(registry)) as node:
            assert (await node.get(HELD)).body == LAYER
        fill(disk)
        async with node_at(disk / "data", hub(registry), min_free_bytes=100_000) as node:
            assert await node.cached() == {}
            assert await condition(node) == ("writable", True)
        assert not (disk / "data" / "catalog.damaged").exists()

    @asynchronous
    async def test_it_becomes_full_while_it_runs(self, registry: ImageRegistry, disk: Path) -> None:
        """No room is to stay free, so that only the next blob shows it."""
        with capture_logs() as logs:
            async with node_at(disk / "data", hub(registry)) as node:
                await node.get(f"{APP}/manifests/1.0")
                other = fill(disk)
                await node.get(NEW)
                assert await condition(node) == ("full", True)
                other.unlink()
                assert (await node.get(NEW)).body == OTHER
                assert await condition(node) == ("writable", True)
        assert TAKES_NOTHING in [log["event"] for log in logs]

    @asynchronous
    async def test_it_starts_where_nothing_was_yet(self, registry: ImageRegistry, disk: Path) -> None:
        other = fill(disk)
        with capture_logs():
            async with node_at(disk / "data", hub(registry)) as node:
                await node.get(HELD)
                assert await condition(node) == ("full", True)
                other.unlink()
                assert (await node.get(HELD)).body == LAYER
                assert await condition(node) == ("writable", True)


@asynchronous
async def test_the_cache_says_what_was_lost_and_what_the_scrubber_does(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path, hub(registry), scrub_rate="1MiB") as node:
        assert (await node.get(HELD)).body == LAYER
        await node.until(lambda cached: not cached[digest_of(LAYER)]["in_use"])
        for file in (tmp_path / "blobs").glob("*/*"):
            file.unlink()
        assert (await node.get(HELD)).body == LAYER
        status = (await node.ask_admin("GET", "/status")).json
        assert status["cache"]["lost"] == await node.metric("p2pd_cache_lost_total") == 1
        assert status["scrub"] == {"rate_bytes_per_s": 1 << 20, "read_bytes": 0, "bad": 0, "last_pass": None}


@asynchronous
async def test_a_cache_smaller_than_the_image_serves_all_of_it(registry: ImageRegistry, tmp_path: Path) -> None:
    """Three clients' layers fit, and what is fetched ahead costs nobody a layer."""
    layers = [content_of(f"layer {number}", 600_000) for number in range(10)]
    registry.push(APP, "2.0", make_image(*layers))
    async with node_at(tmp_path, hub(registry), max_bytes=2_000_000, prefetch_layers=3) as node:
        await node.get(f"{APP}/manifests/2.0")
        waiting = list(layers)

        async def client() -> None:
            while waiting:
                layer = waiting.pop(0)
                assert (await node.get(f"{APP}/blobs/{digest_of(layer)}")).body == layer

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(client())
        fetched = await node.metric("p2pd_download_bytes_total", source="origin")
    assert fetched < 1.3 * sum(map(len, layers))
