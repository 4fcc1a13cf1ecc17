"""The image that docker/Dockerfile describes, built by buildah on a base that debootstrap made, and run by podman."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.real.image import REPOSITORY, Image
from tests.real.programs import ProgramError
from tests.real.registry import Registry
from tests.real.shipped.conftest import BASE, ROOT
from tests.real.shipped.containers import Container, Images
from tests.real.web import get
from tests.support.ports import free_port

NAME: Final = "localhost/p2pd:1"
ADDED_AT_MOST: Final = 120_000_000
"""Bytes over the base: p2pd, the libraries that it needs, and both compiled. libtorrent has 26,000,000 of them."""

PORTS: Final = tuple(f"127.0.0.1:{free_port()}" for _ in range(2))


@pytest.fixture(scope="module")
def built(wheels: Path, images: Images) -> str:
    """The wheels come first: meanwhile `test_installed.py` makes the base."""
    arguments = {"BASE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    images.build(NAME, ROOT / "docker" / "Dockerfile", ROOT, arguments, wheels)
    return NAME


@pytest.fixture
def container(built: str, images: Images, place: Path, registry: Registry) -> Iterator[Container]:
    mirror, admin = PORTS
    variables = {"P2PD_MIRROR": mirror, "P2PD_ADMIN": admin, "P2PD_UPSTREAM": f"docker.io={registry.url}"}
    with ExitStack() as stack:
        started = images.start(built, place / "data", {**variables, "P2PD_MIN_FREE_BYTES": "0"})
        stack.callback(started.stop)
        started.program.wait_ready(lambda: _is_ready(admin))
        yield started


def _is_ready(admin: str) -> bool:
    try:
        return get(f"http://{admin}/readyz").status == 200
    except OSError:
        return False


def test_a_blob_is_pulled_through_it(container: Container, image: Image) -> None:
    blob = image.weights
    mirror, _ = PORTS
    body = get(f"http://{mirror}/v2/{REPOSITORY}/blobs/{blob.digest}").body
    assert "sha256:" + hashlib.sha256(body).hexdigest() == blob.digest
    assert [each["digest"] for each in json.loads(container.execute("p2pd", "cache", "ls", "--json"))] == [blob.digest]

    status = container.status()
    assert status["Uid"] == ["65532"] * 4
    assert status["CapEff"] == ["0000000000000000"]
    with pytest.raises(ProgramError, match="Read-only file system"):
        container.execute("/opt/p2pd/bin/python3", "-c", "open('/opt/p2pd/new', 'w')")
    asked = "import importlib.util as u; print(*(u.find_spec(name) for name in ('pip', 'setuptools')))"
    assert container.execute("/opt/p2pd/bin/python3", "-c", asked).split() == ["None", "None"]
    container.execute("/opt/p2pd/bin/python3", "-c", "import libtorrent")
    assert container.stop() == 0


def test_it_is_small(images: Images, built: str) -> None:
    told = images.inspect(built)
    assert told["Size"] - images.inspect(BASE)["Size"] < ADDED_AT_MOST
    assert told["Config"]["Entrypoint"] == ["p2pd"]
