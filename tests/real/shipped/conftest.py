"""One Debian for the session: packages are made in it, an image is made from it, and then it boots.

Nothing is fetched but Debian's packages and the wheels that requirements.lock names and, for the image,
requirements-bittorrent.lock.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.real.image import Image
from tests.real.paths import new_directory
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
def wheels(workplace: Path) -> Path:
    """All that both locks name, for Debian's Python. pip would try a marker on the Python that runs it."""
    directory = new_directory(workplace)
    requirements = new_directory(workplace) / "requirements.txt"
    locked = "".join((ROOT / name).read_text() for name in ("requirements.lock", "requirements-bittorrent.lock"))
    requirements.write_text(re.sub(r" ; .* \\\n", r" \\\n", locked))
    how = ["--quiet", "--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}", f"--dest={directory}"]
    command = [sys.executable, "-m", "pip", "download", *how, "--requirement", str(requirements)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="session")
def debian(workplace: Path, image: Image) -> Iterator[Debian]:
    archive = image.layout / "blobs" / image.layers[0].digest.replace(":", "/")
    made = Debian(new_directory(workplace), archive)
    made.install("python3", "python3-venv")
    yield made
    remove_leftovers()


@pytest.fixture(scope="session")
def images(workplace: Path, debian: Debian) -> Images:
    """A storage with the base image: Debian with its Python."""
    made = Images(new_directory(workplace))
    made.add_base(BASE, debian.root)
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
def machine(workplace: Path, debian: Debian, images: Images, shipped: Shipped) -> Iterator[Machine]:
    """Debian, booted. From then on it has more than a base image should have: `images` comes before."""
    booted = Machine(debian, new_directory(workplace) / "boot.log")
    yield booted
    booted.stop()
