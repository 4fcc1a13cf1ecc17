"""The mirror's own address for each upstream: whose challenge a client gets that names the upstream in a path."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from p2pd.config.own_addresses import own_addresses
from p2pd.config.sources import load
from p2pd.config.values import Address
from p2pd.configure.request import request_of
from p2pd.configure.runtimes import RUNTIMES
from p2pd.daemon.listeners import ListenError
from tests.p2pd.memory_tree import MemoryTree
from tests.support.client import ask
from tests.support.images import content_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering

MIRROR = Address("127.0.0.1", 65001)
NAMES = ("docker.io", "quay.io", "registry.test:5000")
IMAGE = make_image(content_of("layer", 100))


def challenge(realm: str) -> Answering:
    return Answering(401, b"{}", {"WWW-Authenticate": f'Basic realm="{realm}"'})


def test_an_address_is_the_upstreams_whatever_else_there_is() -> None:
    own = own_addresses(MIRROR, NAMES)
    assert own == {name: own_addresses(MIRROR, [*reversed(NAMES)])[name] for name in NAMES}
    assert len({address.host for address in own.values()}) == 3
    assert {address.port for address in own.values()} == {65001}
    assert str(own["quay.io"]) == "127.94.188.26:65001"  # it is in files of runtimes: it must not change


@pytest.mark.parametrize("mirror", ["0.0.0.0:65001", "[::1]:65001", "localhost:65001", "10.0.0.1:65001"])
def test_a_mirror_that_is_not_on_loopback_has_none(mirror: str) -> None:
    host, _, port = mirror.rpartition(":")
    assert own_addresses(Address(host.strip("[]"), int(port)), NAMES) == {}


def test_one_upstream_needs_none() -> None:
    assert own_addresses(MIRROR, ["quay.io"]) == {}


@asynchronous
async def test_each_upstream_challenges_for_itself_at_its_address(tmp_path: Path) -> None:
    with ImageRegistry() as hub, ImageRegistry() as other:
        for registry, realm in ((hub, "hub"), (other, "other")):
            registry.rules["/v2/"] = challenge(realm)
            registry.push("team/app", realm, IMAGE)
        upstreams = (f"docker.io={hub.url}", f"registry.test:5000={other.url}")
        async with node_at(tmp_path / "store", *upstreams) as node:
            host, _, port = node.mirror.rpartition(":")
            own = own_addresses(Address(host, int(port)), [each.partition("=")[0] for each in upstreams])
            at = str(own["registry.test:5000"])
            told = (await node.ask_admin("GET", "/status")).json["own"]
            assert f"registry.test:5000 at {at}" in told
            for address, realm in ((node.mirror, "hub"), (str(own["docker.io"]), "hub"), (at, "other")):
                assert (await ask(address, "GET", "/v2/")).challenges == (f'Basic realm="{realm}"',)
                assert (await ask(address, "GET", f"/v2/team/app/manifests/{realm}")).status == 200
            by_path = await ask(at, "GET", "/v2/registry.test__5000/team/app/manifests/other")
            assert by_path.body == IMAGE.manifest
            assert (await ask(at, "GET", "/v2/docker.io/team/app/manifests/hub")).status == 200


@asynchronous
async def test_a_node_does_not_run_while_another_program_has_an_own_address(tmp_path: Path) -> None:
    """That program would get the passwords that clients send to the upstream."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        mirror = Address("127.0.0.1", free.getsockname()[1])
    own = own_addresses(mirror, NAMES)["quay.io"]
    with socket.create_server((own.host, own.port)), pytest.raises(ListenError, match=str(own)):
        async with node_at(tmp_path / "store", *NAMES[:2], mirror=str(mirror)):
            pass


@pytest.mark.parametrize("runtime", ["podman", "crio"])
def test_podman_asks_each_upstream_but_the_first_at_its_address(tmp_path: Path, runtime: str) -> None:
    settings = load({"upstream": ["docker.io", "quay.io"]}, {}, default_file=tmp_path / "none")
    files = RUNTIMES[runtime].plan(request_of(settings), MemoryTree({})).files
    (text,) = (content.decode() for content in files.values())
    assert 'location = "127.0.0.1:65001/docker.io"' in text
    assert f'location = "{own_addresses(MIRROR, NAMES)["quay.io"]}/quay.io"' in text


def test_a_mirror_that_is_named_has_one_address(tmp_path: Path) -> None:
    """That of another machine, or of another network: it need not have the others."""
    settings = load({"upstream": ["docker.io", "quay.io"]}, {}, default_file=tmp_path / "none")
    (text,) = RUNTIMES["podman"].plan(request_of(settings, mirror="127.0.0.1:5"), MemoryTree({})).files.values()
    assert b'location = "127.0.0.1:5/quay.io"' in text
