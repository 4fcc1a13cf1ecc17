"""The upstream for everything: made when a client names it, few at a time, and never inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from p2pd.config.upstream import maker_of_others
from p2pd.config.values import ConfigError
from peer.errors import OriginUnreachableError
from peer.oci.reference import UpstreamName
from peer.origin.api import Credential
from peer.origin.client import HttpOrigin
from peer.origin.upstream import Upstream
from proxy.upstreams import MAX_OTHERS, UNUSED_S, OtherUpstreams
from tests.support.authority import Authority, make_authority
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at, settings_for
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, RegistryServer

LAYER = content_of("layer", 100_000)
IMAGE = make_image(LAYER)
NOBODY = Credential()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


class TestAtTheMirror:
    @pytest.mark.parametrize("form", ["app/{}?ns={}", "{1}/app/{0}", "{2}/app/{0}"])
    @asynchronous
    async def test_any_registry_is_served(self, tmp_path: Path, authority: Authority, form: str) -> None:
        with ImageRegistry(tls=authority.server) as registry:
            registry.push("app", "1", IMAGE)
            registry.members["app"] = {"Basic of-the-client"}
            everything = f"*;ca={authority.ca_file}"
            async with node_at(tmp_path / "store", everything, allow_private=["127.0.0.1"]) as node:
                names = (f"127.0.0.1:{registry.port}", f"127.0.0.1__{registry.port}")
                for path, content in (("manifests/1", IMAGE.manifest), (f"blobs/{digest_of(LAYER)}", LAYER)):
                    asked = form.format(path, *names)
                    assert (await node.get(asked)).status == 401
                    assert (await node.get(asked, authorization="Basic of-the-client")).body == content
                assert await node.metric("p2pd_proxy_requests_total", upstream="*", code="200") == 2
                assert await node.metric("p2pd_proxy_requests_total", upstream=names[0]) == 0
                assert await node.metric("p2pd_origin_answers_total", upstream="*") == len(registry.seen)
                assert (await node.ask_admin("GET", "/status")).json["upstreams"] == ["docker.io", "*"]

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.0.0.1."])
    @asynchronous
    async def test_what_is_inside_is_refused_before_it_is_connected_to(
        self, registry: ImageRegistry, tmp_path: Path, host: str
    ) -> None:
        async with node_at(tmp_path / "store", "*") as node:
            reply = await node.get(f"app/manifests/1?ns={host}:{registry.port}")
            assert reply.status == 404
            assert "is a loopback address: refused" in reply.message
        assert registry.connections == 0

    @asynchronous
    async def test_a_configured_upstream_is_the_operators_choice(self, registry: ImageRegistry, tmp_path: Path) -> None:
        registry.push("app", "1", IMAGE)
        async with node_at(tmp_path / "store", f"registry.corp={registry.url}", "*") as node:
            assert (await node.get("app/manifests/1?ns=registry.corp")).body == IMAGE.manifest
            assert (await node.get("app/manifests/1")).body == IMAGE.manifest

    @asynchronous
    async def test_without_it_no_other_registry_is_served(self, registry: ImageRegistry, tmp_path: Path) -> None:
        async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
            for path in ("app/manifests/1?ns=quay.io", "quay.io/app/manifests/1", "?ns=quay.io"):
                assert (await node.get(path)).code == "NAME_UNKNOWN"


def test_an_upstream_that_a_client_named_has_its_own_address_and_nobodys_credentials(tmp_path: Path) -> None:
    assert maker_of_others(settings_for(tmp_path, "docker.io")) is None
    make = maker_of_others(settings_for(tmp_path, "*"))
    assert make is not None
    made = OtherUpstreams(make)
    assert not made.get(UpstreamName("quay.io")).has_credentials
    made.close()
    with pytest.raises(ConfigError, match="no CA could be read"):
        maker_of_others(settings_for(tmp_path, "*;ca=/nowhere.pem"))


class TestHowManyThereAre:
    def making(self, url: str, made: list[str]) -> Callable[[UpstreamName], HttpOrigin]:
        def make(name: UpstreamName) -> HttpOrigin:
            made.append(name)
            return HttpOrigin(Upstream(name, (url,)), environ={})

        return make

    def test_the_least_recently_used_is_made_anew(self) -> None:
        made: list[str] = []
        others = OtherUpstreams(self.making("http://127.0.0.1:1", made), clock=lambda: 0.0)
        names = [UpstreamName(f"r{number}.test") for number in range(MAX_OTHERS)]
        first = others.get(names[0])
        for name in names[1:]:
            others.get(name)
        assert others.get(names[0]) is first
        others.get(UpstreamName("one.more"))
        assert others.get(names[0]) is first
        assert made == [*names, "one.more"]
        others.get(names[1])
        assert made[-1] == names[1]
        others.close()

    def test_what_nobody_uses_is_let_go_with_its_connections_but_not_what_is_under_way(self) -> None:
        now = [0.0]
        with RegistryServer() as server:
            server.rule = lambda _: Answering(200, b"{}")
            others = OtherUpstreams(self.making(server.url, []), clock=lambda: now[0])
            unused = others.get(UpstreamName("a.test"))
            unused.origin.request("GET", "", credential=NOBODY)
            assert others.statistics().open_connections == 1
            now[0] = UNUSED_S + 1
            assert (others.statistics().open_connections, others.statistics().requests) == (0, 1)
            assert sum(others.statistics().latency_s.counts) == 1
            assert isinstance(unused.origin, HttpOrigin)
            assert unused.origin.statistics().open_connections == 0
            assert unused.origin.request("GET", "", credential=NOBODY).status == 200
            others.close()
            with pytest.raises(OriginUnreachableError):
                unused.origin.request("GET", "", credential=NOBODY)
