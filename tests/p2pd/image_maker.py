"""Small images for the tests of pulling, and the layout that a mirror serves them from."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

from p2pd.pull.layout_writer import LayoutWriter
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX, Descriptor, Platform
from peer.oci.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UPSTREAM = "127.0.0.1:5000"
IMAGE = f"{UPSTREAM}/library/app:1"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYERS = [Random(seed).randbytes(300_000) for seed in range(5)]


def as_json(descriptor: Descriptor, **more: object) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size_bytes, **more}


class ImageMaker:
    """Puts images into a layout."""

    def __init__(self, directory: Path) -> None:
        self.layout = LayoutWriter(directory)

    def blob(self, content: bytes, media_type: str) -> Descriptor:
        return Descriptor(media_type, self.layout.write(content), len(content))

    def image(self, layers: list[bytes], *, more_layers: tuple[dict[str, object], ...] = ()) -> Descriptor:
        config = self.blob(json.dumps({"layers": len(layers)}).encode(), CONFIG_TYPE)
        listed = [*(as_json(self.blob(layer, LAYER_TYPE)) for layer in layers), *more_layers]
        manifest = {"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": as_json(config), "layers": listed}
        return self.blob(json.dumps(manifest).encode(), OCI_IMAGE)

    def index(self, images: Mapping[Platform | None, Descriptor] | Mapping[Platform, Descriptor]) -> Descriptor:
        listed = []
        for platform, image in images.items():
            words = {"os": platform.os, "architecture": platform.architecture} if platform else None
            listed.append(as_json(image, platform=words))
        return self.blob(
            json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode(), OCI_INDEX
        )

    def tag(self, descriptor: Descriptor, tag: str = "1") -> Digest:
        self.layout.name(descriptor, {"org.opencontainers.image.ref.name": tag})
        return descriptor.digest


def layer_digest(maker: ImageMaker, number: int) -> Digest:
    return maker.layout.write(LAYERS[number])
