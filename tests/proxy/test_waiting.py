"""A client of a blob waits for as long as its download goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at, until
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering, Seen

APP = "library/app"
LAYER = content_of("layer", 700_000)
IMAGE = make_image(LAYER)
BLOB = f"{APP}/blobs/{digest_of(LAYER)}"
WITHIN_S = 0.5
"""The time for an answer; a blob's headers are sent after a multiple of it."""


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


@asynchronous
async def test_a_first_byte_that_is_late(registry: ImageRegistry, tmp_path: Path) -> None:
    """The headers go out before it: their length is known from the manifest."""
    registry.push(APP, "1.0", IMAGE)
    release = threading.Event()

    def late(seen: Seen) -> Answering | None:
        assert seen.method == "HEAD" or release.wait(PATIENCE_S)
        return None

    async with node_at(tmp_path / "store", hub(registry), answer_within_s=WITHIN_S) as node, node.client() as client:
        await node.get(f"{APP}/manifests/1.0")
        registry.rules[f"/v2/{BLOB}"] = late
        await client.request("GET", f"/v2/{BLOB}", {"Range": "bytes=100-"})
        head = await client.head()
        assert (head.status, head.headers["content-length"]) == (206, str(len(LAYER) - 100))
        assert await client.nothing_follows()
        release.set()
        assert (await client.rest(head)).body == LAYER[100:]


@asynchronous
async def test_of_a_length_that_is_not_known(registry: ImageRegistry, tmp_path: Path) -> None:
    """As after a restart: the client has the manifest, and this node does not."""
    registry.push(APP, "1.0", IMAGE)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(seen: Seen) -> Answering | None:
        if seen.method == "GET":
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return None

    async with node_at(tmp_path / "store", hub(registry), answer_within_s=WITHIN_S) as node:
        assert (await node.ask("HEAD", BLOB)).status == 200  # so that access is granted, and no HEAD tells the length
        registry.rules[f"/v2/{BLOB}"] = late
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(node.get(BLOB))
            await until(lambda: registry.asked("GET", BLOB) == 1)
            await asyncio.sleep(3 * WITHIN_S)  # longer than anything else may take
            assert not asked.done()
            release.set()
        assert asked.result().body == LAYER


@asynchronous
async def test_an_origin_that_refuses_late_cuts_what_has_begun(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1.0", IMAGE)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(seen: Seen) -> Answering | None:
        if seen.method != "GET":
            return None
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return Answering(404, b"")

    async with node_at(tmp_path / "store", hub(registry), answer_within_s=WITHIN_S) as node, node.client() as client:
        await node.get(f"{APP}/manifests/1.0")
        registry.rules[f"/v2/{BLOB}"] = late
        await client.request("GET", f"/v2/{BLOB}")
        head = await client.head()
        release.set()
        reply = await client.rest(head)
        assert (reply.status, reply.body, reply.end) == (200, b"", "fin")
