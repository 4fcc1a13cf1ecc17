"""An OCI image layout as an origin: the conformance suite, names in index.json, changes under our feet, ways out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from peer.errors import OriginBrokenError, OriginRefusedError, OriginUnreachableError
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX
from peer.origin.api import ContentRef, Kind
from peer.origin.layout import LayoutOrigin
from tests.peer.origin_conformance import (
    ABSENT,
    ANONYMOUS,
    CONTENT,
    LAYER,
    OriginConformance,
    descriptor_of,
    digest_of,
    read_all,
)

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


def write_blob(directory: Path, content: bytes) -> Path:
    path = directory / "blobs" / "sha256" / digest_of(content).removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def layer_path(directory: Path) -> Path:
    return directory / "blobs" / "sha256" / LAYER.digest.removeprefix("sha256:")


def listed(content: bytes, annotations: dict[str, str]) -> dict[str, object]:
    return descriptor_of(content, OCI_IMAGE) | {"annotations": annotations}


def named(*names: str) -> list[dict[str, object]]:
    return [listed(CONTENT.manifest, {REF_NAME: name}) for name in names]


def write_layout(directory: Path, manifests: list[dict[str, object]]) -> Path:
    """A layout of CONTENT whose index.json has `manifests`."""
    for content in (CONTENT.manifest, CONTENT.referrer, *CONTENT.blobs.values()):
        write_blob(directory, content)
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def tags_of(origin: LayoutOrigin, repository: str) -> list[str]:
    answer = origin.request("GET", f"{repository}/tags/list", credential=ANONYMOUS)
    return list(json.loads(answer.body)["tags"]) if answer.status == 200 else []


def open_origin(directory: Path, upstream: str = "docker.io") -> LayoutOrigin:
    return LayoutOrigin(directory, upstream=upstream)


class TestOneLayout(OriginConformance):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> LayoutOrigin:
        return open_origin(write_layout(tmp_path, [*named(*CONTENT.tags), listed(CONTENT.referrer, {})]))


class TestATreeOfLayouts(OriginConformance):
    @pytest.fixture
    def origin(self, tmp_path: Path) -> LayoutOrigin:
        write_layout(tmp_path / CONTENT.repository, [*named(*CONTENT.tags), listed(CONTENT.referrer, {})])
        return open_origin(tmp_path)


@pytest.mark.parametrize(
    ("name", "repositories"),
    [
        ("1", {"library/app", "app", "library/other"}),
        ("library/app:1", {"library/app"}),
        ("app:1", {"library/app", "app"}),
        ("docker.io/library/app:1", {"library/app"}),
        ("docker.io/app:1", {"library/app", "app"}),
        ("docker.io/library/other:1", {"library/other"}),
        ("reg.example/library/app:1", set()),
        ("not a name", set()),
        ("app:", set()),
        ("", set()),
    ],
)
def test_a_name_in_one_layout_names_these_repositories(tmp_path: Path, name: str, repositories: set[str]) -> None:
    origin = open_origin(write_layout(tmp_path, named(name)))

    known = {name for name in ("library/app", "app", "library/other") if tags_of(origin, name) == ["1"]}
    assert known == repositories


def test_on_other_registries_no_library_is_implied(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("reg.example/app:1", "other:2")), "reg.example")

    assert tags_of(origin, "app") == ["1"]
    assert tags_of(origin, "other") == ["2"]
    assert tags_of(origin, "library/app") == []


def test_a_tag_beside_a_full_name_belongs_to_that_name_only(tmp_path: Path) -> None:
    one = listed(CONTENT.manifest, {REF_NAME: "1", CONTAINERD_NAME: "docker.io/library/app:1"})
    other = listed(CONTENT.referrer, {REF_NAME: "1", CONTAINERD_NAME: "docker.io/library/other:1"})
    origin = open_origin(write_layout(tmp_path, [one, other]))

    for repository, content in (("library/app", CONTENT.manifest), ("library/other", CONTENT.referrer)):
        answer = origin.request("GET", f"{repository}/manifests/1", credential=ANONYMOUS)
        assert answer.headers["docker-content-digest"] == digest_of(content)
    assert tags_of(origin, "library/third") == []


def test_index_json_is_read_again_when_it_changes(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    assert tags_of(origin, "app") == ["1"]

    write_layout(tmp_path, named("1", "2"))
    assert tags_of(origin, "app") == ["1", "2"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schemaVersion": 2}', " " * (4 * 1024 * 1024 + 1)])
def test_a_broken_index_json_is_unreachable_and_says_what_to_do(tmp_path: Path, content: str) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    (tmp_path / "index.json").write_text(content)

    with pytest.raises(OriginUnreachableError, match=r"index\.json is not an image index, write the layout again"):
        origin.request("GET", "app/manifests/1", credential=ANONYMOUS)


def test_a_directory_that_is_not_there_is_unreachable_until_it_is(tmp_path: Path) -> None:
    origin = open_origin(tmp_path / "later")
    with pytest.raises(OriginUnreachableError, match="check --upstream"):
        origin.request("GET", "", credential=ANONYMOUS)

    write_layout(tmp_path / "later", named("1"))
    assert tags_of(origin, "app") == ["1"]


def test_one_layout_without_an_index_json_is_unreachable(tmp_path: Path) -> None:
    write_layout(tmp_path, []).joinpath("index.json").unlink()
    with pytest.raises(OriginUnreachableError, match=r"no index\.json"):
        open_origin(tmp_path).request("GET", "app/manifests/1", credential=ANONYMOUS)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("library/absent/manifests/1", 404, "NAME_UNKNOWN"),
        ("library/absent/tags/list", 404, "NAME_UNKNOWN"),
        (f"library/absent/blobs/{LAYER.digest}", 404, "BLOB_UNKNOWN"),
        ("library/app/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
        (f"library/app/manifests/{LAYER.digest}", 404, "MANIFEST_UNKNOWN"),
        ("library/app/blobs/sha256:totallywrong", 400, "DIGEST_INVALID"),
        ("library/app/referrers/wrong", 400, "DIGEST_INVALID"),
        ("library/app/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID"),
        ("../app/manifests/1", 400, "NAME_INVALID"),
        ("library/../../app/blobs/" + LAYER.digest, 400, "NAME_INVALID"),
        ("library/app/blobs/..", 400, "DIGEST_INVALID"),
        ("library/app/tags/other", 404, "UNSUPPORTED"),
        ("_catalog", 404, "UNSUPPORTED"),
    ],
)
def test_what_a_layout_refuses(tmp_path: Path, path: str, status: int, code: str) -> None:
    write_layout(tmp_path / "library" / "app", named("1"))
    answer = open_origin(tmp_path).request("GET", path, credential=ANONYMOUS)

    assert answer.status == status
    assert json.loads(answer.body)["errors"][0]["code"] == code
    assert answer.headers["content-length"] == str(len(answer.body))


def test_referrers_are_filtered_by_their_type(tmp_path: Path) -> None:
    origin = open_origin(
        write_layout(tmp_path, [listed(CONTENT.referrer, {}), listed(b"of which the blob is missing", {})])
    )
    path = f"app/referrers/{digest_of(CONTENT.manifest)}?artifactType="

    all_of_it = origin.request("GET", path + "application/x-signature", credential=ANONYMOUS)
    none = origin.request("GET", path + "application/x-other", credential=ANONYMOUS)

    assert [found["artifactType"] for found in json.loads(all_of_it.body)["manifests"]] == ["application/x-signature"]
    assert json.loads(none.body)["manifests"] == []
    assert none.headers["oci-filters-applied"] == "artifactType"


def test_a_manifest_below_a_listed_index_has_its_own_type(tmp_path: Path) -> None:
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor_of(CONTENT.manifest, OCI_IMAGE)]}).encode()
    origin = open_origin(write_layout(tmp_path, [descriptor_of(index, OCI_INDEX) | {"annotations": {REF_NAME: "1"}}]))
    write_blob(tmp_path, index)

    for reference, media_type in (("1", OCI_INDEX), (digest_of(CONTENT.manifest), OCI_IMAGE)):
        answer = origin.request("HEAD", f"app/manifests/{reference}", credential=ANONYMOUS)
        assert answer.headers["content-type"] == media_type


@pytest.mark.parametrize("at", ["blob", "folder", "algorithm"])
def test_symbolic_links_are_not_followed(tmp_path: Path, at: str) -> None:
    outside = write_layout(tmp_path / "outside", named("1"))
    inside = write_layout(tmp_path / "inside", named("1"))
    place = {"blob": layer_path(inside), "folder": inside / "blobs" / "sha256", "algorithm": inside / "blobs"}[at]
    place.rename(tmp_path / "moved")
    place.symlink_to(outside / place.relative_to(inside))
    origin = open_origin(inside)

    assert origin.request("HEAD", f"app/blobs/{LAYER.digest}", credential=ANONYMOUS).status == 404
    with pytest.raises(OriginRefusedError, match="symbolic links are not followed"):
        origin.open(LAYER, 0, None, credential=ANONYMOUS)


def test_a_repository_that_is_a_symbolic_link_is_unknown(tmp_path: Path) -> None:
    outside = write_layout(tmp_path / "outside", named("1"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "app").symlink_to(outside)

    answer = open_origin(tmp_path / "tree").request("GET", "app/manifests/1", credential=ANONYMOUS)
    assert answer.status == 404


def test_what_is_no_regular_file_is_no_blob(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    layer_path(tmp_path).unlink()
    os.mkfifo(layer_path(tmp_path))

    with pytest.raises(OriginRefusedError) as refusal:
        origin.open(LAYER, 0, None, credential=ANONYMOUS)
    assert refusal.value.status == 404


@pytest.mark.parametrize("length", [0, 100_000, 300_001])
def test_a_blob_whose_length_changes_is_broken(tmp_path: Path, length: int) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    with origin.open(LAYER, 0, None, credential=ANONYMOUS) as body:
        assert body.readinto(memoryview(bytearray(1000))) == 1000
        os.truncate(layer_path(tmp_path), length)
        with pytest.raises(OriginBrokenError, match=f"from 300000 to {length} bytes"):
            read_all(body)


def test_an_empty_blob_comes_whole(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    write_blob(tmp_path, b"")
    with origin.open(ContentRef("app", digest_of(b"")), 0, None, credential=ANONYMOUS) as body:
        assert (body.stop, body.size_bytes, read_all(body)) == (0, 0, b"")


def test_to_open_a_blob_as_a_manifest_is_refused(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    with pytest.raises(OriginRefusedError) as refusal:
        origin.open(ContentRef("app", LAYER.digest, Kind.MANIFEST), 0, None, credential=ANONYMOUS)
    assert refusal.value.status == 404


def test_a_blob_that_is_too_large_for_an_answer_is_not_read(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    os.truncate(layer_path(tmp_path), 8 * 1024 * 1024 + 1)
    with pytest.raises(OriginUnreachableError, match="too many for one small answer"):
        origin.request("GET", f"app/blobs/{LAYER.digest}", credential=ANONYMOUS)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    origin = open_origin(write_layout(tmp_path, named("1")))
    before = open_descriptors()
    for path in ("", "app/manifests/1", f"app/blobs/{LAYER.digest}", f"app/blobs/{ABSENT}", "app/tags/list"):
        origin.request("GET", path, credential=ANONYMOUS)
    with pytest.raises(OriginRefusedError):
        origin.open(LAYER, 10**9, None, credential=ANONYMOUS)
    origin.open(LAYER, 5, None, credential=ANONYMOUS).close()

    assert open_descriptors() == before
