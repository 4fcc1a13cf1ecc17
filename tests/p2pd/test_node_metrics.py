"""Metrics: they can be parsed, they count what happened, and no client can make them grow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2pd.admin.client_metrics import MAX_CLIENTS
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at, until
from tests.support.registry import ImageRegistry
from tests.support.registry_server import HANG, PATIENCE_S

APP = "library/app"
LAYER = content_of("layer", 700_000)
LAYER_DIGEST = digest_of(LAYER)
IMAGE = make_image(LAYER)


def hub(registry: ImageRegistry) -> str:
    registry.push(APP, "1.0", IMAGE)
    return f"docker.io={registry.url}"


async def requests(node: Node, **labels: str) -> float:
    return await node.metric("p2pd_proxy_requests_total", **labels)


@asynchronous
async def test_they_can_be_parsed_and_have_help(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path / "store", hub(registry)) as node:
        await node.get(f"{APP}/manifests/1.0")
        reply = await node.ask_admin("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(reply.body.decode()))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation for family in families if family.name.startswith("p2pd_"))
    assert all(family.name.startswith(("p2pd_", "process_")) for family in families)
    names = {label for family in families for sample in family.samples for label in sample.labels}
    assert not names & {"repository", "digest", "image", "tag"}
    assert b"_created" not in reply.body


@asynchronous
async def test_hits_misses_and_bytes(registry: ImageRegistry, tmp_path: Path) -> None:
    blob = f"{APP}/blobs/{LAYER_DIGEST}"
    async with node_at(tmp_path / "store", hub(registry)) as node:
        await node.get(blob)
        await node.get(blob, {"Range": "bytes=0-99"})
        await node.get(blob, {"Range": "bytes=0-9,20-29"})
        await node.ask("HEAD", blob)
        await node.get(f"{APP}/manifests/1.0")
        await node.get(f"{APP}/manifests/1.0")
        assert await requests(node, kind="blobs", cache="miss", code="200", upstream="docker.io") == 1
        assert await requests(node, kind="blobs", cache="hit", code="206") == 2
        assert await requests(node, kind="blobs", cache="hit", code="200") == 1  # HEAD
        assert await requests(node, kind="manifests", cache="miss") == 1
        assert await requests(node, kind="manifests", cache="hit") == 1
        sent = "p2pd_proxy_sent_bytes_total"
        assert await node.metric(sent, cache="miss") == len(LAYER) + len(IMAGE.manifest)
        assert await node.metric(sent, cache="hit") == 120 + len(IMAGE.manifest)
        assert await node.metric("p2pd_download_bytes_total", source="origin") == len(LAYER) + len(IMAGE.manifest)
        assert await node.metric("p2pd_cache_bytes") == len(LAYER) + len(IMAGE.manifest)
        assert await node.metric("p2pd_cache_blobs") == 2
        assert await node.metric("p2pd_proxy_request_duration_seconds_count", kind="blobs") == 4
        assert await node.metric("p2pd_origin_answers_total", upstream="docker.io") == len(registry.seen)
        # "class" is `2xx`, as the registries' own metrics have it
        assert await node.metric("p2pd_origin_answers_total", **{"class": "2xx"}) == len(registry.seen)
        assert await node.metric("p2pd_build_info") == 1
        assert await node.metric("p2pd_mirror_last_success_timestamp_seconds") > 1.7e9


@asynchronous
async def test_refusals(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path / "store", hub(registry)) as node:
        await node.get(f"{APP}/manifests/2.0")
        await node.get(f"{APP}/manifests/1.0?ns=evil.example")
        await node.ask("POST", f"{APP}/blobs/uploads/")
        assert await requests(node, kind="manifests", code="404", upstream="docker.io", cache="none") == 1
        assert await requests(node, kind="none", upstream="", code="404") == 1
        assert await requests(node, kind="none", upstream="", code="405") == 1
        assert await node.metric("p2pd_mirror_last_success_timestamp_seconds") == 0


@asynchronous
async def test_a_client_that_goes_away_is_counted_with_what_it_got(registry: ImageRegistry, tmp_path: Path) -> None:
    """containerd's parallel fetch takes a chunk of an open range and hangs up, each time."""
    big = content_of("big", 40 * 1024 * 1024)
    registry.put_blob(APP, big)
    path = f"{APP}/blobs/{digest_of(big)}"
    async with node_at(tmp_path / "store", hub(registry)) as node:
        await node.get(path)
        async with node.client(receive_buffer_bytes=65536) as client:
            await client.request("GET", f"/v2/{path}", {"Range": "bytes=100-"})
            await client.rest(await client.head(), first_bytes=33 * 1024 * 1024)
        await node.until(lambda cached: not cached[digest_of(big)]["in_use"])
        assert await requests(node, code="206", cache="hit") == 1
        sent = await node.metric("p2pd_proxy_sent_bytes_total", cache="hit")
        assert 32 * 1024 * 1024 <= sent <= len(big) - 100


