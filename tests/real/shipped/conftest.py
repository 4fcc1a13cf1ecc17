"""Debian with its Python, once for a machine: an image is made from it, and packages in a copy, which then boots.

Nothing is fetched but Debian's packages and the wheels that requirements.lock names and, for the image,
requirements-bittorrent.lock.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.real.image import Image
from tests.real.paths import kept, new_directory
from tests.real.shipped.containers import Images
from tests.real.shipped.debian import Debian, Machine, remove_leftovers

ROOT: Final = Path(__file__).parents[3]
PYTHON: Final = "3.11"
"""Of the Debian that `image` is made of."""

BASE: Final = "localhost/base:1"


class Shipped(NamedTuple):
    archive: Path
    deb: Path


@pytest.fixture(scope="session")
def wheels(programs: None) -> Path:
    """All that both locks name, for Debian's Python. pip would try a marker on the Python that runs it."""
    locked = "".join((ROOT / name).read_text() for name in ("requirements.lock", "requirements-bittorrent.lock"))
    wanted = re.sub(r" ; .* \\\n", r" \\\n", locked)

    def download(workshop: Path) -> Path:
        (requirements := workshop / "requirements.txt").write_text(wanted)
        directory = workshop / "wheels"
        how = ["--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}", f"--dest={directory}"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *how, "--requirement", str(requirements)]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        return directory

    return kept(f"wheels-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}", download)


@pytest.fixture(scope="session")
def base(image: Image) -> Path:
    """An archive of Debian with its Python."""
    layer = image.layers[0].digest

    def make(workshop: Path) -> Path:
        made = Debian(new_directory(workshop), image.layout / "blobs" / layer.replace(":", "/"))
        made.install("python3", "python3-venv")
        made.pack(workshop / "archive")
        remove_leftovers()
        return workshop / "archive"

    return kept(f"python-{layer.removeprefix('sha256:')[:16]}.tar", make)


@pytest.fixture(scope="session")
def debian(workplace: Path, base: Path) -> Iterator[Debian]:
    yield Debian(new_directory(workplace), base)
    remove_leftovers()


@pytest.fixture(scope="session")
def images(workplace: Path, base: Path) -> Images:
    """A storage with the base image: Debian with its Python."""
    made = Images(new_directory(workplace))
    made.add_base(BASE, base)
    return made


@pytest.fixture(scope="session")
def shipped(workplace: Path, debian: Debian, wheels: Path) -> Shipped:
    """What `make dist` makes, in Debian and without a network."""
    out = new_directory(workplace)
    mounts = {ROOT: "/mnt/source", wheels: "/mnt/wheels", out: "/mnt/out"}
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt/wheels"}
    debian.run("/mnt/source/packages/build", "/mnt/out", mounts=mounts, **offline)
    (archive,), (deb,) = out.glob("*.tar.gz"), out.glob("*.deb")
    return Shipped(archive, deb)


@pytest.fixture(scope="session")
def machine(workplace: Path, debian: Debian, shipped: Shipped) -> Iterator[Machine]:
    """Debian, booted."""
    booted = Machine(debian, new_directory(workplace) / "boot.log")
    yield booted
    booted.stop()
