"""Images for tests, small and made of chosen bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from peer.oci.manifest import OCI_IMAGE, OCI_INDEX


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def content_of(name: str, size_bytes: int) -> bytes:
    """Bytes that depend on `name`, and in which no two places are alike."""
    return hashlib.shake_256(name.encode()).digest(size_bytes)


@dataclass(frozen=True)
class Image:
    """A manifest and the blobs that it names: the config, then the layers from the lowest up."""

    manifest: bytes
    media_type: str
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (self.config, *self.layers)

    @property
    def layer_digests(self) -> list[str]:
        return [digest_of(layer) for layer in self.layers]


def make_image(*layers: bytes, media_type: str = OCI_IMAGE, says_its_type: bool = True) -> Image:
    """An image of these layers; `says_its_type`: whether its manifest has a `mediaType`, which OCI does not ask for."""
    config = json.dumps({"os": "linux", "rootfs": {"diff_ids": [digest_of(layer) for layer in layers]}}).encode()
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer) for layer in layers],
    }
    if says_its_type:
        document["mediaType"] = media_type
    # Neither sorted nor compact: a manifest's bytes are to be left as they are.
    return Image(json.dumps(document, indent=3).encode() + b"\n", media_type, config, layers)


def make_index(*images: Image) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [_descriptor(image.media_type, image.manifest) for image in images],
        }
    ).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
