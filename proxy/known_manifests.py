"""The manifests that were served lately: each is parsed once, and describes the blobs that clients ask for next.

What a manifest says of a blob is its author's word. It counts in the repository that the manifest was served from, and
in no other.

Rules:
1. A manifest that p2pd does not understand is served all the same; it describes nothing. Bytes that are no manifest
   are not served as one, and are not remembered.
2. The least recently used manifests and descriptors are forgotten first. A blob without a descriptor is served too; its
   length is known once the origin or another host has answered.
"""

from __future__ import annotations

from collections import OrderedDict

import structlog

from peer.errors import ManifestError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest
from peer.oci.manifest import Manifest, manifest_type, parse_manifest
from peer.oci.reference import Repository

log = structlog.get_logger("proxy.known_manifests")

MAX_MANIFESTS = 1024
MAX_DESCRIPTORS = 64 * MAX_MANIFESTS
"""Images have some 10 layers; each descriptor takes less than 1 KiB."""


class KnownManifests:
    """Manifests, and the descriptors of their children, by repository and digest."""

    def __init__(self) -> None:
        self._manifests: OrderedDict[tuple[Repository, AnyDigest], tuple[str, Manifest | None]] = OrderedDict()
        self._descriptors: OrderedDict[tuple[Repository, AnyDigest], Descriptor] = OrderedDict()

    def read(self, repository: Repository, digest: AnyDigest, body: bytes, media_type: str) -> Manifest | None:
        """The manifest `body` of `repository`; None for one that p2pd does not understand. `media_type` is the one that
        it came with.

        Raises ManifestError if `body` is no manifest.
        """
        key = repository, digest
        if key not in self._manifests:
            media_type = manifest_type(body, media_type)
            manifest = self._parse(repository, digest, body, media_type)
            self._manifests[key] = (manifest.media_type if manifest else media_type, manifest)
        self._manifests.move_to_end(key)
        while len(self._manifests) > MAX_MANIFESTS:
            self._manifests.popitem(last=False)
        return self._manifests[key][1]

    def media_type(self, repository: Repository, digest: AnyDigest) -> str:
        """The media type of a manifest of `repository` that was read; empty if it was not."""
        return self._manifests.get((repository, digest), ("", None))[0]

    def descriptor(self, repository: Repository, digest: AnyDigest) -> Descriptor | None:
        """The descriptor of `digest` in a manifest of `repository` that was read."""
        return self._descriptors.get((repository, digest))

    def _parse(self, repository: Repository, digest: AnyDigest, body: bytes, media_type: str) -> Manifest | None:
        try:
            manifest = parse_manifest(body, media_type)
        except ManifestError as error:
            log.info("a manifest was passed on that is not understood", digest=digest, error=str(error))
            return None
        for child in manifest.children:
            self._descriptors[repository, child.digest] = child
            self._descriptors.move_to_end((repository, child.digest))
        while len(self._descriptors) > MAX_DESCRIPTORS:
            self._descriptors.popitem(last=False)
        return manifest
