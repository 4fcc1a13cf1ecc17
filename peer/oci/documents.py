"""The documents of an image, in the form in which they are written: what `peer.oci.manifest` reads.

Rules: pure. The caller serialises: a manifest's bytes are its identity, and so are its spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from peer.oci.descriptor import Descriptor
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
GZIP_LAYER_TYPE: Final = f"{LAYER_TYPE}+gzip"


def as_json(descriptor: Descriptor, **more: object) -> dict[str, object]:
    """A descriptor, with `more` properties (`annotations`, `platform`, `urls`)."""
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size_bytes, **more}


def image_manifest(
    config: Descriptor, layers: Iterable[Descriptor], *, media_type: str = OCI_IMAGE
) -> dict[str, object]:
    """The manifest of an image, `layers` from the lowest up."""
    return {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": as_json(config),
        "layers": [as_json(layer) for layer in layers],
    }


def image_config(
    diff_ids: Sequence[str], *, os: str = "linux", architecture: str = "amd64", **more: object
) -> dict[str, object]:
    """The configuration of an image. `diff_ids` are the digests of the layers' archives before compression."""
    return {"os": os, "architecture": architecture, **more, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}


def image_index(manifests: Iterable[dict[str, object]]) -> dict[str, object]:
    """An index. Each of `manifests` is from `as_json`."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)}
