"""Who may have what: a cached image goes only to those whom its origin lets have it, in that repository."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from peer.errors import OriginRefusedError, OriginUnreachableError
from peer.origin.api import Credential
from proxy.access import PROBE_EVERY_S, Permit
from proxy.core.grants import ANYONE
from proxy.core.routing import Endpoint
from tests.proxy.direct import parts_of, place, route
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at, until
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import PATIENCE_S, Answering

APP, SECRET, OTHER = "library/app", "team/secret", "team/other"
IMAGE = make_image(content_of("lower", 300_000), content_of("upper", 1000))
LAYER = digest_of(IMAGE.layers[0])
ALICE, MALLORY = "Bearer alice", "Bearer mallory"
PATHS = (f"manifests/{IMAGE.digest}", f"blobs/{LAYER}")


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


async def pull(node: Node, repository: str, reference: str = "1.0", authorization: str | None = None) -> list[int]:
    """All that a runtime asks for, and the statuses that it gets."""
    paths = [f"manifests/{reference}", *(f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs)]
    return [(await node.get(f"{repository}/{path}", authorization=authorization)).status for path in paths]


class TestChallenge:
    """The origin's own, so that the client gets its token from whom the origin trusts."""

    @asynchronous
    async def test_it_is_relayed_as_it_is(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        ping = 'Bearer realm="https://auth.example/token?a=b",service="registry.example"'
        registry.rules["/v2/"] = Answering(401, b"{}", {"WWW-Authenticate": ping})
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path in (
                "",
                f"{SECRET}/manifests/1.0",
                f"{SECRET}/tags/list",
                *(f"{SECRET}/{path}" for path in PATHS),
            ):
                for method in ("GET", "HEAD"):
                    reply = await node.ask(method, path)
                    assert reply.status == 401
                    assert reply.headers["www-authenticate"] == (registry.challenge(SECRET) if path else ping)
                    assert method == "HEAD" or reply.code == "UNAUTHORIZED"
        assert registry.asked("GET", "/token") == 0

    @asynchronous
    async def test_each_is_in_a_field_of_its_own(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """docker's and containerd's parsers read one challenge per field."""
        challenges = 'Basic realm="registry"', 'Bearer realm="https://auth.example/token",service="registry.example"'
        fields = "".join(f"WWW-Authenticate: {challenge}\r\n" for challenge in challenges)
        refusal = Answering(wire=f"HTTP/1.1 401 So\r\n{fields}Content-Length: 0\r\n\r\n".encode())
        registry.push(APP, "1.0", IMAGE)
        asked = ("manifests/1.0", "tags/list", *PATHS)
        registry.rules = {f"/v2/{path}": refusal for path in ("", *(f"{APP}/{path}" for path in asked))}
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for path in ("", *(f"{APP}/{path}" for path in asked)):
                for method in ("GET", "HEAD"):
                    reply = await node.ask(method, path)
                    assert (reply.status, reply.challenges) == (401, challenges)
        registry.rules = {f"/v2/{APP}/blobs/{LAYER}": lambda seen: refusal if seen.method == "GET" else None}
        async with node_at(tmp_path / "other", hub(registry)) as node:
            assert (await node.get(f"{APP}/blobs/{LAYER}")).challenges == challenges

    @asynchronous
    async def test_also_that_of_a_blob_that_is_refused_only_when_it_is_fetched(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        refusal = Answering(401, b"", {"WWW-Authenticate": 'Basic realm="blobs"'})
        registry.rules[f"/v2/{APP}/blobs/{LAYER}"] = lambda seen: refusal if seen.method == "GET" else None
        async with node_at(tmp_path / "store", hub(registry)) as node:
            reply = await node.get(f"{APP}/blobs/{LAYER}")
            assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Basic realm="blobs"')

    @asynchronous
    async def test_a_credential_goes_to_its_upstream_only(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        with ImageRegistry() as other:
            other.push(SECRET, "1.0", IMAGE)
            moved = {"Location": f"{other.url}/v2/{SECRET}/blobs/{LAYER}"}
            registry.rules[f"/v2/{SECRET}/blobs/{LAYER}"] = lambda seen: (
                Answering(307, headers=moved) if seen.method == "GET" else None
            )
            async with node_at(tmp_path / "store", hub(registry), f"ghcr.io={other.url}") as node:
                assert await pull(node, SECRET, authorization=ALICE) == [200] * 4
                assert await pull(node, f"ghcr.io/{SECRET}") == [200] * 4
            assert other.sent[f"/v2/{SECRET}/blobs/{LAYER}"] == len(IMAGE.layers[0])
            assert not any(ALICE in seen.headers.values() for seen in other.seen)


class TestCachedAndPrivate:
    @asynchronous
    async def test_only_for_those_whom_the_origin_lets_in(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.push(OTHER, "1.0", make_image(b"another"))
        registry.push(APP, "1.0", make_image(b"public"))
        registry.members |= {SECRET: {ALICE}, OTHER: {ALICE, MALLORY}}
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert await pull(node, SECRET, authorization=ALICE) == [200] * 4
            for path in PATHS:
                for method in ("GET", "HEAD"):
                    for who in (None, MALLORY):
                        assert (await node.ask(method, f"{SECRET}/{path}", authorization=who)).status == 401
                    # Nobody gets it in a repository that does not have it.
                    assert (await node.ask(method, f"{OTHER}/{path}", authorization=MALLORY)).status == 404
                    assert (await node.ask(method, f"{OTHER}/{path}", authorization=ALICE)).status == 404
                    assert (await node.ask(method, f"{APP}/{path}")).status == 404
            ranged = await node.get(f"{SECRET}/blobs/{LAYER}", {"Range": "bytes=0-"}, authorization=MALLORY)
            assert ranged.status == 401
            assert await pull(node, SECRET, authorization=ALICE) == [200] * 4

    @asynchronous
    async def test_one_question_for_an_image(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """The manifest allows its blobs. One more HEAD finds out whether the image is public."""
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for _ in range(3):
                assert await pull(node, SECRET, authorization=ALICE) == [200] * 4
                assert await pull(node, SECRET, IMAGE.digest, ALICE) == [200] * 4
        with_token = [seen for seen in registry.seen if seen.headers.get("authorization") == ALICE]
        assert [seen.method for seen in with_token].count("HEAD") == 1
        assert registry.sent[f"/v2/{SECRET}/blobs/{LAYER}"] == len(IMAGE.layers[0])
        others = [(seen.method, seen.path) for seen in registry.seen if seen not in with_token]
        probe = [("HEAD", f"/v2/{SECRET}/manifests/{IMAGE.digest}")]
        assert [each for each in others if each[1] != "/token"] in ([], probe, probe * 2)

    @asynchronous
    async def test_the_origin_is_gone(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert await pull(node, SECRET, authorization=ALICE) == [200] * 4
        registry.stop()
        async with node_at(tmp_path / "store", hub(registry), serve_stale_tags=True) as node:
            asked = [node.get(f"{SECRET}/{path}", authorization=who) for path in PATHS for who in (None, ALICE)]
            replies = await asyncio.gather(*asked, node.get(f"{SECRET}/manifests/1.0", authorization=ALICE))
            assert [reply.status for reply in replies] == [404] * 5


class TestCachedAndPublic:
    @pytest.mark.parametrize("by_tag", [True, False], ids=["stale tags", "no stale tags"])
    @asynchronous
    async def test_the_origin_is_gone(self, registry: ImageRegistry, tmp_path: Path, by_tag: bool) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert await pull(node, APP) == [200] * 4
        registry.stop()
        async with node_at(tmp_path / "store", hub(registry), serve_stale_tags=by_tag) as node:
            assert (await node.get(f"{APP}/manifests/1.0")).status == (200 if by_tag else 404)
            assert await pull(node, APP, IMAGE.digest) == [200] * 4
            assert (await node.get(f"{OTHER}/blobs/{LAYER}")).status == 404

    @asynchronous
    async def test_what_clients_had_with_tokens(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """As at Docker Hub, where a public image too needs a token: that it is public is found out beside the pull."""
        index = registry.push_index(APP, "1.0", IMAGE)
        registry.wants_token = True
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for reference in ("1.0", IMAGE.digest):
                assert (await pull(node, APP, reference, ANONYMOUS))[0] == 200
            async with asyncio.timeout(PATIENCE_S):
                while (await node.get(f"{APP}/manifests/{index}")).status != 200:
                    assert registry.asked("GET", "/token") <= 1
        registry.stop()
        async with node_at(tmp_path / "store", hub(registry)) as node:
            for who in (None, "Bearer of another day"):
                assert (await node.get(f"{APP}/manifests/{index}", authorization=who)).status == 200
                assert await pull(node, APP, IMAGE.digest, who) == [200] * 4


class TestCredentialsOfOurOwn:
    @asynchronous
    async def test_the_operators_are_for_clients_that_have_none(self, registry: ImageRegistry, tmp_path: Path) -> None:
        basic = "Basic " + base64.b64encode(b"operator:secret").decode()
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {"Bearer operator"}
        registry.tokens[basic] = "Bearer operator"
        (tmp_path / "password").write_text("secret\n")
        upstream = f"{hub(registry)};username=operator;password_file={tmp_path / 'password'}"
        async with node_at(tmp_path / "store", upstream) as node:
            assert await pull(node, SECRET, authorization=MALLORY) == [401] * 4
            assert await pull(node, SECRET) == [200] * 4
        assert all("operator" not in seen.headers.get("authorization", "") for seen in registry.seen[:4])

    @asynchronous
    async def test_what_the_operators_opened_is_closed_once_the_operator_is_another(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {"Bearer operator"}
        registry.tokens["Basic " + base64.b64encode(b"operator:secret").decode()] = "Bearer operator"
        (tmp_path / "password").write_text("secret\n")
        (tmp_path / "new password").write_text("other\n")
        operator = f";username=operator;password_file={tmp_path / 'password'}"
        rotated = f";username=operator;password_file={tmp_path / 'new password'}"
        other = f";username=other;password_file={tmp_path / 'password'}"
        by_digest = f"{SECRET}/manifests/{IMAGE.digest}"
        async with node_at(tmp_path / "store", f"{hub(registry)}{operator}") as node:
            assert await pull(node, SECRET) == [200] * 4
        for settings, status in ((rotated, 200), (other, 404), ("", 404), (operator, 404)):
            async with node_at(tmp_path / "store", f"docker.io=http://127.0.0.1:1{settings}") as node:
                assert (await node.get(by_digest)).status == status, settings

    @asynchronous
    async def test_a_token_for_the_name_with_the_prefix_is_tried_before_nobodys(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        """podman takes the prefix for a part of the repository's name, and so gets a token that is good for nothing."""
        registry.push(APP, "1.0", IMAGE)
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        registry.wants_token = True
        wrong = "Bearer for docker.io/library/app"
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert await pull(node, f"docker.io/{APP}", authorization=wrong) == [200] * 4
            assert (await node.get(f"docker.io/{APP}/manifests/2.0", authorization=wrong)).status == 401
            assert await pull(node, f"docker.io/{SECRET}", authorization=wrong) == [401] * 4
            assert await pull(node, f"docker.io/{SECRET}", authorization=ALICE) == [200] * 4

    @asynchronous
    async def test_what_is_known_to_be_public_is_asked_for_as_nobody(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.wants_token = True
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert (await node.get(f"docker.io/{APP}/manifests/1.0", authorization=MALLORY)).status == 200
            for method in ("HEAD", "GET"):
                for path in PATHS:
                    assert (await node.ask(method, f"{APP}/{path}", authorization="Bearer expired")).status == 200

    @asynchronous
    async def test_without_a_prefix_it_is_not(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.wants_token = True
        async with node_at(tmp_path / "store", hub(registry)) as node:
            assert await pull(node, APP, authorization=MALLORY) == [401] * 4
        assert registry.asked("GET", "/token") == 0


class TestRules:
    """Access alone, with a clock that stands still."""

    @asynchronous
    async def test_a_client_is_a_hash_that_only_this_process_knows(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        async with parts_of(registry, tmp_path) as parts, parts_of(registry, tmp_path) as others:
            assert parts.access.client(None) == ANYONE
            assert parts.access.client(ALICE) == parts.access.client(ALICE) != parts.access.client(MALLORY)
            assert parts.access.client(ALICE) != others.access.client(ALICE)
            assert "alice" not in parts.access.client(ALICE)
            assert parts.access.client("Bearer \udcff") != ANYONE

    @asynchronous
    async def test_the_answer_holds_for_its_time(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        asked = route(SECRET, LAYER, Endpoint.BLOB)
        async with parts_of(registry, tmp_path, access_ttl_s=100) as parts:
            first = await parts.access.check(asked, ALICE)
            assert first.described is not None
            assert first.credential == Credential(ALICE)
            parts.now += 99.9
            assert (await parts.access.check(asked, ALICE)).described is None
            assert registry.asked("HEAD", LAYER) == 1
            registry.members[SECRET] = set()  # she has left the team
            parts.now += 0.1
            with pytest.raises(OriginRefusedError):
                await parts.access.check(asked, ALICE)

    @asynchronous
    async def test_a_manifests_grant_does_not_renew_itself(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """A client that is removed at the origin does not stay in by pulling on."""
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        manifest, layer = route(SECRET, IMAGE.digest), route(SECRET, LAYER, Endpoint.BLOB)
        async with parts_of(registry, tmp_path, access_ttl_s=100) as parts:
            parts.catalog.remember(place(SECRET), Endpoint.BLOB, [LAYER])
            for _ in range(3):
                permit = await parts.access.check(manifest, ALICE)
                parts.access.granted_below(manifest, permit, [LAYER], Endpoint.BLOB)
                parts.now += 33
            assert (await parts.access.check(layer, ALICE)).until == parts.now + 1
            registry.members[SECRET] = set()
            parts.now += 1
            for asked in (manifest, layer):
                with pytest.raises(OriginRefusedError):
                    await parts.access.check(asked, ALICE)

    @asynchronous
    async def test_nor_does_that_of_a_tags_answer(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        async with parts_of(registry, tmp_path, access_ttl_s=100, tag_ttl_s=1000) as parts:
            for _ in range(2):
                _, permit = await parts.tags.resolve(route(SECRET, "1.0"), ALICE, "")
                parts.access.granted_below(route(SECRET, IMAGE.digest), permit, [LAYER], Endpoint.BLOB)
                parts.now += 50
            registry.members[SECRET] = set()
            with pytest.raises(OriginRefusedError):
                await parts.tags.resolve(route(SECRET, "1.0"), ALICE, "")

    @asynchronous
    async def test_a_probe_that_is_refused_takes_back_that_an_image_is_public(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with parts_of(registry, tmp_path, access_ttl_s=0) as parts:
            await parts.access.check(route(APP, IMAGE.digest), None)
            registry.members[APP] = {ALICE}
            permit = await parts.access.check(route(APP, IMAGE.digest), ALICE)
            parts.access.granted_below(route(APP, IMAGE.digest), permit, [LAYER], Endpoint.BLOB)
            await until(lambda: not parts.catalog.is_public(place(APP), Endpoint.MANIFEST, IMAGE.digest))

    @asynchronous
    async def test_many_ask_once(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with parts_of(registry, tmp_path) as parts:
            await asyncio.gather(*(parts.access.check(route(APP, IMAGE.digest), None) for _ in range(50)))
        assert len(registry.seen) == 1

    @asynchronous
    async def test_what_anyone_may_have_is_fetched_as_anyone(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """A client whose token is no good here gets what is public, and also if it is not in the store."""
        async with parts_of(registry, tmp_path) as parts:
            asked = route(APP, LAYER, Endpoint.BLOB)
            parts.access.granted(asked, Credential(own=True), None)
            for who in (None, MALLORY):
                permit = await parts.access.check(asked, who)
                assert permit == Permit(ANYONE, Credential(own=True), parts.now + 100)

    @asynchronous
    async def test_what_is_no_longer_public_is_forgotten(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        asked = route(APP, IMAGE.digest)
        async with parts_of(registry, tmp_path, access_ttl_s=0) as parts:
            await parts.access.check(asked, None)
            assert parts.catalog.is_public(place(APP), Endpoint.MANIFEST, IMAGE.digest)
            registry.members[APP] = {ALICE}
            with pytest.raises(OriginRefusedError):
                await parts.access.check(asked, MALLORY)  # which says nothing about anyone
            assert parts.catalog.is_public(place(APP), Endpoint.MANIFEST, IMAGE.digest)
            with pytest.raises(OriginRefusedError):
                await parts.access.check(asked, None)
            registry.stop()
            with pytest.raises(OriginUnreachableError):
                await parts.access.check(asked, None)

    @asynchronous
    async def test_a_repository_is_probed_now_and_then(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with parts_of(registry, tmp_path) as parts:
            permit = Permit(parts.access.client(ALICE), Credential(ALICE), parts.now + 100)
            parts.catalog.remember(place(APP), Endpoint.BLOB, [LAYER])

            async def grant() -> None:
                parts.access.granted_below(route(APP, IMAGE.digest), permit, [LAYER], Endpoint.BLOB)
                await until(lambda: parts.catalog.is_public(place(APP), Endpoint.BLOB, LAYER))

            await grant()
            await grant()
            assert len(registry.seen) == 1
            parts.now += PROBE_EVERY_S + 1
            parts.access.granted_below(route(APP, IMAGE.digest), permit, [LAYER], Endpoint.BLOB)
            await until(lambda: len(registry.seen) == 2)
        assert all("authorization" not in seen.headers for seen in registry.seen)

    @asynchronous
    async def test_a_private_one_stays_private(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(SECRET, "1.0", IMAGE)
        registry.members[SECRET] = {ALICE}
        async with parts_of(registry, tmp_path) as parts:
            permit = Permit(parts.access.client(ALICE), Credential(ALICE), parts.now + 100)
            parts.access.granted_below(route(SECRET, IMAGE.digest), permit, [LAYER], Endpoint.BLOB)
            await until(lambda: registry.asked("GET", "/token") == 1)
            with pytest.raises(OriginRefusedError):
                await parts.access.check(route(SECRET, LAYER, Endpoint.BLOB), None)
            assert not parts.catalog.is_public(place(SECRET), Endpoint.BLOB, LAYER)
