"""Registries that answer as some in the field do, with p2pd before them and without it.

The registry is the scripted one of the other tests, with a small image whose layer every runtime can unpack.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from tests.real.containerd import Containerd
from tests.real.dockerd import Dockerd
from tests.real.node import Node, StartNode
from tests.real.programs import ProgramError
from tests.real.skopeo import Skopeo, digests
from tests.support.fixtures import registry as scripted
from tests.support.images import digest_of, make_image
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, Rule

__all__ = ["scripted"]

REPOSITORY = "library/app"


def _layer() -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            member = tarfile.TarInfo("file")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"hello"))
        return buffer.getvalue()


IMAGE = make_image(_layer())
CONFIG = digest_of(IMAGE.config)
CONTENT = {IMAGE.digest, *map(digest_of, IMAGE.blobs)}
PAGE = Answering(200, b"<!DOCTYPE html><html><body>Please sign in</body></html>", {"Content-Type": "text/html"})
LIMIT = Answering(
    429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}', {"Content-Type": "application/json"}
)


def head(status: int) -> Rule:
    return lambda seen: Answering(status) if seen.method == "HEAD" else None


@pytest.fixture
def origin(scripted: ImageRegistry) -> ImageRegistry:
    """The registry with the image, `library/app:1`."""
    scripted.push(REPOSITORY, "1", IMAGE)
    return scripted


@pytest.fixture
def node(start_node: StartNode, origin: ImageRegistry) -> Node:
    """p2pd that asks the registry about each request, and serves stale tags."""
    return start_node(f"docker.io={origin.url}", tag_ttl_s="0", access_ttl_s="0", serve_stale_tags="true")


def answer_all(origin: ImageRegistry, answer: Answering | Rule) -> None:
    paths = [f"manifests/{reference}" for reference in ("1", IMAGE.digest)]
    paths += [f"blobs/{digest_of(blob)}" for blob in IMAGE.blobs]
    origin.rules |= {f"/v2/{REPOSITORY}/{path}": answer for path in paths}


def here(origin: ImageRegistry) -> str:
    """The image at the registry itself, without its tag."""
    return f"{origin.url.removeprefix('http://')}/{REPOSITORY}"


REFERENCES = pytest.mark.parametrize("reference", [":1", f"@{IMAGE.digest}"], ids=["tag", "digest"])


class TestNoHead:
    @pytest.mark.parametrize("status", [405, 404])
    @REFERENCES
    def test_with_p2pd(
        self,
        dockerd: Dockerd,
        containerd: Containerd,
        skopeo: Skopeo,
        node: Node,
        origin: ImageRegistry,
        status: int,
        reference: str,
    ) -> None:
        answer_all(origin, head(status))
        assert digests(skopeo.copy(f"{node.mirror}/docker.io/{REPOSITORY}{reference}")) == CONTENT
        containerd.pull(f"docker.io/{REPOSITORY}{reference}")
        assert containerd.digests() == CONTENT
        dockerd.pull(f"app{reference}")
        assert dockerd.inspect(f"app{reference}")["Id"] == CONFIG

    @pytest.mark.parametrize("status", [405, 404])
    def test_without_it(
        self, dockerd: Dockerd, containerd: Containerd, skopeo: Skopeo, origin: ImageRegistry, status: int
    ) -> None:
        answer_all(origin, head(status))
        assert digests(skopeo.copy(f"{here(origin)}:1")) == CONTENT
        dockerd.pull(f"{here(origin)}:1")
        if status == 405:
            containerd.pull(f"{here(origin)}:1")
        else:  # containerd takes the 404 of a HEAD for the registry's word
            with pytest.raises(ProgramError):
                containerd.pull(f"{here(origin)}:1")


class TestPageForAManifest:
    def test_with_p2pd(
        self, dockerd: Dockerd, containerd: Containerd, skopeo: Skopeo, node: Node, origin: ImageRegistry
    ) -> None:
        answer_all(origin, PAGE)
        for pull in pulls_of(dockerd, containerd, skopeo, node):
            with pytest.raises(ProgramError) as failed:
                pull()
            assert "text/html" not in str(failed.value)  # no client was given the page
        assert node.cache() == []
        origin.rules.clear()
        for pull in pulls_of(dockerd, containerd, skopeo, node):
            pull()

    def test_without_it(self, dockerd: Dockerd, containerd: Containerd, skopeo: Skopeo, origin: ImageRegistry) -> None:
        answer_all(origin, PAGE)
        for pull in (skopeo.copy, containerd.pull, dockerd.pull):
            with pytest.raises(ProgramError):
                pull(f"{here(origin)}:1")


class TestLimitWhileHeld:
    def test_with_p2pd(
        self, dockerd: Dockerd, containerd: Containerd, skopeo: Skopeo, node: Node, origin: ImageRegistry
    ) -> None:
        skopeo.copy(f"{node.mirror}/docker.io/{REPOSITORY}:1")
        answer_all(origin, LIMIT)
        for pull in pulls_of(dockerd, containerd, skopeo, node):
            pull()
        assert containerd.digests() == CONTENT

    def test_without_it(self, dockerd: Dockerd, containerd: Containerd, origin: ImageRegistry) -> None:
        """skopeo waits for a minute before it fails, and is left out."""
        answer_all(origin, LIMIT)
        for pull in (containerd.pull, dockerd.pull):
            with pytest.raises(ProgramError):
                pull(f"{here(origin)}:1")


def pulls_of(dockerd: Dockerd, containerd: Containerd, skopeo: Skopeo, node: Node) -> list[Callable[[], object]]:
    """Pull the tag through p2pd, with each runtime."""
    return [
        lambda: skopeo.copy(f"{node.mirror}/docker.io/{REPOSITORY}:1"),
        lambda: containerd.pull(f"docker.io/{REPOSITORY}:1"),
        lambda: dockerd.pull("app:1"),
    ]
