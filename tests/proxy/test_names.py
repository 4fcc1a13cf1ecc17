"""Images by the names that people and clients use for them, from the request to what the registry is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering

LAYER = content_of("layer", 100_000)
IMAGE = make_image(LAYER)


@pytest.mark.parametrize(
    "path",
    ["alpine/{}", "docker.io/alpine/{}", "Docker.io/alpine/{}", "index.docker.io/alpine/{}", "alpine/{}?ns=docker.io"],
)
@asynchronous
async def test_library_is_implied_on_docker_hub(registry: ImageRegistry, tmp_path: Path, path: str) -> None:
    registry.push("library/alpine", "3", IMAGE)
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        assert (await node.get(path.format("manifests/3"))).body == IMAGE.manifest
        assert (await node.get(path.format(f"blobs/{digest_of(LAYER)}"))).body == LAYER
    assert {seen.path.rsplit("/", 2)[0] for seen in registry.seen} == {"/v2/library/alpine"}


@pytest.mark.parametrize("path", ["app/{}?ns=harbor.corp:5001", "harbor.corp:5001/app/{}", "harbor.corp__5001/app/{}"])
@asynchronous
async def test_a_registry_with_a_port(registry: ImageRegistry, tmp_path: Path, path: str) -> None:
    registry.push("app", "1", IMAGE)
    async with node_at(tmp_path / "store", "docker.io=http://127.0.0.1:1", f"Harbor.corp:5001={registry.url}") as node:
        assert (await node.get(path.format("manifests/1"))).body == IMAGE.manifest


class TestProject:
    """An upstream that is a project of a registry: `https://harbor.corp/v2/hub`."""

    @asynchronous
    async def test_its_names_are_the_registrys_own_there(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push("hub/library/app", "1", IMAGE)
        registry.wants_token = True
        async with node_at(tmp_path / "store", f"docker.io={registry.url}/v2/hub") as node:
            assert (await node.get("app/manifests/1")).status == 401  # the registry's own challenge, for its own name
            manifest = await node.get("app/manifests/1", authorization="Bearer anonymous")
            assert manifest.body == IMAGE.manifest
            blob = f"library/app/blobs/{digest_of(LAYER)}"
            assert (await node.get(blob, authorization="Bearer anonymous")).body == LAYER
            assert (await node.get("")).status == 200
        assert {seen.path for seen in registry.seen if "hub/library/app" not in seen.path} <= {"/v2/", "/token"}

    @asynchronous
    async def test_a_client_with_a_token_for_its_own_name_gets_what_is_public(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        """dockerd asks for a token for `library/app`, whatever the challenge says; the registry refuses that token."""
        registry.push("hub/library/app", "1", IMAGE)
        registry.wants_token = True
        async with node_at(tmp_path / "store", f"docker.io={registry.url}/v2/hub") as node:
            reply = await node.get("library/app/manifests/1", authorization="Bearer of-another-name")
            assert reply.body == IMAGE.manifest
        (asked,) = {seen.target for seen in registry.seen if seen.path == "/token"}
        assert "scope=repository%3Ahub%2Flibrary%2Fapp%3Apull" in asked

    @asynchronous
    async def test_a_token_is_for_the_registrys_own_name_also_if_its_challenge_names_none(
        self, registry: ImageRegistry, tmp_path: Path
    ) -> None:
        registry.push("hub/library/app", "1", IMAGE)
        registry.wants_token = True
        challenge = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="registry.test"'}
        unknown = Answering(401, b"", challenge)
        registry.rules["/v2/hub/library/app/manifests/1"] = lambda seen: (
            None if seen.headers.get("authorization") == "Bearer anonymous" else unknown
        )
        async with node_at(tmp_path / "store", f"docker.io={registry.url}/v2/hub") as node:
            reply = await node.get("library/app/manifests/1", authorization="Bearer of-another-name")
            assert reply.status == 200
        (asked,) = {seen.target for seen in registry.seen if seen.path == "/token"}
        assert "scope=repository%3Ahub%2Flibrary%2Fapp%3Apull" in asked

    @asynchronous
    async def test_the_next_page_is_at_the_mirror(self, registry: ImageRegistry, tmp_path: Path) -> None:
        path = "/v2/hub/library/app/tags/list"
        registry.rules[path] = Answering(200, b'{"tags": []}', {"Link": f'<{path}?last=b&n=2>; rel="next"'})
        async with node_at(tmp_path / "store", f"docker.io={registry.url}/v2/hub") as node:
            for ns in ("", "&ns=docker.io"):  # both, where the URL of containerd's mirror has a path
                reply = await node.get(f"docker.io/library/app/tags/list?n=2{ns}")
                assert reply.headers["link"] == '</v2/docker.io/library/app/tags/list?last=b&n=2>; rel="next"'
