"""What `p2pd configure` writes, read by the real runtimes: a registry with a port, and every registry at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pd.config.settings import load
from p2pd.configure.plan import configure
from p2pd.configure.request import request_of
from p2pd.configure.runtimes import RUNTIMES
from p2pd.configure.tree import Disk
from tests.real.containerd import Containerd
from tests.real.image import Image
from tests.real.node import Node, StartNode
from tests.real.origin import Origin
from tests.real.podman import Podman
from tests.real.skopeo import Skopeo, digests

REGISTRY = "registry.invalid:5001"
"""No client can reach it but by way of p2pd: the name does not exist (RFC 2606)."""
REFERENCE = f"{REGISTRY}/library/app:1"


@pytest.fixture
def node(start_node: StartNode, origin: Origin) -> Node:
    return start_node("docker.io=http://127.0.0.1:1", f"{REGISTRY}={origin.url}")


def written(place: Path, runtime: str, node: Node, *, wildcard: bool = False) -> Path:
    """The root of a machine on which `runtime` was configured for the registry."""
    root = place / "root"
    root.mkdir()
    upstreams = ["docker.io"] if wildcard else [REGISTRY]
    settings = load({}, {}, default_file=place / "no such file")
    request = request_of(settings, mirror=node.mirror, upstreams=upstreams, wildcard=wildcard)
    configure(RUNTIMES[runtime], request, Disk(root))
    return root


@pytest.fixture
def registries(place: Path, node: Node) -> str:
    return (written(place, "podman", node) / "etc/containers/registries.conf.d/90-p2pd.conf").read_text()


def test_podman_pulls_from_a_registry_with_a_port(place: Path, registries: str, origin: Origin, image: Image) -> None:
    podman = Podman(place, registries)
    podman.pull(REFERENCE)
    assert f"sha256:{podman.inspect(REFERENCE)['Id']}" == image.config.digest
    assert origin.blob_requests()


def test_skopeo_copies_from_a_registry_with_a_port(place: Path, registries: str, image: Image) -> None:
    assert digests(Skopeo(place, registries).copy(REFERENCE)) == image.digests


def test_containerd_asks_the_mirror_for_every_registry(
    place: Path, node: Node, containerd: Containerd, origin: Origin, image: Image
) -> None:
    root = written(place, "containerd", node, wildcard=True)
    containerd.pull(REFERENCE, hosts=root / "etc/containerd/certs.d")
    assert containerd.digests() == {image.index.digest, *image.digests}
    assert origin.blob_requests()
