"""Whatever an origin answers, what is held and public is served, what is private is not, and nothing wrong is believed.

A node in front of a registry that answers every question about the image so. Grants and tags' answers last no time
here, so that each request asks the registry.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peer.oci.manifest import OCI_IMAGE
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import Node, asynchronous, node_at
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import Answering, Rule, Seen

APP = "team/app"
IMAGE = make_image(content_of("layer", 5000))
LAYER = digest_of(IMAGE.layers[0])
TAG, BY_DIGEST, BLOB = (f"{APP}/{path}" for path in ("manifests/1.0", f"manifests/{IMAGE.digest}", f"blobs/{LAYER}"))
ALICE = "Bearer alice"
JSON = {"Content-Type": "application/json"}
ERROR = b'{"errors": [{"code": "DENIED", "message": "the registry says so"}]}'

LIMIT = Answering(429, ERROR, JSON)
"""What says nothing, and is not asked for again."""

PAGES = {
    "a page": Answering(200, b"<!DOCTYPE html><html>sign in</html>", {"Content-Type": "text/html; charset=utf-8"}),
    "a page as JSON": Answering(200, b"<!DOCTYPE html><html>sign in</html>", JSON),
    "a page as an image": Answering(200, b"<html>sign in</html>", {"Content-Type": OCI_IMAGE}),
    "other JSON": Answering(200, b'{"login": "https://portal.example/"}', JSON),
    "an error": Answering(200, ERROR, JSON),
    "a list": Answering(200, b"[1, 2]", JSON),
    "half a manifest": Answering(200, IMAGE.manifest[:-9], {"Content-Type": OCI_IMAGE}),
    "a compressed page": Answering(
        200, gzip.compress(b"<html></html>"), {"Content-Type": "text/html", "Content-Encoding": "gzip"}
    ),
    "nothing": Answering(200, b""),
    "no content": Answering(204, b""),
    "a part": Answering(206, b"<", {"Content-Range": "bytes 0-0/9", "Content-Type": "text/html"}),
    "a part of nothing": Answering(206, b"<html>"),
    "a redirect to nowhere": Answering(302),
    "a redirect to itself": Answering(302, headers={"Location": "?"}),
    "not modified": Answering(304),
}
"""Answers that are below 400, and have no image."""

SILENT = [400, 402, 405, 406, 408, 416, 418, 421, 425, 429, 431, 501]
RELAYED = {400: 400, 429: 429}
"""What a client gets that cannot be served; all else is 404."""


@asynccontextmanager
async def limited(registry: ImageRegistry, path: Path, **options: object) -> AsyncIterator[Node]:
    upstream = f"docker.io={registry.url}"
    options = {"access_ttl_s": 0, "tag_ttl_s": 0, "serve_stale_tags": True} | options
    async with node_at(path / "store", upstream, **options) as node:  # type: ignore[arg-type] # settings only
        yield node


def answer_all(registry: ImageRegistry, answering: Answering) -> None:
    """The registry answers so whatever is asked about the image."""
    for path in (TAG, BY_DIGEST, BLOB):
        registry.rules[f"/v2/{path}"] = answering


async def statuses(node: Node, authorization: str | None = None) -> list[int]:
    """Of GET and HEAD of the tag, the manifest and the layer. What is right has the right bytes."""
    found = []
    for path, content in ((TAG, IMAGE.manifest), (BY_DIGEST, IMAGE.manifest), (BLOB, IMAGE.layers[0])):
        for method in ("GET", "HEAD"):
            reply = await node.ask(method, path, authorization=authorization)
            found.append(reply.status)
            if reply.status == 200:
                assert reply.headers["docker-content-digest"] == digest_of(content)
                assert reply.headers["content-length"] == str(len(content))
                assert reply.body == (content if method == "GET" else b"")
    return found


def to(methods: str, answering: Answering) -> Rule:
    """Answer requests of these methods so."""
    return lambda seen: answering if seen.method in methods else None


ALL = pytest.mark.parametrize(
    "answering",
    [*(pytest.param(Answering(status, ERROR, JSON), id=str(status)) for status in SILENT)]
    + [pytest.param(answering, id=name) for name, answering in PAGES.items()],
)


class TestWhatSaysNothing:
    @ALL
    @asynchronous
    async def test_held_and_public(self, registry: ImageRegistry, tmp_path: Path, answering: Answering) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            answer_all(registry, answering)
            for who in (None, ALICE):
                assert await statuses(node, who) == [200] * 6

    @pytest.mark.parametrize("answering", [Answering(429), Answering(408), PAGES["a page"]])
    @asynchronous
    async def test_it_stays_public(self, registry: ImageRegistry, tmp_path: Path, answering: Answering) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            answer_all(registry, answering)
            assert await statuses(node) == [200] * 6
            registry.stop()
            assert await statuses(node) == [200] * 6

    @ALL
    @asynchronous
    async def test_held_and_private(self, registry: ImageRegistry, tmp_path: Path, answering: Answering) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.members[APP] = {ALICE}
        expected = [RELAYED.get(answering.status, 404)] * 6
        async with limited(registry, tmp_path) as node:
            assert await statuses(node, ALICE) == [200] * 6
            answer_all(registry, answering)
            assert await statuses(node) == expected
            assert await statuses(node, ALICE) == expected

    @ALL
    @asynchronous
    async def test_held_private_and_granted(
        self, registry: ImageRegistry, tmp_path: Path, answering: Answering
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.members[APP] = {ALICE}
        async with limited(registry, tmp_path, access_ttl_s=300, tag_ttl_s=300) as node:
            assert await statuses(node, ALICE) == [200] * 6
            answer_all(registry, answering)
            assert await statuses(node, ALICE) == [200] * 6

    @ALL
    @asynchronous
    async def test_not_held(self, registry: ImageRegistry, tmp_path: Path, answering: Answering) -> None:
        registry.push(APP, "1.0", IMAGE)
        answer_all(registry, answering)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [RELAYED.get(answering.status, 404)] * 6
            assert await node.cached() == {}
            registry.rules.clear()
            assert await statuses(node) == [200] * 6

    @asynchronous
    async def test_it_is_logged_once(
        self, registry: ImageRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            await statuses(node)
            for _ in range(2):
                answer_all(registry, Answering(429))
                await statuses(node)
                registry.rules.clear()
                await statuses(node)
        for text in ("the origin says nothing", "the origin answers again"):
            assert sum(text in record.getMessage() for record in caplog.records) == 2


HEADS = {
    **{str(status): Answering(status) for status in (400, 403, 404, 405, 501)},
    **{name: page for name, page in PAGES.items() if name != "a redirect to itself"},
    "no length": Answering(200, headers={"Content-Length": None}, then="close"),
    "other digest": Answering(200, IMAGE.manifest, {"Docker-Content-Digest": digest_of(b"x")}),
}


class TestHeadDecidesNothing:
    """GET does, and one that is closed after its headers costs no more."""

    @pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
    @asynchronous
    async def test_held_or_not(self, registry: ImageRegistry, tmp_path: Path, head: Answering) -> None:
        registry.push(APP, "1.0", IMAGE)
        for path in (TAG, BY_DIGEST, BLOB):
            registry.rules[f"/v2/{path}"] = lambda seen: head if seen.method == "HEAD" else None
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            assert await statuses(node) == [200] * 6

    @pytest.mark.parametrize("ignores_range", [False, True])
    @asynchronous
    async def test_a_blob_without_its_manifest(
        self, registry: ImageRegistry, tmp_path: Path, ignores_range: bool
    ) -> None:
        large = content_of("large", 9_000_000)
        registry.ignores_range = ignores_range
        contents = [large, b"", b'{"a": "config"}']
        for content in contents:
            path = f"/v2/{APP}/blobs/{registry.put_blob(APP, content)}"
            registry.rules[path] = lambda seen: Answering(405) if seen.method == "HEAD" else None
        async with limited(registry, tmp_path) as node:
            for content in contents:
                for method in ("HEAD", "GET"):
                    reply = await node.ask(method, f"{APP}/blobs/{digest_of(content)}")
                    assert (reply.status, reply.headers["content-length"]) == (200, str(len(content)))

    @asynchronous
    async def test_a_length_that_is_wrong(
        self, registry: ImageRegistry, tmp_path: Path, errors_logged: list[logging.LogRecord]
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        for path, content in ((TAG, IMAGE.manifest), (BY_DIGEST, IMAGE.manifest), (BLOB, IMAGE.layers[0])):
            headers = {"Docker-Content-Digest": digest_of(content), "Content-Length": "7", "Content-Type": OCI_IMAGE}
            head = Answering(200, content, headers)
            registry.rules[f"/v2/{path}"] = to("HEAD", head)
        async with limited(registry, tmp_path) as node:
            for path, content in ((TAG, IMAGE.manifest), (BY_DIGEST, IMAGE.manifest), (BLOB, IMAGE.layers[0])):
                assert (await node.get(path)).body == content
            assert await statuses(node) == [200] * 6
        errors_logged.clear()

    @asynchronous
    async def test_its_refusal_is_get_s(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.members[APP] = {ALICE}
        for path in (TAG, BY_DIGEST, BLOB):
            registry.rules[f"/v2/{path}"] = lambda seen: Answering(405) if seen.method == "HEAD" else None
        async with limited(registry, tmp_path) as node:
            assert await statuses(node, ALICE) == [200] * 6
            assert await statuses(node) == [401] * 6
            reply = await node.get(BLOB)
            assert reply.headers["www-authenticate"] == registry.challenge(APP)


class TestStorage:
    """A registry that redirects to storage had let the request pass."""

    @staticmethod
    def redirect(registry: ImageRegistry, storage: Answering, *, methods: str = "GET HEAD", at: str = "") -> None:
        for path in (TAG, BY_DIGEST, BLOB):
            moved = Answering(307, headers={"Location": f"{at}/storage/{path}"})
            registry.rules[f"/v2/{path}"] = to(methods, moved)
            registry.rules[f"/storage/{path}"] = storage

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 412, 451, 501])
    @pytest.mark.parametrize("elsewhere", [False, True])
    @asynchronous
    async def test_a_url_that_is_signed_for_get(
        self, registry: ImageRegistry, tmp_path: Path, status: int, elsewhere: bool
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        with ImageRegistry() as other:
            storage = other if elsewhere else registry
            refusal = Answering(status, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            self.redirect(registry, refusal, methods="HEAD", at=storage.url if elsewhere else "")
            storage.rules |= {f"/storage/{path}": refusal for path in (TAG, BY_DIGEST, BLOB)}
            async with limited(registry, tmp_path) as node:
                assert await statuses(node) == [200] * 6

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 451, 501])
    @asynchronous
    async def test_it_refuses_get_too(self, registry: ImageRegistry, tmp_path: Path, status: int) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            self.redirect(registry, Answering(status, b"<Error/>"))
            assert await statuses(node) == [200] * 6

    @pytest.mark.parametrize("status", [401, 403, 404])
    @asynchronous
    async def test_what_is_not_held_is_not_denied(self, registry: ImageRegistry, tmp_path: Path, status: int) -> None:
        registry.push(APP, "1.0", IMAGE)
        self.redirect(registry, Answering(status, b"<Error/>"))
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [404] * 6


class TestRefusals:
    @pytest.mark.parametrize(("status", "expected"), [(401, 401), (403, 403), (404, 404), (410, 410), (451, 451)])
    @asynchronous
    async def test_what_was_public(self, registry: ImageRegistry, tmp_path: Path, status: int, expected: int) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            answer_all(registry, Answering(status, ERROR, JSON))
            assert await statuses(node, ALICE) == [expected] * 6
            answer_all(registry, LIMIT)
            assert await statuses(node) == [200] * 6  # the refusal was that client's own

    @pytest.mark.parametrize(("status", "stays"), [(401, False), (403, False), (404, False), (410, False), (451, True)])
    @asynchronous
    async def test_for_everybody(self, registry: ImageRegistry, tmp_path: Path, status: int, stays: bool) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            answer_all(registry, Answering(status, ERROR, JSON))
            assert await statuses(node) == [status] * 6
            answer_all(registry, LIMIT)
            assert await statuses(node) == [200 if stays else 429] * 6


class TestFirst401:
    """At most registries each request without a token is refused first, also for what is public."""

    @asynchronous
    async def test_what_is_public_stays_so(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            registry.wants_token = True
            assert await statuses(node) == [401, 401, 200, 200, 200, 200]
            answer_all(registry, LIMIT)
            assert await statuses(node) == [200] * 6

    @pytest.mark.parametrize("status", [429, 503])
    @asynchronous
    async def test_a_token_server_that_says_nothing(self, registry: ImageRegistry, tmp_path: Path, status: int) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            registry.wants_token = True
            registry.rules["/token"] = Answering(status)
            assert (await statuses(node))[2:] == [200] * 4

    @asynchronous
    async def test_what_everybodys_token_is_not_good_for_is_forgotten(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            registry.members[APP] = {ALICE}
            assert await statuses(node) == [401] * 6
            assert registry.asked("GET", "/token") > 0
            answer_all(registry, LIMIT)
            assert await statuses(node) == [429] * 6

    @asynchronous
    async def test_what_is_not_known_to_be_public_is_challenged(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push(APP, "1.0", IMAGE)
        registry.wants_token = True
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [401] * 6
            assert await statuses(node, ANONYMOUS) == [200] * 6

    @asynchronous
    async def test_a_client_with_a_token_for_the_prefix(self, registry: ImageRegistry, tmp_path: Path) -> None:
        """podman's token names the mirror's repository; what follows is asked as anyone, and may be limited."""
        registry.push(APP, "1.0", IMAGE)
        registry.wants_token = True

        def limit(seen: Seen) -> Answering | None:
            return Answering(429) if seen.headers.get("authorization") == ANONYMOUS else None

        async with limited(registry, tmp_path) as node:
            for path in (TAG, BY_DIGEST, BLOB):
                assert (await node.get(f"docker.io/{path}", authorization="Bearer other")).status == 200
            for path in (TAG, BY_DIGEST, BLOB):
                registry.rules[f"/v2/{path}"] = limit
            for path in (TAG, BY_DIGEST, BLOB):
                assert (await node.get(f"docker.io/{path}", authorization="Bearer other")).status == 200

    @asynchronous
    async def test_that_client_too_shows_that_something_is_public_no_longer(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push(APP, "1.0", IMAGE)
        async with limited(registry, tmp_path) as node:
            assert await statuses(node) == [200] * 6
            registry.members[APP] = {ALICE}
            for path in (BY_DIGEST, BLOB):
                assert (await node.get(f"docker.io/{path}", authorization="Bearer other")).status == 401
            answer_all(registry, LIMIT)
            assert await statuses(node) == [429] * 6


LISTS = {f"{APP}/tags/list": b'{"tags": ["1.0"]}', f"{APP}/referrers/{IMAGE.digest}": b'{"manifests": []}'}


class TestLists:
    @ALL
    @asynchronous
    async def test_an_origin_that_fails(self, registry: ImageRegistry, tmp_path: Path, answering: Answering) -> None:
        async with limited(registry, tmp_path) as node:
            for path in LISTS:
                registry.rules[f"/v2/{path}"] = answering
                for method in ("GET", "HEAD"):
                    for prefix in ("", "docker.io/"):
                        reply = await node.ask(method, f"{prefix}{path}")
                        assert reply.status == RELAYED.get(answering.status, 502)

    @pytest.mark.parametrize("suffix", ["", ".sig"])
    @asynchronous
    async def test_the_tag_that_stands_for_a_list(self, registry: ImageRegistry, tmp_path: Path, suffix: str) -> None:
        """A client without a referrers API takes 404 for none."""
        path = f"{APP}/manifests/{IMAGE.digest.replace(':', '-')}{suffix}"
        async with limited(registry, tmp_path) as node:
            assert (await node.get(path)).code == "MANIFEST_UNKNOWN"
            registry.rules[f"/v2/{path}"] = PAGES["a page"]
            assert (await node.get(path)).status == 502
            registry.rules[f"/v2/{path}"] = Answering(503)
            assert (await node.get(path)).status == 502

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    @asynchronous
    async def test_what_it_says(self, registry: ImageRegistry, tmp_path: Path, status: int) -> None:
        async with limited(registry, tmp_path) as node:
            for path in LISTS:
                registry.rules[f"/v2/{path}"] = Answering(status, ERROR, JSON)
                assert (await node.get(path)).status == status

    @asynchronous
    async def test_one_that_is_gone_or_hangs(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", f"docker.io={registry.url}", answer_within_s=0.2) as node:
            for path in LISTS:
                registry.rules[f"/v2/{path}"] = Answering(status=0, then="hang")
                reply = await node.get(path)
                assert (reply.status, reply.code) == (504, "UNAVAILABLE")
            registry.stop()
            for path in LISTS:
                assert (await node.get(path)).status in (502, 504)

    @asynchronous
    async def test_head_has_the_headers_of_get(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with limited(registry, tmp_path) as node:
            for path, body in LISTS.items():
                registry.rules[f"/v2/{path}"] = Answering(200, body, JSON)
                get, head = await node.get(path), await node.ask("HEAD", path)
                assert (get.body, head.body) == (body, b"")
                assert without_date(head.headers) == without_date(get.headers)

    @asynchronous
    async def test_a_list_of_tags_that_is_too_long_is_given_in_pages(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        path = f"{APP}/tags/list"
        whole = json.dumps({"tags": ["t" * 128] * 70_000}).encode()
        link = {"Link": f'</v2/{path}?last=t&n=10000>; rel="next"', **JSON}
        registry.rules[f"/v2/{path}"] = lambda seen: (
            Answering(200, b'{"tags": ["t"]}', link) if "n=" in seen.target else Answering(200, whole, JSON)
        )
        async with limited(registry, tmp_path) as node:
            reply = await node.get(path)
            assert (reply.status, reply.json) == (200, {"tags": ["t"]})
            assert reply.headers["link"] == link["Link"]
            registry.rules[f"/v2/{path}"] = Answering(200, whole, JSON)  # it does not know pages
            assert (await node.get(path)).status == 502


def without_date(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "date"}


class TestPing:
    @pytest.mark.parametrize("status", [200, 204, 302, 400, 403, 404, 405, 429, 501])
    @asynchronous
    async def test_the_mirror_answers_for_its_origin(
        self, registry: ImageRegistry, tmp_path: Path, status: int
    ) -> None:
        registry.rules["/v2/"] = Answering(status, ERROR, JSON)
        async with limited(registry, tmp_path) as node:
            for method in ("GET", "HEAD"):
                reply = await node.ask(method, "")
                assert reply.status == 200
                assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
