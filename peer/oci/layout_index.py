"""The index.json of an OCI image layout: the manifests that it lists, and their names.

Tools disagree about names. skopeo writes what follows `oci:DIR:`, mostly a tag, as
`org.opencontainers.image.ref.name`; containerd and docker write the full name as `io.containerd.image.name`
and the tag beside it; podman writes the full name as `org.opencontainers.image.ref.name`. So:

1. `REPOSITORY:TAG` and `UPSTREAM/REPOSITORY:TAG` name that tag of that repository.
2. A bare `TAG` names that tag of any repository that the layout is asked for.
3. A bare `TAG` beside one of the two longer names is only a part of it.
4. If two manifests have the same name, the longer form of the name counts, then the later manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from peer.errors import InvalidNameError, ManifestError
from peer.oci.manifest import ManifestKind, parse_manifest
from peer.oci.reference import DOCKER_HUB, parse_tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peer.oci.descriptor import Descriptor

_NAME_ANNOTATIONS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")


class Listing(Struct, frozen=True):
    """The manifests that an index.json lists, in its order."""

    manifests: tuple[Descriptor, ...]

    def media_type(self, digest: str) -> str | None:
        """The media type of the manifest `digest`; None if it is not listed. It may be a child of a listed manifest."""
        return next((found.media_type for found in self.manifests if found.digest == digest), None)

    def tags(self, upstream: str, repository: str) -> Mapping[str, Descriptor]:
        """The tags of `repository` of `upstream`."""
        prefixes = _prefixes(upstream, repository)
        bare: dict[str, Descriptor] = {}
        full: dict[str, Descriptor] = {}
        for descriptor in self.manifests:
            names = [descriptor.annotations[key] for key in _NAME_ANNOTATIONS if key in descriptor.annotations]
            long_names = [name for name in names if ":" in name]
            for name in long_names:
                for prefix in prefixes:
                    if name.startswith(prefix):
                        _add_tag(full, name.removeprefix(prefix), descriptor)
            if not long_names:
                for name in names:
                    _add_tag(bare, name, descriptor)
        return bare | full


def parse_listing(body: bytes) -> Listing:
    """Read an index.json; raises ManifestError."""
    manifest = parse_manifest(body)
    if manifest.kind is not ManifestKind.INDEX:
        raise ManifestError(f"it is of type {manifest.media_type}, not an index")
    return Listing(manifest.children)


def _prefixes(upstream: str, repository: str) -> tuple[str, ...]:
    """The parts before the tag in names of `repository`. On docker.io `library/` may be left out."""
    repositories = [repository]
    if upstream == DOCKER_HUB:
        short = repository.removeprefix("library/")
        if "/" not in short:
            repositories.append(short)
    return tuple(f"{host}{name}:" for host in ("", f"{upstream}/") for name in repositories)


def _add_tag(tags: dict[str, Descriptor], name: str, descriptor: Descriptor) -> None:
    """Add `name` to `tags`. A name that is not a valid tag is left out: no client can ask for it."""
    try:
        tags[parse_tag(name)] = descriptor
    except InvalidNameError:
        return
