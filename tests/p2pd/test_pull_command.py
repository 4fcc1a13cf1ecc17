"""`p2pd pull` as it is used on a command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from p2pd.cli.app import app
from peer.origin.layout import LayoutOrigin
from tests.p2pd.image_maker import AMD64, ARM64, IMAGE, LAYERS, UPSTREAM, ImageMaker, layer_digest
from tests.p2pd.mirror_server import MirrorServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def maker(tmp_path: Path) -> ImageMaker:
    return ImageMaker(tmp_path / "origin")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MirrorServer]:
    with running(MirrorServer(LayoutOrigin(tmp_path / "origin", upstream=UPSTREAM))) as server:
        yield server


def run(server: MirrorServer, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    command = ["pull", "--mirror", str(server.address), *arguments]
    result = CliRunner(env={"DOCKER_CONFIG": "/nonexistent"}).invoke(app, command, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_it_gives_a_verdict_on_each_digest(server: MirrorServer, maker: ImageMaker) -> None:
    digest = maker.tag(maker.image(LAYERS))
    code, out, _ = run(server, IMAGE)

    assert code == 0
    assert out.count("ok   sha256:") == 7
    assert f"{IMAGE} is {digest}: 1.4MiB in " in out


def test_it_fails_when_a_verdict_is_bad(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.wrong.add(layer_digest(maker, 1))
    code, out, err = run(server, IMAGE, "--quiet")

    assert (code, out) == (1, "")
    assert err.startswith(f"bad  {layer_digest(maker, 1)}  its bytes are ")
    assert len(err.splitlines()) == 1


def test_it_prints_json(server: MirrorServer, maker: ImageMaker, tmp_path: Path) -> None:
    digest = maker.tag(maker.image(LAYERS))
    code, out, _ = run(server, IMAGE, "--json", "--to", str(tmp_path / "copy"))

    report = json.loads(out)
    assert (code, report["ok"], report["digest"]) == (0, True, digest)
    assert sorted(blob["size_bytes"] for blob in report["blobs"])[-5:] == [300_000] * 5


def test_it_reads_the_password_from_standard_input(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS))
    server.faults.challenge = "Basic"

    assert run(server, IMAGE, "--quiet", "--username", "user", "--password-stdin", stdin="secret\n")[0] == 0
    assert run(server, IMAGE, "--quiet", "--username", "user", "--password-stdin", stdin="other\n")[0] == 1


def test_it_chooses_the_platform(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.index({AMD64: maker.image(LAYERS[:1]), ARM64: maker.image(LAYERS[1:2])}))

    _, out, _ = run(server, IMAGE, "--platform", "linux/arm64")
    assert layer_digest(maker, 1) in out
    assert layer_digest(maker, 0) not in out
    _, out, _ = run(server, IMAGE, "--all-platforms")
    assert out.count("ok   ") == 6, "an index, two manifests, the config of both, two layers"


@pytest.mark.parametrize(
    "arguments",
    [
        ["NOT AN IMAGE"],
        [IMAGE, "--username", "user"],
        [IMAGE, "--password-stdin"],
        [IMAGE, "--platform", "linux"],
        [IMAGE, "--platform", "linux/arm64", "--all-platforms"],
        [IMAGE, "--mirror", "65001"],
    ],
)
def test_it_says_when_it_is_used_wrongly(server: MirrorServer, arguments: list[str]) -> None:
    code, _, err = run(server, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_an_error_is_one_line(server: MirrorServer, maker: ImageMaker) -> None:
    maker.tag(maker.image(LAYERS), "other")
    code, out, err = run(server, IMAGE)

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("p2pd: ")
