"""Tags of a cluster: what another host found saves the question for the tag, and lets no client have anything."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from peer.errors import OriginRefusedError, OriginUnreachableError, OriginUnusableError
from peer.net.tag_lookups import TagFound, TagName, Turn
from peer.oci.descriptor import Descriptor
from peer.oci.manifest import ANY_MANIFEST, DOCKER_IMAGE, OCI_IMAGE
from peer.oci.reference import Tag
from proxy.core.grants import ANYONE
from proxy.core.routing import Endpoint
from tests.proxy.direct import Others, parts_of, place, route
from tests.support.images import content_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import Answering

APP, SECRET = "library/app", "team/secret"
IMAGE, PRIVATE = make_image(content_of("app", 1000)), make_image(content_of("private", 1000))
ALICE, BOB = "Bearer alice", "Bearer bob"
NAME, SECRET_NAME = (TagName(place(name), Tag("latest")) for name in (APP, SECRET))
LATEST, SECRET_LATEST = route(APP, "latest"), route(SECRET, "latest")
MEANING = Descriptor(OCI_IMAGE, IMAGE.digest, len(IMAGE.manifest))
FOUND = TagFound(Descriptor(OCI_IMAGE, IMAGE.digest, len(IMAGE.manifest)))
FOUND_OPENLY = TagFound(Descriptor(OCI_IMAGE, IMAGE.digest, len(IMAGE.manifest)), public=True)
LIE = TagFound(Descriptor(OCI_IMAGE, PRIVATE.digest, len(PRIVATE.manifest)), public=True)


@pytest.fixture
def registry(registry: ImageRegistry) -> ImageRegistry:
    registry.push(APP, "latest", IMAGE)
    registry.push(SECRET, "latest", PRIVATE)
    registry.members[SECRET] = {ALICE}
    return registry


def asked(registry: ImageRegistry) -> list[tuple[str, str]]:
    """The questions to the registry: method, and what for."""
    return [(seen.method, seen.path.removeprefix("/v2/")) for seen in registry.seen]


class TestOurTurn:
    @asynchronous
    async def test_the_others_are_told(self, registry: ImageRegistry, tmp_path: Path) -> None:
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others) as parts:
            for _ in range(2):
                assert (await parts.tags.resolve(LATEST, None, OCI_IMAGE))[0] == MEANING
            await parts.access.check(route(APP, IMAGE.digest), None)
        assert others.looked_up == [NAME], "what this host has asked itself it remembers"
        assert others.told == [(NAME, 200, FOUND_OPENLY)]
        assert asked(registry) == [("HEAD", f"{APP}/manifests/latest")]
        assert registry.seen[0].headers["accept"] == ANY_MANIFEST, "it is for others too"

    @asynchronous
    async def test_what_was_given_to_a_credential_is_not_public(self, registry: ImageRegistry, tmp_path: Path) -> None:
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others) as parts:
            await parts.tags.resolve(LATEST, ANONYMOUS, "")
        assert others.told == [(NAME, 200, FOUND)]

    @pytest.mark.parametrize("trust_hosts", [False, True])
    @asynchronous
    async def test_nor_what_was_given_to_the_operators(
        self, registry: ImageRegistry, tmp_path: Path, trust_hosts: bool
    ) -> None:
        others = Others(Turn.OURS)
        registry.members[APP] = {"Basic " + base64.b64encode(b"me:secret").decode()}
        async with parts_of(
            registry, tmp_path, others=others, trust_hosts=trust_hosts, operators=("me", "secret")
        ) as parts:
            registry.rules[f"/v2/{APP}/manifests/latest"] = lambda seen: (
                None if "authorization" in seen.headers else Answering(401, headers={"WWW-Authenticate": "Basic"})
            )
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == MEANING
        assert others.told == [(NAME, 200, FOUND)]

    @pytest.mark.parametrize("trust_hosts", [False, True])
    @asynchronous
    async def test_a_refusal_is_the_clients_and_the_others_are_told(
        self, registry: ImageRegistry, tmp_path: Path, trust_hosts: bool
    ) -> None:
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others, trust_hosts=trust_hosts) as parts:
            for who in (None, BOB):
                with pytest.raises(OriginRefusedError) as caught:
                    await parts.tags.resolve(SECRET_LATEST, who, "")
                assert caught.value.status == 401
        assert others.told == [(SECRET_NAME, 401, None)] * 2

    @asynchronous
    async def test_an_origin_that_is_gone(self, registry: ImageRegistry, tmp_path: Path) -> None:
        others = Others(Turn.OURS)
        registry.stop()
        async with parts_of(registry, tmp_path, others=others) as parts:
            with pytest.raises(OriginUnreachableError):
                await parts.tags.resolve(LATEST, None, "")
        assert others.told == [(NAME, 0, None)]

    @asynchronous
    async def test_what_is_no_manifest_that_we_know_is_for_this_client_alone(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        strange, media_type = b'{"schemaVersion": 9}', "application/vnd.example.thing.v9+json"
        digest = registry.put_manifest(APP, "latest", strange, media_type)
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others) as parts:
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == Descriptor(media_type, digest, len(strange))
        assert others.told == [(NAME, 0, None)]

    @pytest.mark.parametrize("media_type", ["application/json", "text/plain", "x" * 300])
    @asynchronous
    async def test_the_others_are_told_the_manifests_own_type(
        self, registry: ImageRegistry, tmp_path: Path, media_type: str
    ) -> None:
        registry.put_manifest(APP, "latest", IMAGE.manifest, media_type)
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others) as parts:
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == MEANING
        assert others.told == [(NAME, 200, FOUND_OPENLY)]

    @asynchronous
    async def test_they_are_not_told_of_what_is_no_manifest(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.rules[f"/v2/{APP}/manifests/latest"] = Answering(200, b"<html></html>", {"Content-Type": "text/html"})
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others) as parts:
            with pytest.raises(OriginUnusableError):
                await parts.tags.resolve(LATEST, None, "")
        assert others.told == [(NAME, 0, None)]

    @asynchronous
    async def test_a_client_that_takes_another_type_has_its_own_question(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        others = Others(Turn.OURS)
        async with parts_of(registry, tmp_path, others=others) as parts:
            await parts.tags.resolve(LATEST, None, DOCKER_IMAGE)
        assert [seen.headers["accept"] for seen in registry.seen] == [ANY_MANIFEST, DOCKER_IMAGE]
        assert others.told == [(NAME, 200, FOUND_OPENLY)]

    @asynchronous
    async def test_hosts_that_trust_each_other_find_out_first_whether_it_is_public(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        others = Others(Turn.OURS)
        registry.members[SECRET] = {ALICE}
        private = TagFound(Descriptor(OCI_IMAGE, PRIVATE.digest, len(PRIVATE.manifest)))
        async with parts_of(registry, tmp_path, others=others, trust_hosts=True) as parts:
            assert (await parts.tags.resolve(LATEST, ALICE, ""))[1].client == ANYONE
            _, permit = await parts.tags.resolve(SECRET_LATEST, ALICE, "")
            assert permit.client == parts.access.client(ALICE)
        assert others.told == [(NAME, 200, FOUND_OPENLY), (SECRET_NAME, 200, private)]
        assert not any(seen.headers.get("authorization") == ALICE for seen in registry.seen[:1])


class TestWhatAnotherHostFound:
    @pytest.mark.parametrize("trust_hosts", [False, True])
    @asynchronous
    async def test_what_is_no_manifest_is_not_believed(
        self, registry: ImageRegistry, tmp_path: Path, trust_hosts: bool
    ) -> None:
        page = TagFound(Descriptor("text/html", PRIVATE.digest, 55), public=True)
        others = Others(page)
        async with parts_of(registry, tmp_path, others=others, trust_hosts=trust_hosts) as parts:
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == MEANING
        assert asked(registry) == [("HEAD", f"{APP}/manifests/latest")]

    @pytest.mark.parametrize("who", [None, ALICE])
    @asynchronous
    async def test_the_origin_is_asked_who_may_have_it_and_not_again_for_a_while(
        self, registry: ImageRegistry, tmp_path: Path, who: str | None
    ) -> None:
        others = Others(FOUND_OPENLY)
        async with parts_of(registry, tmp_path, others=others, tag_ttl_s=0, access_ttl_s=100) as parts:
            for _ in range(3):
                manifest, permit = await parts.tags.resolve(LATEST, who, OCI_IMAGE)
                assert (manifest, permit.client) == (MEANING, parts.access.client(who))
            assert asked(registry) == [("HEAD", f"{APP}/manifests/{IMAGE.digest}")]
            parts.now += 100
            await parts.tags.resolve(LATEST, who, OCI_IMAGE)
        assert len(registry.seen) == 2
        assert others.told == []
        assert registry.seen[0].headers["accept"] == ANY_MANIFEST, "registries hide types that are not named"

    @asynchronous
    async def test_what_is_private_is_for_those_who_may_have_it(self, registry: ImageRegistry, tmp_path: Path) -> None:
        others = Others(LIE)
        async with parts_of(registry, tmp_path, others=others) as parts:
            assert (await parts.tags.resolve(SECRET_LATEST, ALICE, ""))[0].digest == PRIVATE.digest
            for who in (None, BOB, ANONYMOUS):
                with pytest.raises(OriginRefusedError) as caught:
                    await parts.tags.resolve(SECRET_LATEST, who, "")
                assert caught.value.headers == {"www-authenticate": registry.challenge(SECRET)}
                with pytest.raises(OriginRefusedError):
                    await parts.access.check(route(SECRET, PRIVATE.digest), who)
            assert not parts.catalog.is_public(place(SECRET), Endpoint.MANIFEST, PRIVATE.digest)

    @asynchronous
    async def test_a_private_image_under_a_public_tag_is_found_out(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        """The repository has no such digest, so the origin is asked for the tag."""
        async with parts_of(registry, tmp_path, others=Others(LIE)) as parts:
            await parts.access.check(route(SECRET, PRIVATE.digest), ALICE)  # a client of this host may have it there
            for who in (None, ALICE):
                assert (await parts.tags.resolve(LATEST, who, ""))[0] == MEANING
                with pytest.raises(OriginRefusedError):
                    await parts.access.check(route(APP, PRIVATE.digest), who)

    @asynchronous
    async def test_the_origins_own_length_and_type_are_believed(self, registry: ImageRegistry, tmp_path: Path) -> None:
        others = Others(TagFound(Descriptor(DOCKER_IMAGE, IMAGE.digest, 3)))
        async with parts_of(registry, tmp_path, others=others) as parts:
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == MEANING

    @asynchronous
    async def test_a_client_that_does_not_take_its_type_has_its_own_question(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        async with parts_of(registry, tmp_path, others=Others(FOUND)) as parts:
            await parts.tags.resolve(LATEST, None, DOCKER_IMAGE)
        assert asked(registry) == [("HEAD", f"{APP}/manifests/latest")]
        assert registry.seen[0].headers["accept"] == DOCKER_IMAGE

    @asynchronous
    async def test_with_trust_its_word_that_anyone_may_have_it_is_enough(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        others = Others(FOUND_OPENLY)
        async with parts_of(registry, tmp_path, others=others, trust_hosts=True) as parts:
            for who in (None, ALICE):
                manifest, permit = await parts.tags.resolve(LATEST, who, "")
                assert (manifest, permit.client) == (MEANING, ANYONE)
                await parts.access.check(route(APP, IMAGE.digest), who)
            assert registry.seen == []
            others.turn = FOUND
            parts.now += 1000
            await parts.tags.resolve(LATEST, ALICE, "")
        assert asked(registry) == [("HEAD", f"{APP}/manifests/{IMAGE.digest}")], "it did not say so of this one"

    @asynchronous
    async def test_with_the_origin_gone_only_what_anyone_may_have(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        others = Others(FOUND)
        async with parts_of(registry, tmp_path, others=others) as parts:
            await parts.tags.resolve(LATEST, None, "")
            registry.stop()
            parts.now += 1000
            assert (await parts.tags.resolve(LATEST, None, ""))[0] == MEANING
            others.turn = LIE
            with pytest.raises(OriginUnreachableError):
                await parts.tags.resolve(LATEST, None, "")


@asynchronous
async def test_with_nobody_to_ask_the_host_is_alone(registry: ImageRegistry, tmp_path: Path) -> None:
    others = Others(None)
    async with parts_of(registry, tmp_path, others=others) as parts:
        for _ in range(2):
            assert (await parts.tags.resolve(LATEST, None, OCI_IMAGE))[0] == MEANING
    assert asked(registry) == [("HEAD", f"{APP}/manifests/latest")]
    assert others.told == []
