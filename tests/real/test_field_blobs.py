"""Layers that come late, and tokens that expire within a layer: what works without p2pd works with it."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from peer.origin.api import Kind
from proxy.origins import ANSWER_WITHIN_S
from tests.real.containerd import Containerd
from tests.real.dockerd import Dockerd
from tests.real.node import StartNode
from tests.real.paths import new_directory
from tests.real.podman import Podman
from tests.real.skopeo import Skopeo, digests, mirrored
from tests.real.web import Credentials
from tests.support.images import content_of, digest_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, Seen

APP: Final = "library/app"
OWNER: Final = Credentials("owner", "correct horse")
LATE_S: Final = ANSWER_WITHIN_S + 3
LAYER_BYTES: Final = 24 * 1024 * 1024


def _layer() -> bytes:
    """An archive of one file. It is not compressed, so its digest is its diff id."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("srv/weights")
        info.size = LAYER_BYTES
        tar.addfile(info, io.BytesIO(content_of("weights", LAYER_BYTES)))
    return file.getvalue()


LAYER: Final = _layer()
IMAGE: Final = make_image(LAYER)
BLOB: Final = f"/v2/{APP}/{Kind.BLOB.value}/{digest_of(LAYER)}"
EVERYTHING: Final = {IMAGE.digest, *map(digest_of, IMAGE.blobs)}


class _OfTokens(set[str]):
    """Every token that the registry's token server has given."""

    def __contains__(self, authorization: object) -> bool:
        return str(authorization).startswith("Bearer token-")


class Registry(ImageRegistry):
    """It has IMAGE. Each client has a token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.push(APP, "1", IMAGE)
        self.gets: Counter[str | None] = Counter()
        """GETs of the layer, by token."""
        self.given = 0

    def late(self) -> None:
        """The layer's first byte comes so late that p2pd would once have sent the client away."""
        self.rules[BLOB] = self._late

    def tokens_expire(self, *, private: bool) -> None:
        """Each token is good for one GET of the layer. `private`: only OWNER gets one."""
        self.members[APP] = _OfTokens()
        self.rules[BLOB] = self._once
        self.rules["/v2/"] = Answering(401, b"", {"WWW-Authenticate": self.challenge(APP)})
        self.rules["/token"] = lambda seen: self._token(seen, private=private)

    def _late(self, seen: Seen) -> Answering | None:
        if seen.method == "GET":
            time.sleep(LATE_S)
        return None

    def _once(self, seen: Seen) -> Answering | None:
        token = seen.headers.get("authorization")
        if seen.method != "GET" or token is None:
            return None
        self.gets[token] += 1
        if self.gets[token] > 1:
            return Answering(401, b"", {"WWW-Authenticate": self.challenge(APP)})
        return None

    def _token(self, seen: Seen, *, private: bool) -> Answering:
        if seen.method != "GET":
            return Answering(404)
        if private and seen.headers.get("authorization") != f"Basic {OWNER.basic}":
            return Answering(200, b'{"token":"nothing"}')
        self.given += 1
        return Answering(200, json.dumps({"token": f"token-{self.given}"}).encode())


@pytest.fixture
def registry(programs: None) -> Iterator[Registry]:
    with Registry() as started:
        yield started


@pytest.fixture(params=[Registry.late, lambda each: each.tokens_expire(private=False)], ids=["late", "token"])
def trying(request: pytest.FixtureRequest, registry: Registry) -> Registry:
    """A registry that is slow, or whose tokens expire."""
    does: Callable[[Registry], None] = request.param
    does(registry)
    return registry


def test_skopeo_and_podman(trying: Registry, place: Path, skopeo: Skopeo, start_node: StartNode) -> None:
    assert digests(skopeo.copy(f"{trying.url.removeprefix('http://')}/{APP}:1")) == EVERYTHING  # without p2pd
    node = start_node(f"docker.io={trying.url}")
    assert digests(skopeo.copy(f"{node.mirror}/docker.io/{APP}:1")) == EVERYTHING
    podman = Podman(new_directory(place), mirrored(node.mirror))
    podman.pull(f"docker.io/{APP}:1")
    assert podman.inspect(f"docker.io/{APP}:1")["RootFS"]["Layers"] == [digest_of(LAYER)]


def test_skopeo_with_a_private_image(registry: Registry, skopeo: Skopeo, start_node: StartNode) -> None:
    registry.tokens_expire(private=True)
    assert digests(skopeo.copy(f"{registry.url.removeprefix('http://')}/{APP}:1", OWNER)) == EVERYTHING
    node = start_node(f"docker.io={registry.url}")
    assert digests(skopeo.copy(f"{node.mirror}/docker.io/{APP}:1", OWNER)) == EVERYTHING
    assert set(registry.gets.values()) == {1}


def test_containerd(trying: Registry, containerd: Containerd, start_node: StartNode) -> None:
    start_node(f"docker.io={trying.url}")
    containerd.pull(f"docker.io/{APP}:1")
    assert containerd.digests() >= EVERYTHING


def test_dockerd(trying: Registry, dockerd: Dockerd, start_node: StartNode) -> None:
    start_node(f"docker.io={trying.url}")
    dockerd.pull("app:1")
    assert dockerd.inspect("app:1")["RootFS"]["Layers"] == [digest_of(LAYER)]
