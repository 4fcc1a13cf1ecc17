"""A client's token that expires while its layer is on the way."""

from __future__ import annotations

from pathlib import Path

from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous, node_at
from tests.support.registry import ANONYMOUS, ImageRegistry
from tests.support.registry_server import Answering, Seen

APP = "library/app"
LAYER = content_of("layer", 30 * 1024 * 1024)
IMAGE = make_image(LAYER)
BLOB = f"{APP}/blobs/{digest_of(LAYER)}"
TOKEN = "Bearer the client's"


class Expiring:
    """The client's token is good for one GET of the layer. That sends `sent_bytes`, all by default."""

    def __init__(self, registry: ImageRegistry, sent_bytes: int | None = None) -> None:
        self.registry = registry
        self.sent_bytes = sent_bytes
        self.gets = 0
        registry.rules[f"/v2/{BLOB}"] = self.answer

    def answer(self, seen: Seen) -> Answering | None:
        if seen.method != "GET" or seen.headers.get("authorization") != TOKEN:
            return None
        self.gets += 1
        if self.gets > 1:
            return Answering(401, b"", {"WWW-Authenticate": self.registry.challenge(APP)})
        if self.sent_bytes is None:
            return None
        return Answering(200, LAYER, sent_bytes=self.sent_bytes, then="close")


def hub(registry: ImageRegistry) -> str:
    return f"docker.io={registry.url}"


@asynchronous
async def test_of_a_private_image_one_get_is_for_all_of_the_layer(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1.0", IMAGE)
    registry.members[APP] = {TOKEN}
    token = Expiring(registry)
    async with node_at(tmp_path / "store", hub(registry)) as node:
        assert (await node.get(f"{APP}/manifests/1.0", authorization=TOKEN)).body == IMAGE.manifest
        assert (await node.get(BLOB, authorization=TOKEN)).body == LAYER
    assert token.gets == 1


@asynchronous
async def test_of_a_public_image_p2pd_goes_on_by_itself(registry: ImageRegistry, tmp_path: Path) -> None:
    registry.push(APP, "1.0", IMAGE)
    registry.wants_token = True
    registry.members[APP] = {TOKEN, ANONYMOUS}
    token = Expiring(registry, 10_000_000)
    async with node_at(tmp_path / "store", hub(registry)) as node:
        assert (await node.get(f"{APP}/manifests/1.0", authorization=TOKEN)).body == IMAGE.manifest
        assert (await node.get(BLOB, authorization=TOKEN)).body == LAYER
    assert token.gets == 2
