"""The init containers of the chart, run as they are rendered: p2pd with the node's files mounted as in the pod.

The pod's root is read-only, and the node's directories that the chart mounts are all that can be written. Both are made
of mounts in a namespace of the test's own.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.real.helm import Helm, Object, named
from tests.support.registry_server import PATIENCE_S

RUNTIMES: Final = {
    "containerd": ("etc/containerd/config.toml", "# ours\nversion = 2\n[plugins]\n", "etc/containerd/certs.d"),
    "crio": ("etc/containers/registries.conf", '# ours\nunqualified-search-registries = ["docker.io"]\n', "127.0.0.1"),
    "docker": ("etc/docker/daemon.json", '{ "log-level": "warn" }\n', "127.0.0.1:65001"),
    "k3s": ("etc/rancher/k3s/registries.yaml", "# ours\nmirrors:\n  ghcr.io: {}\n", "127.0.0.1:65001"),
    "rke2": ("etc/rancher/rke2/registries.yaml", "# ours\nmirrors:\n  ghcr.io: {}\n", "127.0.0.1:65001"),
}
"""A file of each runtime as an operator has it."""

GPU: Final = '\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]\n  runtime_type = "x"\n'


class Machine:
    """A node: its files are below `root`."""

    def __init__(self, directory: Path) -> None:
        self.root, self._directory = directory / "node", directory
        self.root.mkdir()
        self.message = directory / "termination-log"
        (directory / "bin").mkdir()
        self.p2pd(f'exec {shlex.quote(sys.executable)} -m p2pd "$@"')

    def p2pd(self, script: str) -> None:
        """What the program p2pd is."""
        (program := self._directory / "bin" / "p2pd").write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def write(self, path: str, text: str) -> Path:
        (file := self.root / path).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def files(self) -> dict[str, bytes]:
        """All that is there, but p2pd's own notes of what to put back."""
        found = (file for file in self.root.rglob("*") if file.is_file())
        return {str(file.relative_to(self.root)): file.read_bytes() for file in found}

    def run(
        self, container: Object, spec: Object, config: Mapping[str, str], timeout_s: float = PATIENCE_S
    ) -> tuple[int, str]:
        """A container of a pod: its exit code, and what it says. `/host` and the like are below a root of its own."""
        pod = self._directory / "pod"
        pod.mkdir(exist_ok=True)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        steps = [f"mount -t tmpfs pod {pod}"]
        places = {}
        for mount in container["volumeMounts"]:
            place = places[mount["mountPath"]] = f"{pod}{mount['mountPath']}"
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                source = self._directory / "config"
                source.mkdir(exist_ok=True)
                for name, text in config.items():
                    (source / name).write_text(text)
            else:
                source = self.root / volume["hostPath"]["path"].lstrip("/")
                source.mkdir(parents=True, exist_ok=True)  # DirectoryOrCreate
            steps.append(f"mkdir -p {place} && mount --bind {source} {place}")
        steps.append(f"mkdir -p {pod}/host && mount -o remount,ro {pod}")
        self.message.write_text("")

        def here(word: str) -> str:
            for at in ("/var/lib/p2pd ", "/host"):
                word = f"{word} ".replace(at, f"{pod}{at}").rstrip(" ") if at in f"{word} " else word
            return word.replace("/dev/termination-log", str(self.message))

        # The image's entry point is p2pd.
        argv = [*container.get("command", ["p2pd"]), *container.get("args", [])]
        steps.append("exec " + shlex.join(here(word) for word in argv))
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(steps)],
            env={
                "PATH": f"{self._directory / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "P2PD_CONFIG": f"{pod}/etc/p2pd/p2pd.toml",
            },
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        return done.returncode, done.stdout


class Chart:
    """What the chart runs on a machine."""

    def __init__(self, helm: Helm, machine: Machine, **runtime: object) -> None:
        objects = helm.objects({"runtime": runtime})
        self._machine = machine
        self._node, self._undo = (
            named(objects, "DaemonSet", name)["spec"]["template"]["spec"] for name in ("p2pd", "p2pd-undo")
        )
        self._config = named(objects, "ConfigMap", "p2pd")["data"]

    def configure(self, *, patience_s: float = 60) -> str:
        """What the node's pod does first. It succeeds always; returned is the container's message."""
        (container,) = [each for each in self._node["initContainers"] if each["name"] == "configure"]
        (script,) = container["args"]
        quicker = {**container, "args": [script.replace("timeout 60 ", f"timeout {patience_s} ")]}
        assert quicker != container or patience_s == 60
        code, said = self._machine.run(quicker, self._node, self._config)
        assert code == 0, said
        message = self._machine.message.read_text()
        assert message in said
        return message

    def undo(self, name: str = "undo") -> tuple[int, str]:
        (container,) = [each for each in self._undo["initContainers"] if each["name"] == name]
        return self._machine.run(container, self._undo, self._config)


