"""What a manifest's author writes of a blob: it spoils nothing for other repositories, and nothing for good."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from peer.oci.documents import CONFIG_TYPE, GZIP_LAYER_TYPE, as_json, image_manifest
from peer.oci.manifest import DOCKER_IMAGE, OCI_IMAGE
from tests.support.images import content_of, descriptor_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering, Seen

EVIL, GOOD = "evil/x", "corp/good"
IMAGE = make_image(content_of("lower", 300_000), says_its_type=False)
CONTENT = IMAGE.layers[0]
LAYER = digest_of(CONTENT)
CONFIG = b"{}"
LENGTHS = [0, 1, len(CONTENT) - 1, len(CONTENT) + 1, 2**62]


def push(registry: ImageRegistry, size_bytes: int) -> None:
    """An honest image, and one of somebody who says another length of the same layer."""
    registry.push(GOOD, "1.0", IMAGE)
    registry.put_blob(EVIL, CONFIG)
    registry.put_blob(EVIL, CONTENT)
    document = image_manifest(descriptor_of(CONFIG, CONFIG_TYPE), [], media_type=OCI_IMAGE)
    document["layers"] = [as_json(descriptor_of(CONTENT, GZIP_LAYER_TYPE)) | {"size": size_bytes}]
    registry.put_manifest(EVIL, "latest", json.dumps(document).encode(), OCI_IMAGE)


@pytest.mark.parametrize("size_bytes", LENGTHS)
@asynchronous
async def test_a_wrong_length_is_not_believed_of_another_repository(
    registry: ImageRegistry, tmp_path: Path, size_bytes: int
) -> None:
    push(registry, size_bytes)
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        for path in (f"{GOOD}/manifests/1.0", f"{EVIL}/manifests/latest"):
            assert (await node.get(path)).status == 200
        head = await node.ask("HEAD", f"{GOOD}/blobs/{LAYER}")
        assert int(head.headers["content-length"]) == len(CONTENT)
        assert (await node.get(f"{GOOD}/blobs/{LAYER}")).body == CONTENT
        assert registry.sent[f"/v2/{GOOD}/blobs/{LAYER}"] == len(CONTENT)


@asynchronous
async def test_the_origins_length_counts_for_who_joins_a_fetch(registry: ImageRegistry, tmp_path: Path) -> None:
    """A client may join a fetch that was begun by a wrong length. The origin's answer begins it anew."""
    push(registry, 1)
    asked, go = threading.Event(), threading.Event()

    def slow(_: Seen) -> Answering:
        asked.set()
        go.wait(PATIENCE_S)
        return Answering(200, CONTENT)

    registry.rules[f"/v2/{EVIL}/blobs/{LAYER}"] = slow
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        for path in (f"{GOOD}/manifests/1.0", f"{EVIL}/manifests/latest"):
            assert (await node.get(path)).status == 200
        async with asyncio.TaskGroup() as tasks:
            evil = tasks.create_task(node.get(f"{EVIL}/blobs/{LAYER}"))
            await asyncio.to_thread(asked.wait)
            good = tasks.create_task(node.get(f"{GOOD}/blobs/{LAYER}"))
            await node.until(lambda _: registry.asked("HEAD", f"{GOOD}/blobs/{LAYER}") == 1)
            go.set()
        assert evil.result().body == good.result().body == CONTENT


@asynchronous
async def test_a_manifest_has_the_type_that_its_own_place_says(registry: ImageRegistry, tmp_path: Path) -> None:
    """One that does not say its type itself."""
    registry.push(GOOD, "1.0", IMAGE)
    registry.put_manifest(EVIL, "latest", IMAGE.manifest, DOCKER_IMAGE)
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        assert (await node.get(f"{EVIL}/manifests/latest")).headers["content-type"] == DOCKER_IMAGE
        for method in ("GET", "HEAD"):
            for reference in (IMAGE.digest, "1.0"):
                reply = await node.ask(method, f"{GOOD}/manifests/{reference}")
                assert reply.headers["content-type"] == OCI_IMAGE
