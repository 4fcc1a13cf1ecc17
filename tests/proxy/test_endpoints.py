"""What the specification says of the endpoints: what is at one is not at the other, HEAD is GET without the body, and
conditional requests are answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from peer.oci.descriptor import Descriptor
from peer.oci.manifest import DOCKER_SCHEMA_1_SIGNED, OCI_IMAGE, OCI_INDEX
from tests.support.client import Reply
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, Rule

APP = "team/app"
IMAGE = make_image(content_of("layer", 5000))
LAYER = digest_of(IMAGE.layers[0])
ALICE = "Bearer alice"
TAG, BY_DIGEST, BLOB = (f"{APP}/{path}" for path in ("manifests/1.0", f"manifests/{IMAGE.digest}", f"blobs/{LAYER}"))
HTML = b"<!DOCTYPE html><html>sign in</html>"


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


def told(reply: Reply) -> Mapping[str, str]:
    """The headers, without the time of the answer."""
    return {name: value for name, value in reply.headers.items() if name != "date"}


async def both(node: Node, path: str, headers: Mapping[str, str] | None = None) -> Reply:
    """The answer to HEAD, which has the status and the headers of the answer to GET before and after it."""
    before = await node.ask("HEAD", path, headers)
    get = await node.get(path, headers)
    after = await node.ask("HEAD", path, headers)
    assert before.status == get.status == after.status
    if get.status == 200:
        assert told(before) == told(get) == told(after)
    return get


class TestOneEndpoint:
    @pytest.mark.parametrize("access_ttl_s", [0, 300])
    @asynchronous
    async def test_a_layer_is_no_manifest(self, registry: ImageRegistry, tmp_path: Path, access_ttl_s: int) -> None:
        registry.push(APP, "1.0", IMAGE)
        layer = f"{APP}/manifests/{LAYER}"
        async with node_at(tmp_path / "store", hub(registry), access_ttl_s=access_ttl_s) as node:
            for _ in range(2):
                assert (await both(node, layer)).code == "MANIFEST_UNKNOWN"
                assert (await node.get(TAG)).status == 200
                assert (await node.get(BLOB)).body == IMAGE.layers[0]

    @asynchronous
    async def test_nor_where_the_registry_says_so(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """Some registries have every blob at both endpoints."""
        registry.push(APP, "1.0", IMAGE)
        layer = f"{APP}/manifests/{LAYER}"
        lie = {"Content-Type": OCI_IMAGE, "Docker-Content-Digest": LAYER}
        for headers in (lie, {"Content-Type": "application/octet-stream"}):
            registry.rules[f"/v2/{layer}"] = Answering(200, IMAGE.layers[0], headers)
            async with node_at(tmp_path / f"store-{len(headers)}", hub(registry)) as node:
                assert (await node.get(layer)).code == "MANIFEST_UNKNOWN"
                assert (await node.get(BLOB)).body == IMAGE.layers[0]
                assert (await both(node, layer)).code == "MANIFEST_UNKNOWN"

    @asynchronous
    async def test_that_it_is_none_does_not_make_the_layer_less_public(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry), access_ttl_s=0) as node:
            assert (await node.get(BLOB)).status == 200
            assert (await node.get(f"{APP}/manifests/{LAYER}")).status == 404
            registry.rules[f"/v2/{BLOB}"] = Answering(429)
            assert (await node.get(BLOB)).status == 200

    @pytest.mark.parametrize("at_both", [False, True])
    @asynchronous
    async def test_a_manifest_below_blobs_is_for_the_registry_to_say(
        self, registry: ImageRegistry, tmp_path: Path, at_both: bool
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        if at_both:
            registry.put_blob(APP, IMAGE.manifest)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await node.get(TAG)).status == 200
            reply = await both(node, f"{APP}/blobs/{IMAGE.digest}")
            assert reply.status == (200 if at_both else 404)

    @pytest.mark.parametrize("says_its_type", [True, False])
    @asynchronous
    async def test_a_manifest_that_was_first_pulled_as_a_blob(
        self, registry: ImageRegistry, tmp_path: Path, says_its_type: bool
    ) -> None:
        image = make_image(IMAGE.layers[0], says_its_type=says_its_type)
        signed = json.dumps({"schemaVersion": 1, "fsLayers": [], "signatures": []}).encode()
        for content, media_type in ((image.manifest, OCI_IMAGE), (signed, DOCKER_SCHEMA_1_SIGNED)):
            digest = registry.put_manifest(APP, "1.0", content, media_type)
            registry.put_blob(APP, content)
            async with node_at(tmp_path / digest.hex, hub(registry)) as node:
                assert (await node.get(f"{APP}/blobs/{digest}")).body == content
                reply = await both(node, f"{APP}/manifests/{digest}")
                assert (reply.headers["content-type"], reply.body) == (media_type, content)


class TestHead:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (OCI_IMAGE, OCI_IMAGE),
            (f"{OCI_IMAGE}; charset=utf-8", OCI_IMAGE),
            (OCI_IMAGE.upper(), OCI_IMAGE),
            ("application/json", OCI_IMAGE),
            ("text/plain", OCI_IMAGE),
            ("text/html; charset=utf-8", OCI_IMAGE),
            ("", OCI_IMAGE),
        ],
    )
    @asynchronous
    async def test_it_has_the_headers_of_get(
        self, registry: ImageRegistry, tmp_path: Path, given: str, expected: str
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.put_manifest(APP, "1.0", IMAGE.manifest, given)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path in (TAG, BY_DIGEST, BLOB):
                reply = await both(node, path)
                assert reply.headers["content-type"] == ("application/octet-stream" if path == BLOB else expected)
                assert reply.headers["etag"] == f'"{reply.headers["docker-content-digest"]}"'

    @asynchronous
    async def test_a_blobs_type_is_never_the_origins(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.rules[f"/v2/{BLOB}"] = typed("application/vnd.oci.image.layer.v1.tar", IMAGE.layers[0])
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await both(node, BLOB)).headers["content-type"] == "application/octet-stream"


def typed(media_type: str, content: bytes) -> Rule:
    return lambda seen: Answering(200, content, {"Content-Type": media_type}) if seen.method == "HEAD" else None


class TestConditional:
    @pytest.mark.parametrize("cold", [True, False])
    @asynchronous
    async def test_what_the_client_has(self, registry: ImageRegistry, tmp_path: Path, cold: bool) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path, digest in ((TAG, IMAGE.digest), (BY_DIGEST, IMAGE.digest), (BLOB, LAYER)):
                if not cold:
                    await node.get(path)
                for header in (f'"{digest}"', digest, f'W/"{digest}", "other"', "*"):
                    for method in ("GET", "HEAD"):
                        reply = await node.ask(method, path, {"If-None-Match": header, "Range": "bytes=0-1"})
                        assert (reply.status, reply.body) == (304, b"")
                        assert reply.headers["etag"] == f'"{digest}"'
                        assert reply.headers["docker-content-digest"] == digest
                assert (await node.get(path, {"If-None-Match": '"other"'})).status == 200
        if cold:
            assert registry.sent[f"/v2/{BLOB}"] == len(IMAGE.layers[0])

    @asynchronous
    async def test_only_for_those_who_may_have_it(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.members[APP] = {ALICE}
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path, digest in ((TAG, IMAGE.digest), (BY_DIGEST, IMAGE.digest), (BLOB, LAYER)):
                assert (await node.get(path, authorization=ALICE)).status == 200
                assert (await node.get(path, {"If-None-Match": f'"{digest}"'})).status == 401

    @asynchronous
    async def test_the_rest_of_what_the_client_has_begun(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for validator, status, start in ((f'"{LAYER}"', 206, 4990), ('"other"', 200, 0), ("yesterday", 200, 0)):
                reply = await node.get(BLOB, {"Range": "bytes=4990-", "If-Range": validator})
                assert (reply.status, reply.body) == (status, IMAGE.layers[0][start:])

    @asynchronous
    async def test_a_held_blob_whose_overlapping_ranges_are_ignored_is_sent_whole(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await node.get(BLOB)
            reply = await node.get(BLOB, {"Range": "bytes=0-,0-"})
            assert (reply.status, reply.body) == (200, IMAGE.layers[0])
            assert "content-range" not in {name.lower() for name in reply.headers}


class TestAllow:
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
    @asynchronous
    async def test_it_names_the_methods(self, registry: ImageRegistry, tmp_path: Path, method: str) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path in ("", TAG, BLOB, f"{APP}/blobs/uploads/", f"{APP}/tags/list"):
                reply = await node.ask(method, path)
                assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


class TestWhatIsNoManifest:
    @asynchronous
    async def test_what_an_earlier_version_stored_is_not_served(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """A page in the store, that the catalog takes for the tag's public manifest."""
        digest = registry.put_blob(APP, HTML)
        page = f"{APP}/manifests/{digest}"
        headers = {"Content-Type": OCI_IMAGE, "Docker-Content-Digest": digest}
        for path in (TAG, page):
            registry.rules[f"/v2/{path}"] = Answering(200, HTML, headers)
        async with node_at(tmp_path / "store", hub(registry), serve_stale_tags=True, tag_ttl_s=0) as node:
            assert (await node.ask("HEAD", TAG)).status == 200  # so far only the headers are known, and they lie
            assert (await node.get(f"{APP}/blobs/{digest}")).body == HTML
            for path in (TAG, page):
                assert (await both(node, path)).status == 404
            registry.rules = {f"/v2/{path}": Answering(429) for path in (TAG, page)}
            assert (await both(node, TAG)).status == 429  # nobody remembers a manifest of the tag
            assert (await both(node, page)).status == 404

    @asynchronous
    async def test_it_is_no_tags_last_known_manifest(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry), serve_stale_tags=True, tag_ttl_s=0) as node:
            assert (await node.get(TAG)).body == IMAGE.manifest
            registry.rules[f"/v2/{TAG}"] = Answering(200, HTML, {"Content-Type": "text/html"})
            assert (await node.get(TAG)).body == IMAGE.manifest
            registry.rules[f"/v2/{TAG}"] = Answering(429)
            assert (await node.get(TAG)).body == IMAGE.manifest


