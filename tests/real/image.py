"""A real image: Debian's base system, a Python library, a model's weights and a configuration file, one layer each.

It is made once for a machine, kept as an OCI image layout in the user's cache, and used again as long as it is whole.
Like most images on Docker Hub it is an index; only the manifest for this machine's platform is what runtimes pull.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sysconfig
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pd.pull.layout_writer import REF_NAME, LayoutWriter
from peer.oci.descriptor import Descriptor
from peer.oci.documents import CONFIG_TYPE, GZIP_LAYER_TYPE, as_json, image_config, image_index, image_manifest
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX, parse_manifest
from tests.real.packages import PATH
from tests.real.paths import kept, new_directory

REPOSITORY: Final = "library/app"
LIGHT: Final = "library/light"
TAG: Final = "1"
WEIGHTS_BYTES: Final = 32 * 1024 * 1024

_EDITION: Final = "image-2"
"""Change this when what is built changes: the cached image of another edition is not used."""

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
class Image:
    """The image in `layout`: `index` names `manifest`, which names `config` and `layers`.

    `diff_ids` are the digests of the layers unpacked, by which dockerd and podman know them.
    """

    layout: Path
    index: Descriptor
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
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
    def weights(self) -> Descriptor:
        """The layer of random bytes."""
        return self.layers[2]


def real_image() -> Image:
    """The image, from the cache or made now (half a minute). Raises CalledProcessError when debootstrap fails."""
    return _read(kept(_EDITION, _build, _whole))


def _whole(layout: Path) -> bool:
    """Whether every blob is what its name says; a layout is renamed into place only when none is missing."""
    blobs = (layout / "blobs" / "sha256").iterdir()
    return all(hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name for blob in blobs)


def _read(layout: Path) -> Image:
    def load(blob: Descriptor) -> bytes:
        return (layout / "blobs" / blob.digest.replace(":", "/")).read_bytes()

    index = parse_manifest((layout / "index.json").read_bytes()).children[0]
    manifest = parse_manifest(load(index)).children[0]
    config, *layers = parse_manifest(load(manifest)).children
    diff_ids = json.loads(load(config))["rootfs"]["diff_ids"]
    return Image(layout, index, manifest, config, tuple(layers), tuple(diff_ids))


def small_image(directory: Path, content: bytes) -> Image:
    """An image that has one file, made now in a new directory below `directory`."""
    workshop = new_directory(directory)
    layout = workshop / "layout"
    _write_image(layout, [_one_file(workshop / "file.tar", "srv/content", content)])
    return _read(layout)


def _build(workshop: Path) -> Path:
    """Write the layout, and everything temporary, below `workshop`."""
    archives = [
        _base_system(workshop),
        _python_library(workshop / "python.tar"),
        _one_file(workshop / "weights.tar", "srv/weights", _weights()),
        _one_file(workshop / "settings.tar", "etc/app.conf", b"greeting = hello\n"),
    ]
    layout = workshop / "layout"
    _write_image(layout, archives)
    return layout


def _write_image(directory: Path, archives: Sequence[Path]) -> None:
    """Write a layout with one image: a layer of each archive for this platform, the last one for another."""
    layout = LayoutWriter(directory)
    layers = [_write_layer(layout, archive) for archive in archives]
    here = _debian_architecture()
    manifests = [
        as_json(
            _write_manifest(layout, architecture, layers if architecture == here else layers[-1:]),
            platform={"architecture": architecture, "os": "linux"},
        )
        for architecture in (here, "s390x" if here != "s390x" else "amd64")
    ]
    layout.name(layout.write_json(OCI_INDEX, image_index(manifests)), {REF_NAME: TAG})


def _write_layer(layout: LayoutWriter, archive: Path) -> tuple[Descriptor, str]:
    """Compress an archive into a layer; returns it and its diff id."""
    content = archive.read_bytes()
    packed = gzip.compress(content, compresslevel=1, mtime=0)
    layer = Descriptor(GZIP_LAYER_TYPE, layout.write(packed), len(packed))
    return layer, "sha256:" + hashlib.sha256(content).hexdigest()


def _write_manifest(layout: LayoutWriter, architecture: str, layers: list[tuple[Descriptor, str]]) -> Descriptor:
    config = image_config(
        [diff_id for _, diff_id in layers],
        architecture=architecture,
        created="1970-01-01T00:00:00Z",
        config={"Env": [f"PATH={PATH}"], "Cmd": ["/bin/bash"]},
        history=[{"created": "1970-01-01T00:00:00Z"} for _ in layers],
    )
    manifest = image_manifest(layout.write_json(CONFIG_TYPE, config), [layer for layer, _ in layers])
    return layout.write_json(OCI_IMAGE, manifest)


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


def _weights() -> bytes:
    return random.Random(1).randbytes(WEIGHTS_BYTES)


def _debian_architecture() -> str:
    name = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    return _ARCHITECTURES.get(name, name)


def _run(*args: str) -> None:
    subprocess.run(args, env={**os.environ, "PATH": PATH}, stdout=subprocess.DEVNULL, check=True)
