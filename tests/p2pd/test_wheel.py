"""The wheel that docker/Dockerfile installs: made from the files that the Dockerfile copies, and from no others.

The installed commands run with these files and the dependencies alone: nothing of the checkout can be imported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from p2pd.page import FILES
from tests.support.registry_server import PATIENCE_S

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "docker" / "Dockerfile"
IGNORED: Final = ROOT / "docker" / "Dockerfile.dockerignore"

COMMANDS: Final = """
import click
from p2pd.cli.app import app

def walk(command, path):
    print(*path)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            walk(command.get_command(context, name), [*path, name])

walk(app, [])
"""
"""Prints the path of each command, one a line; that of `p2pd` itself is empty."""

IMPORTS: Final = """
import importlib, pathlib

for package in ("p2pd", "peer", "proxy", "scheduler"):
    for path in pathlib.Path(package).rglob("*.py"):
        importlib.import_module(".".join(path.with_suffix("").parts))
"""
"""Imports every module that is installed. Commands import much of what they need only when they run."""


def copied() -> list[tuple[list[str], str]]:
    """Each COPY from the build's context: the sources and the destination."""
    lines = [line.split() for line in DOCKERFILE.read_text().splitlines()]
    copies = [words[1:] for words in lines if words[:1] == ["COPY"] and not words[1].startswith("--from=")]
    return [(sources, destination) for *sources, destination in copies]


def is_ignored(path: Path) -> bool:
    """Whether .dockerignore keeps the file out of the context: the last pattern that matches it or a parent decides."""
    ignored = False
    for line in IGNORED.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern = re.escape(line.strip().removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(?:/.*)?", path.relative_to(ROOT).as_posix()):
            ignored = not line.startswith("!")
    return ignored


def copy_as_docker_does(to: Path) -> None:
    """What the Dockerfile's COPY lines bring into the working directory. Each source has to be in the context."""
    for sources, destination in copied():
        for source in sources:
            origin = ROOT / source
            files = sorted(path for path in (origin, *origin.rglob("*")) if path.is_file() and not is_ignored(path))
            assert files, f"COPY {source}: the context does not have it"
            # the contents of a directory are copied, and a file by its name if the destination is a directory
            top = to / destination / (origin.name if origin.is_file() and destination.endswith("/") else "")
            for path in files:
                target = top / path.relative_to(origin)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def pip(*args: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    copy_as_docker_does(directory / "source")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", ".", "--wheel-dir", "..", cwd=directory / "source")
    [made] = directory.glob("*.whl")
    return made


Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(wheel: Path) -> Run:
    """Python with the installed wheel and the dependencies. `-S`: the .pth file of the checkout is not read."""
    installed = wheel.parent / "installed"
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(installed), str(wheel), cwd=wheel.parent)
    paths = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("P2PD_", "PYTHON"))}
    environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-P", *args]
        return subprocess.run(
            command, cwd=installed, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )

    return run


def test_the_wheel_has_four_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"p2pd", "peer", "proxy", "scheduler"}


def test_the_wheel_has_the_page_of_the_scheduler(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {f"p2pd/page/{name}" for name, _ in FILES.values()} <= set(archive.namelist())


def test_the_checkout_cannot_be_imported(wheel: Path, python: Run) -> None:
    code = "import p2pd; from importlib.util import find_spec; print(find_spec('tests'), *p2pd.__path__)"
    assert python("-c", code).stdout.split() == ["None", str(wheel.parent / "installed" / "p2pd")]


def test_every_command_has_help(python: Run) -> None:
    listed = python("-c", COMMANDS)
    assert listed.returncode == 0, listed.stderr
    paths = [line.split() for line in listed.stdout.splitlines()]
    assert ["plan"] in paths
    assert ["cache", "verify"] in paths
    results = {" ".join(path): python("bin/p2pd", *path, "--help") for path in paths}
    assert {name: done.stderr for name, done in results.items() if done.returncode != 0} == {}
    assert all(done.stdout.startswith("Usage: p2pd") for done in results.values())


def test_every_module_can_be_imported(python: Run) -> None:
    done = python("-c", IMPORTS)
    assert done.returncode == 0, done.stderr


def test_plan_runs_to_its_end(python: Run) -> None:
    small = ["--nodes", "3", "--image-size", "1MiB", "--link", "1gbit", "--origin", "1gbit", "--json"]
    done = python("bin/p2pd", "plan", *small)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
