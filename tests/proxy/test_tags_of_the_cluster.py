"""Tags of a cluster: while the origin answers, the origin alone says what a tag means. While it is gone, a host that
never asked takes what most hosts were told, and tells nobody."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from peer.errors import OriginError, OriginRefusedError, OriginUnreachableError
from peer.net.tag_lookups import TagName, TagWord
from peer.oci.descriptor import Descriptor
from peer.oci.manifest import MAX_MANIFEST_BYTES, OCI_IMAGE
from peer.oci.reference import Tag
from proxy.access import Exchange
from proxy.catalog import Public
from proxy.core.grants import ANYONE
from proxy.core.routing import Endpoint
from tests.proxy.direct import Others, Parts, parts_of, place, route
from tests.support.images import content_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering

APP, SECRET = "library/app", "team/secret"
NEW, OLD = make_image(content_of("new", 1000)), make_image(content_of("old", 1000))
ALICE = "Bearer alice"
NAME, SECRET_NAME = (TagName(place(name), Tag("latest")) for name in (APP, SECRET))
LATEST, SECRET_LATEST = route(APP, "latest"), route(SECRET, "latest")
MEANING = Descriptor(OCI_IMAGE, NEW.digest, len(NEW.manifest))
TOLD = Descriptor(OCI_IMAGE, OLD.digest, len(OLD.manifest))


@pytest.fixture
def registry(registry: ImageRegistry) -> ImageRegistry:
    for image in (OLD, NEW):
        registry.push(APP, "latest", image)
        registry.push(SECRET, "latest", image)
    registry.members[SECRET] = {ALICE}
    return registry


def asked(registry: ImageRegistry) -> list[tuple[str, str]]:
    """The questions to the registry: method, and what for."""
    return [(seen.method, seen.path.removeprefix("/v2/")) for seen in registry.seen]


async def resolved(parts: Parts, who: str | None = None) -> Descriptor:
    return (await parts.tags.resolve(LATEST, who, OCI_IMAGE))[0]


class TestWhileTheOriginAnswers:
    @pytest.mark.parametrize("serve_stale", [False, True])
    @asynchronous
    async def test_nobody_else_is_asked_and_one_head_in_its_time_is_all(
        self, registry: ImageRegistry, tmp_path: Path, serve_stale: bool
    ) -> None:
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others, serve_stale=serve_stale, tag_ttl_s=10) as parts:
            for _ in range(3):
                assert await resolved(parts) == MEANING
                await parts.access.check(route(APP, NEW.digest), None)
            assert asked(registry) == [("HEAD", f"{APP}/manifests/latest")]
            parts.now += 10
            assert await resolved(parts) == MEANING
        assert len(registry.seen) == 2
        assert others.asked == []

    @asynchronous
    async def test_where_head_is_no_use_get_is_asked(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.rules[f"/v2/{APP}/manifests/latest"] = lambda seen: Answering(405) if seen.method == "HEAD" else None
        async with parts_of(registry, tmp_path, others=Others(TOLD)) as parts:
            assert await resolved(parts) == MEANING
        assert [method for method, _ in asked(registry)] == ["HEAD", "GET"]

    @pytest.mark.parametrize("status", [401, 403, 404])
    @asynchronous
    async def test_its_refusal_stands(self, registry: ImageRegistry, tmp_path: Path, status: int) -> None:
        registry.rules[f"/v2/{APP}/manifests/latest"] = Answering(status)
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others, serve_stale=True) as parts:
            with pytest.raises(OriginRefusedError):
                await resolved(parts)
        assert others.asked == []


class TestWhileTheOriginIsGone:
    @pytest.mark.parametrize("rule", [None, Answering(429), Answering(503)], ids=["gone", "limited", "broken"])
    @pytest.mark.parametrize("who", [None, ALICE])
    @asynchronous
    async def test_a_host_that_never_asked_takes_what_most_were_told(
        self, registry: ImageRegistry, tmp_path: Path, rule: Answering | None, who: str | None
    ) -> None:
        if rule is None:
            registry.stop()
        else:
            registry.rules[f"/v2/{APP}/manifests/latest"] = rule
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others, serve_stale=True, exchange=Exchange.PUBLIC) as parts:
            manifest, permit = await parts.tags.resolve(LATEST, who, OCI_IMAGE)
            assert (manifest, permit.client) == (TOLD, ANYONE)
            assert (await parts.access.check(route(APP, OLD.digest), who)).client == ANYONE
            assert others.asked == [NAME]

    @asynchronous
    async def test_their_word_is_not_its_own(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """Otherwise hosts would repeat to each other what one liar told once."""
        registry.stop()
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others, serve_stale=True) as parts:
            assert await resolved(parts) == TOLD
            assert parts.tags.own_word(NAME) is None
            others.told = None
            with pytest.raises(OriginUnreachableError):
                await resolved(parts)

    @asynchronous
    async def test_a_host_that_was_told_by_its_origin_asks_nobody(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others, serve_stale=True, tag_ttl_s=0) as parts:
            await resolved(parts)
            registry.stop()
            assert await resolved(parts) == MEANING
        assert others.asked == []

    @pytest.mark.parametrize(
        "told",
        [
            None,
            Descriptor("text/html", OLD.digest, 55),
            Descriptor(OCI_IMAGE, OLD.digest, 0),
            Descriptor(OCI_IMAGE, OLD.digest, MAX_MANIFEST_BYTES + 1),
        ],
        ids=["nothing", "a page", "empty", "too large"],
    )
    @asynchronous
    async def test_what_is_no_manifest_is_not_taken(
        self, registry: ImageRegistry, tmp_path: Path, told: Descriptor | None
    ) -> None:
        registry.stop()
        async with parts_of(registry, tmp_path, others=Others(told), serve_stale=True) as parts:
            with pytest.raises(OriginUnreachableError):
                await resolved(parts)

    @asynchronous
    async def test_not_if_the_operator_does_not_want_it(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.stop()
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others) as parts:
            with pytest.raises(OriginUnreachableError):
                await resolved(parts)
        assert others.asked == []

    @asynchronous
    async def test_what_this_host_knows_as_private_stays_so(self, registry: ImageRegistry, tmp_path: Path) -> None:
        others = Others(TOLD)
        async with parts_of(registry, tmp_path, others=others, serve_stale=True, tag_ttl_s=0) as parts:
            await parts.tags.resolve(SECRET_LATEST, ALICE, "")
            registry.stop()
            for who in (None, ALICE):
                with pytest.raises(OriginError):
                    await parts.tags.resolve(SECRET_LATEST, who, "")
        assert others.asked == []


class TestOwnWord:
    @asynchronous
    async def test_it_is_what_the_origin_said_last(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with parts_of(registry, tmp_path, tag_ttl_s=0) as parts:
            assert parts.tags.own_word(NAME) is None
            await resolved(parts)
            registry.push(APP, "latest", OLD)
            await resolved(parts)
            word = parts.tags.own_word(NAME)
            assert word == TagWord(TOLD, word.age_s if word else -1)
            assert parts.tags.own_word(TagName(place(APP), Tag("other"))) is None

    @asynchronous
    async def test_nothing_is_told_of_a_private_image(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with parts_of(registry, tmp_path) as parts:
            await parts.tags.resolve(SECRET_LATEST, ALICE, "")
            assert parts.tags.own_word(SECRET_NAME) is None

    @asynchronous
    async def test_nor_of_what_the_operators_credentials_may_have(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.members[APP] = {"Basic " + base64.b64encode(b"me:secret").decode()}
        registry.rules[f"/v2/{APP}/manifests/latest"] = lambda seen: (
            None if "authorization" in seen.headers else Answering(401, headers={"WWW-Authenticate": "Basic"})
        )
        async with parts_of(registry, tmp_path, operators=("me", "secret")) as parts:
            assert await resolved(parts) == MEANING
            assert parts.catalog.is_public(place(APP), Endpoint.MANIFEST, NEW.digest)
            assert parts.tags.own_word(NAME) is None

    @asynchronous
    async def test_nor_of_what_is_no_manifest(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with parts_of(registry, tmp_path) as parts:
            parts.catalog.remember_tag(place(APP), Tag("latest"), Descriptor("text/html", OLD.digest, 9))
            parts.catalog.remember(place(APP), Endpoint.MANIFEST, [OLD.digest], Public.EVERYWHERE)
            assert parts.tags.own_word(NAME) is None
