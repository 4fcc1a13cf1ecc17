"""What the tests with real programs share: one registry with the image, one dockerd, one containerd for the session.

On a machine that is not suitable the tests are skipped and say why; where CI=true is set, they fail.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from benchmarks.programs import available_bytes
from tests.real import packages
from tests.real.containerd import Containerd
from tests.real.dockerd import BY_PROXY, Dockerd
from tests.real.helm import Helm
from tests.real.image import LIGHT, Image, real_image, small_image
from tests.real.node import Node, StartNode
from tests.real.origin import Origin, StartOrigin
from tests.real.paths import new_directory, remove
from tests.real.programs import tail
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo
from tests.support.ports import free_port
from tests.support.small_disk import mount

_HERE: Final = Path(__file__).parent
_WORKPLACE: Final = pytest.StashKey[Path]()

_TIMEOUT_S: Final = 1800
"""For one test with its fixtures: the first of a machine installs the programs and makes the image."""

_LIGHT_BYTES: Final = 8 * 1024 * 1024

_MEMORY_BYTES: Final = 8 * 1024 * 1024 * 1024
"""A workplace is in memory if this much is available. The largest takes 1.4 GiB, and there are three at once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the ends of all programs' logs to the report of a test that failed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]  # pytest sends the report into the wrapper
    workplace = item.config.stash.get(_WORKPLACE, None)
    if report.failed and workplace is not None:
        for log in sorted([*workplace.glob("*/*.log"), *workplace.glob("*/*/*.log")]):  # deeper, images are unpacked
            report.sections.append((str(log.relative_to(workplace)), tail(log)))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def programs() -> None:
    """The programs are installed, or the tests do not run."""
    reason = packages.unsuitable()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"CI runs these tests, and this machine cannot: {reason}")
    if reason is not None:
        pytest.skip(reason)
    packages.install()


@pytest.fixture(scope="session")
def workplace(programs: None, pytestconfig: pytest.Config) -> Iterator[Path]:
    """The directory that everything is below, in memory if there is room.

    There, dockerd takes 4.3 CPU-s to pull the image, and 6 to 10 on an ext4 without a journal, which looks for an inode
    that was not just freed.
    """
    directory = new_directory()
    if available_bytes() > _MEMORY_BYTES:
        mount(directory, "mode=700")
    pytestconfig.stash[_WORKPLACE] = directory
    yield directory
    remove(directory)


@pytest.fixture
def place(workplace: Path) -> Iterator[Path]:
    """A directory for one test."""
    directory = new_directory(workplace)
    yield directory
    remove(directory)


@pytest.fixture(scope="session")
def image(programs: None) -> Image:
    return real_image()


@pytest.fixture(scope="session")
def storage(workplace: Path) -> Path:
    """What the registries of the session store their content in."""
    return new_directory(workplace)


@pytest.fixture(scope="session")
def registry(workplace: Path, storage: Path, image: Image) -> Iterator[Registry]:
    """An open registry that has the image."""
    started = Registry(new_directory(workplace), storage)
    try:
        started.push(image)
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def light_image(workplace: Path, registry: Registry) -> Image:
    """An image of one layer of several pieces, in `registry`, too: for tests that are not about what is in an image."""
    made = small_image(workplace, random.Random(1).randbytes(_LIGHT_BYTES))
    registry.push(made, LIGHT)
    return made


@pytest.fixture
def start_origin(place: Path, registry: Registry) -> Iterator[StartOrigin]:
    with ExitStack() as started:

        def start(registry_url: str = registry.url, *, rate_bytes_s: int = 0) -> Origin:
            origin = Origin(new_directory(place), registry_url, rate_bytes_s)
            started.callback(origin.stop)
            return origin

        yield start


@pytest.fixture
def origin(start_origin: StartOrigin) -> Origin:
    return start_origin()


@pytest.fixture(scope="session")
def mirror_port() -> int:
    """Every p2pd of the session has its mirror here, one at a time: dockerd's mirrors are set when it starts."""
    return free_port()


@pytest.fixture(scope="session")
def proxy_port() -> int:
    """The HTTPS proxy of a p2pd that has one: dockerd's is set when it starts, too."""
    return free_port()


@pytest.fixture
def start_node(place: Path, mirror_port: int) -> Iterator[StartNode]:
    with ExitStack() as started:

        def start(*upstreams: str, **settings: str) -> Node:
            node = Node(new_directory(place), upstreams, mirror_port, settings)
            started.callback(node.stop)
            return node

        yield start


@pytest.fixture
def node(start_node: StartNode, origin: Origin) -> Node:
    return start_node(f"docker.io={origin.url}")


@pytest.fixture(scope="session")
def session_dockerd(workplace: Path, mirror_port: int, proxy_port: int) -> Iterator[Dockerd]:
    started = Dockerd(new_directory(workplace), f"http://127.0.0.1:{mirror_port}", f"http://127.0.0.1:{proxy_port}")
    yield started
    started.stop()


@pytest.fixture
def dockerd(session_dockerd: Dockerd) -> Iterator[Dockerd]:
    """dockerd without any image."""
    yield session_dockerd
    session_dockerd.remove_images()


@pytest.fixture(scope="session")
def session_containerd(workplace: Path, mirror_port: int) -> Iterator[Containerd]:
    started = Containerd(new_directory(workplace))
    for upstream in ("docker.io", BY_PROXY):
        started.use_mirror(upstream, f"http://127.0.0.1:{mirror_port}")
    yield started
    started.stop()


@pytest.fixture
def containerd(session_containerd: Containerd) -> Iterator[Containerd]:
    """containerd without any image."""
    yield session_containerd
    session_containerd.remove_images()


@pytest.fixture
def skopeo(place: Path) -> Skopeo:
    return Skopeo(new_directory(place))


@pytest.fixture(scope="session")
def helm(workplace: Path) -> Helm:
    return Helm(new_directory(workplace))
