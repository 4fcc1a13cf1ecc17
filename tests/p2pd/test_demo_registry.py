"""The registry of the demonstration: what a pull needs of the distribution API, and a true count."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from p2pd.demo.image import BuiltImage, build_image
from p2pd.demo.registry import DemoRegistry
from tests.support.registry_server import PATIENCE_S

BASE = "/v2/library/demo"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuiltImage]:
    directory = tmp_path_factory.mktemp("layout")
    return directory, build_image(directory, size_bytes=2 * 2**20)


@pytest.fixture
def registry(image: tuple[Path, BuiltImage]) -> Iterator[DemoRegistry]:
    registry = DemoRegistry(*image, rate_bytes_per_s=0)
    with registry.serving():
        yield registry


def ask(registry: DemoRegistry, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(registry.url).netloc, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_the_manifest_by_tag_and_by_digest(registry: DemoRegistry, image: tuple[Path, BuiltImage]) -> None:
    manifest = image[1].manifest
    for name in ("1", manifest.digest):
        status, headers, body = ask(registry, "GET", f"{BASE}/manifests/{name}")
        assert (status, len(body)) == (200, manifest.size_bytes)
        assert (headers["content-type"], headers["docker-content-digest"]) == (manifest.media_type, manifest.digest)
    assert registry.sent_bytes == 2 * manifest.size_bytes


def test_head_sends_nothing(registry: DemoRegistry, image: tuple[Path, BuiltImage]) -> None:
    layer = image[1].layers[-2].descriptor
    status, headers, body = ask(registry, "HEAD", f"{BASE}/blobs/{layer.digest}")
    assert (status, headers["content-length"], body) == (200, str(layer.size_bytes), b"")
    assert registry.sent_bytes == 0


@pytest.mark.parametrize(("asked", "start", "stop"), [("10-19", 10, 20), ("10-", 10, None), ("10-999999999", 10, None)])
def test_ranges(
    registry: DemoRegistry, image: tuple[Path, BuiltImage], asked: str, start: int, stop: int | None
) -> None:
    directory, built = image
    layer = built.layers[-2].descriptor
    content = (directory / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")).read_bytes()
    status, headers, body = ask(registry, "GET", f"{BASE}/blobs/{layer.digest}", Range=f"bytes={asked}")
    last = (stop or layer.size_bytes) - 1
    assert (status, headers["content-range"]) == (206, f"bytes {start}-{last}/{layer.size_bytes}")
    assert body == content[start:stop]
    assert registry.sent_bytes == len(body)


def test_what_is_not_there(registry: DemoRegistry) -> None:
    assert ask(registry, "GET", "/v2/")[0] == 200
    for path in (f"{BASE}/manifests/2", f"{BASE}/blobs/sha256:{'0' * 64}", "/v2/library/other/manifests/1", "/../etc"):
        assert ask(registry, "GET", path)[0] == 404
