"""What served manifests say of the blobs below them, and that the oldest of it is forgotten first."""

from __future__ import annotations

import json

import pytest

from peer.errors import ManifestError
from peer.oci.manifest import DOCKER_SCHEMA_1, OCI_IMAGE
from proxy import known_manifests
from proxy.known_manifests import KnownManifests
from tests.proxy.direct import place
from tests.support.images import Image, digest_of, make_image

LAYER = b"layer"
IMAGE = make_image(LAYER)
HERE, ELSEWHERE = place("library/app"), place("library/other")


def read(known: KnownManifests, image: Image) -> None:
    manifest = known.read(HERE, image.digest, image.manifest, OCI_IMAGE)
    assert manifest is not None
    assert [child.digest for child in manifest.children] == [digest_of(blob) for blob in image.blobs]


def test_a_manifest_describes_its_children() -> None:
    known = KnownManifests()
    assert known.descriptor(HERE, digest_of(LAYER)) is None
    read(known, IMAGE)
    layer = known.descriptor(HERE, digest_of(LAYER))
    assert layer is not None
    assert layer.size_bytes == len(LAYER)
    assert known.media_type(HERE, IMAGE.digest) == OCI_IMAGE
    assert known.media_type(HERE, digest_of(LAYER)) == ""


def test_it_describes_them_in_its_own_repository_alone() -> None:
    known = KnownManifests()
    read(known, IMAGE)
    assert known.descriptor(ELSEWHERE, digest_of(LAYER)) is None
    assert known.read(ELSEWHERE, IMAGE.digest, IMAGE.manifest, OCI_IMAGE) is not None
    assert known.descriptor(ELSEWHERE, digest_of(LAYER)) == known.descriptor(HERE, digest_of(LAYER))


def test_what_is_not_understood_describes_nothing() -> None:
    known = KnownManifests()
    body = json.dumps({"schemaVersion": 1, "layers": [1]}).encode()
    assert known.read(HERE, digest_of(body), body, "application/json") is None
    assert known.media_type(HERE, digest_of(body)) == DOCKER_SCHEMA_1


def test_what_is_no_manifest_is_not_remembered_as_one() -> None:
    known = KnownManifests()
    for body in (b"no JSON", b"[]", b'{"errors": [{"code": "DENIED"}]}', IMAGE.config, IMAGE.manifest[:-9]):
        with pytest.raises(ManifestError):
            known.read(HERE, digest_of(body), body, OCI_IMAGE)
        assert known.media_type(HERE, digest_of(body)) == ""


def test_the_least_recently_read_is_forgotten_first() -> None:
    known = KnownManifests()
    images = [make_image(b"%d" % number) for number in range(known_manifests.MAX_MANIFESTS)]
    for image in [*images, images[0], IMAGE]:
        read(known, image)
    assert known.media_type(HERE, images[0].digest) == known.media_type(HERE, IMAGE.digest) == OCI_IMAGE
    assert known.media_type(HERE, images[1].digest) == ""


def test_descriptors_are_bounded_too() -> None:
    known = KnownManifests()
    count = 10_000
    for number in range(known_manifests.MAX_DESCRIPTORS // count + 1):
        layers = [
            {"mediaType": "a/b", "digest": digest_of(b"%d %d" % (number, layer)), "size": layer}
            for layer in range(count)
        ]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": layers[0], "layers": layers}).encode()
        assert known.read(HERE, digest_of(body), body, OCI_IMAGE) is not None
    assert known.descriptor(HERE, digest_of(b"0 0")) is None
    assert known.descriptor(HERE, digest_of(b"%d %d" % (number, count - 1))) is not None
