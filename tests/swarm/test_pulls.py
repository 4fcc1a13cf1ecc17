"""Many nodes pull at once, and the registry gives each byte once."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from structlog.testing import capture_logs

from scheduler.core.spot_checks import CHECKERS, MOST_SHARE, PUBLISHERS
from scheduler.protocol.geometry import piece_count, piece_length
from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, cluster, together, until_true

HOSTS = 8


@asynchronous
async def test_eight_nodes_pull_an_image_and_each_byte_leaves_the_origin_once(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    layer, tiny = content_of("layer", 5 * MIB + 3), content_of("tiny", 4096)
    image = make_image(layer, tiny)
    registry.push(REPOSITORY, "latest", image)
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(HOSTS)
        manifests = await together([host.manifest("latest") for host in hosts])
        assert {reply.body for reply in manifests} == {image.manifest}
        for content in image.blobs:
            replies = await together([host.blob(digest_of(content)) for host in hosts])
            assert [reply.status for reply in replies] == [200] * HOSTS
            assert {hashlib.sha256(reply.body).hexdigest() for reply in replies} == {digest_of(content)[7:]}
            length = piece_length(len(content))
            checks = swarm.sent_bytes(digest_of(content)) - len(content)
            assert 0 <= checks <= MOST_SHARE * piece_count(len(content), length) * length
            assert registry.asked("HEAD", digest_of(content)) == 0
        assert registry.asked("GET", f"/manifests/{image.digest}") == 1
        assert registry.asked("GET", digest_of(tiny)) == 1
        pieces = piece_count(len(layer), piece_length(len(layer)))
        assert registry.asked("GET", digest_of(layer)) <= pieces + CHECKERS * PUBLISHERS


@asynchronous
async def test_a_blob_that_is_removed_is_taken_back(tmp_path: Path, registry: ImageRegistry) -> None:
    content = content_of("layer", MIB)
    digest = registry.put_blob(REPOSITORY, content)
    async with cluster(tmp_path, registry) as swarm:
        first, second = await swarm.add_many(2)
        assert (await first.blob(digest)).body == content
        await until_true(lambda: swarm.scheduler.core.statistics().members == 1)
        async with asyncio.timeout(PATIENCE_S):
            while (reply := await first.remove(digest)).status == 409:  # its data are being flushed
                pass
        assert reply.status == 200
        await until_true(lambda: swarm.scheduler.core.statistics().members == 0)
        assert (await second.blob(digest)).body == content  # and nobody waits for what is not there
        assert swarm.sent_bytes(digest) == 2 * len(content)


@asynchronous
async def test_the_peer_port_serves_what_is_verified_and_a_plain_client_can_ask(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    content = content_of("layer", MIB + 5)
    digest = registry.put_blob(REPOSITORY, content)
    hold = registry.hold(REPOSITORY, digest, 300_000)  # the first piece of 256 KiB has left, the second has not
    async with cluster(tmp_path, registry) as swarm:
        host = await swarm.add()
        blob = f"/v2/swarm/blobs/{digest}"

        async def piece(path: str, first: int, last: int) -> int:
            return (await ask(host.peer, "GET", path, {"Range": f"bytes={first}-{last}"})).status

        async def while_it_is_held() -> None:
            await until_true(hold.reached.is_set)
            assert await piece(blob, 262_144, 524_287) == 404, "not verified"
            hold.go.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(while_it_is_held())
            (reply,) = await together([host.blob(digest)])
        assert reply.body == content
        reply = await ask(host.peer, "GET", blob, {"Range": "bytes=1-262144"})
        assert (reply.status, reply.body) == (206, content[1:262_145])
        assert reply.headers["content-range"] == f"bytes 1-262144/{len(content)}"
        assert await piece(blob, 0, len(content)) == 404, "beyond the end"
        assert await piece(f"/v2/swarm/blobs/{digest_of(b'other')}", 0, 9) == 404
        assert (await ask(host.peer, "GET", blob)).status == 400
        assert await piece("/v2/swarm/blobs/sha256:12", 0, 9) == 400


@asynchronous
async def test_the_log_says_where_the_bytes_of_a_pull_came_from(tmp_path: Path, registry: ImageRegistry) -> None:
    """The first host fetches the image, the second gets it from the first, layers ahead of the client too."""
    layers = [content_of(f"layer {number}", MIB) for number in range(3)]
    image = make_image(*layers)
    registry.push(REPOSITORY, "latest", image)
    size_bytes = sum(map(len, image.blobs))
    with capture_logs() as logs:
        async with cluster(tmp_path, registry) as swarm:
            hosts = await swarm.add_many(2, prefetch_layers=2)
            for host in hosts:
                await host.manifest("latest")
                for content in image.blobs:
                    assert (await host.blob(digest_of(content))).body == content
                await until_true(lambda: swarm.scheduler.core.statistics().swarms == len(image.blobs) + 1)
            for host in hosts:
                await host.stop()
    pulled = [each for each in logs if each["event"] == "pulled"]
    sources = [[each[name] for name in ("origin_bytes", "peer_bytes", "store_bytes")] for each in pulled]
    assert sources == [[size_bytes, 0, 0], [0, size_bytes, 0]]