@asynchronous
async def test_a_client_that_goes_away_before_the_answer(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.rules[f"/v2/{APP}/manifests/1.0"] = HANG
    async with node_at(tmp_path / "store", hub(registry)) as node:
        async with node.client() as client:
            await client.request("GET", f"/v2/{APP}/manifests/1.0")
            await until(registry.hanging.is_set)
        async with asyncio.timeout(PATIENCE_S):
            while await requests(node, kind="manifests", code="499") != 1:
                pass


@asynchronous
async def test_wrong_bytes(registry: ImageRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with node_at(tmp_path / "store", hub(registry)) as node:
        registry.add_blob(APP, LAYER_DIGEST, LAYER[::-1])
        async with node.client() as client:
            await client.ask("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")
        assert await node.metric("p2pd_verify_failures_total") == 1
    assert "wrong bytes from an origin" in caplog.text


async def made_up_names(node: Node, count: int) -> None:
    for number in range(count):
        await node.get(f"{APP}/manifests/1.0", {"User-Agent": f"client-{number}/1.0 {'x' * 1000}"})
        await node.get(f"evil-{number}.example/app/manifests/1.0")
        await node.get(f"{APP}/manifests/1.0?ns=evil-{number}.example")
        await node.ask(f"METHOD{number}", f"{APP}/manifests/1.0")


@asynchronous
async def test_nobody_makes_them_grow(registry: ImageRegistry, tmp_path: Path) -> None:
    """Names that clients make up are no labels; the families of user agents in /status are limited."""
    async with node_at(tmp_path / "store", hub(registry)) as node:
        await node.get(f"{APP}/manifests/1.0")
        await made_up_names(node, 1)
        before = (await node.ask_admin("GET", "/metrics")).body.splitlines()
        await made_up_names(node, MAX_CLIENTS + 10)
        after = (await node.ask_admin("GET", "/metrics")).body.splitlines()
        assert len(after) == len(before)
        clients = (await node.ask_admin("GET", "/status")).json["clients"]
        assert len(clients) == MAX_CLIENTS
        assert max(map(len, clients)) < 50


async def connected(node: Node) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await node.metric("p2pd_scheduler_connected"):
            pass


@asynchronous
async def test_bytes_from_and_to_other_hosts(registry: ImageRegistry, tmp_path: Path) -> None:
    blob = f"{APP}/blobs/{LAYER_DIGEST}"
    async with node_at(tmp_path / "first", hub(registry), advertise="127.0.0.1:0") as first:
        scheduler = (await first.ask_admin("GET", "/status")).json["scheduler"]
        async with node_at(tmp_path / "second", hub(registry), scheduler=[scheduler]) as second:
            await connected(first)
            await first.get(blob)
            await connected(second)
            assert (await second.get(blob)).body == LAYER
            assert await first.metric("p2pd_download_bytes_total", source="origin") == len(LAYER)
            assert await first.metric("p2pd_upload_bytes_total") == len(LAYER)
            assert await first.metric("p2pd_upload_busy_total") == 0
            assert await second.metric("p2pd_download_bytes_total", source="origin") == 0
            assert await second.metric("p2pd_download_bytes_total", source="peer") == len(LAYER)
            status = (await first.ask_admin("GET", "/status")).json
    assert status["advertise"] == status["peer"]
    assert status["swarm"].pop("host") == (tmp_path / "first" / "host-id").read_text().split()[0]
    expected = {"scheduler_connected": True, "alone": False, "sent_bytes": len(LAYER), "busy_answers": 0}
    assert expected.items() <= status["swarm"].items()


@asynchronous
async def test_of_the_scheduler_inside_and_of_none_that_is_elsewhere(registry: ImageRegistry, tmp_path: Path) -> None:
    async with node_at(tmp_path / "first", hub(registry), advertise="127.0.0.1:0") as first:
        scheduler = (await first.ask_admin("GET", "/status")).json["scheduler"]
        async with node_at(tmp_path / "second", hub(registry), scheduler=[scheduler]) as second:
            await connected(first)
            await connected(second)
            await first.get(f"{APP}/blobs/{LAYER_DIGEST}")
            assert await first.metric("p2pd_scheduler_hosts") == 2
            assert await first.metric("p2pd_scheduler_leases_total") >= 1
            assert "p2pd_scheduler_hosts" not in (await second.ask_admin("GET", "/metrics")).body.decode()


@asynchronous
async def test_without_a_scheduler(registry: ImageRegistry, tmp_path: Path) -> None:
    nobody = ["http://127.0.0.1:1"]
    async with node_at(tmp_path / "store", hub(registry), scheduler=nobody, scheduler_wait_s="0.01") as node:
        assert await node.metric("p2pd_scheduler_connected") == 0
        assert (await node.get(f"{APP}/blobs/{LAYER_DIGEST}")).body == LAYER
        swarm = (await node.ask_admin("GET", "/status")).json["swarm"]
    assert (swarm["scheduler_connected"], swarm["alone"]) == (False, True)
