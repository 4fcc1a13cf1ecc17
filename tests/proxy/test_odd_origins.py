"""Images of registries, and of proxies before them, that answer oddly: what Go's clients do not notice."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from peer.origin.opening import WHOLE_BYTES
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, RegistryServer, Seen, chunked

APP = "library/app"
IMAGE = make_image(content_of("lower", 700_000), content_of("upper", 1000))
LARGE = make_image(content_of("large", WHOLE_BYTES + 1))
BLOBS = {f"blobs/{digest_of(blob)}": blob for blob in IMAGE.blobs}

Odd = Callable[[Seen, Answering], Answering]


def in_chunks(_: Seen, right: Answering) -> Answering:
    """Never a length."""
    fields = {**right.headers, "Transfer-Encoding": "chunked"}
    fields.pop("Content-Length", None)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    body = chunked(right.body[:7], right.body[7:])
    return Answering(wire=f"HTTP/1.1 {right.status} So\r\n{head}\r\n".encode() + body)


def to_the_end(_: Seen, right: Answering) -> Answering:
    """HTTP/1.0: a body lasts as long as its connection."""
    head = "".join(f"{name}: {value}\r\n" for name, value in right.headers.items() if name != "Content-Length")
    return Answering(wire=f"HTTP/1.0 {right.status} So\r\n{head}\r\n".encode() + right.body, then="close")


def compressed(_: Seen, right: Answering) -> Answering:
    """All that is sent, whatever Accept-Encoding says. Ranges are of the compressed bytes, so they are ignored."""
    headers = {**right.headers, "Content-Encoding": "gzip"}
    headers.pop("Content-Range", None)
    return dataclasses.replace(right, body=gzip.compress(right.body), headers=headers)


def labelled(_: Seen, right: Answering) -> Answering:
    """A label on bytes that are as they should be."""
    return dataclasses.replace(right, headers={**right.headers, "Content-Encoding": "gzip"})


def without_ranges(seen: Seen, right: Answering) -> Answering:
    """Any range is refused."""
    return Answering(400) if "range" in seen.headers else right


def with_bare_ranges(_: Seen, right: Answering) -> Answering:
    """206 without the field that says of what."""
    return dataclasses.replace(right, headers={n: v for n, v in right.headers.items() if n != "Content-Range"})


def with_hints(_: Seen, right: Answering) -> Answering:
    """Interim answers before the answer."""
    fields = {"Content-Length": str(len(right.body)), **right.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    return Answering(wire=f"{hints}HTTP/1.1 {right.status} So\r\n{head}\r\n".encode() + right.body)


def make_odd(registry: ImageRegistry, odd: Odd) -> None:
    answer = registry.rule

    def rule(seen: Seen) -> Answering:
        blind = dataclasses.replace(seen, headers={k: v for k, v in seen.headers.items() if k != "range"})
        asked = blind if odd is compressed else seen
        right = answer(asked) or RegistryServer.blob(registry, asked)
        return odd(seen, right) if right.status < 400 else right

    registry.rule = rule


@pytest.mark.parametrize(
    "odd", [in_chunks, to_the_end, compressed, labelled, without_ranges, with_bare_ranges, with_hints]
)
@pytest.mark.parametrize("by_tag", [True, False], ids=["tag", "digest"])
@asynchronous
async def test_an_image_is_pulled(registry: ImageRegistry, tmp_path: Path, odd: Odd, by_tag: bool) -> None:
    registry.push(APP, "1.0", IMAGE)
    make_odd(registry, odd)
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        reply = await node.get(f"{APP}/manifests/{'1.0' if by_tag else IMAGE.digest}")
        assert (reply.status, reply.body) == (200, IMAGE.manifest)
        for path, content in BLOBS.items():
            reply = await node.get(f"{APP}/{path}")
            assert (reply.status, reply.body) == (200, content)


@pytest.mark.parametrize("odd", [in_chunks, to_the_end, compressed])
@asynchronous
async def test_the_length_of_a_large_layer_is_known_from_its_manifest(
    registry: ImageRegistry, tmp_path: Path, odd: Odd
) -> None:
    registry.ignores_range = True
    registry.push(APP, "1.0", LARGE)
    make_odd(registry, odd)
    layer = f"{APP}/blobs/{digest_of(LARGE.layers[0])}"
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        assert (await node.get(f"{APP}/manifests/1.0")).status == 200
        reply = await node.get(layer)
        assert (reply.status, reply.body) == (200, LARGE.layers[0])
    assert registry.asked("GET", f"/v2/{layer}") == 1


@pytest.mark.parametrize("odd", [in_chunks, to_the_end, compressed, labelled, without_ranges])
@asynchronous
async def test_a_blob_of_which_no_manifest_was_seen(registry: ImageRegistry, tmp_path: Path, odd: Odd) -> None:
    registry.push(APP, "1.0", IMAGE)
    make_odd(registry, odd)
    async with node_at(tmp_path / "store", f"docker.io={registry.url}") as node:
        for path, content in BLOBS.items():
            reply = await node.get(f"{APP}/{path}")
            assert (reply.status, reply.body) == (200, content)
