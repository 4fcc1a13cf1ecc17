"""`p2pd configure` as an operator runs it, on the files below a root, and on a process that is called dockerd."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.cli.configure import serves_any_host
from p2pd.config.values import Address
from p2pd.configure import dockerd
from p2pd.configure.runtime import ConfigureError
from tests.p2pd.memory_tree import MemoryTree
from tests.support.registry_server import PATIENCE_S, Answering, RegistryServer


def run(root: Path, *arguments: str) -> Result:
    return CliRunner(env={"P2PD_CONFIG": ""}).invoke(app, ["configure", *arguments, "--root", str(root)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """p2pd's own configuration, outside of the root."""
    path = tmp_path / "p2pd.toml"
    path.write_text('mirror = "127.0.0.1:7000"\nupstream = ["docker.io=https://hub", "quay.io=https://quay"]\n')
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    daemon = tmp_path / "root/etc/docker/daemon.json"
    daemon.parent.mkdir(parents=True)
    daemon.write_text('{"debug": true}\n')
    return tmp_path / "root"


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def test_configuring_twice_and_undoing_twice(root: Path, config: Path) -> None:
    first = run(root, "docker", "--config", str(config))
    assert first.exit_code == 0
    assert "changed /etc/docker/daemon.json" in first.output
    assert "created /etc/docker/certs.d/quay.io/hosts.toml" in first.output
    assert "systemctl reload docker" in first.output
    assert "http://127.0.0.1:7000" in (root / "etc/docker/daemon.json").read_text()
    assert 'server = "https://quay"' in (root / "etc/docker/certs.d/quay.io/hosts.toml").read_text()

    second = run(root, "docker", "--config", str(config))
    assert second.exit_code == 0
    assert "docker is configured already; nothing was changed" in second.output

    assert "removed /etc/docker/certs.d/quay.io/hosts.toml" in run(root, "docker", "--undo").output
    assert (root / "etc/docker/daemon.json").read_text() == '{"debug": true}\n'
    assert not (root / "etc/docker/certs.d").exists()
    assert "nothing to undo" in run(root, "docker", "--undo").output


def test_what_another_tool_writes_is_no_failure_and_stays_when_ours_goes(root: Path, config: Path) -> None:
    assert run(root, "containerd", "--config", str(config)).exit_code == 0
    path = root / "etc/containerd/config.toml"
    path.write_text(path.read_text() + '\n[debug]\n  level = "debug"\n')
    again = run(root, "containerd", "--config", str(config))
    assert again.exit_code == 0
    assert "containerd is configured already; nothing was changed" in again.output

    undone = run(root, "containerd", "--undo")
    assert undone.exit_code == 0
    assert "note: /etc/containerd/config.toml was changed by somebody else: p2pd's part was taken out" in undone.output
    assert path.read_text() == 'version = 2\n\n[debug]\n  level = "debug"\n'


def test_a_dry_run_shows_the_difference_and_changes_nothing(root: Path, config: Path) -> None:
    before = snapshot(root)
    result = run(root, "docker", "--dry-run", "--config", str(config))
    assert result.exit_code == 0
    assert '+{"registry-mirrors": ["http://127.0.0.1:7000"], "debug": true}' in result.output
    assert "would be changed /etc/docker/daemon.json" in result.output
    assert snapshot(root) == before


def test_the_report_as_json(root: Path, config: Path) -> None:
    report = json.loads(run(root, "containerd", "--json", "--config", str(config)).stdout)
    assert report["runtime"] == "containerd"
    assert [(change["action"], change["path"]) for change in report["changes"]] == [
        ("created", "/etc/containerd/certs.d/docker.io/hosts.toml"),
        ("created", "/etc/containerd/certs.d/quay.io/hosts.toml"),
        ("created", "/etc/containerd/config.toml"),
    ]
    assert "restart containerd" in report["next"][0]
    assert json.loads(run(root, "containerd", "--json", "--undo").stdout)["changes"][0]["action"] == "removed"


def test_upstreams_may_be_named_or_given_whole(root: Path, config: Path) -> None:
    run(root, "docker", "--config", str(config), "--upstream", "quay.io", "--upstream", "ghcr.io")
    hosts = root / "etc/docker/certs.d"
    assert sorted(path.name for path in hosts.iterdir()) == ["ghcr.io", "quay.io"]
    assert 'server = "https://ghcr.io"' in (hosts / "ghcr.io/hosts.toml").read_text()
    assert 'server = "https://quay"' in (hosts / "quay.io/hosts.toml").read_text()

    result = run(root, "docker", "--upstream", "a.example=https://a", "--upstream", "docker.io=https://b")
    assert "docker.io to be the first upstream of p2pd (that is a.example)" in result.output
    assert sorted(path.name for path in hosts.iterdir()) == ["a.example", "docker.io"]


def test_the_mirrors_address_and_the_wildcard(root: Path) -> None:
    assert run(root, "containerd", "--mirror", "0.0.0.0:8000", "--all").exit_code == 0
    assert "127.0.0.1:8000" in (root / "etc/containerd/certs.d/_default/hosts.toml").read_text()


