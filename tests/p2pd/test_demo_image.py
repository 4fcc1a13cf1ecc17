"""The image of the demonstration: what is in it fits together, and it is the same each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from p2pd.demo.image import DEFAULT_REFERENCE, BuiltImage, build_image
from peer.errors import ForeignDirectoryError, InvalidNameError
from peer.oci.manifest import parse_manifest
from peer.origin.api import Credential
from peer.origin.layout import LayoutOrigin

SIZE_BYTES = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def built(directory: Path) -> BuiltImage:
    return build_image(directory, size_bytes=SIZE_BYTES)


def blob(directory: Path, digest: str) -> bytes:
    return (directory / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_the_image_is_about_as_large_as_it_should_be(built: BuiltImage) -> None:
    assert 0.97 * SIZE_BYTES < built.size_bytes <= SIZE_BYTES


def test_every_blob_has_the_digest_and_the_size_that_is_said(built: BuiltImage, directory: Path) -> None:
    for descriptor in (built.manifest, built.config, *(layer.descriptor for layer in built.layers)):
        content = blob(directory, descriptor.digest)
        assert (sha256(content), len(content)) == (descriptor.digest, descriptor.size_bytes)


def test_the_manifest_names_the_config_and_the_layers(built: BuiltImage, directory: Path) -> None:
    manifest = parse_manifest(blob(directory, built.manifest.digest))

    assert manifest.children == (built.config, *(layer.descriptor for layer in built.layers))


def test_the_config_has_the_digests_of_the_archives(built: BuiltImage, directory: Path) -> None:
    config = json.loads(blob(directory, built.config.digest))
    archives = [gzip.decompress(blob(directory, layer.descriptor.digest)) for layer in built.layers]

    assert config["rootfs"] == {"type": "layers", "diff_ids": [sha256(archive) for archive in archives]}
    assert len(config["history"]) == len(built.layers)


def test_layers_have_files_of_nobody_and_no_time_in_order(built: BuiltImage, directory: Path) -> None:
    counts = []
    for layer in built.layers:
        with tarfile.open(fileobj=io.BytesIO(blob(directory, layer.descriptor.digest)), mode="r:gz") as archive:
            entries = archive.getmembers()
        counts.append(len(entries))
        assert all((entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "") for entry in entries)
        assert not any(entry.name.startswith("/") or ".." in entry.name.split("/") for entry in entries)
    assert counts[1] > 10, "Python's own library is on every machine that runs this"
    assert counts[-2:] == [1, 1]


def test_noise_does_not_compress(built: BuiltImage, directory: Path) -> None:
    noise = gzip.decompress(blob(directory, built.layers[-2].descriptor.digest))
    assert len(gzip.compress(noise, 1)) > 0.99 * len(noise)


def test_the_same_files_and_size_give_the_same_image(built: BuiltImage, tmp_path: Path) -> None:
    assert build_image(tmp_path, size_bytes=SIZE_BYTES) == built


def test_a_layout_that_is_built_again_names_the_new_image(tmp_path: Path) -> None:
    build_image(tmp_path, size_bytes=SIZE_BYTES // 3)
    built = build_image(tmp_path, size_bytes=SIZE_BYTES // 2)

    listed = json.loads((tmp_path / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [built.manifest.digest]


def test_the_layout_serves_the_image_by_its_reference(built: BuiltImage, directory: Path) -> None:
    assert built.reference == DEFAULT_REFERENCE == "docker.io/library/demo:1"
    origin = LayoutOrigin(directory, upstream="docker.io")
    answer = origin.request("HEAD", "library/demo/manifests/1", credential=Credential())

    assert answer.headers["docker-content-digest"] == built.manifest.digest


def test_nothing_unfinished_stays_behind(built: BuiltImage, directory: Path) -> None:
    names = [name for _, _, files in os.walk(directory) for name in files]
    assert not [name for name in names if name.startswith(".")]
    assert len(names) == len(built.layers) + 4, "config, manifest, index.json and oci-layout"


def test_a_wrong_reference_and_a_foreign_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError):
        build_image(tmp_path / "new", reference="NOT A NAME")
    assert not (tmp_path / "new").exists()
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(ForeignDirectoryError):
        build_image(tmp_path)
