"""podman and skopeo: they name no registry to a mirror, so the path does (`HOST:PORT/docker.io/library/app`)."""

from __future__ import annotations

from pathlib import Path

from tests.real.image import LIGHT, REPOSITORY, Image
from tests.real.node import Node
from tests.real.origin import Origin
from tests.real.podman import Podman
from tests.real.skopeo import Skopeo, digests, mirrored, relocated


def test_podman_pulls_cold_and_warm(place: Path, node: Node, origin: Origin, image: Image) -> None:
    assert_pulled_cold_and_warm(Podman(place, relocated(node.mirror)), REPOSITORY, image, origin)


def test_podman_pulls_by_way_of_its_mirrors(place: Path, node: Node, origin: Origin, light_image: Image) -> None:
    assert_pulled_cold_and_warm(Podman(place, mirrored(node.mirror)), LIGHT, light_image, origin)


def assert_pulled_cold_and_warm(podman: Podman, repository: str, image: Image, origin: Origin) -> None:
    reference = f"docker.io/{repository}:1"
    for turn in ("cold", "warm"):
        podman.pull(reference)
        found = podman.inspect(reference)
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
