"""Images for tests, small and made of chosen bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from peer.oci.descriptor import Descriptor, Platform
from peer.oci.digest import Digest
from peer.oci.documents import CONFIG_TYPE, GZIP_LAYER_TYPE, as_json, image_config, image_index, image_manifest
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX


def digest_of(content: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def descriptor_of(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


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
    def digest(self) -> Digest:
        return digest_of(self.manifest)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (self.config, *self.layers)

    @property
    def layer_digests(self) -> list[Digest]:
        return [digest_of(layer) for layer in self.layers]


@dataclass(frozen=True)
class Index:
    """An index and the manifests that it names."""

    manifest: bytes
    children: tuple[Image | Index, ...]
    media_type: str = OCI_INDEX

    @property
    def digest(self) -> Digest:
        return digest_of(self.manifest)


def make_image(
    *layers: bytes, media_type: str = OCI_IMAGE, says_its_type: bool = True, foreign: Sequence[Descriptor] = ()
) -> Image:
    """An image of these layers. `foreign` layers come last, and elsewhere has their content.

    `says_its_type`: whether its manifest has a `mediaType`, which OCI does not ask for.
    """
    config = json.dumps(image_config([digest_of(layer) for layer in layers])).encode()
    listed = [descriptor_of(layer, GZIP_LAYER_TYPE) for layer in layers]
    document = image_manifest(descriptor_of(config, CONFIG_TYPE), listed, media_type=media_type)
    if foreign:
        elsewhere = [as_json(layer, urls=["https://elsewhere.example/"]) for layer in foreign]
        document["layers"] = [*map(as_json, listed), *elsewhere]
    if not says_its_type:
        del document["mediaType"]
    # Neither sorted nor compact: a manifest's bytes are to be left as they are.
    return Image(json.dumps(document, indent=3).encode() + b"\n", media_type, config, layers)


def make_index(*images: Image | Index, platforms: Sequence[Platform | None] = ()) -> Index:
    """An index of `images`, with the platform of each."""
    listed = []
    for number, image in enumerate(images):
        platform = platforms[number] if platforms else None
        words = {"platform": {"os": platform.os, "architecture": platform.architecture}} if platform else {}
        listed.append(as_json(descriptor_of(image.manifest, image.media_type), **words))
    return Index(json.dumps(image_index(listed)).encode(), images)
