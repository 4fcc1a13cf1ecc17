"""containerd, which is pointed at p2pd by hosts.toml and tells it the registry in `?ns=`."""

from __future__ import annotations

from tests.real.containerd import Containerd
from tests.real.image import Image
from tests.real.node import Node
from tests.real.origin import Origin

REFERENCE = "docker.io/library/app:1"


def test_pulls_cold_and_warm(containerd: Containerd, node: Node, origin: Origin, image: Image) -> None:
    containerd.pull(REFERENCE)
    assert containerd.digests() == {image.index.digest, *image.digests}
    assert {digest: origin.bytes_sent(digest) for digest in image.sizes} == image.sizes

    containerd.remove_images()
    assert containerd.digests() == set()
    origin.forget()
    containerd.pull(REFERENCE)
    assert containerd.digests() == {image.index.digest, *image.digests}
    assert origin.blob_requests() == []
