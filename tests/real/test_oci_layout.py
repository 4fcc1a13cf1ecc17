"""p2pd with no registry at all: the upstream is a directory."""

from __future__ import annotations

from pathlib import Path

from tests.real.containerd import Containerd
from tests.real.image import REPOSITORY, Image
from tests.real.node import StartNode
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo, digests


def test_one_layout_for_every_repository(
    containerd: Containerd, skopeo: Skopeo, start_node: StartNode, image: Image
) -> None:
    node = start_node(f"docker.io=oci-layout://{image.layout}")
    assert digests(skopeo.copy(f"{node.mirror}/docker.io/library/app:1")) == image.digests
    containerd.pull("docker.io/library/app:1")
    assert containerd.digests() == {image.index.digest, *image.digests}


def test_tree_of_layouts_that_skopeo_wrote(
    place: Path, containerd: Containerd, skopeo: Skopeo, start_node: StartNode, registry: Registry, image: Image
) -> None:
    layout = place / "layouts" / REPOSITORY
    layout.parent.mkdir(parents=True)
    registry.export(layout)
    node = start_node(f"docker.io=oci-layout://{place / 'layouts'}")
    assert digests(skopeo.copy(f"{node.mirror}/docker.io/library/app:1")) == image.digests
    containerd.pull("docker.io/library/app:1")
    assert containerd.digests() == {image.index.digest, *image.digests}
