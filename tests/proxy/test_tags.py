"""Tags: the origin says what they mean; the answer is shared for a moment, by those who show the same credential."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from peer.errors import OriginCorruptError, OriginRefusedError, OriginUnreachableError
from peer.oci.descriptor import Descriptor
from peer.oci.manifest import OCI_IMAGE
from peer.oci.reference import Tag
from proxy.catalog import Public
from proxy.core.grants import ANYONE
from proxy.core.routing import Endpoint
from tests.proxy.direct import parts_of, place, route
from tests.support.images import Image, content_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import Answering

APP, SECRET = "library/app", "team/secret"
OLD, NEW = make_image(content_of("old", 1000)), make_image(content_of("new", 1000))
ALICE = "Bearer alice"
LATEST = route(APP, "latest")
LATEST_PATH = f"/v2/{APP}/manifests/latest"


def meaning(image: Image) -> Descriptor:
    return Descriptor(OCI_IMAGE, image.digest, len(image.manifest))


class TestSharing:
    @asynchronous
    async def test_an_answer_lasts_its_time_and_no_longer(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "latest", OLD)
        async with parts_of(registry, tmp_path, tag_ttl_s=10) as parts:
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == meaning(OLD)
            registry.push(APP, "latest", NEW)
            parts.now += 9.9
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == meaning(OLD)
            assert len(registry.seen) == 1
            parts.now += 0.1
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == meaning(NEW)

    @pytest.mark.parametrize(("ttl_s", "asked"), [(60, 1), (0, 3)])
    @asynchronous
    async def test_how_long_is_for_the_operator_to_say(
        self, registry: ImageRegistry, tmp_path: Path, ttl_s: int, asked: int
    ) -> None:
        registry.push(APP, "latest", OLD)
        async with node_at(tmp_path / "store", f"docker.io={registry.url}", tag_ttl_s=ttl_s) as node:
            for _ in range(3):
                assert (await node.get(f"{APP}/manifests/latest")).body == OLD.manifest
        assert registry.asked("HEAD", "/latest") == asked

    @asynchronous
    async def test_at_the_same_time_there_is_one_question(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "latest", OLD)
        async with parts_of(registry, tmp_path, tag_ttl_s=0) as parts:
            answers = await asyncio.gather(*(parts.tags.resolve(LATEST, None, "") for _ in range(100)))
        assert {manifest for manifest, _ in answers} == {meaning(OLD)}
        assert len(registry.seen) == 1

    @asynchronous
    async def test_it_is_not_shared_between_credentials_types_prefixes_and_repositories(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        for repository in (APP, SECRET):
            registry.push(repository, "latest", OLD)
        others = [
            (route(SECRET, "latest"), None, ""),
            (LATEST, ALICE, ""),
            (LATEST, None, OCI_IMAGE),
            (structs.replace(LATEST, prefix="docker.io/", renamed=True), None, ""),
        ]
        async with parts_of(registry, tmp_path) as parts:
            await parts.tags.resolve(LATEST, None, "")
            for number, other in enumerate(others, 2):
                for _ in range(2):
                    await parts.tags.resolve(*other)
                assert len(registry.seen) == number

    @asynchronous
    async def test_a_no_is_not_remembered(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with parts_of(registry, tmp_path) as parts:
            with pytest.raises(OriginRefusedError):
                await parts.tags.resolve(LATEST, None, "")
            registry.push(APP, "latest", OLD)
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == meaning(OLD)

    @asynchronous
    async def test_the_client_may_have_what_its_tag_means(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "latest", OLD)
        registry.members[SECRET] = {ALICE}
        async with parts_of(registry, tmp_path) as parts:
            _, permit = await parts.tags.resolve(route(SECRET, "latest"), ALICE, "")
            assert permit.client == parts.access.client(ALICE)
            await parts.access.check(route(SECRET, OLD.digest), ALICE)
            assert len(registry.seen) == 1
            assert not parts.catalog.is_public(place(SECRET), Endpoint.MANIFEST, OLD.digest)


class TestOriginsThatSayLittle:
    @pytest.mark.parametrize(
        "head",
        [
            Answering(200, OLD.manifest, {"Content-Type": OCI_IMAGE}),
            Answering(200, OLD.manifest, {"Content-Type": OCI_IMAGE, "Docker-Content-Digest": "sha256:short"}),
            Answering(200, OLD.manifest, {"Docker-Content-Digest": OLD.digest}),
            Answering(200, b"", {"Content-Type": OCI_IMAGE, "Docker-Content-Digest": OLD.digest}),
            Answering(
                headers={"Content-Type": OCI_IMAGE, "Docker-Content-Digest": OLD.digest, "Content-Length": str(10**30)}
            ),
            Answering(404),
            Answering(405),
        ],
        ids=["no digest", "no such digest", "no type", "no length", "no such length", "404", "405"],
    )
    @asynchronous
    async def test_the_manifest_itself_is_asked_for(
        self, registry: ImageRegistry, tmp_path: Path, head: Answering
    ) -> None:
        registry.push(APP, "latest", OLD)
        registry.rules[LATEST_PATH] = lambda seen: head if seen.method == "HEAD" else None
        async with parts_of(registry, tmp_path) as parts:
            assert (await parts.tags.resolve(LATEST, None, OCI_IMAGE))[0] == meaning(OLD)
        assert [seen.method for seen in registry.seen] == ["HEAD", "GET"]
        assert {seen.headers["accept"] for seen in registry.seen} == {OCI_IMAGE}

    @asynchronous
    async def test_bytes_that_are_not_what_they_are_said_to_be(self, registry: ImageRegistry, tmp_path: Path) -> None:
        lie = Answering(200, NEW.manifest, {"Content-Type": OCI_IMAGE, "Docker-Content-Digest": OLD.digest})
        registry.rules[LATEST_PATH] = lambda seen: lie if seen.method == "GET" else Answering(404)
        async with parts_of(registry, tmp_path) as parts:
            with pytest.raises(OriginCorruptError):
                await parts.tags.resolve(LATEST, None, "")

    @pytest.mark.parametrize(("status", "asked"), [(401, 1), (403, 2), (429, 1)])
    @asynchronous
    async def test_a_no_is_a_no(self, registry: ImageRegistry, tmp_path: Path, status: int, asked: int) -> None:
        registry.rules[LATEST_PATH] = Answering(status, headers={"Retry-After": "60", "WWW-Authenticate": "Basic"})
        async with parts_of(registry, tmp_path) as parts:
            with pytest.raises(OriginRefusedError) as caught:
                await parts.tags.resolve(LATEST, None, "")
        assert caught.value.status == status
        assert caught.value.headers == {"retry-after": "60", "www-authenticate": "Basic"}
        assert len(registry.seen) == asked


class TestOriginThatIsGone:
    @asynchronous
    async def test_what_anyone_may_have_means_what_it_meant_last(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "latest", OLD)
        async with parts_of(registry, tmp_path, tag_ttl_s=0, serve_stale=True) as parts:
            await parts.tags.resolve(LATEST, None, "")
            registry.push(APP, "latest", NEW)
            await parts.tags.resolve(LATEST, None, "")
            registry.stop()
            for who in (None, ALICE):
                manifest, permit = await parts.tags.resolve(LATEST, who, "")
                assert (manifest, permit.client) == (meaning(NEW), ANYONE)
            with pytest.raises(OriginUnreachableError):
                await parts.tags.resolve(route(APP, "other"), None, "")

    @asynchronous
    async def test_not_if_the_operator_does_not_want_it(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "latest", OLD)
        async with parts_of(registry, tmp_path, tag_ttl_s=0) as parts:
            await parts.tags.resolve(LATEST, None, "")
            registry.stop()
            with pytest.raises(OriginUnreachableError):
                await parts.tags.resolve(LATEST, None, "")

    @asynchronous
    async def test_not_what_is_no_manifest(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """An earlier version of p2pd remembered a page as the manifest."""
        async with parts_of(registry, tmp_path, tag_ttl_s=0, serve_stale=True) as parts:
            for media_type in ("text/html; charset=utf-8", "application/json", ""):
                parts.catalog.remember_tag(place(APP), Tag("latest"), Descriptor(media_type, OLD.digest, 9))
                parts.catalog.remember(place(APP), Endpoint.MANIFEST, [OLD.digest], Public.EVERYWHERE)
                registry.rules[LATEST_PATH] = Answering(429)
                with pytest.raises(OriginRefusedError):
                    await parts.tags.resolve(LATEST, None, "")

    @asynchronous
    async def test_not_what_is_private(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "latest", OLD)
        registry.members[SECRET] = {ALICE}
        async with parts_of(registry, tmp_path, tag_ttl_s=0, serve_stale=True) as parts:
            await parts.tags.resolve(route(SECRET, "latest"), ALICE, "")
            registry.stop()
            for who in (None, ALICE, ANONYMOUS):
                with pytest.raises(OriginUnreachableError):
                    await parts.tags.resolve(route(SECRET, "latest"), who, "")
