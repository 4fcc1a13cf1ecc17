"""Pulls through a real server on loopback: what is right, what is wrong, and what breaks on the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2pd.cli.pull_bars import PullBars
from p2pd.pull.client import MirrorError
from p2pd.pull.docker_config import Login
from p2pd.pull.image import NoProgress, PullError, PullProgress, PullReport, PullRequest, pull
from peer.errors import ForeignDirectoryError, ManifestError
from peer.oci.manifest import OCI_IMAGE, OCI_INDEX, Descriptor, Platform
from peer.oci.reference import Digest, parse_image_reference
from peer.origin.api import Credential
from peer.origin.layout import LayoutOrigin
from tests.p2pd.image_maker import AMD64, ARM64, IMAGE, LAYER_TYPE, LAYERS, UPSTREAM, ImageMaker, as_json, layer_digest
from tests.p2pd.mirror_server import TOKEN, MirrorServer, running
from tests.p2pd.pull_fakes import InstantClock, Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = Login("user", "secret")


@pytest.fixture
def maker(tmp_path: Path) -> ImageMaker:
    return ImageMaker(tmp_path / "origin")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MirrorServer]:
    with running(MirrorServer(LayoutOrigin(tmp_path / "origin", upstream=UPSTREAM))) as server:
        yield server


def pull_from(
    server: MirrorServer,
    *,
    image: str = IMAGE,
    to: Path | None = None,
    platform: Platform | None = AMD64,
    login: Login | None = None,
    progress: PullProgress | None = None,
    clock: InstantClock | None = None,
) -> PullReport:
    request = PullRequest(parse_image_reference(image), server.address, to, platform, login)
    return pull(request, progress or NoProgress(), clock=clock or InstantClock())


def bad_ones(report: PullReport) -> dict[str, str]:
    return {verdict.digest: verdict.error or "" for verdict in report.verdicts if not verdict.ok}


def blobs_of(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs" / "sha256").iterdir()}


def test_a_pull_judges_the_config_the_layers_and_the_manifest(server: MirrorServer, maker: ImageMaker) -> None:
    digest = maker.tag(maker.image(LAYERS))
    progress = Recorder()

    report = pull_from(server, progress=progress)

    assert report.ok
    assert (report.image, report.digest) == (IMAGE, digest)
    assert len(report.verdicts) == 7
    assert report.fetched_bytes == sum(verdict.size_bytes for verdict in report.verdicts)
    assert len(progress.layers) == 6
    assert progress.counts == {name: size for name, (size, _) in progress.layers.items()}
    assert progress.verdicts == dict.fromkeys(progress.layers, True)


def test_every_request_names_the_registry(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    pull_from(server)
    assert all(target.endswith("?ns=127.0.0.1%3A5000") for target, _, _ in server.requests)


def test_a_pull_into_a_directory_leaves_a_layout_that_serves_the_image(
    server: MirrorServer, maker: ImageMaker, tmp_path: Path
) -> None:
    digest = maker.tag(maker.image(LAYERS))

    assert pull_from(server, to=tmp_path / "copy").ok

    copy = LayoutOrigin(tmp_path / "copy", upstream=UPSTREAM)
    answer = copy.request("HEAD", "library/app/manifests/1", credential=Credential())
    assert answer.headers["docker-content-digest"] == digest
    assert copy.request("HEAD", "library/other/manifests/1", credential=Credential()).status == 404
    assert blobs_of(tmp_path / "copy") == blobs_of(tmp_path / "origin")


def test_what_the_layout_has_is_not_fetched_again_unless_it_is_wrong(
    server: MirrorServer, maker: ImageMaker, tmp_path: Path
) -> None:
    maker.tag(maker.image(LAYERS))
    pull_from(server, to=tmp_path / "copy")
    damaged = tmp_path / "copy" / "blobs" / "sha256" / layer_digest(maker, 2).removeprefix("sha256:")
    damaged.write_bytes(bytes(300_000))
    server.requests.clear()

    report = pull_from(server, to=tmp_path / "copy")

    assert report.ok
    assert [target.partition("?")[0] for target, _, _ in server.requests if "/blobs/" in target] == [
        f"/v2/library/app/blobs/{layer_digest(maker, 2)}"
    ]
    assert damaged.read_bytes() == LAYERS[2]


def test_images_that_a_layout_has_keep_their_names(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    maker.tag(maker.image(LAYERS[:1]), "1")
    maker.tag(maker.image(LAYERS[1:2]), "2")
    for tag in ("1", "2", "1"):
        pull_from(server, image=f"{UPSTREAM}/library/app:{tag}", to=tmp_path / "copy")

    copy = LayoutOrigin(tmp_path / "copy", upstream=UPSTREAM)
    tags = copy.request("GET", "library/app/tags/list", credential=Credential())
    assert json.loads(tags.body)["tags"] == ["1", "2"]
    assert len(json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]) == 2


@pytest.mark.parametrize(("platform", "number"), [(AMD64, 0), (ARM64, 1)])
def test_of_an_index_the_image_for_the_platform_is_pulled(
    server: MirrorServer, maker: ImageMaker, tmp_path: Path, platform: Platform, number: int
) -> None:
    images = {AMD64: maker.image(LAYERS[:1]), ARM64: maker.image(LAYERS[1:2]), None: maker.image(LAYERS[2:3])}
    digest = maker.tag(maker.index(images))

    report = pull_from(server, platform=platform, to=tmp_path / "copy")

    assert report.ok
    assert report.digest == digest
    listed = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [images[platform].digest]
    assert layer_digest(maker, number) in {verdict.digest for verdict in report.verdicts}
    assert len(report.verdicts) == 3


def test_all_platforms_are_pulled_with_the_index(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    images = {AMD64: maker.image(LAYERS[:2]), ARM64: maker.image(LAYERS[1:3])}
    digest = maker.tag(maker.index({AMD64: maker.index(images)}))

    report = pull_from(server, platform=None, to=tmp_path / "copy")

    assert report.ok
    assert blobs_of(tmp_path / "copy") == blobs_of(tmp_path / "origin")
    listed = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [digest]


def test_a_platform_that_is_not_there_is_told_with_those_that_are(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.index({AMD64: maker.image(LAYERS[:1])}))
    with pytest.raises(PullError, match="is not there for linux/arm64/v8; it is for: linux/amd64"):
        pull_from(server, platform=ARM64)


def test_indexes_within_indexes_have_an_end(server: MirrorServer, maker: ImageMaker) -> None:
    inner = maker.image(LAYERS[:1])
    for _ in range(6):
        inner = maker.index({AMD64: inner})
    maker.tag(inner)
    for platform in (AMD64, None):
        with pytest.raises(PullError, match="more than 4 deep"):
            pull_from(server, platform=platform)


def test_a_body_that_is_cut_short_goes_on_from_there(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    digest, clock, progress = layer_digest(maker, 0), InstantClock(), Recorder()
    server.faults.cuts[digest] = [100_000, 50_000]

    report = pull_from(server, clock=clock, progress=progress)

    assert report.ok
    assert server.asked_for(digest) == [None, "bytes=100000-", "bytes=150000-"]
    assert progress.counts[digest] == 300_000
    assert clock.waited_s == []


def test_a_mirror_that_ignores_the_range_is_read_from_the_start(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    digest, progress = layer_digest(maker, 0), Recorder()
    server.faults.cuts[digest] = [100_000]
    server.faults.ignores_range = True

    report = pull_from(server, progress=progress)

    assert report.ok
    assert progress.counts[digest] == 300_000


def test_a_range_that_was_not_asked_for_is_refused(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    digest = layer_digest(maker, 0)
    server.faults.cuts[digest] = [100_000]
    server.faults.headers = {"content-range": "bytes 5-299999/300000"}

    assert "another range came" in bad_ones(pull_from(server))[digest]


def test_a_body_that_always_ends_at_once_is_given_up(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    digest, clock = layer_digest(maker, 0), InstantClock()
    server.faults.cuts[digest] = [1000] + [0] * 5

    report = pull_from(server, clock=clock)

    assert "only 1000 of 300000 bytes came" in bad_ones(report)[digest]
    assert len(server.asked_for(digest)) == 6
    assert clock.waited_s == sorted(clock.waited_s)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_mirror_that_is_busy_is_asked_again(server: MirrorServer, maker: ImageMaker, status: int) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.statuses[layer_digest(maker, 0)] = [status] * 4

    assert pull_from(server).ok


def test_a_blob_that_cannot_be_had_leaves_the_others_and_no_name(
    server: MirrorServer, maker: ImageMaker, tmp_path: Path
) -> None:
    maker.tag(maker.image(LAYERS))
    digest = layer_digest(maker, 3)
    (tmp_path / "origin" / "blobs" / "sha256" / digest.removeprefix("sha256:")).unlink()

    report = pull_from(server, to=tmp_path / "copy")

    assert list(bad_ones(report)) == [digest]
    assert "404 " in bad_ones(report)[digest]
    assert not (tmp_path / "copy" / "index.json").exists()
    assert len(server.asked_for(digest)) == 1


def test_wrong_bytes_are_found_and_not_kept(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    maker.tag(maker.image(LAYERS))
    digest, progress = layer_digest(maker, 1), Recorder()
    server.faults.wrong.add(digest)

    report = pull_from(server, to=tmp_path / "copy", progress=progress)

    assert not report.ok
    assert bad_ones(report)[digest].startswith("its bytes are sha256:")
    assert progress.verdicts[digest] is False
    assert len(blobs_of(tmp_path / "copy")) == 5


def test_a_length_that_is_not_the_manifests_is_refused_unread(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    digest = layer_digest(maker, 1)
    server.faults.short.add(digest)

    assert "299999 bytes, and 300000 in the manifest" in bad_ones(pull_from(server))[digest]


def test_a_manifest_of_other_bytes_ends_the_pull(server: MirrorServer, maker: ImageMaker) -> None:
    digest = maker.tag(maker.image(LAYERS))
    server.faults.wrong |= {digest, "1"}

    for image in (IMAGE, f"{UPSTREAM}/library/app@{digest}"):
        with pytest.raises(PullError, match="its bytes are sha256:"):
            pull_from(server, image=image)


def test_what_is_no_manifest_ends_the_pull(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.headers = {"content-type": OCI_INDEX}
    with pytest.raises(ManifestError, match="manifest 1: the manifest says"):
        pull_from(server)


def test_a_tag_that_is_not_there_is_told_in_the_mirrors_words(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS), "other")
    with pytest.raises(MirrorError, match="library/app/manifests/1: 404 no manifest of the layout is named"):
        pull_from(server)


def test_an_image_by_digest_has_no_name_in_the_layout(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    digest = maker.tag(maker.image(LAYERS[:1]))
    for _ in range(2):
        pull_from(server, image=f"{UPSTREAM}/library/app@{digest}", to=tmp_path / "copy")

    listed = json.loads((tmp_path / "copy" / "index.json").read_text())["manifests"]
    assert [(entry["digest"], entry.get("annotations")) for entry in listed] == [(digest, None)]


def test_foreign_layers_are_skipped(server: MirrorServer, maker: ImageMaker) -> None:
    foreign = Descriptor(LAYER_TYPE, Digest("sha256:" + "0" * 64), 5)
    maker.tag(maker.image(LAYERS[:1], more_layers=(as_json(foreign, urls=["https://elsewhere.example/"]),)))

    report = pull_from(server)

    assert report.ok
    assert report.skipped == (foreign.digest,)


def test_an_empty_layer_is_right_without_a_request(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image([b""]))
    assert pull_from(server).ok


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_challenge_is_answered(server: MirrorServer, maker: ImageMaker, scheme: str) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.challenge = scheme

    assert pull_from(server, login=LOGIN).ok
    unauthorised = [target for target, _, authorization in server.requests if authorization is None]
    assert len(unauthorised) == 1, "the answer is remembered"
    if scheme == "Bearer":
        assert {shown for target, _, shown in server.requests if "/blobs/" in target} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
@pytest.mark.parametrize("login", [None, Login("user", "wrong")])
def test_a_challenge_without_the_right_answer_is_told(
    server: MirrorServer, maker: ImageMaker, scheme: str, login: Login | None
) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.challenge = scheme
    with pytest.raises(MirrorError, match="401 authentication required"):
        pull_from(server, login=login)


def test_no_credentials_go_to_a_token_server_outside_the_registrys_domain(
    server: MirrorServer, maker: ImageMaker
) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.challenge = "Bearer"
    server.faults.realm = "https://elsewhere.example/token"
    with pytest.raises(Exception, match=r"elsewhere\.example.* not in its domain"):
        pull_from(server, login=LOGIN)
    assert all(authorization is None for _, _, authorization in server.requests)


def test_a_mirror_that_is_not_there_is_told_at_once(server: MirrorServer) -> None:
    server.port = 1
    with pytest.raises(MirrorError, match="could not be connected to"):
        pull_from(server)


def test_an_interrupted_pull_ends_though_a_body_is_awaited(
    server: MirrorServer, maker: ImageMaker, tmp_path: Path
) -> None:
    maker.tag(maker.image(LAYERS))
    held, other = layer_digest(maker, 0), layer_digest(maker, 1)
    server.faults.held = {held: threading.Event()}

    class Interrupter(Recorder):
        def on_verdict(self, digest: str, ok: bool, seconds: float) -> None:
            super().on_verdict(digest, ok, seconds)
            if digest == other:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_from(server, progress=Interrupter(), to=tmp_path / "copy")
    assert not any(name.startswith(".") for name in blobs_of(tmp_path / "copy"))
    assert not server.faults.held[held].is_set()


def test_a_directory_of_something_else_is_left_alone(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    maker.tag(maker.image(LAYERS))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(ForeignDirectoryError, match="name another directory"):
        pull_from(server, to=tmp_path / "home")


def test_a_directory_that_cannot_be_written_is_told(server: MirrorServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PullError, match="cannot be written: Not a directory"):
        pull_from(server, to=tmp_path / "file" / "copy")


def test_a_layout_with_a_broken_index_is_left_alone(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    maker.tag(maker.image(LAYERS))
    pull_from(server, to=tmp_path / "copy")
    for content in ("{", json.dumps(as_json(Descriptor(OCI_IMAGE, Digest("sha256:" + "0" * 64), 1)))):
        (tmp_path / "copy" / "index.json").write_text(content)
        with pytest.raises(ManifestError, match=r"index\.json is broken, name another directory"):
            pull_from(server, to=tmp_path / "copy")


def test_the_bars_follow_a_pull(server: MirrorServer, maker: ImageMaker, capsys: pytest.CaptureFixture[str]) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.wrong.add(layer_digest(maker, 1))
    with PullBars() as bars:
        pull_from(server, progress=bars)

    shown = capsys.readouterr().err
    assert (shown.count(" ok"), shown.count(" bad")) == (5, 1)
    assert layer_digest(maker, 1)[7:19] in shown
