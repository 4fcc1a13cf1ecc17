"""The writer of an OCI image layout: a directory that skopeo, podman, containerd and our own `oci-layout://` read.

Rules:
1. A blob gets its name when it is whole and its digest is known. Until then it is a hidden file beside the others.
2. index.json is replaced in one step, after all blobs that it leads to were written. Its other images stay.
3. A directory that is not empty and not a layout is left alone.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Self

from peer.errors import ForeignDirectoryError, ManifestError
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.documents import as_json, image_index
from peer.oci.manifest import MAX_MANIFEST_BYTES, ManifestKind, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that skopeo finds an image by: `oci:DIR:NAME`."""

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation with the image's full name."""


class BlobFile:
    """A blob that is being written. Without a folder its bytes are hashed and dropped."""

    def __init__(self, folder: Path | None) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._folder = folder
        self._path = None if folder is None else folder / f".{secrets.token_hex(8)}.partial"
        self._file = None if self._path is None else self._path.open("xb", buffering=0)

    @property
    def digest(self) -> Digest:
        """The digest of the bytes so far."""
        return Digest.from_raw(self._hash.digest())

    def write(self, data: bytes | memoryview) -> int:
        """Append all of `data`. Raises OSError for the disk's errors."""
        self._hash.update(data)
        self.size_bytes += len(data)
        if self._file is not None:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        return len(data)

    def keep(self) -> Digest:
        """Give the whole blob its name; returns its digest."""
        if self._folder is not None and self._path is not None and self._file is not None:
            self._file.close()
            self._path.replace(self._folder / self.digest.hex)
            self._path = None
        return self.digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove the file unless it was kept."""
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class LayoutWriter:
    """The layout in `directory`, which is made if it is missing. Raises ForeignDirectoryError, and OSError."""

    def __init__(self, directory: Path) -> None:
        marker = directory / "oci-layout"
        if directory.is_dir() and not marker.exists() and any(directory.iterdir()):
            raise ForeignDirectoryError(f"{directory} is not empty and not an OCI image layout: name another directory")
        self._index_path = directory / "index.json"
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._index = self._read_index()
        _write_whole(marker, {"imageLayoutVersion": "1.0.0"})

    def has(self, digest: Digest, size_bytes: int) -> bool:
        """Whether the layout has the blob and its bytes have the digest (all bytes are read)."""
        path = self.blobs / digest.hex
        if not path.is_file() or path.stat().st_size != size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == digest.raw

    def write(self, content: bytes) -> Digest:
        """Keep a small blob that is in memory."""
        with BlobFile(self.blobs) as blob:
            blob.write(content)
            return blob.keep()

    def write_json(self, media_type: str, document: object) -> Descriptor:
        """Keep a document, such as a manifest."""
        content = json.dumps(document).encode()
        return Descriptor(media_type, self.write(content), len(content))

    def name(self, descriptor: Descriptor, names: Mapping[str, str]) -> None:
        """List an image with the annotations `names`. It replaces an image with the same annotations."""
        kept = [
            listed
            for listed in self._index
            if listed.get("annotations", {}) != names or (not names and listed["digest"] != descriptor.digest)
        ]
        self._index = [*kept, as_json(descriptor, **({"annotations": dict(names)} if names else {}))]
        _write_whole(self._index_path, image_index(self._index))

    def take_over_index(self, content: bytes) -> None:
        """List the images of another layout's index.json, if none is listed yet. Raises ManifestError."""
        if not self._index:
            self._index = self._images_in(content)
            _write_whole(self._index_path, image_index(self._index))

    def _read_index(self) -> list[dict[str, object]]:
        try:
            with self._index_path.open("rb") as file:
                return self._images_in(file.read(MAX_MANIFEST_BYTES + 1))
        except FileNotFoundError:
            return []

    def _images_in(self, content: bytes) -> list[dict[str, object]]:
        try:
            kind = parse_manifest(content).kind
        except ManifestError as error:
            raise ManifestError(f"{self._index_path} is broken, name another directory: {error}") from None
        if kind is not ManifestKind.INDEX:
            raise ManifestError(f"{self._index_path} is an image, not an index: name another directory")
        return list(json.loads(content)["manifests"] or [])


def _write_whole(path: Path, content: object) -> None:
    """Replace `path` in one step."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        partial.write_text(json.dumps(content))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