class TestForeignLayers:
    @asynchronous
    async def test_a_manifest_does_not_grant_them(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """Anyone can write a manifest that names a private layer of another repository as foreign."""
        private = content_of("private", 5000)
        registry.push("team/secret", "1.0", make_image(private))
        registry.members["team/secret"] = {ALICE}
        layer = Descriptor("application/vnd.example.layer", digest_of(private), len(private))
        elsewhere = Descriptor("application/vnd.example.layer", digest_of(b"elsewhere"), 9)
        registry.push(APP, "1.0", make_image(content_of("own", 10), foreign=[layer, elsewhere]))
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"team/secret/blobs/{digest_of(private)}", authorization=ALICE)
            assert reply.body == private
            assert (await node.get(TAG)).status == 200
            assert (await node.get(f"{APP}/blobs/{digest_of(private)}")).status == 404
            assert (await node.get(f"{APP}/blobs/{elsewhere.digest}")).status == 404
            assert registry.asked("HEAD", elsewhere.digest) == 1, "the registry is asked before anything is fetched"

    @asynchronous
    async def test_they_are_not_fetched_ahead(self, registry: ImageRegistry, tmp_path: Path) -> None:
        foreign = Descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", digest_of(b"elsewhere"), 9)
        layers = [content_of("lower", 5000), content_of("upper", 5000)]
        registry.push(APP, "1.0", make_image(*layers, foreign=[foreign]))
        async with node_at(tmp_path / "store", hub(registry), prefetch_layers=3) as node:
            assert (await node.get(TAG)).status == 200
            assert (await node.get(f"{APP}/blobs/{digest_of(layers[0])}")).body == layers[0]
            await node.until(lambda cached: digest_of(layers[1]) in cached)
            assert registry.asked("GET", foreign.digest) == 0
            assert (await node.get(f"{APP}/blobs/{foreign.digest}")).status == 404
            assert registry.asked("GET", foreign.digest) > 0  # the client's own question is the registry's to answer


class TestIndex:
    @asynchronous
    async def test_its_manifests_are_granted_as_manifests(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push_index(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await both(node, TAG)).headers["content-type"] == OCI_INDEX
            assert (await node.get(BY_DIGEST)).body == IMAGE.manifest
            assert (await node.get(BLOB)).body == IMAGE.layers[0]
        assert registry.asked("HEAD", IMAGE.digest) == registry.asked("HEAD", LAYER) == 0
