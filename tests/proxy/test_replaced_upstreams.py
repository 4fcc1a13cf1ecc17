"""Upstreams that are replaced while requests to them are under way."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pd.config.upstream import make_upstreams, maker_of_others
from peer.oci.digest import Digest
from peer.oci.reference import Repository, RepositoryName, UpstreamName
from peer.origin.api import Credential
from peer.origin.client import HttpOrigin
from proxy.origins import Origins
from tests.support.node import settings_for
from tests.support.registry_server import RegistryServer

CONTENT = b"content" * 1000
HERE, GONE = UpstreamName("here.example"), UpstreamName("gone.example")


def origins_of(data: Path, *upstreams: str) -> Origins:
    settings = settings_for(data, *upstreams)
    return Origins(make_upstreams(settings), make_other=maker_of_others(settings))


def replace(origins: Origins, data: Path, *upstreams: str) -> None:
    settings = settings_for(data, *upstreams)
    origins.replace(make_upstreams(settings, origins.upstreams), maker_of_others(settings))


def test_one_that_is_the_same_stays(tmp_path: Path) -> None:
    layout = f"layout.example=oci-layout://{tmp_path}"
    origins = origins_of(tmp_path, "here.example=http://a", layout)
    before = dict(origins.upstreams)
    replace(origins, tmp_path, layout, "here.example=http://a", "new.example=http://b")
    assert {name: origins.upstreams[name] for name in before} == before
    assert (origins.default, len(origins.upstreams)) == (UpstreamName("layout.example"), 3)
    origins.close()


@pytest.mark.parametrize("after", [["here.example=http://a"], ["here.example=http://a", "*"]])
def test_a_request_to_one_that_is_gone_goes_on(tmp_path: Path, after: list[str]) -> None:
    """It asks that one again, and not what a client could now reach by that name."""
    with RegistryServer() as registry:
        registry.add_blob("app", Digest.of(CONTENT), CONTENT)
        origins = origins_of(tmp_path, "here.example=http://a", f"gone.example={registry.url}")
        repository = Repository(GONE, RepositoryName("app"))
        source = origins.source(repository, Digest.of(CONTENT), Credential())
        with source.origin.open(source.ref, 0, None, credential=Credential()) as body:
            replace(origins, tmp_path, *after)
            got = bytearray(len(CONTENT))
            assert body.readinto(memoryview(got)) == len(got)
        assert bytes(got) == CONTENT
        again = origins.source(repository, Digest.of(CONTENT), Credential()).origin
        assert (again is source.origin) == (len(after) == 1)
        origins.upstream(GONE).threads.submit(int).result()
        assert GONE not in origins.upstreams
        origins.close()


def test_what_only_clients_name_is_retired_with_its_options(tmp_path: Path) -> None:
    origins = origins_of(tmp_path, "here.example=http://a", "*")
    others, other = origins.others, origins.upstream(GONE)
    replace(origins, tmp_path, "here.example=http://a", "*")
    assert (origins.others, origins.upstream(GONE)) == (others, other)
    replace(origins, tmp_path, "here.example=http://a", "*;connections=3")
    made = origins.upstream(GONE).origin
    assert isinstance(made, HttpOrigin)
    assert made.upstream.max_connections == 3
    replace(origins, tmp_path, "here.example=http://a")
    assert origins.others is None
    assert origins.upstream(GONE).origin is made  # for a request that is under way
    origins.close()


def test_the_rate_of_what_is_under_way_is_the_new_one(tmp_path: Path) -> None:
    origins = origins_of(tmp_path, "here.example=http://a")
    before = origins.upstreams[HERE].origin
    assert isinstance(before, HttpOrigin)
    assert before.traffic.received(1 << 30) == 0
    replace(origins, tmp_path, "here.example=http://a;rate=1MiB")
    assert before.traffic.received(1 << 30) > 0
    replace(origins, tmp_path, "here.example=http://a")
    assert before.traffic.received(1 << 30) == 0
    origins.close()
