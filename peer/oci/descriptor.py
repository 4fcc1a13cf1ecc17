"""Descriptors: the media type, the digest and the size of content (OCI image specification, `descriptor.md`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peer.oci.digest import AnyDigest

OCTET_STREAM: Final = "application/octet-stream"
"""The media type of a blob in HTTP. Only a manifest tells the real one."""


class Platform(Struct, frozen=True):
    """The platform of an image, in Go's words: `linux`, `arm`, `v7`. An empty variant means none."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob or a manifest, described before its bytes are there.

    A manifest, an origin's headers, the catalog or another host says it. Only `digest` can be checked against the
    bytes; size and type may be lies. A size of 0 may mean that the size is not known. The fields after the first three
    are in manifests only. `foreign` marks a layer that a registry need not have: it may not be redistributed, or has
    URLs of its own.
    """

    media_type: str
    digest: AnyDigest
    size_bytes: int
    platform: Platform | None = None
    foreign: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
