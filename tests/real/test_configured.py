"""What `p2pd configure` writes, read by the real runtimes: in files of its own, and in an operator's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.real.containerd import Containerd
from tests.real.dockerd import Dockerd
from tests.real.image import Image
from tests.real.machine import configured
from tests.real.node import Node, StartNode
from tests.real.origin import Origin
from tests.real.paths import new_directory
from tests.real.podman import Podman
from tests.real.programs import ProgramError, environment, run
from tests.real.skopeo import Skopeo, digests

REGISTRY = "registry.invalid:5001"
"""No client can reach it but by way of p2pd: the name does not exist (RFC 2606)."""
REFERENCE = f"{REGISTRY}/library/light:1"


@pytest.fixture
def node(start_node: StartNode, origin: Origin) -> Node:
    return start_node("docker.io=http://127.0.0.1:1", f"{REGISTRY}={origin.url}")


NOBODY = 65534


@pytest.fixture
def registries(place: Path, node: Node) -> str:
    root = configured(place / "machine", "podman", node.mirror, upstreams=[REGISTRY])
    return (root / "etc/containers/registries.conf.d/90-p2pd.conf").read_text()


def test_podman_pulls_from_a_registry_with_a_port(
    place: Path, registries: str, origin: Origin, light_image: Image
) -> None:
    podman = Podman(place, registries)
    podman.pull(REFERENCE)
    assert f"sha256:{podman.inspect(REFERENCE)['Id']}" == light_image.config.digest
    assert origin.blob_requests()


def test_skopeo_copies_from_a_registry_with_a_port(place: Path, registries: str, light_image: Image) -> None:
    assert digests(Skopeo(place, registries).copy(REFERENCE)) == light_image.digests


def test_podman_of_a_user_reads_it_too(
    place: Path, node: Node, light_image: Image, request: pytest.FixtureRequest
) -> None:
    """In /etc; a user with a registries.conf of their own needs it beside that, as docs/configure.md says.

    skopeo finds the file as podman does, by the same library, and needs no ids for a user's containers.
    """
    written = configured(place / "machine", "podman", node.mirror, upstreams=[REGISTRY]) / "etc/containers"
    home = new_directory()  # the test's own is below one that other users do not see into
    request.addfinalizer(lambda: shutil.rmtree(home))

    def copy(name: str) -> set[str]:
        for each in [home, *home.rglob("*")]:
            os.chown(each, NOBODY, NOBODY)
        user = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
        skopeo = f"skopeo --insecure-policy copy --quiet docker://{REFERENCE} dir:{home / name}"
        script = f"mount --bind {written} /etc/containers && exec {user} {skopeo}"
        run(["unshare", "--mount", "sh", "-c", script], environment(home))
        return digests(home / name)

    assert copy("etc") == light_image.digests
    (own := home / ".config/containers").mkdir(parents=True)
    (own / "registries.conf").touch()
    with pytest.raises(ProgramError, match=REGISTRY):
        copy("own")
    shutil.copytree(written / "registries.conf.d", own / "registries.conf.d")
    assert copy("beside") == light_image.digests


def test_containerd_asks_the_mirror_for_every_registry(
    place: Path, node: Node, containerd: Containerd, origin: Origin, light_image: Image
) -> None:
    root = configured(place / "machine", "containerd", node.mirror, wildcard=True)
    containerd.pull(REFERENCE, hosts=root / "etc/containerd/certs.d")
    assert containerd.digests() == {light_image.index.digest, *light_image.digests}
    assert origin.blob_requests()


OPERATORS = """\
[[registry]]
location = "registry.invalid:5001"

# near
[[registry.mirror]]
location = "127.0.0.1:1/cache"
insecure = true

[[registry]]
prefix = "registry.invalid:5001/library"
location = "registry.invalid:5001/library"
"""


@pytest.mark.parametrize("runtime", ["podman", "crio"])
def test_the_mirror_is_asked_first_among_an_operators_own(
    place: Path, node: Node, runtime: str, origin: Origin, light_image: Image
) -> None:
    path = "/etc/containers/registries.conf"
    root = configured(place / "machine", runtime, node.mirror, upstreams=[REGISTRY], files={path: OPERATORS})
    assert digests(Skopeo(place, (root / path.removeprefix("/")).read_text()).copy(REFERENCE)) == light_image.digests
    assert origin.blob_requests()


CONFIG = "/etc/containerd/config.toml"
CRI = '[plugins."io.containerd.grpc.v1.cri"'
CONFIGS = [
    pytest.param(None, id="none"),
    pytest.param("", id="empty"),
    pytest.param('# mine\nversion = 2\nroot = "/srv" # big\n', id="without the plugin"),
    pytest.param(f'version = 2\n{CRI}]\n  sandbox_image = "a"\n  {CRI}.registry]\n', id="an empty table"),
    pytest.param(f'version = 2\n{CRI}]\nregistry = {{ config_path = "" }}\n', id="an inline table"),
    pytest.param(
        f'version = 2\n{CRI}.registry]\nconfig_path = "/etc/containerd/certs.d:/etc/docker/certs.d"\n', id="a list"
    ),
]


@pytest.mark.parametrize("text", CONFIGS)
def test_containerd_reads_its_config_toml_and_what_another_tool_adds(
    programs: None, place: Path, text: str | None
) -> None:
    files = {CONFIG: text} if text is not None else {}
    root = configured(place / "machine", "containerd", "127.0.0.1:65001", files=files)
    config = root / CONFIG.removeprefix("/")
    for tool in ("nvidia", "crun"):
        dump = run(["containerd", "--config", str(config), "config", "dump"], environment(place))
        assert '"/etc/containerd/certs.d"' in next(line for line in dump.splitlines() if "config_path" in line)
        config.write_text(f"{config.read_text()}\n{CRI}.containerd.runtimes.{tool}]\n  runtime_type = 'x'\n")
        configured(root, "containerd", "127.0.0.1:65001")
    assert "nvidia" in config.read_text()


def test_dockerd_reads_its_daemon_json(dockerd: Dockerd, mirror_port: int) -> None:
    assert dockerd.mirrors() == [f"http://127.0.0.1:{mirror_port}"]
