"""What is known of a blob because of one repository is not believed for another, whoever says that it is there."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest

from peer.errors import OriginRefusedError, OriginUnreachableError
from peer.oci.documents import CONFIG_TYPE, as_json, image_manifest
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX
from proxy.access import Exchange
from proxy.core.routing import Endpoint
from tests.proxy.direct import parts_of, place, route
from tests.support.authority import make_authority
from tests.support.images import content_of, descriptor_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, Seen

SECRET, EVIL = "corp/secret", "evil/x"
ALICE = "Bearer alice"
IMAGE = make_image(content_of("lower", 300_000), content_of("upper", 1000))
LAYER = digest_of(IMAGE.layers[0])
CONFIG = b"{}"

LAYER_TYPES = ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.example.layer", "text/plain", ""]


def evil_manifest(layer_type: str, **more: object) -> bytes:
    """An image of somebody who knows the digest of a layer, and its length."""
    document = image_manifest(descriptor_of(CONFIG, CONFIG_TYPE), [], media_type=OCI_IMAGE)
    document["layers"] = [as_json(descriptor_of(IMAGE.layers[0], layer_type)) | more]
    return json.dumps(document).encode()


async def pulled(node: Node, repository: str, authorization: str | None = None) -> list[int]:
    paths = ["manifests/1.0", *(f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs)]
    return [(await node.get(f"{repository}/{path}", authorization=authorization)).status for path in paths]


def private(registry: ImageRegistry) -> None:
    registry.push(SECRET, "1.0", IMAGE)
    registry.members[SECRET] = {ALICE}


class TestManifestOfAnotherRepository:
    @pytest.mark.parametrize("layer_type", LAYER_TYPES)
    @pytest.mark.parametrize("upstream", ["docker.io", "ghcr.io"])
    @asynchronous
    async def test_a_layer_that_it_names_is_not_granted(
        self, registry: ImageRegistry, tmp_path: Path, upstream: str, layer_type: str
    ) -> None:
        private(registry)
        with ImageRegistry() as other:
            there = registry if upstream == "docker.io" else other
            there.put_blob(EVIL, CONFIG)
            there.put_manifest(EVIL, "latest", evil_manifest(layer_type), OCI_IMAGE)
            upstreams = [f"docker.io={registry.url}", f"ghcr.io={other.url}"]
            async with node_at(tmp_path / "store", *upstreams) as node:
                assert await pulled(node, SECRET, ALICE) == [200] * 4
                assert (await node.get(f"{upstream}/{EVIL}/manifests/latest")).status == 200
                for method in ("GET", "HEAD"):
                    for headers in (None, {"Range": "bytes=0-9"}):
                        reply = await node.ask(method, f"{upstream}/{EVIL}/blobs/{LAYER}", headers)
                        assert reply.status == 404

    @asynchronous
    async def test_nor_is_a_manifest_that_an_index_names(self, registry: ImageRegistry, tmp_path: Path) -> None:
        private(registry)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        index["manifests"] = [as_json(descriptor_of(IMAGE.manifest, OCI_IMAGE))]
        registry.put_manifest(EVIL, "latest", json.dumps(index).encode(), OCI_INDEX)
        async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
            assert await pulled(node, SECRET, ALICE) == [200] * 4
            assert (await node.get(f"{EVIL}/manifests/latest")).status == 200
            for path in (f"manifests/{IMAGE.digest}", f"blobs/{IMAGE.digest}", f"blobs/{LAYER}"):
                assert (await node.get(f"{EVIL}/{path}")).status == 404

    @asynchronous
    async def test_nor_while_it_is_on_its_way_because_of_another(self, registry: ImageRegistry, tmp_path: Path) -> None:
        private(registry)
        registry.put_blob(EVIL, CONFIG)
        registry.put_manifest(EVIL, "latest", evil_manifest(LAYER_TYPES[0]), OCI_IMAGE)
        hold = registry.hold(SECRET, LAYER, 100_000)
        async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
            assert (await node.get(f"{EVIL}/manifests/latest")).status == 200
            async with asyncio.TaskGroup() as tasks:
                alice = tasks.create_task(node.get(f"{SECRET}/blobs/{LAYER}", authorization=ALICE))
                await asyncio.to_thread(hold.reached.wait)
                assert (await node.get(f"{EVIL}/blobs/{LAYER}")).status == 404
                hold.go.set()
            assert alice.result().body == IMAGE.layers[0]

    @asynchronous
    async def test_nor_if_the_other_joins_what_was_begun_for_it(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(EVIL, "latest", make_image(b"something"))
        manifest, layer = route(EVIL, "latest"), route(EVIL, LAYER, Endpoint.BLOB)
        async with parts_of(registry, tmp_path, exchange=Exchange.PUBLIC) as parts:
            found, of_manifest = await parts.tags.resolve(manifest, None, "")
            parts.access.granted_below(route(EVIL, found.digest), of_manifest, [LAYER], Endpoint.BLOB)
            with pytest.raises(OriginRefusedError):
                await parts.access.check(layer, None)  # a HEAD, whose answer nothing proves
            permit = await parts.access.check(layer, None, fetches=True)
            assert permit.unproven
            await parts.access.confirm(permit, layer, None)
            parts.elsewhere.add(LAYER)
            with pytest.raises(OriginRefusedError):
                await parts.access.confirm(permit, layer, None)
            with pytest.raises(OriginRefusedError):
                await parts.access.check(layer, None, fetches=True)

    @asynchronous
    async def test_what_both_have_costs_one_question(self, registry: ImageRegistry, tmp_path: Path) -> None:
        private(registry)
        registry.push("library/app", "1.0", IMAGE)
        async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
            assert await pulled(node, SECRET, ALICE) == [200] * 4
            for _ in range(2):
                assert await pulled(node, "library/app") == [200] * 4
            for blob in IMAGE.blobs:
                assert registry.asked("HEAD", f"library/app/blobs/{digest_of(blob)}") == 1
                assert registry.asked("GET", f"library/app/blobs/{digest_of(blob)}") == 0


class TestWhatIsKnown:
    @asynchronous
    async def test_a_fetch_proves_it(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """A pull costs no question for a blob, the first time and later, also after a restart."""
        private(registry)
        for _ in range(2):
            async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
                for _ in range(2):
                    assert await pulled(node, SECRET, ALICE) == [200] * 4
        assert sum(seen.method == "HEAD" and "/blobs/" in seen.path for seen in registry.seen) == 0
        assert registry.sent[f"/v2/{SECRET}/blobs/{LAYER}"] == len(IMAGE.layers[0])

    @asynchronous
    async def test_what_is_left_of_a_fetch_is_there_because_of_it(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push("library/app", "1.0", IMAGE)
        async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
            assert (await node.get("library/app/manifests/1.0")).status == 200
            registry.rules[f"/v2/library/app/blobs/{LAYER}"] = Answering(500)
            assert (await node.get(f"library/app/blobs/{LAYER}")).status == 404
            del registry.rules[f"/v2/library/app/blobs/{LAYER}"]
            assert (await node.get(f"library/app/blobs/{LAYER}")).body == IMAGE.layers[0]
            assert registry.asked("HEAD", LAYER) == 0

    @asynchronous
    async def test_other_hosts_bytes_prove_nothing_where_they_send_what_is_private(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        private(registry)
        manifest, layer = route(SECRET, IMAGE.digest), route(SECRET, LAYER, Endpoint.BLOB)
        async with parts_of(registry, tmp_path, exchange=Exchange.EVERYTHING) as parts:
            permit = await parts.access.check(manifest, ALICE)
            parts.access.granted_below(manifest, permit, [LAYER], Endpoint.BLOB)
            parts.access.arrived(place(SECRET), Endpoint.BLOB, LAYER)
            for _ in range(3):
                assert not (await parts.access.check(layer, ALICE, fetches=True)).unproven
            assert registry.asked("HEAD", LAYER) == 1

    @asynchronous
    async def test_it_is_not_public_because_a_public_manifest_names_it(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(EVIL, "latest", make_image(b"something"))
        manifest, layer = route(EVIL, "latest"), route(EVIL, LAYER, Endpoint.BLOB)
        async with parts_of(registry, tmp_path, exchange=Exchange.PUBLIC) as parts:
            found, permit = await parts.tags.resolve(manifest, None, "")
            parts.access.granted_below(route(EVIL, found.digest), permit, [LAYER], Endpoint.BLOB)
            parts.elsewhere.add(LAYER)
            registry.stop()
            with pytest.raises(OriginUnreachableError):
                await parts.access.check(layer, None, fetches=True)
            assert not parts.catalog.is_public_everywhere(LAYER)

    @asynchronous
    async def test_what_the_operators_credentials_got_is_for_this_node(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        async with parts_of(registry, tmp_path, operators=("operator", "secret")) as parts:
            await parts.access.check(route(SECRET, IMAGE.digest), None)
            assert parts.catalog.is_public(place(SECRET), Endpoint.MANIFEST, IMAGE.digest)
            assert not parts.catalog.is_public_everywhere(IMAGE.digest)


def _by_head(claims: Answering, seen: Seen) -> Answering:
    return claims if seen.method == "HEAD" else Answering(200, b"other")


@asynchronous
async def test_the_word_of_a_clients_own_server_opens_nothing(tmp_path: Path) -> None:
    """With the upstream `*` a client names its own server, which says of every digest that it has it."""
    authority = make_authority(tmp_path)
    with ImageRegistry(tls=authority.server) as registry, ImageRegistry(tls=authority.server) as own:
        private(registry)
        own.push("x", "1.0", make_image(b"something"))
        for path, content in ((f"blobs/{LAYER}", IMAGE.layers[0]), (f"manifests/{IMAGE.digest}", IMAGE.manifest)):
            claim = {"Content-Length": str(len(content)), "Docker-Content-Digest": digest_of(content)}
            claims = Answering(200, content, {"Content-Type": OCI_IMAGE, **claim})
            own.rules[f"/v2/x/{path}"] = partial(_by_head, claims)
        own.rules["/v2/x/manifests/2.0"] = own.rules[f"/v2/x/manifests/{IMAGE.digest}"]
        upstreams = [f"docker.io={registry.url};ca={authority.ca_file}", f"*;ca={authority.ca_file}"]
        name = f"127.0.0.1:{own.port}"
        async with node_at(tmp_path / "store", *upstreams, allow_private=["127.0.0.1"]) as node:
            assert await pulled(node, SECRET, ALICE) == [200] * 4
            for path in (f"blobs/{LAYER}", f"manifests/{IMAGE.digest}", "manifests/2.0"):
                assert (await node.get(f"x/{path}?ns={name}")).status == 404
            for _ in range(2):
                assert (await node.get(f"x/manifests/1.0?ns={name}")).status == 200
                assert (await node.get(f"x/blobs/{digest_of(b'something')}?ns={name}")).body == b"something"
