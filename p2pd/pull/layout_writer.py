"""Writing an OCI image layout: a directory that skopeo, podman, containerd and p2pd's own `oci-layout://` can read.

Rules:
1. A blob gets its name when it is whole and its digest is known: until then it is a hidden file beside the others.
2. index.json is replaced in one step, after all that it leads to is there. Images that it names already stay.
3. A directory that is not empty and not a layout is left alone.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Self

from peer.errors import ForeignDirectoryError, ManifestError
from peer.oci.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, ManifestKind, parse_manifest
from peer.oci.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peer.oci.manifest import Descriptor

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that skopeo finds an image by: `oci:DIR:NAME`."""

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation with the image's full name."""


class BlobFile:
    """A blob on its way in. Without a folder it is hashed only, as /dev/null would have it."""

    def __init__(self, folder: Path | None) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._folder = folder
        self._path = None if folder is None else folder / f".{secrets.token_hex(8)}.partial"
        self._file = None if self._path is None else self._path.open("xb", buffering=0)

    @property
    def digest(self) -> Digest:
        """Of what has been written so far."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def write(self, data: bytes | memoryview) -> int:
        """Take in all of `data`; the disk's errors are OSError."""
        self._hash.update(data)
        self.size_bytes += len(data)
        if self._file is not None:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        return len(data)

    def restart(self) -> None:
        """Forget what has been written."""
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def keep(self) -> Digest:
        """Give it its name, which is returned. It is whole."""
        if self._folder is not None and self._path is not None and self._file is not None:
            self._file.close()
            self._path.replace(self._folder / self.digest.removeprefix("sha256:"))
            self._path = None
        return self.digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove it unless it was kept."""
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class LayoutWriter:
    """The layout in `directory`, which is made if it is not there. Raises ForeignDirectoryError, and OSError."""

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
        """Whether the blob is there and its bytes are what the digest says (all of it is read)."""
        path = self.blobs / digest.removeprefix("sha256:")
        if not path.is_file() or path.stat().st_size != size_bytes:
            return False
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest

    def write(self, content: bytes) -> Digest:
        """Keep a small blob that is in memory."""
        with BlobFile(self.blobs) as blob:
            blob.write(content)
            return blob.keep()

    def name(self, descriptor: Descriptor, names: Mapping[str, str]) -> None:
        """List an image, with the annotations `names`, in place of one that has the same."""
        entry = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size_bytes}
        kept = [
            listed
            for listed in self._index
            if listed.get("annotations", {}) != names or (not names and listed["digest"] != descriptor.digest)
        ]
        self._index = [*kept, entry | ({"annotations": dict(names)} if names else {})]
        _write_whole(self._index_path, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._index})

    def _read_index(self) -> list[dict[str, object]]:
        try:
            with self._index_path.open("rb") as file:
                content = file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError:
            return []
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
