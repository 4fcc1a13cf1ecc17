"""What can still be pulled when an origin, or a part of it, is gone or does less than one hopes for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.containerd import Containerd
from tests.real.dockerd import Dockerd
from tests.real.image import Image
from tests.real.node import StartNode
from tests.real.origin import Origin, StartOrigin
from tests.real.paths import new_directory
from tests.real.programs import ProgramError
from tests.real.registry import Registry, pull_through
from tests.real.skopeo import Skopeo, digests
from tests.support.ports import free_port


def test_stale_tag_is_served_without_the_registry_when_allowed(
    dockerd: Dockerd, skopeo: Skopeo, start_node: StartNode, origin: Origin, light_image: Image
) -> None:
    node = start_node(f"docker.io={origin.url}", tag_ttl_s="0", serve_stale_tags="true")
    skopeo.copy(f"{node.mirror}/docker.io/library/light:1")
    origin.stop()

    dockerd.pull("light:1")
    assert dockerd.inspect("light:1")["Id"] == light_image.config.digest
    copy = skopeo.copy(f"{node.mirror}/docker.io/library/light:1")
    assert digests(copy) == light_image.digests


def test_only_digests_are_served_without_the_registry(
    dockerd: Dockerd, containerd: Containerd, skopeo: Skopeo, start_node: StartNode, origin: Origin, light_image: Image
) -> None:
    node = start_node(f"docker.io={origin.url}", tag_ttl_s="0")
    skopeo.copy(f"{node.mirror}/docker.io/library/light:1")
    origin.stop()

    with pytest.raises(ProgramError):
        dockerd.pull("light:1")
    with pytest.raises(ProgramError):
        containerd.pull("docker.io/library/light:1")
    dockerd.pull(f"light@{light_image.index.digest}")
    assert dockerd.inspect(f"light@{light_image.index.digest}")["Id"] == light_image.config.digest
    containerd.pull(f"docker.io/library/light@{light_image.index.digest}")
    assert containerd.digests() == {light_image.index.digest, *light_image.digests}


def test_node_that_restarts_without_the_registry_serves_what_it_holds(
    skopeo: Skopeo, start_node: StartNode, origin: Origin, image: Image
) -> None:
    node = start_node(f"docker.io={origin.url}")
    skopeo.copy(f"{node.mirror}/docker.io/library/app:1")
    node.kill()
    origin.stop()
    node.start()

    copy = skopeo.copy(f"{node.mirror}/docker.io/library/app@{image.manifest.digest}")
    assert digests(copy) == image.digests


def test_second_endpoint_is_used_when_the_first_refuses_connections(
    dockerd: Dockerd, start_node: StartNode, origin: Origin, light_image: Image
) -> None:
    start_node(f"docker.io=http://127.0.0.1:{free_port()},{origin.url}")
    dockerd.pull("light:1")
    assert dockerd.inspect("light:1")["Id"] == light_image.config.digest


def test_second_endpoint_is_used_when_the_first_has_lost_its_registry(
    skopeo: Skopeo, start_node: StartNode, start_origin: StartOrigin, origin: Origin, image: Image
) -> None:
    without_registry = start_origin(f"http://127.0.0.1:{free_port()}")  # answers 502
    node = start_node(f"docker.io={without_registry.url},{origin.url}")
    copy = skopeo.copy(f"{node.mirror}/docker.io/library/app:1")
    assert digests(copy) == image.digests


def test_origin_may_be_a_pull_through_cache_that_ignores_ranges(
    place: Path, skopeo: Skopeo, start_node: StartNode, start_origin: StartOrigin, registry: Registry, image: Image
) -> None:
    cache = Registry(new_directory(place), new_directory(place), pull_through(registry.url))
    try:
        origin = start_origin(cache.url)
        node = start_node(f"docker.io={origin.url}")
        copy = skopeo.copy(f"{node.mirror}/docker.io/library/app:1")
        assert digests(copy) == image.digests
        assert {digest: origin.bytes_sent(digest) for digest in image.sizes} == image.sizes
    finally:
        cache.stop()
