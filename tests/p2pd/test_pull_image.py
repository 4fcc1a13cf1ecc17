"""Pulls through a real server on loopback: what is right, what is wrong, and what breaks on the way."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from p2pd.cli.pull_bars import PullBars
from p2pd.pull.docker_config import Login
from p2pd.pull.image import NoProgress, PullProgress, PullReport, PullRequest, pull
from p2pd.pull.mirror import PullError
from peer.errors import ForeignDirectoryError, ManifestError, OriginUnreachableError
from peer.oci.descriptor import Descriptor, Platform
from peer.oci.digest import Digest
from peer.oci.documents import GZIP_LAYER_TYPE, as_json
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX
from peer.oci.reference import parse_image_reference
from peer.origin.api import Credential
from peer.origin.layout import LayoutOrigin
from tests.p2pd.pull_fixtures import (
    AMD64,
    APP,
    ARM64,
    DIGESTS,
    FIVE,
    IMAGE,
    LAYERS,
    PASSWORD,
    TOKEN,
    UPSTREAM,
    USERNAME,
    Recorder,
    address,
    blob_path,
    cut_after,
    demand,
    names_of,
    spoil,
)
from tests.peer.origin_fixtures import StillClock
from tests.support.images import Image, Index, make_image, make_index
from tests.support.registry import ImageRegistry
from tests.support.registry_server import HANG, PATIENCE_S, Answering, demand_bearer, in_turn

LOGIN = Login(USERNAME, PASSWORD)


def pull_from(
    registry: ImageRegistry,
    *,
    image: str = IMAGE,
    to: Path | None = None,
    platform: Platform | None = AMD64,
    login: Login | None = None,
    progress: PullProgress | None = None,
    clock: StillClock | None = None,
) -> PullReport:
    request = PullRequest(parse_image_reference(image), address(registry), to, platform, login)
    return pull(request, progress or NoProgress(), clock=clock or StillClock())


def bad_ones(report: PullReport) -> dict[str, str]:
    return {verdict.digest: verdict.error or "" for verdict in report.verdicts if not verdict.ok}


def blobs_of(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs" / "sha256").iterdir()}


def test_a_pull_judges_the_config_the_layers_and_the_manifest(registry: ImageRegistry) -> None:
    digest = registry.push(APP, "1", FIVE)
    progress = Recorder()

    report = pull_from(registry, progress=progress)

    assert report.ok
    assert (report.image, report.digest) == (IMAGE, digest)
    assert len(report.verdicts) == 7
    assert report.fetched_bytes == sum(verdict.size_bytes for verdict in report.verdicts)
    assert len(progress.layers) == 6
    assert progress.counts == {name: size for name, (size, _) in progress.layers.items()}
    assert progress.verdicts == dict.fromkeys(progress.layers, True)


def test_every_request_names_the_registry(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    pull_from(registry)
    assert all(seen.target.endswith("?ns=127.0.0.1%3A5000") for seen in registry.seen)


def test_a_pull_into_a_directory_leaves_a_layout_that_serves_the_image(registry: ImageRegistry, tmp_path: Path) -> None:
    digest = registry.push(APP, "1", FIVE)

    assert pull_from(registry, to=tmp_path / "copy").ok

    copy = LayoutOrigin(tmp_path / "copy", upstream=UPSTREAM)
    answer = copy.request("HEAD", "library/app/manifests/1", credential=Credential())
    assert answer.headers["docker-content-digest"] == digest
    assert copy.request("HEAD", "library/other/manifests/1", credential=Credential()).status == 404
    assert blobs_of(tmp_path / "copy") == names_of(FIVE)


def test_what_the_layout_has_is_not_fetched_again_unless_it_is_wrong(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    pull_from(registry, to=tmp_path / "copy")
    damaged = tmp_path / "copy" / "blobs" / "sha256" / DIGESTS[2].removeprefix("sha256:")
    damaged.write_bytes(bytes(300_000))
    registry.seen.clear()

    report = pull_from(registry, to=tmp_path / "copy")

    assert report.ok
    assert [seen.path for seen in registry.seen if "/blobs/" in seen.path] == [blob_path(DIGESTS[2])]
    assert damaged.read_bytes() == LAYERS[2]


def test_images_that_a_layout_has_keep_their_names(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", make_image(LAYERS[0]))
    registry.push(APP, "2", make_image(LAYERS[1]))
    for tag in ("1", "2", "1"):
        pull_from(registry, image=f"{UPSTREAM}/library/app:{tag}", to=tmp_path / "copy")

    copy = LayoutOrigin(tmp_path / "copy", upstream=UPSTREAM)
    tags = copy.request("GET", "library/app/tags/list", credential=Credential())
    assert json.loads(tags.body)["tags"] == ["1", "2"]
    assert len(json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]) == 2


@pytest.mark.parametrize(("platform", "number"), [(AMD64, 0), (ARM64, 1)])
def test_of_an_index_the_image_for_the_platform_is_pulled(
    registry: ImageRegistry, tmp_path: Path, platform: Platform, number: int
) -> None:
    images = [make_image(layer) for layer in LAYERS[:3]]
    digest = registry.push(APP, "1", make_index(*images, platforms=(AMD64, ARM64, None)))

    report = pull_from(registry, platform=platform, to=tmp_path / "copy")

    assert report.ok
    assert report.digest == digest
    listed = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [images[number].digest]
    assert DIGESTS[number] in {verdict.digest for verdict in report.verdicts}
    assert len(report.verdicts) == 3


def test_all_platforms_are_pulled_with_the_index(registry: ImageRegistry, tmp_path: Path) -> None:
    images = make_index(make_image(*LAYERS[:2]), make_image(*LAYERS[1:3]), platforms=(AMD64, ARM64))
    outer = make_index(images, platforms=[AMD64])
    digest = registry.push(APP, "1", outer)

    report = pull_from(registry, platform=None, to=tmp_path / "copy")

    assert report.ok
    assert blobs_of(tmp_path / "copy") == names_of(outer)
    listed = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [digest]


def test_a_platform_that_is_not_there_is_told_with_those_that_are(registry: ImageRegistry) -> None:
    registry.push(APP, "1", make_index(make_image(LAYERS[0]), platforms=[AMD64]))
    with pytest.raises(PullError, match="is not there for linux/arm64/v8; it is for: linux/amd64"):
        pull_from(registry, platform=ARM64)


def test_indexes_within_indexes_have_an_end(registry: ImageRegistry) -> None:
    inner: Image | Index = make_image(LAYERS[0])
    for _ in range(6):
        inner = make_index(inner, platforms=[AMD64])
    registry.push(APP, "1", inner)
    for platform in (AMD64, None):
        with pytest.raises(PullError, match="more than 4 deep"):
            pull_from(registry, platform=platform)


def test_a_body_that_is_cut_short_goes_on_from_there(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    digest, clock, progress = DIGESTS[0], StillClock(), Recorder()
    registry.rules[blob_path(digest)] = in_turn(cut_after(registry, 100_000), cut_after(registry, 70_000))

    report = pull_from(registry, clock=clock, progress=progress)

    assert report.ok
    assert registry.ranges(digest) == [None, "bytes=100000-299999", "bytes=170000-299999"]
    assert progress.counts[digest] == 300_000
    assert clock.waits == []


def test_a_mirror_that_ignores_the_range_is_read_from_the_start(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    digest, progress = DIGESTS[0], Recorder()
    registry.rules[blob_path(digest)] = in_turn(cut_after(registry, 100_000))
    registry.ignores_range = True

    report = pull_from(registry, progress=progress)

    assert report.ok
    assert progress.counts[digest] == 300_000


def test_a_range_that_was_not_asked_for_is_asked_for_again_without(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    digest = DIGESTS[0]
    other = Answering(206, LAYERS[0][100_000:], {"Content-Range": "bytes 5-299999/300000"})
    registry.rules[blob_path(digest)] = in_turn(cut_after(registry, 100_000), other)

    assert pull_from(registry).ok
    assert registry.ranges(digest) == [None, "bytes=100000-299999", None]


def test_a_body_that_always_ends_at_once_is_given_up(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    digest, clock = DIGESTS[0], StillClock()
    registry.rules[blob_path(digest)] = in_turn(cut_after(registry, 1000), *[cut_after(registry, 0)] * 5)

    report = pull_from(registry, clock=clock)

    assert "broke at byte 1000 of 300000, and 5 resumes in a row brought next to nothing" in bad_ones(report)[digest]
    assert len(registry.ranges(digest)) == 6
    assert len(clock.waits) == 4, "each resume after the first waits"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_mirror_that_is_busy_is_asked_again(registry: ImageRegistry, status: int) -> None:
    registry.push(APP, "1", FIVE)
    registry.rules[blob_path(DIGESTS[0])] = in_turn(*[Answering(status)] * 4)

    assert pull_from(registry).ok


def test_a_blob_that_cannot_be_had_leaves_the_others_and_no_name(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    digest = DIGESTS[3]
    del registry.blobs[blob_path(digest)]

    report = pull_from(registry, to=tmp_path / "copy")

    assert list(bad_ones(report)) == [digest]
    assert "404 " in bad_ones(report)[digest]
    assert not (tmp_path / "copy" / "index.json").exists()
    assert len(registry.ranges(digest)) == 1


def test_wrong_bytes_are_found_and_not_kept(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    digest, progress = DIGESTS[1], Recorder()
    spoil(registry, digest)

    report = pull_from(registry, to=tmp_path / "copy", progress=progress)

    assert not report.ok
    assert bad_ones(report)[digest].startswith("its bytes are sha256:")
    assert progress.verdicts[digest] is False
    assert len(blobs_of(tmp_path / "copy")) == 5


def test_a_length_that_is_not_the_manifests_is_refused_unread(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    digest = DIGESTS[1]
    registry.blobs[blob_path(digest)] = LAYERS[1][:-1]

    assert "299999 bytes, and 300000 in the manifest" in bad_ones(pull_from(registry))[digest]


def test_a_manifest_of_other_bytes_ends_the_pull(registry: ImageRegistry) -> None:
    digest = registry.push(APP, "1", FIVE)
    wrong = Answering(200, b"[" + FIVE.manifest[1:], {"Docker-Content-Digest": digest})
    for reference in ("1", digest):
        registry.rules[f"/v2/{APP}/manifests/{reference}"] = wrong

    for image in (IMAGE, f"{UPSTREAM}/library/app@{digest}"):
        with pytest.raises(PullError, match="its bytes are sha256:"):
            pull_from(registry, image=image)


def test_what_is_no_manifest_ends_the_pull(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    registry.rules[f"/v2/{APP}/manifests/1"] = Answering(200, FIVE.manifest, {"Content-Type": OCI_INDEX})
    with pytest.raises(ManifestError, match="manifest 1: the manifest says"):
        pull_from(registry)


def test_a_tag_that_is_not_there_is_told_in_the_mirrors_words(registry: ImageRegistry) -> None:
    registry.push(APP, "other", FIVE)
    with pytest.raises(PullError, match="library/app/manifests/1: 404 the registry says so"):
        pull_from(registry)


def test_an_image_by_digest_has_no_name_in_the_layout(registry: ImageRegistry, tmp_path: Path) -> None:
    digest = registry.push(APP, "1", make_image(LAYERS[0]))
    for _ in range(2):
        pull_from(registry, image=f"{UPSTREAM}/library/app@{digest}", to=tmp_path / "copy")

    listed = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
    assert [(entry["digest"], entry.get("annotations")) for entry in listed] == [(digest, None)]


def test_foreign_layers_are_skipped(registry: ImageRegistry) -> None:
    foreign = Descriptor(GZIP_LAYER_TYPE, Digest("sha256:" + "0" * 64), 5)
    registry.push(APP, "1", make_image(LAYERS[0], foreign=[foreign]))

    report = pull_from(registry)

    assert report.ok
    assert report.skipped == (foreign.digest,)


def test_an_empty_layer_is_right_without_a_request(registry: ImageRegistry) -> None:
    registry.push(APP, "1", make_image(b""))
    assert pull_from(registry).ok


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_challenge_is_answered(registry: ImageRegistry, scheme: str) -> None:
    registry.push(APP, "1", FIVE)
    demand(registry, scheme)

    assert pull_from(registry, login=LOGIN).ok
    unauthorised = [seen for seen in registry.seen if "authorization" not in seen.headers]
    assert len(unauthorised) == 1, "the answer is remembered"
    if scheme == "Bearer":
        assert {seen.headers["authorization"] for seen in registry.seen if "/blobs/" in seen.path} == {TOKEN}
        (asked,) = [seen.target for seen in registry.seen if seen.path == "/token"]
        assert parse_qs(urlsplit(asked).query)["scope"] == ["repository:library/app:pull"]


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
@pytest.mark.parametrize("login", [None, Login("user", "wrong")])
def test_a_challenge_without_the_right_answer_is_told(
    registry: ImageRegistry, scheme: str, login: Login | None
) -> None:
    registry.push(APP, "1", FIVE)
    demand(registry, scheme)
    with pytest.raises(PullError, match="401 the registry says so"):
        pull_from(registry, login=login)


def test_no_credentials_go_to_a_token_server_outside_the_registrys_domain(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    registry.rule = demand_bearer("https://elsewhere.example/token", set())
    with pytest.raises(OriginUnreachableError, match=r"elsewhere\.example.* not in its domain"):
        pull_from(registry, login=LOGIN)
    assert all("authorization" not in seen.headers for seen in registry.seen)


def test_a_mirror_that_is_not_there_is_told_at_once(registry: ImageRegistry) -> None:
    registry.port, clock = 1, StillClock()
    with pytest.raises(OriginUnreachableError, match=r"//127\.0\.0\.1:1 could not be connected to .*; see whether"):
        pull_from(registry, clock=clock)
    assert clock.waits == []


def test_an_interrupted_pull_ends_though_a_body_is_awaited(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    held, other = DIGESTS[0], DIGESTS[1]
    registry.rules[blob_path(held)] = HANG

    class Interrupter(Recorder):
        def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:
            super().on_verdict(digest, ok, seconds)
            if digest == other:
                assert registry.hanging.wait(PATIENCE_S)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_from(registry, progress=Interrupter(), to=tmp_path / "copy")
    assert not any(name.startswith(".") for name in blobs_of(tmp_path / "copy"))


def test_a_directory_of_something_else_is_left_alone(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(ForeignDirectoryError, match="name another directory"):
        pull_from(registry, to=tmp_path / "home")


def test_a_directory_that_cannot_be_written_is_told(registry: ImageRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PullError, match="cannot be written: Not a directory"):
        pull_from(registry, to=tmp_path / "file" / "copy")


def test_a_layout_with_a_broken_index_is_left_alone(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    pull_from(registry, to=tmp_path / "copy")
    for content in ("{", json.dumps(as_json(Descriptor(OCI_IMAGE, Digest("sha256:" + "0" * 64), 1)))):
        (tmp_path / "copy" / "index.json").write_text(content)
        with pytest.raises(ManifestError, match=r"index\.json is broken, name another directory"):
            pull_from(registry, to=tmp_path / "copy")


def test_the_bars_follow_a_pull(registry: ImageRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    registry.push(APP, "1", FIVE)
    spoil(registry, DIGESTS[1])
    with PullBars() as bars:
        pull_from(registry, progress=bars)

    shown = capsys.readouterr().err
    assert (shown.count(" ok"), shown.count(" bad")) == (5, 1)
    assert DIGESTS[1][7:19] in shown
