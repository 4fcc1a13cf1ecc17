"""Manifests from outside: what is read from them, what is refused, and that no bytes raise anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import ManifestError
from peer.oci.descriptor import Platform
from peer.oci.manifest import (
    DOCKER_IMAGE,
    DOCKER_INDEX,
    DOCKER_SCHEMA_1,
    DOCKER_SCHEMA_1_SIGNED,
    MAX_DESCRIPTORS,
    MAX_MANIFEST_BYTES,
    OCI_IMAGE,
    OCI_INDEX,
    ManifestKind,
    is_manifest_type,
    manifest_type,
    parse_manifest,
)

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
"""Of a draft of OCI 1.1: such a manifest has no `schemaVersion`."""


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def descriptor(number: int, media_type: str = LAYER_TYPE, **more: object) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(number), "size": number, **more}


def image(**more: object) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "config": descriptor(1, CONFIG_TYPE),
        "layers": [descriptor(2), descriptor(3)],
        **more,
    }


def index(**more: object) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": "arm", "variant": "v7"}
    manifests = [descriptor(1, OCI_IMAGE, platform=platform), descriptor(2, OCI_IMAGE)]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **more}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("media_type", [OCI_IMAGE, DOCKER_IMAGE])
def test_an_images_children_are_its_config_and_then_its_layers(media_type: str) -> None:
    manifest = parse_manifest(encoded(image(mediaType=media_type)), media_type)

    assert manifest.kind is ManifestKind.IMAGE
    assert manifest.media_type == media_type
    assert [child.digest for child in manifest.children] == [digest(1), digest(2), digest(3)]
    assert [child.size_bytes for child in manifest.children] == [1, 2, 3]
    assert [child.media_type for child in manifest.children] == [CONFIG_TYPE, LAYER_TYPE, LAYER_TYPE]


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
def test_an_indexs_children_are_its_manifests_with_their_platforms(media_type: str) -> None:
    manifest = parse_manifest(encoded(index(mediaType=media_type)))

    assert manifest.kind is ManifestKind.INDEX
    assert [child.platform for child in manifest.children] == [Platform("linux", "arm", "v7"), None]
    assert str(manifest.children[0].platform) == "linux/arm/v7"


@pytest.mark.parametrize(("document", "media_type"), [(image(), OCI_IMAGE), (index(), OCI_INDEX)])
def test_the_type_comes_from_the_document_from_the_header_or_from_the_fields(
    document: dict[str, Any], media_type: str
) -> None:
    without = {key: value for key, value in document.items() if key != "mediaType"}

    assert parse_manifest(encoded(document), None).media_type == media_type
    assert parse_manifest(encoded(document), f"{media_type.upper()}; charset=utf-8").media_type == media_type
    assert parse_manifest(encoded(without), media_type).media_type == media_type
    assert parse_manifest(encoded(without), None).media_type == media_type


def test_two_types_that_differ_are_refused() -> None:
    with pytest.raises(ManifestError, match="came as"):
        parse_manifest(encoded(image()), DOCKER_IMAGE)


def test_a_referrer_has_a_subject_an_artifact_type_and_annotations() -> None:
    body = encoded(image(subject=descriptor(9, OCI_IMAGE), artifactType="a/signature", annotations={"k": "v"}))
    manifest = parse_manifest(body)

    assert manifest.subject is not None
    assert manifest.subject.digest == digest(9)
    assert manifest.artifact_type == "a/signature"
    assert manifest.annotations == {"k": "v"}


def test_an_image_without_an_artifact_type_has_its_configs_type_for_one() -> None:
    assert parse_manifest(encoded(image())).artifact_type == CONFIG_TYPE
    assert parse_manifest(encoded(index())).artifact_type is None


def test_layers_that_a_registry_need_not_have_are_kept_and_marked() -> None:
    layers = [
        descriptor(2),
        descriptor(3, urls=["https://elsewhere.example/layer"]),
        descriptor(4, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        descriptor(5, "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
    ]

    children = parse_manifest(encoded(image(layers=layers))).children

    assert [child.foreign for child in children] == [False, False, True, True, True]


def test_a_list_that_a_go_program_wrote_as_null_is_empty() -> None:
    assert parse_manifest(encoded(index(manifests=None, annotations=None))).children == ()


def test_of_a_key_that_occurs_twice_the_last_value_counts() -> None:
    body = encoded(image()).replace(b'"schemaVersion": 2', b'"schemaVersion": 7, "schemaVersion": 2')

    assert parse_manifest(body) == parse_manifest(encoded(image()))


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"schemaVersion": 1, "name": "library/old", "fsLayers": []}, None),
        ({"name": "library/old"}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+json"}, None),
    ],
)
def test_schema_1_is_refused_with_what_to_do(document: object, content_type: str | None) -> None:
    with pytest.raises(ManifestError, match="schema 1 is not supported: push it again"):
        parse_manifest(encoded(document), content_type)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a JSON object"),
        ({}, "schemaVersion"),
        (image(schemaVersion="2"), "schemaVersion"),
        (image(mediaType="application/json"), "not a manifest or an index"),
        (image(mediaType="no type"), "not a media type"),
        (image(mediaType=5), "not a string"),
        (image(manifests=[]), "an image must not have `manifests`"),
        (image(fsLayers=[]), "an image must not have `fsLayers`"),
        (index(layers=[]), "an index must not have `layers`"),
        (index(config={}), "an index must not have `config`"),
        (image(config=None), "config is not a JSON object"),
        (image(layers={"a": 1}), "`layers` is not a list"),
        (image(layers=["x"]), r"layers\[0\] is not a JSON object"),
        (image(layers=[{}]), r"layers\[0\] has no `mediaType`"),
        (image(layers=[descriptor(1) | {"digest": 7}]), r"digest of layers\[0\] is not a string"),
        (image(layers=[descriptor(1) | {"digest": "sha512:" + "0" * 64}]), "sha512"),
        (image(layers=[descriptor(1) | {"digest": "../../etc/passwd"}]), "lower-case"),
        (image(layers=[descriptor(1) | {"size": -1}]), "whole number"),
        (image(layers=[descriptor(1) | {"size": 2**63}]), "whole number"),
        (image(layers=[descriptor(1) | {"size": 1.0}]), "whole number"),
        (image(layers=[descriptor(1) | {"size": True}]), "whole number"),
        (image(layers=[descriptor(1) | {"size": None}]), "whole number"),
        (image(subject="x"), "subject is not a JSON object"),
        (image(annotations=[1]), "`annotations` of the manifest"),
        (image(annotations={"k": 1}), "not a string"),
        (image(annotations={"k": "\ud800"}), "not Unicode text"),
        (index(manifests=[descriptor(1, OCI_IMAGE, platform="linux")]), "platform"),
        (index(manifests=[descriptor(1, OCI_IMAGE, platform={"os": "a b"})]), "short words"),
        (index(manifests=[descriptor(1, OCI_IMAGE)] * (MAX_DESCRIPTORS + 1)), "10001 descriptors"),
    ],
)
def test_what_is_wrong_is_named(document: object, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(encoded(document))


def test_a_missing_list_is_named() -> None:
    document = image()
    del document["layers"]
    with pytest.raises(ManifestError, match="`layers` is missing"):
        parse_manifest(encoded(document))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[" * 1_000_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xef\xbb\xbf{}", b"NaN"],
    ids=["nothing", "no UTF-8", "deep lists", "deep objects", "a long number", "a byte order mark", "NaN"],
)
def test_bytes_that_are_no_document_are_refused(body: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(body)


def test_a_manifest_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(ManifestError, match="larger than 4194304"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))


@given(st.binary(), st.none() | st.text())
def test_any_bytes_are_a_manifest_or_a_manifest_error(body: bytes, content_type: str | None) -> None:
    with pytest.raises(ManifestError):  # a valid manifest is not found by chance
        parse_manifest(body, content_type)


_KEYS = st.sampled_from(
    [
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "platform",
        "os",
        "annotations",
    ]
)
_WORDS = st.sampled_from([OCI_IMAGE, OCI_INDEX, LAYER_TYPE, digest(1), "linux"]) | st.text(max_size=5)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(max_size=5), inner, max_size=6),
    max_leaves=25,
)


@given(st.sampled_from([image(), index()]), st.dictionaries(_KEYS, _JSON, max_size=3))
def test_any_document_is_a_manifest_or_a_manifest_error(document: dict[str, Any], changes: dict[str, Any]) -> None:
    try:
        manifest = parse_manifest(encoded(document | changes))
    except ManifestError:
        return
    assert all(0 <= child.size_bytes < 2**63 for child in manifest.children)
    assert str(manifest).encode()


@given(st.sampled_from([image(), index()]), st.data())
def test_a_document_with_damaged_bytes_is_a_manifest_or_a_manifest_error(
    document: dict[str, Any], data: st.DataObject
) -> None:
    body = bytearray(encoded(document))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_manifest(bytes(body))
    except ManifestError:
        return


@pytest.mark.parametrize(
    ("document", "content_type", "expected"),
    [
        (image(), None, OCI_IMAGE),
        (image(), OCI_IMAGE, OCI_IMAGE),
        (image(), f"{OCI_IMAGE}; charset=utf-8", OCI_IMAGE),
        (image(), "text/html", OCI_IMAGE),
        (image(), "application/octet-stream", OCI_IMAGE),
        (image(mediaType=None), "application/json", OCI_IMAGE),
        (index(mediaType=None), "", OCI_INDEX),
        ({"schemaVersion": 9}, "application/vnd.example.thing.v9+json", "application/vnd.example.thing.v9+json"),
        ({"schemaVersion": 1, "fsLayers": []}, "application/json", DOCKER_SCHEMA_1),
        ({"schemaVersion": 1, "signatures": []}, "application/json", DOCKER_SCHEMA_1_SIGNED),
        ({"schemaVersion": 1}, DOCKER_SCHEMA_1_SIGNED, DOCKER_SCHEMA_1_SIGNED),
        ({"mediaType": OCI_ARTIFACT, "blobs": []}, OCI_ARTIFACT, OCI_ARTIFACT),
        ({"mediaType": OCI_ARTIFACT, "blobs": []}, None, OCI_ARTIFACT),
    ],
)
def test_the_type_of_any_manifest(document: dict[str, Any], content_type: str | None, expected: str) -> None:
    assert manifest_type(encoded(document), content_type) == expected
    assert is_manifest_type(expected)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><html></html>",
        b"[1]",
        b"null",
        b'"schemaVersion"',
        b"{}",
        b'{"errors": [{"code": "DENIED"}]}',
        b'{"mediaType": "text/html"}',
        b'{"schemaVersion": true}',
        b'{"schemaVersion": "2"}',
        b'{"architecture": "amd64", "rootfs": {"type": "layers"}}',
        encoded(image())[:-1],
        b"\x1f\x8b" + encoded(image()),
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
)
def test_what_is_no_manifest_has_no_type(body: bytes) -> None:
    for content_type in (None, OCI_IMAGE, "text/html"):
        with pytest.raises(ManifestError):
            manifest_type(body, content_type)


@given(st.binary(), st.none() | st.text())
def test_any_bytes_have_a_manifests_type_or_none(body: bytes, content_type: str | None) -> None:
    with pytest.raises(ManifestError):
        manifest_type(body, content_type)
