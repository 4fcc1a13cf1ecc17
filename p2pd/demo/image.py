"""A real image, made of this machine's files, for demonstrations and benchmarks without a registry.

Its layers are like those of real images: many small files that compress well, libraries that compress less, a layer
that does not compress at all (a model's weights), and a tiny layer on top. The image is never run.

Rules:
1. The same files and size give the same bytes: names in order, no times, no owners, one compression level.
2. A layer is streamed: tar, its hash, gzip, its hash, the file. Memory use does not depend on the layer's size.
3. The total is near `size_bytes` and never above it: a file goes into a layer only if its uncompressed bytes fit, and
   the layer of noise fills the rest.
"""

from __future__ import annotations

import hashlib
import io
import os
import sysconfig
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self, cast

from blake3 import blake3

from p2pd.pull.layout_writer import REF_NAME, BlobFile, LayoutWriter
from p2pd.pull.platforms import local_platform
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.oci.documents import CONFIG_TYPE, GZIP_LAYER_TYPE, image_config, image_manifest
from peer.oci.manifest import OCI_IMAGE
from peer.oci.reference import parse_image_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

DEFAULT_SIZE_BYTES: Final = 256 * 1024 * 1024
DEFAULT_REFERENCE: Final = "docker.io/library/demo:1"

_EPOCH = "1970-01-01T00:00:00Z"
_FAST = 1
_STORED = 0
"""Levels of gzip. Noise is stored, because it does not compress."""

_GZIP_WINDOW = 31
"""15 bits of window, and 16 for a gzip header without name and time (zlib's manual, deflateInit2)."""

_NOISE_BYTES = 1024 * 1024
_OVERHEAD_BYTES = 64 * 1024
"""Room for manifest, config, the tiny layer and the framing of the noise (tar 1 KiB, gzip 5 bytes per 64 KiB)."""


