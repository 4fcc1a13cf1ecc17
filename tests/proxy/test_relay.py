"""Content that the store cannot take is passed on from its origin, verified, and so are a lazy snapshotter's reads."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
from blake3 import blake3

from scheduler.protocol.geometry import piece_length
from tests.peer.store_fixtures import files_of_at_most
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering

APP = "library/app"
LAYER = content_of("layer", 700_000)
LAYER_DIGEST = digest_of(LAYER)
PIECE = piece_length(len(LAYER))
IMAGE = make_image(LAYER)
BLOB = f"{APP}/blobs/{LAYER_DIGEST}"
SHA512 = f"sha512:{hashlib.sha512(LAYER).hexdigest()}"


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


def push_sha512(registry: ImageRegistry, digest: str = SHA512) -> bytes:
    """An image whose layer has this digest; returns its manifest."""
    manifest = IMAGE.manifest.replace(LAYER_DIGEST.encode(), digest.encode())
    registry.push(APP, "1.0", IMAGE)
    registry.put_manifest(APP, "1.0", manifest, IMAGE.media_type)
    registry.blobs[f"/v2/{APP}/blobs/{digest}"] = LAYER
    return manifest


class TestOtherAlgorithms:
    @pytest.mark.parametrize("digest", [SHA512, f"blake3:{blake3(LAYER).hexdigest()}"])
    @asynchronous
    async def test_a_layer(self, registry: ImageRegistry, tmp_path: Path, digest: str) -> None:
        manifest = push_sha512(registry, digest)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await node.get(f"{APP}/manifests/1.0")).body == manifest
            head = await node.ask("HEAD", f"{APP}/blobs/{digest}")
            assert (head.status, head.headers["content-length"]) == (200, str(len(LAYER)))
            whole = await node.get(f"{APP}/blobs/{digest}")
            assert (whole.status, whole.body, whole.headers["docker-content-digest"]) == (200, LAYER, digest)
            rest = await node.get(f"{APP}/blobs/{digest}", {"Range": "bytes=500000-"})
            assert (rest.status, rest.body) == (206, LAYER[500_000:])
            assert digest not in await node.cached()
            assert await node.metric("p2pd_proxy_requests_total", cache="none", kind="blobs", code="200") >= 1

    @asynchronous
    async def test_wrong_bytes_are_cut(self, registry: ImageRegistry, tmp_path: Path) -> None:
        push_sha512(registry)
        registry.blobs[f"/v2/{APP}/blobs/{SHA512}"] = LAYER[:-1] + b"?"
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await node.get(f"{APP}/manifests/1.0")
            for asked in ({}, {"Range": f"bytes={len(LAYER) - 10}-"}):
                reply = await node.get(f"{APP}/blobs/{SHA512}", asked)
                assert reply.status in (200, 206, 404)
                assert reply.status == 404 or reply.end == "fin"
                assert not reply.body.endswith(b"?")

    @asynchronous
    async def test_a_manifest_that_its_registry_names_so(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        digest = f"sha512:{hashlib.sha512(IMAGE.manifest).hexdigest()}"
        answering = Answering(200, IMAGE.manifest, {"Content-Type": IMAGE.media_type, "Docker-Content-Digest": digest})
        for reference in ("1.0", digest):
            registry.rules[f"/v2/{APP}/manifests/{reference}"] = answering
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for reference in ("1.0", digest):
                for method, body in (("HEAD", b""), ("GET", IMAGE.manifest)):
                    reply = await node.ask(method, f"{APP}/manifests/{reference}")
                    assert (reply.status, reply.body) == (200, body)
                    assert reply.headers["docker-content-digest"] == digest
                    assert reply.headers["content-type"] == IMAGE.media_type
            assert (await node.get(BLOB)).body == LAYER


class TestNoRoom:
    @pytest.mark.parametrize("limits", [{"max_bytes": 100_000}, {"min_free_bytes": 2**49}])
    @asynchronous
    async def test_from_the_beginning(self, registry: ImageRegistry, tmp_path: Path, limits: dict[str, int]) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry), **limits) as node:
            assert (await node.get(f"{APP}/manifests/1.0")).body == IMAGE.manifest
            assert (await node.get(BLOB)).body == LAYER
            assert (await node.get(BLOB, {"Range": "bytes=5-"})).body == LAYER[5:]

    @asynchronous
    async def test_in_the_middle(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """The rest is relayed, and verified together with what the client has got from the store."""
        registry.push(APP, "1.0", IMAGE)
        for wrong in (False, True):
            hold = registry.hold(APP, LAYER_DIGEST, PIECE + 1000)
            data = tmp_path / f"store-{wrong}"
            async with node_at(data, hub(registry)) as node, node.client() as client:
                await client.request("GET", f"/v2/{BLOB}")
                head = await client.head()
                first = await client.rest(head, first_bytes=PIECE)
                if wrong:
                    registry.blobs[f"/v2/{BLOB}"] = LAYER[:-1] + b"?"
                with files_of_at_most(PIECE):
                    hold.go.set()
                    rest = await client.rest(head, first_bytes=len(LAYER) - PIECE)
                assert first.body == LAYER[:PIECE]
                assert (rest.end, rest.body == LAYER[PIECE:]) == (("fin", False) if wrong else ("whole", True))


class TestLazyReads:
    BIG = content_of("big", 20 * 1024 * 1024)
    PATH = f"{APP}/blobs/{digest_of(BIG)}"
    SIZE = len(BIG)

    @asynchronous
    async def test_the_last_bytes_come_alone(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", make_image(self.BIG))
        async with node_at(tmp_path / "store", hub(registry), prefetch_layers=3) as node:
            await node.get(f"{APP}/manifests/1.0")
            for asked in (f"{self.SIZE - 51}-{self.SIZE - 1}", "-51"):
                reply = await node.get(self.PATH, {"Range": f"bytes={asked}"})
                assert (reply.status, reply.body) == (206, self.BIG[-51:])
            several = await node.get(self.PATH, {"Range": "bytes=10-19,9000000-9000009"})
            assert (several.status, several.headers["content-type"].partition(";")[0]) == (206, "multipart/byteranges")
            assert self.BIG[10:20] in several.body
            assert self.BIG[9_000_000:9_000_010] in several.body
        assert registry.sent[f"/v2/{self.PATH}"] == 51 + 51 + 20

    @asynchronous
    async def test_a_layer_that_is_read_by_a_quarter_is_fetched(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", make_image(self.BIG))
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await node.get(f"{APP}/manifests/1.0")
            for start in range(0, 8 << 20, 1 << 20):
                reply = await node.get(self.PATH, {"Range": f"bytes={start}-{start + (1 << 20) - 1}"})
                assert reply.body == self.BIG[start : start + (1 << 20)]
            await node.until(lambda cached: cached[digest_of(self.BIG)]["complete"])
        assert registry.sent[f"/v2/{self.PATH}"] <= self.SIZE + (5 << 20)

    @asynchronous
    async def test_the_rest_of_an_answer_that_ended_early_is_not_read_lazily(
        self, registry: ImageRegistry, tmp_path: Path, errors_logged: list[logging.LogRecord]
    ) -> None:
        """Together they would be a whole blob, and nobody had verified it."""
        registry.push(APP, "1.0", make_image(self.BIG))
        registry.blobs[f"/v2/{self.PATH}"] = self.BIG[:-1] + b"?"
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await node.get(f"{APP}/manifests/1.0")
            cut = await node.get(self.PATH)
            assert cut.end == "fin"
            rest = await node.get(self.PATH, {"Range": f"bytes={self.SIZE - 51}-{self.SIZE - 1}"})
            assert (rest.status, rest.end) != (206, "whole")
        errors_logged.clear()
