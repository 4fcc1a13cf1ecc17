"""A real image: Debian's base system, a Python library, a model's weights and a configuration file, one layer each.

It is made once for a machine, kept as an OCI image layout in the user's cache, and used again as long as it is whole.
Like most images on Docker Hub it is an index; only the manifest for this machine's platform is what runtimes pull.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.real.packages import PATH
from tests.real.paths import cache_directory, new_directory, remove

REPOSITORY: Final = "library/app"
TAG: Final = "1"
WEIGHTS_BYTES: Final = 32 * 1024 * 1024

_EDITION: Final = "image-1"
"""Change this when what is built changes: the cached image of another edition is not used."""

_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"

_ARCHITECTURES: Final = {"armhf": "arm", "i386": "386", "ppc64el": "ppc64le"}
"""Debian's names where the OCI's (Go's) differ."""

_LEFT_OUT: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)
"""What the images of Debian leave out of the base system, too."""


@dataclass(frozen=True)
class Blob:
    """Content of the image, by its digest."""

    digest: str
    size_bytes: int
    media_type: str

    def descriptor(self, **fields: object) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes, **fields}


@dataclass(frozen=True)
class Image:
    """The image in `layout`: `index` names `manifest`, which names `config` and `layers`.

    `diff_ids` are the digests of the layers unpacked, by which dockerd and podman know them.
    """

    layout: Path
    index: Blob
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """What is asked for at `/blobs/`."""
        return (self.config, *self.layers)

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each of `blobs`, by digest."""
        return {blob.digest: blob.size_bytes for blob in self.blobs}

    @property
    def digests(self) -> set[str]:
        """What a client that copies blobs has afterwards: the manifest, the config and every layer."""
        return {self.manifest.digest, *(blob.digest for blob in self.blobs)}

    @property
    def weights(self) -> Blob:
        """The layer of random bytes."""
        return self.layers[2]


def real_image() -> Image:
    """The image, from the cache or made now (half a minute). Raises CalledProcessError when debootstrap fails."""
    cache = cache_directory()
    layout = cache / _EDITION
    with (cache / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if layout.exists() and not _whole(layout):
            shutil.rmtree(layout)
        if not layout.exists():
            workshop = new_directory(cache)
            try:
                _build(workshop / "layout", workshop)
                (workshop / "layout").rename(layout)
            finally:
                remove(workshop)
    return _read(layout)


def _whole(layout: Path) -> bool:
    """Whether every blob is what its name says; a layout is renamed into place only when none is missing."""
    blobs = (layout / "blobs" / "sha256").iterdir()
    return all(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs)


def _read(layout: Path) -> Image:
    def load(descriptor: dict[str, Any]) -> dict[str, Any]:
        content = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
        return json.loads(content)  # type: ignore[no-any-return]  # JSON that this module wrote

    def blob(descriptor: dict[str, Any]) -> Blob:
        return Blob(descriptor["digest"], descriptor["size"], descriptor["mediaType"])

    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))["manifests"][0]
    manifest = load(index)["manifests"][0]
    parts = load(manifest)
    return Image(
        layout=layout,
        index=blob(index),
        manifest=blob(manifest),
        config=blob(parts["config"]),
        layers=tuple(blob(layer) for layer in parts["layers"]),
        diff_ids=tuple(load(parts["config"])["rootfs"]["diff_ids"]),
    )


def _build(layout: Path, workshop: Path) -> None:
    """Write the layout; everything temporary goes to `workshop`."""
    layout.mkdir()
    builder = _Builder(layout)
    layers = [
        builder.layer(_base_system(workshop)),
        builder.layer(_python_library(workshop / "python.tar")),
        builder.layer(_one_file(workshop / "weights.tar", "srv/weights", random.Random(1).randbytes(WEIGHTS_BYTES))),
        builder.layer(_one_file(workshop / "settings.tar", "etc/app.conf", b"greeting = hello\n")),
    ]
    platform = _debian_architecture()
    other = "s390x" if platform != "s390x" else "amd64"
    index = builder.json(
        _INDEX,
        {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [
                builder.manifest(platform, layers).descriptor(platform={"architecture": platform, "os": "linux"}),
                builder.manifest(other, layers[-1:]).descriptor(platform={"architecture": other, "os": "linux"}),
            ],
        },
    )
    named = index.descriptor(annotations={"org.opencontainers.image.ref.name": TAG})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}), encoding="utf-8")
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}), encoding="utf-8")


class _Builder:
    """Writes blobs into an OCI image layout."""

    def __init__(self, layout: Path) -> None:
        self._blobs = layout / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    def layer(self, archive: Path) -> tuple[Blob, str]:
        """Compress an archive into a layer; returns it and its diff id."""
        content = archive.read_bytes()
        packed = gzip.compress(content, compresslevel=1, mtime=0)
        return self._write(_LAYER, packed), "sha256:" + hashlib.sha256(content).hexdigest()

    def manifest(self, architecture: str, layers: list[tuple[Blob, str]]) -> Blob:
        config = self.json(
            _CONFIG,
            {
                "created": "1970-01-01T00:00:00Z",
                "architecture": architecture,
                "os": "linux",
                "config": {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/bash"]},
                "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
                "history": [{"created": "1970-01-01T00:00:00Z"} for _ in layers],
            },
        )
        return self.json(
            _MANIFEST,
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": config.descriptor(),
                "layers": [layer.descriptor() for layer, _ in layers],
            },
        )

    def json(self, media_type: str, value: object) -> Blob:
        return self._write(media_type, json.dumps(value).encode())

    def _write(self, media_type: str, content: bytes) -> Blob:
        name = hashlib.sha256(content).hexdigest()
        (self._blobs / name).write_bytes(content)
        return Blob("sha256:" + name, len(content), media_type)


def _base_system(workshop: Path) -> Path:
    root, archive = workshop / "root", workshop / "root.tar"
    _run("debootstrap", "--variant=minbase", "bookworm", str(root))
    left_out = [f"--exclude=./{path}/*" for path in _LEFT_OUT]
    _run("tar", "--directory", str(root), "--sort=name", "--numeric-owner", *left_out, "-cf", str(archive), ".")
    return archive


def _python_library(archive: Path) -> Path:
    """The standard library of the Python that runs the tests: many small files, as in an application's layer."""
    library = Path(sysconfig.get_paths()["stdlib"])
    with tarfile.open(archive, "w") as tar:
        for path in sorted(library.rglob("*.py")):
            inside = path.relative_to(library)
            if inside.parts[0] not in ("site-packages", "dist-packages", "test"):
                tar.add(path, f"srv/python/{inside}")
    return archive


def _one_file(archive: Path, name: str, content: bytes) -> Path:
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        tar.addfile(info, io.BytesIO(content))
    return archive


def _debian_architecture() -> str:
    name = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    return _ARCHITECTURES.get(name, name)


def _run(*args: str) -> None:
    subprocess.run(args, env={**os.environ, "PATH": PATH}, stdout=subprocess.DEVNULL, check=True)
