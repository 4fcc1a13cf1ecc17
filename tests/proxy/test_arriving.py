"""Blobs on their way: shared by who wants them at the same time, served as they come, and fetched ahead."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.core.origin_requests import FIRST_SPAN_BYTES, SPAN_PIECES
from scheduler.protocol.geometry import piece_length
from tests.support.client import Client
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import Hold, ImageRegistry
from tests.support.registry_server import PATIENCE_S

APP = "library/app"
LAYER = content_of("layer", 700_000)
LAYER_DIGEST = digest_of(LAYER)
IMAGE = make_image(LAYER)
PIECE = piece_length(len(LAYER))

BIG = content_of("big", 40 * 1024 * 1024)
BIG_DIGEST = digest_of(BIG)
BIG_PIECE = piece_length(len(BIG))


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """A thousand sockets are more than the usual limit of one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def reached(hold: Hold) -> None:
    assert await asyncio.to_thread(hold.reached.wait, PATIENCE_S)


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


def ranges(registry: ImageRegistry) -> list[str]:
    return [seen.headers["range"] for seen in registry.seen if seen.method == "GET"]


class TestSharing:
    @asynchronous
    async def test_200_clients_ask_what_a_tag_means(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            replies = await asyncio.gather(*(node.get(f"{APP}/manifests/1.0") for _ in range(200)))
        assert {reply.body for reply in replies} == {IMAGE.manifest}
        assert [seen.method for seen in registry.seen] == ["HEAD", "GET"]

    @asynchronous
    async def test_500_clients_ask_for_a_blob(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """All of them at once: each has its headers before the origin has sent half of it."""
        registry.push(APP, "1.0", IMAGE)
        hold = registry.hold(APP, LAYER_DIGEST, PIECE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            clients = [node.client() for _ in range(500)]

            async def begin(client: Client) -> None:
                await client.__aenter__()
                await client.request("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")

            await asyncio.gather(*map(begin, clients))
            heads = await asyncio.gather(*(client.head() for client in clients))
            assert not hold.go.is_set()
            hold.go.set()
            replies = []
            for client, head in zip(clients, heads, strict=True):
                reply = await client.rest(head)
                replies.append((reply.status, reply.end, reply.body == LAYER))
                await client.__aexit__(None, None, None)
            assert replies == [(200, "whole", True)] * 500
            assert (await node.cached())[LAYER_DIGEST]["complete"]
        assert registry.sent[f"/v2/{APP}/blobs/{LAYER_DIGEST}"] == len(LAYER)

    @asynchronous
    async def test_one_that_goes_away_takes_nothing_from_the_others(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        hold = registry.hold(APP, LAYER_DIGEST, PIECE)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as other:
            async with node.client() as first:
                await first.request("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")
                await first.rest(await first.head(), first_bytes=1000)
                await other.request("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")
                head = await other.head()
            hold.go.set()
            assert (await other.rest(head)).body == LAYER
            await node.until(lambda cached: not cached[LAYER_DIGEST]["in_use"])
        assert registry.sent[f"/v2/{APP}/blobs/{LAYER_DIGEST}"] == len(LAYER)


class TestWhileItArrives:
    @asynchronous
    async def test_the_verified_prefix_is_served(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        hold = registry.hold(APP, LAYER_DIGEST, 2 * PIECE + 1000)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            await client.request("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")
            head = await client.head()
            first = await client.rest(head, first_bytes=2 * PIECE)
            assert first.body == LAYER[: 2 * PIECE]
            assert await client.nothing_follows()  # a piece that has not come whole is not verified
            assert not hold.go.is_set()
            hold.go.set()
            rest = await client.rest(head, first_bytes=len(LAYER) - 2 * PIECE)
            assert rest.body == LAYER[2 * PIECE :]

    @asynchronous
    async def test_the_pieces_of_a_range_go_first(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """The origin holds back the start of the blob; what is asked for next is what the client waits for."""
        registry.put_blob(APP, BIG)
        first = registry.hold(APP, BIG_DIGEST, BIG_PIECE)
        piece = len(BIG) - 14 * BIG_PIECE
        more = 12 * BIG_PIECE  # too much for a lazy read, which is relayed
        async with (
            node_at(tmp_path / "store", hub(registry), connections_per_blob=2) as node,
            node.client() as client,
        ):
            path = f"/v2/{APP}/blobs/{BIG_DIGEST}"
            await client.request("GET", path, {"Range": f"bytes={piece + 5}-{piece + 5 + more}"})
            head = await client.head()
            await reached(first)
            assert (await client.rest(head)).body == BIG[piece + 5 : piece + 6 + more]
            assert not first.go.is_set()
            first.go.set()
            assert (await client.ask("GET", path)).body == BIG
        asked = [int(each.removeprefix("bytes=").partition("-")[0]) for each in ranges(registry)]
        assert asked[0] == piece
        assert registry.sent[path] == len(BIG)

    @asynchronous
    async def test_several_ranges(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.put_blob(APP, BIG)
        hold = registry.hold(APP, BIG_DIGEST, 2 * BIG_PIECE)
        far = FIRST_SPAN_BYTES + 3 * SPAN_PIECES * BIG_PIECE
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{APP}/blobs/{BIG_DIGEST}", {"Range": f"bytes=10-19,{far}-{far + 9},0-0"})
            assert not hold.go.is_set()
            assert (reply.status, reply.end) == (206, "whole")
            for content in (BIG[10:20], BIG[far : far + 10], BIG[:1]):
                assert b"\r\n\r\n" + content + b"\r\n--" in reply.body

    @asynchronous
    async def test_head_while_it_arrives(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.hold(APP, LAYER_DIGEST, PIECE)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            await client.request("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}")
            await client.head()
            reply = await node.ask("HEAD", f"{APP}/blobs/{LAYER_DIGEST}")
            assert (reply.status, reply.headers["content-length"]) == (200, str(len(LAYER)))


LAYERS = [content_of(f"layer {number}", 1000 + number) for number in range(6)]
TALL = make_image(*LAYERS)


class TestFetchAhead:
    @asynchronous
    async def test_the_next_layers_and_no_others(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """A client that has the lower two layers asks for the third: it will want the two above."""
        registry.push(APP, "1.0", TALL)
        async with node_at(tmp_path / "store", hub(registry), prefetch_layers=2) as node:
            await node.get(f"{APP}/manifests/1.0")
            await node.get(f"{APP}/blobs/{TALL.layer_digests[2]}")
            await node.until(lambda cached: layers_held(cached) == {2, 3, 4})
            assert (await node.get(f"{APP}/blobs/{TALL.layer_digests[1]}")).status == 200
            await node.get(f"{APP}/blobs/{TALL.layer_digests[4]}")
            await node.until(lambda cached: layers_held(cached) == {1, 2, 3, 4, 5})
            # What was fetched ahead is served from the store.
            assert await node.metric("p2pd_proxy_requests_total", kind="blobs", cache="hit") == 1
        assert [registry.asked("GET", digest) for digest in TALL.layer_digests] == [0, 1, 1, 1, 1, 1]

    @asynchronous
    async def test_none_if_it_is_turned_off(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", TALL)
        async with node_at(tmp_path / "store", hub(registry), prefetch_layers=0) as node:
            await node.get(f"{APP}/manifests/1.0")
            for number in (0, 1):
                await node.get(f"{APP}/blobs/{TALL.layer_digests[number]}")
            assert layers_held(await node.cached()) == {0, 1}
        assert [registry.asked("GET", digest) for digest in TALL.layer_digests] == [1, 1, 0, 0, 0, 0]

    @asynchronous
    async def test_a_client_joins_what_is_fetched_ahead(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", TALL)
        hold = registry.hold(APP, TALL.layer_digests[1], 10)
        async with node_at(tmp_path / "store", hub(registry), prefetch_layers=1) as node, node.client() as client:
            await node.get(f"{APP}/manifests/1.0")
            await node.get(f"{APP}/blobs/{TALL.layer_digests[0]}")
            await reached(hold)
            await client.request("GET", f"/v2/{APP}/blobs/{TALL.layer_digests[1]}")
            head = await client.head()
            hold.go.set()
            assert (await client.rest(head)).body == LAYERS[1]
        assert registry.asked("GET", TALL.layer_digests[1]) == 1

    @asynchronous
    async def test_a_layer_that_cannot_be_had_is_no_trouble(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.put_manifest(APP, "1.0", TALL.manifest, TALL.media_type)
        registry.put_blob(APP, LAYERS[0])
        async with node_at(tmp_path / "store", hub(registry), prefetch_layers=3) as node:
            await node.get(f"{APP}/manifests/1.0")
            assert (await node.get(f"{APP}/blobs/{TALL.layer_digests[0]}")).body == LAYERS[0]
            missing = await node.get(f"{APP}/blobs/{TALL.layer_digests[1]}")
            assert (missing.status, missing.code) == (404, "BLOB_UNKNOWN")


def layers_held(cached: dict[str, dict[str, object]]) -> set[int]:
    return {
        number for number, digest in enumerate(TALL.layer_digests) if digest in cached and cached[digest]["complete"]
    }
