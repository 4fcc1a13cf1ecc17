"""podman and skopeo: they name no registry to a mirror, so the path does (`HOST:PORT/docker.io/library/app`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real.image import Image
from tests.real.node import Node
from tests.real.origin import Origin
from tests.real.podman import Podman
from tests.real.skopeo import Skopeo, digests, mirrored, relocated


@pytest.mark.parametrize("registries", [relocated, mirrored])
def test_podman_pulls_cold_and_warm(
    place: Path, node: Node, origin: Origin, image: Image, registries: Callable[[str], str]
) -> None:
    podman = Podman(place, registries(node.mirror))
    for turn in ("cold", "warm"):
        podman.pull("docker.io/library/app:1")
        found = podman.inspect("docker.io/library/app:1")
        assert f"sha256:{found['Id']}" == image.config.digest
        assert found["RootFS"]["Layers"] == list(image.diff_ids)
        assert bool(origin.blob_requests()) == (turn == "cold")
        podman.remove_images()
        origin.forget()


def test_skopeo_copies_cold_and_warm(skopeo: Skopeo, node: Node, origin: Origin, image: Image) -> None:
    for turn in ("cold", "warm"):
        copy = skopeo.copy(f"{node.mirror}/docker.io/library/app:1")
        assert digests(copy) == image.digests
        assert bool(origin.blob_requests()) == (turn == "cold")
        origin.forget()


def test_skopeo_copies_by_way_of_its_mirrors(place: Path, node: Node, origin: Origin, image: Image) -> None:
    skopeo = Skopeo(place, mirrored(node.mirror))
    for turn in ("cold", "warm"):
        copy = skopeo.copy("docker.io/library/app:1")
        assert digests(copy) == image.digests
        assert bool(origin.blob_requests()) == (turn == "cold")
        origin.forget()