def test_all_is_for_a_mirror_that_serves_everything(root: Path, config: Path) -> None:
    default = root / "etc/containerd/certs.d/_default/hosts.toml"
    narrow = run(root, "containerd", "--all", "--config", str(config))
    assert "give it the upstream '*' too" in narrow.output
    assert default.exists()
    run(root, "containerd", "--undo")

    config.write_text('mirror = "127.0.0.1:7000"\nupstream = ["docker.io", "*"]\n')
    wide = run(root, "containerd", "--config", str(config))
    assert "note:" not in wide.output
    assert "http://127.0.0.1:7000" in default.read_text()
    assert (default.parent.parent / "docker.io").exists()
    assert not (default.parent.parent / "*").exists()
    run(root, "containerd", "--config", str(config), "--upstream", "docker.io")
    assert not default.exists()
    run(root, "containerd", "--upstream", "*")
    assert default.exists()

    podman = run(root, "podman", "--config", str(config))
    assert podman.exit_code == 0
    assert "podman asks the mirror for docker.io only" in podman.output


@pytest.mark.parametrize(
    ("body", "serves"),
    [
        (b'{"upstreams": ["docker.io", "*"]}', True),
        (b'{"upstreams": ["docker.io"]}', False),
        (b'{"upstreams": 3}', False),
        (b"{}", False),
        (b"not JSON", False),
    ],
)
def test_the_daemon_that_runs_here_says_whether_it_serves_everything(body: bytes, serves: bool) -> None:
    with RegistryServer() as daemon:
        daemon.script(Answering(200, body))
        assert serves_any_host(Address("127.0.0.1", daemon.port)) == serves
    assert not serves_any_host(Address("127.0.0.1", daemon.port))


def test_what_cannot_be_done_exits_with_1_and_changes_nothing(root: Path) -> None:
    (root / "etc/docker/daemon.json").write_text("{")
    before = snapshot(root)
    result = run(root, "docker")
    assert result.exit_code == 1
    assert "daemon.json is not JSON" in result.stderr
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["podman", "--all"], "podman has no way to mirror every registry"),
        (["docker", "--undo", "--mirror", "127.0.0.1:1"], "--undo puts back what was there"),
        (["docker", "--mirror", "127.0.0.1"], "expected an address"),
        (["docker", "--mirror", "127.0.0.1:0"], "port is not known"),
        (["docker", "--upstream", "../.."], "expected an upstream's name"),
        (["rkt"], "rkt"),
        (["dockr"], "Did you mean 'docker'?"),
        (["docker", "--config", "/nowhere/p2pd.toml"], "no such file"),
    ],
)
def test_what_is_used_wrongly_exits_with_2(root: Path, arguments: list[str], reason: str) -> None:
    before = snapshot(root)
    result = run(root, *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert snapshot(root) == before


def test_undo_works_whatever_the_configuration_says(root: Path, config: Path) -> None:
    run(root, "docker")
    config.write_text("nonsense = 1\n")
    assert run(root, "docker", "--undo", "--config", str(config)).exit_code == 0


# the running dockerd


@contextmanager
def a_process_called(name: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of that name that is really `cat`, which SIGHUP ends. It runs: it has given back what it was given."""
    cat = shutil.which("cat")
    assert cat is not None
    shutil.copy(cat, directory / name)
    with subprocess.Popen([directory / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write(b"\n")
        assert started.stdout.read(1) == b"\n"
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with a_process_called("dockerd", tmp_path) as started:
        yield started


def pidfile(content: object, path: str = dockerd.PIDFILE) -> dict[str, bytes]:
    return {path: f"{content}\n".encode()}


def test_dockerd_is_found_by_its_pidfile_and_signalled(process: subprocess.Popen[bytes]) -> None:
    found = dockerd.running(MemoryTree(pidfile(process.pid)))
    assert found is not None
    assert found.pid == process.pid
    dockerd.refuse_flags(found)
    assert dockerd.reload(found)
    assert process.wait(timeout=PATIENCE_S) == -signal.SIGHUP
    assert not dockerd.reload(found)
    assert dockerd.running(MemoryTree(pidfile(process.pid))) is None


def test_the_pidfile_may_be_named_in_daemon_json(process: subprocess.Popen[bytes]) -> None:
    files = {"/etc/docker/daemon.json": b'{"pidfile": "/run/other.pid"}', **pidfile(process.pid, "/run/other.pid")}
    found = dockerd.running(MemoryTree(files))
    assert found is not None
    assert found.pid == process.pid


def test_another_process_is_not_dockerd(tmp_path: Path) -> None:
    with a_process_called("other", tmp_path) as process:
        assert dockerd.running(MemoryTree(pidfile(process.pid))) is None
        assert not dockerd.reload(dockerd.Dockerd(process.pid, ()))
        assert process.poll() is None


@pytest.mark.parametrize("content", ["", "none", "-1"])
def test_a_pidfile_that_names_no_process_names_no_dockerd(content: str) -> None:
    assert dockerd.running(MemoryTree(pidfile(content))) is None
    assert dockerd.running(MemoryTree({"/etc/docker/daemon.json": b"{", **pidfile(content)})) is None


def test_mirrors_given_as_flags_are_told() -> None:
    with pytest.raises(ConfigureError, match="was started with --registry-mirror"):
        dockerd.refuse_flags(dockerd.Dockerd(1, ("dockerd", "--registry-mirror=https://a")))
