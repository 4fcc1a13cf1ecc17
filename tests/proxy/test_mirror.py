"""The mirror as container runtimes see it: a whole node on real sockets, in front of a registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from peer.oci.manifest import DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX
from peer.store.blob import EMPTY_DIGEST
from tests.support.client import Reply
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering

APP = "library/app"
LAYER = content_of("layer", 300_000)
LAYER_DIGEST = digest_of(LAYER)
IMAGE = make_image(LAYER, content_of("upper", 1000))


def assert_describes(reply: Reply, content: bytes, media_type: str) -> None:
    """The headers that runtimes read; dockerd and containerd ask again without them."""
    assert reply.status == 200
    assert reply.headers["content-type"] == media_type
    assert reply.headers["content-length"] == str(len(content))
    assert reply.headers["docker-content-digest"] == digest_of(content)
    assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
    assert reply.headers["accept-ranges"] == "bytes"
    assert "transfer-encoding" not in reply.headers
    assert "content-encoding" not in reply.headers


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


class TestManifests:
    @pytest.mark.parametrize("reference", ["1.0", IMAGE.digest])
    @asynchronous
    async def test_by_tag_and_by_digest(self, registry: ImageRegistry, tmp_path: Path, reference: str) -> None:
        registry.push(APP, "1.0", IMAGE)
        path = f"{APP}/manifests/{reference}"
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in ("cold", "warm"):
                async with node.client() as client:
                    for method in ("HEAD", "GET", "HEAD"):
                        reply = await client.ask(method, f"/v2/{path}")
                        assert_describes(reply, IMAGE.manifest, OCI_IMAGE)
                        assert reply.body == (IMAGE.manifest if method == "GET" else b"")
                        assert await client.nothing_follows()
        assert registry.asked("GET", "") == 1

    @asynchronous
    async def test_bytes_and_type_are_the_origins(self, registry: ImageRegistry, tmp_path: Path) -> None:
        silent = make_image(LAYER, says_its_type=False)
        docker = make_image(LAYER, media_type=DOCKER_IMAGE)
        strange = b'{"schemaVersion":9, "what":"?"}'
        strange_type = "application/vnd.example.thing.v9+json"
        registry.push(APP, "silent", silent)
        registry.push(APP, "docker", docker)
        registry.put_manifest(APP, "strange", strange, strange_type)
        expected = {
            "silent": (silent.manifest, OCI_IMAGE),
            "docker": (docker.manifest, DOCKER_IMAGE),
            "strange": (strange, strange_type),
        }
        for _ in ("cold", "after a restart"):
            async with node_at(tmp_path / "store", hub(registry)) as node:
                for tag, (content, media_type) in expected.items():
                    for reference in (digest_of(content), tag):
                        for method in ("HEAD", "GET"):
                            reply = await node.ask(method, f"{APP}/manifests/{reference}")
                            assert_describes(reply, content, media_type)
                            assert reply.body == (content if method == "GET" else b"")

    @asynchronous
    async def test_an_index_and_its_images(self, registry: ImageRegistry, tmp_path: Path) -> None:
        digest = registry.push_index(APP, "multi", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{APP}/manifests/multi")
            assert (reply.headers["content-type"], digest_of(reply.body)) == (OCI_INDEX, digest)
            assert (await node.get(f"{APP}/manifests/{IMAGE.digest}")).body == IMAGE.manifest
            assert (await node.get(f"{APP}/blobs/{LAYER_DIGEST}")).body == LAYER
        # The index allowed its images, and they their layers.
        assert [seen.path for seen in registry.seen if seen.method == "HEAD"] == [f"/v2/{APP}/manifests/multi"]

    @asynchronous
    async def test_what_the_client_accepts_is_for_the_origin_to_know(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            await node.ask("HEAD", f"{APP}/manifests/1.0", {"Accept": f"{OCI_IMAGE}, {OCI_INDEX};q=0.5"})
        assert registry.seen[0].headers["accept"] == f"{OCI_IMAGE}, {OCI_INDEX};q=0.5"
        assert registry.seen[0].headers["accept-encoding"] == "identity"

    @asynchronous
    async def test_an_origin_whose_head_tells_nothing(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.rules[f"/v2/{APP}/manifests/1.0"] = lambda seen: Answering(405) if seen.method == "HEAD" else None
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert_describes(await node.ask("HEAD", f"{APP}/manifests/1.0"), IMAGE.manifest, OCI_IMAGE)


class TestUpstream:
    @pytest.mark.parametrize(
        ("query", "headers", "prefix"),
        [("?ns=ghcr.io", {}, ""), ("", {"OCI-Namespace": "ghcr.io"}, ""), ("", {}, "ghcr.io/")],
    )
    @asynchronous
    async def test_the_upstream_that_was_named(
        self, registry: ImageRegistry, tmp_path: Path, query: str, headers: Mapping[str, str], prefix: str
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        with ImageRegistry() as default:
            async with node_at(tmp_path / "store", hub(default), f"ghcr.io={registry.url}") as node:
                for path in (
                    f"manifests/1.0{query}",
                    f"manifests/{IMAGE.digest}{query}",
                    f"blobs/{LAYER_DIGEST}{query}",
                ):
                    for method in ("GET", "HEAD"):
                        reply = await node.ask(method, f"{prefix}{APP}/{path}", headers)
                        assert reply.status == 200
                        assert reply.headers.get("oci-namespace") == (None if prefix else "ghcr.io")
                assert (await node.get(f"{APP}/manifests/1.0")).status == 404
            assert all("ns=" not in seen.target for seen in registry.seen)
            assert {seen.path for seen in default.seen} == {f"/v2/{APP}/manifests/1.0"}

    @asynchronous
    async def test_an_unknown_one(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path in (
                f"{APP}/manifests/1.0?ns=evil.example",
                f"evil.example/{APP}/manifests/1.0",
                "?ns=evil.example",
            ):
                reply = await node.get(path)
                assert (reply.status, reply.code) == (404, "NAME_UNKNOWN")
                assert "evil.example" in reply.message
        assert not registry.seen


class TestBlobs:
    @asynchronous
    async def test_get_and_head_cold_and_warm(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node, node.client() as client:
            for method in ("HEAD", "GET", "HEAD", "GET"):
                for content in IMAGE.blobs:
                    reply = await client.ask(method, f"/v2/{APP}/blobs/{digest_of(content)}")
                    assert_describes(reply, content, "application/octet-stream")
                    assert reply.body == (content if method == "GET" else b"")
                    assert await client.nothing_follows()
        assert registry.asked("GET", "") == len(IMAGE.blobs)

    @asynchronous
    async def test_the_empty_blob(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.put_blob(APP, b"")
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for method in ("GET", "HEAD", "GET"):
                assert_describes(await node.ask(method, f"{APP}/blobs/{EMPTY_DIGEST}"), b"", "application/octet-stream")
            assert (await node.get(f"{APP}/blobs/{EMPTY_DIGEST}", {"Range": "bytes=0-"})).status == 416

    @asynchronous
    async def test_an_origin_without_ranges(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.ignores_range = True
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{APP}/blobs/{LAYER_DIGEST}", {"Range": "bytes=299990-"})
            assert (reply.status, reply.body) == (206, LAYER[299990:])


SIZE = len(LAYER)


class TestRanges:
    """On a blob that has more than one piece, is not all held at first, and later is."""

    @pytest.mark.parametrize(
        ("header", "start", "stop"),
        [
            ("bytes=0-", 0, SIZE),  # containerd's parallel fetch takes 200 as a no
            ("bytes=123-", 123, SIZE),
            ("bytes=262100-262200", 262_100, 262_201),  # over the edge of a piece
            ("bytes=5-5", 5, 6),
            ("bytes=-7", SIZE - 7, SIZE),
            ("bytes=299999-900000", SIZE - 1, SIZE),
            ("bytes=-900000", 0, SIZE),
        ],
    )
    @asynchronous
    async def test_one(self, registry: ImageRegistry, tmp_path: Path, header: str, start: int, stop: int) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in ("cold", "warm"):
                reply = await node.get(f"{APP}/blobs/{LAYER_DIGEST}", {"Range": header})
                assert (reply.status, reply.end) == (206, "whole")
                assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
                assert reply.headers["content-length"] == str(stop - start)
                assert reply.headers["docker-content-digest"] == LAYER_DIGEST
                assert reply.body == LAYER[start:stop]

    @asynchronous
    async def test_one_that_is_outside(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in ("cold", "warm"):
                reply = await node.get(f"{APP}/blobs/{LAYER_DIGEST}", {"Range": f"bytes={SIZE}-"})
                assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{SIZE}")
                assert (await node.get(f"{APP}/blobs/{LAYER_DIGEST}")).body == LAYER

    @pytest.mark.parametrize("header", ["items=0-1", "bytes=9-1", "bytes=x", "bytes=0-,0-,0-", "bytes=" + "9" * 4000])
    @asynchronous
    async def test_what_is_none(self, registry: ImageRegistry, tmp_path: Path, header: str) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{APP}/blobs/{LAYER_DIGEST}", {"Range": header})
            assert_describes(reply, LAYER, "application/octet-stream")
            assert reply.body == LAYER

    @pytest.mark.parametrize("header", ["bytes=0-9,262100-262200,-3", "bytes=299000-, 5-5", "bytes=1-2,900000-,4-5"])
    @asynchronous
    async def test_several(self, registry: ImageRegistry, tmp_path: Path, header: str) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in ("cold", "warm"):
                async with node.client() as client:
                    reply = await client.ask("GET", f"/v2/{APP}/blobs/{LAYER_DIGEST}", {"Range": header})
                    assert reply.status == 206
                    assert "content-range" not in reply.headers
                    parts = parts_of(reply)
                    assert [content for _, content in parts] == expected_parts(header)
                    assert [content_range for content_range, _ in parts] == [
                        f"bytes {LAYER.index(content)}-{LAYER.index(content) + len(content) - 1}/{SIZE}"
                        for _, content in parts
                    ]
                    # The length was right: the next answer begins where it should.
                    assert (await client.ask("HEAD", f"/v2/{APP}/blobs/{LAYER_DIGEST}")).status == 200


def expected_parts(header: str) -> list[bytes]:
    parts = []
    for text in header.removeprefix("bytes=").split(","):
        first, _, last = text.strip().partition("-")
        start = int(first) if first else SIZE - int(last)
        parts.append(LAYER[start : int(last) + 1 if first and last else SIZE])
    return [part for part in parts if part]


def parts_of(reply: Reply) -> list[tuple[str, bytes]]:
    """Content-Range and content of each part."""
    media_type, _, boundary = reply.headers["content-type"].partition("; boundary=")
    assert media_type == "multipart/byteranges"
    before, *parts, end = reply.body.split(f"\r\n--{boundary}".encode())
    assert (before, end) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        fields = dict(line.split(": ") for line in head.decode().strip().split("\r\n"))
        assert fields["Content-Type"] == "application/octet-stream"
        found.append((fields["Content-Range"], content))
    return found


class TestQuestions:
    @asynchronous
    async def test_ping(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for method in ("GET", "HEAD"):
                reply = await node.ask(method, "")
                assert (reply.status, reply.headers["docker-distribution-api-version"]) == (200, "registry/2.0")

    @pytest.mark.parametrize(
        "link",
        [
            "</v2/{path}?last=b&n=2>",
            "<{url}/v2/{path}?last=b&n=2>",
            "<//registry.test/v2/{path}?last=b&n=2>",
            "<{url}/some/prefix/v2/{path}?last=b&n=2&ns=other>",
            "<list?last=b&n=2>",
            "<./list?last=b&n=2#x>",
            "<../tags/list?last=b&n=2>",
            "< ?last=b&n=2 >",
        ],
    )
    @pytest.mark.parametrize("prefix", ["", "docker.io/"])
    @asynchronous
    async def test_tags_and_their_next_page(
        self, registry: ImageRegistry, tmp_path: Path, link: str, prefix: str
    ) -> None:
        path = f"{APP}/tags/list"
        link = link.format(path=path, url=registry.url)
        registry.rules[f"/v2/{path}"] = Answering(
            200, b'{"tags":["a","b"]}', {"Content-Type": "application/json", "Link": f'{link}; rel="next"'}
        )
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{prefix}{path}?n=2&last=%C3%A9%26")
            assert (reply.status, reply.json) == (200, {"tags": ["a", "b"]})
            assert reply.headers["link"] == f'</v2/{prefix}{path}?last=b&n=2>; rel="next"'
        assert registry.seen[0].target == f"/v2/{path}?n=2&last=%C3%A9%26"

    @asynchronous
    async def test_a_next_page_is_of_the_same_upstream(self, registry: ImageRegistry, tmp_path: Path) -> None:
        path = f"{APP}/tags/list"
        registry.rules[f"/v2/{path}"] = Answering(200, b'{"tags":[]}', {"Link": f'</v2/{path}?n=2&last=b>; rel="next"'})
        async with node_at(tmp_path / "store", "other.example=http://127.0.0.1:1", hub(registry)) as node:
            reply = await node.get(f"{path}?n=2&ns=docker.io")
            assert reply.headers["link"] == f'</v2/{path}?n=2&last=b&ns=docker.io>; rel="next"'

    @asynchronous
    async def test_referrers_are_passed_on(self, registry: ImageRegistry, tmp_path: Path) -> None:
        path = f"{APP}/referrers/{IMAGE.digest}"
        registry.rules[f"/v2/{path}"] = Answering(
            200, b'{"manifests": []}', {"Content-Type": OCI_INDEX, "OCI-Filters-Applied": "artifactType"}
        )
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{path}?artifactType=application%2Fx&ns=docker.io")
            assert (reply.status, reply.body) == (200, b'{"manifests": []}')
            assert reply.headers["content-type"] == OCI_INDEX
            assert reply.headers["oci-filters-applied"] == "artifactType"
            assert reply.headers["oci-namespace"] == "docker.io"
            unsupported = await node.get(f"{APP}/referrers/{LAYER_DIGEST}")
            assert unsupported.status == 404
        assert registry.seen[0].target in (
            f"/v2/{path}?artifactType=application/x",
            f"/v2/{path}?artifactType=application%2Fx",
        )

    @asynchronous
    async def test_push_is_refused(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for method, path in (
                ("POST", f"{APP}/blobs/uploads/"),
                ("PUT", f"{APP}/manifests/1.0"),
                ("PATCH", f"{APP}/blobs/uploads/1"),
                ("DELETE", f"{APP}/manifests/{IMAGE.digest}"),
            ):
                reply = await node.ask(method, path, {"Content-Length": "0"})
                assert (reply.status, reply.code) == (405, "UNSUPPORTED")
        assert not registry.seen