@dataclass(frozen=True, slots=True)
class DemoLayer:
    """One layer. `descriptor` describes the compressed blob, `diff_id` is the digest of its archive."""

    descriptor: Descriptor
    diff_id: Digest
    comment: str


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """The image in a layout, under the tag of `reference`."""

    reference: str
    manifest: Descriptor
    config: Descriptor
    layers: tuple[DemoLayer, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all blobs together."""
        blobs = [self.manifest, self.config, *(layer.descriptor for layer in self.layers)]
        return sum(blob.size_bytes for blob in blobs)


@dataclass(frozen=True, slots=True)
class _Source:
    """Files for a layer: those below `folder`, put at `place` in the image, up to the part `share` of the image."""

    comment: str
    folder: Path
    place: str
    share: float


def _sources() -> tuple[_Source, ...]:
    paths = sysconfig.get_paths()
    return (
        _Source("documentation", Path("/usr/share/doc"), "usr/share/doc", 0.1),
        _Source("Python's standard library", Path(paths["stdlib"]), "usr/lib/python3", 0.2),
        _Source("Python packages", Path(paths["purelib"]), "usr/lib/python3/site-packages", 0.3),
    )


def build_image(
    directory: Path,
    *,
    size_bytes: int = DEFAULT_SIZE_BYTES,
    reference: str = DEFAULT_REFERENCE,
    on_write: Callable[[], None] = lambda: None,
) -> BuiltImage:
    """Write an image of about `size_bytes` into the layout `directory`, under the tag of `reference`.

    `on_write` is called before each write, and may end the work by an error. Raises InvalidNameError,
    ForeignDirectoryError, and OSError if the directory cannot be written.
    """
    tag = parse_image_reference(reference).tag
    layout = LayoutWriter(directory)
    layers: list[DemoLayer] = []
    for source in _sources():
        with _LayerFile(layout, _FAST, on_write) as layer:
            layer.add_folder(source, int(size_bytes * source.share))
            layers.append(layer.keep(source.comment))
    left_bytes = size_bytes - _OVERHEAD_BYTES - sum(layer.descriptor.size_bytes for layer in layers)
    with _LayerFile(layout, _STORED, on_write) as layer:
        layer.add("srv/model/weights.bin", max(0, left_bytes), io.BufferedReader(_Noise(), _NOISE_BYTES))
        layers.append(layer.keep("a model's weights (noise)"))
    with _LayerFile(layout, _FAST, on_write) as layer:
        settings = f"image = {reference}\n".encode()
        layer.add("etc/demo.toml", len(settings), io.BytesIO(settings))
        layers.append(layer.keep("configuration"))
    config = layout.write_json(CONFIG_TYPE, _config(layers))
    manifest = layout.write_json(OCI_IMAGE, image_manifest(config, (layer.descriptor for layer in layers)))
    layout.name(manifest, {REF_NAME: tag} if tag else {})
    return BuiltImage(reference, manifest, config, tuple(layers))


class _LayerFile:
    """A layer on its way into the layout (rule 2)."""

    def __init__(self, layout: LayoutWriter, level: int, on_write: Callable[[], None]) -> None:
        self._blob = BlobFile(layout.blobs)
        self._on_write = on_write
        self._diff = hashlib.sha256()
        self._gzip = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
        self._written_bytes = 0
        self._tar = tarfile.TarFile(fileobj=cast("IO[bytes]", self), mode="w", format=tarfile.PAX_FORMAT)

    def write(self, data: bytes) -> int:
        """The archive calls this and `tell`, and no other method of a file."""
        self._on_write()
        self._diff.update(data)
        self._blob.write(self._gzip.compress(data))
        self._written_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        """The bytes of the archive so far."""
        return self._written_bytes

    def add(self, name: str, size_bytes: int, content: IO[bytes], mode: int = 0o644) -> None:
        """Add a file, with `size_bytes` of `content`."""
        entry = tarfile.TarInfo(name)
        entry.size = size_bytes
        entry.mode = mode
        self._tar.addfile(entry, content)

    def add_folder(self, source: _Source, budget_bytes: int) -> None:
        """Add files of a folder in the order of their names, each if it fits (rule 3)."""
        for path in _files(source.folder):
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    if self._blob.size_bytes + status.st_size <= budget_bytes:
                        name = f"{source.place}/{path.relative_to(source.folder)}"
                        self.add(name, status.st_size, file, status.st_mode & 0o755)
            except (PermissionError, FileNotFoundError):
                continue  # we may not read it, or it is gone

    def keep(self, comment: str) -> DemoLayer:
        """End the archive and publish the blob in the layout."""
        self._tar.close()
        self._blob.write(self._gzip.flush())
        descriptor = Descriptor(GZIP_LAYER_TYPE, self._blob.keep(), self._blob.size_bytes)
        return DemoLayer(descriptor, Digest.from_raw(self._diff.digest()), comment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._blob.__exit__(*exc_info)


class _Noise(io.RawIOBase):
    """Reproducible bytes that do not compress: the output of BLAKE3, which can have any length."""

    def __init__(self) -> None:
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        view[:] = blake3(b"p2pd demo").digest(length=len(view), seek=self._position)
        self._position += len(view)
        return len(view)


def _files(folder: Path) -> Iterator[Path]:
    """The regular files below `folder` in the order of their names, without Python's caches and site-packages."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in {"__pycache__", "site-packages"})
        for name in sorted(names):
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _config(layers: list[DemoLayer]) -> dict[str, object]:
    platform = local_platform()
    variant = {"variant": platform.variant} if platform.variant else {}
    return image_config(
        [layer.diff_id for layer in layers],
        os=platform.os,
        architecture=platform.architecture,
        **variant,
        created=_EPOCH,
        config={"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["python3"]},
        history=[{"created": _EPOCH, "created_by": f"p2pd: {layer.comment}"} for layer in layers],
    )
