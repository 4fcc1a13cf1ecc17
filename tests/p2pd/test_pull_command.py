"""`p2pd pull` as it is used on a command line: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pd.cli.app import app
from tests.p2pd.pull_fixtures import AMD64, APP, ARM64, DIGESTS, FIVE, IMAGE, LAYERS, address, demand, spoil
from tests.support.images import make_image, make_index
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry


def run(registry: ImageRegistry, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    command = ["pull", "--mirror", str(address(registry)), *arguments]
    result = CliRunner(env={"DOCKER_CONFIG": "/nonexistent"}).invoke(app, command, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_it_gives_a_verdict_on_each_digest(registry: ImageRegistry) -> None:
    digest = registry.push(APP, "1", FIVE)
    code, out, _ = run(registry, IMAGE)

    assert code == 0
    assert out.count("ok   sha256:") == 7
    assert f"{IMAGE} is {digest}: 1.4MiB in " in out


def test_it_fails_when_a_verdict_is_bad(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    spoil(registry, DIGESTS[1])
    code, out, err = run(registry, IMAGE, "--quiet")

    assert (code, out) == (1, "")
    assert err.startswith(f"bad  {DIGESTS[1]}  its bytes are ")
    assert len(err.splitlines()) == 1


def test_it_prints_json(registry: ImageRegistry, tmp_path: Path) -> None:
    digest = registry.push(APP, "1", FIVE)
    code, out, _ = run(registry, IMAGE, "--json", "--to", str(tmp_path / "copy"))

    report = json.loads(out)
    assert (code, report["ok"], report["digest"]) == (0, True, digest)
    assert sorted(blob["size_bytes"] for blob in report["blobs"])[-5:] == [300_000] * 5


def test_it_reads_the_password_from_standard_input(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    demand(registry, "Basic")

    assert run(registry, IMAGE, "--quiet", "--username", "user", "--password-stdin", stdin="secret\n")[0] == 0
    assert run(registry, IMAGE, "--quiet", "--username", "user", "--password-stdin", stdin="other\n")[0] == 1


def test_a_refusal_says_how_to_log_in(registry: ImageRegistry) -> None:
    registry.push(APP, "1", FIVE)
    demand(registry, "Basic")
    code, _, err = run(registry, IMAGE)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "if it is private, `docker login 127.0.0.1:5000`, or give --username and --password-stdin" in err
    _, _, err = run(registry, IMAGE, "--username", "user", "--password-stdin", stdin="other\n")
    assert "127.0.0.1:5000 does not let user have it: is the password right?" in err


@asynchronous
async def test_it_says_what_came_from_where(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1", FIVE)
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:

        async def pulled(*more: str, admin: str = node.admin) -> str:
            argv = ["pull", "app:1", "--mirror", node.mirror, "--admin", admin, *more]
            runner = CliRunner(env={"DOCKER_CONFIG": "/nonexistent"})
            result = await asyncio.to_thread(runner.invoke, app, argv)
            assert result.exit_code == 0, result.output
            return result.stdout

        said = "meanwhile this node took {} from registries and 0B from neighbours; the rest it had"
        assert (await pulled()).splitlines()[-1] == said.format("1.4MiB")
        assert (await pulled()).splitlines()[-1] == said.format("0B")
        assert json.loads(await pulled("--json"))["sources"] == {"origin_bytes": 0, "peer_bytes": 0}
        for elsewhere in ("127.0.0.1:1", node.mirror):
            assert json.loads(await pulled("--json", admin=elsewhere))["sources"] is None


def test_it_chooses_the_platform(registry: ImageRegistry) -> None:
    images = (make_image(LAYERS[0], LAYERS[2]), make_image(LAYERS[1], LAYERS[2]))
    registry.push(APP, "1", make_index(*images, platforms=(AMD64, ARM64)))

    _, out, _ = run(registry, IMAGE, "--platform", "linux/arm64")
    assert DIGESTS[1] in out
    assert DIGESTS[0] not in out
    _, out, _ = run(registry, IMAGE, "--all-platforms")
    assert out.count("ok   ") == 8, "an index, two manifests, two configs, two layers and the layer of both"


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
def test_it_says_when_it_is_used_wrongly(registry: ImageRegistry, arguments: list[str]) -> None:
    code, _, err = run(registry, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_an_error_is_one_line(registry: ImageRegistry) -> None:
    registry.push(APP, "other", FIVE)
    code, out, err = run(registry, IMAGE)

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("p2pd: ")