@pytest.fixture
def machine(place: Path) -> Machine:
    return Machine(place)


@pytest.mark.parametrize("kind", RUNTIMES)
def test_every_runtime_is_configured_and_undone(helm: Helm, machine: Machine, kind: str) -> None:
    path, text, written = RUNTIMES[kind]
    machine.write(path, text)
    before = machine.files()
    chart = Chart(helm, machine, kind=kind)
    message = chart.configure()
    assert "does not use the mirror" not in message
    assert "next: " in message, "what has to be restarted is said"
    assert any(written in content.decode(errors="replace") for content in machine.files().values())
    assert chart.undo()[0] == 0
    assert machine.files() == before


def test_another_tool_changed_the_file_since(helm: Helm, machine: Machine) -> None:
    path, text, _ = RUNTIMES["containerd"]
    file = machine.write(path, text)
    chart = Chart(helm, machine, kind="containerd")
    chart.configure()
    file.write_text(file.read_text() + GPU)
    assert "nothing was changed" in chart.configure()
    assert chart.undo()[0] == 0
    assert file.read_text() == text + GPU


def test_what_cannot_be_configured_is_said_and_the_pod_starts(helm: Helm, machine: Machine) -> None:
    """config_path is a directory that the pod does not have; with it, the same is configured and undone."""
    text = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/opt/certs.d"\n'
    machine.write("etc/containerd/config.toml", text)
    machine.write("opt/certs.d/ghcr.io/hosts.toml", 'server = "https://ghcr.io"\n')
    before = machine.files()
    message = Chart(helm, machine, kind="containerd").configure()
    assert "containerd does not use the mirror: exit code 1" in message
    assert "/opt/certs.d" in message
    assert machine.files() == before

    chart = Chart(helm, machine, kind="containerd", directories=["/opt/certs.d"])
    assert "created /opt/certs.d/docker.io/hosts.toml" in chart.configure()
    assert chart.undo()[0] == 0
    assert machine.files() == before


@pytest.mark.parametrize(
    ("script", "patience_s", "said"),
    [
        ("sleep 600", 0.5, "exit code 124"),
        ("kill -9 $$", 60, "exit code 137"),
        (r"printf 'C:\\new\n' >&2; exit 1", 60, "exit code 1\nC:\\new\n"),
        ("yes | head -c 100000; exit 1", 60, "exit code 1"),
    ],
)
def test_nothing_that_p2pd_does_blocks_the_pod(
    helm: Helm, machine: Machine, script: str, patience_s: float, said: str
) -> None:
    machine.p2pd(script)
    message = Chart(helm, machine, kind="containerd").configure(patience_s=patience_s)
    assert said in message
    assert len(message) <= 2048


def test_further_arguments_are_words(helm: Helm, machine: Machine) -> None:
    machine.p2pd('printf "%s\\n" "$@"')
    message = Chart(helm, machine, kind="crio", args=["--upstream=it's; exit 1", "$(exit 1)"]).configure()
    assert message.split("\n")[:2] == ["configure", "crio"]
    assert message.split("\n")[-3:] == ["--upstream=it's; exit 1", "$(exit 1)", ""]


def test_an_undo_that_fails_is_seen(helm: Helm, machine: Machine) -> None:
    machine.p2pd("echo no >&2; exit 1")
    assert Chart(helm, machine, kind="containerd").undo() == (1, "no\n")


def test_the_cache_is_emptied(helm: Helm, machine: Machine) -> None:
    cached = [machine.write(f"var/lib/p2pd/{name}", "x") for name in ("blobs/ab/c", ".mark", "identity/host.key")]
    other = machine.write("var/lib/other", "x")
    assert Chart(helm, machine, kind="containerd").undo("empty")[0] == 0
    assert not any(file.exists() for file in cached)
    assert list((machine.root / "var/lib/p2pd").iterdir()) == []
    assert other.exists()
