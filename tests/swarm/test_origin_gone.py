"""The origin is gone, and a host has lost what it held: it gets it from the others, and says what they have."""

from __future__ import annotations

import asyncio
from pathlib import Path

from peer.oci.manifest import OCI_IMAGE
from tests.support.client import ask
from tests.support.images import content_of, digest_of, make_image
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, Host, cluster, together

LAYERS = (content_of("layer", 2 * MIB), content_of("small", 300_000), content_of("tiny", 4096))
IMAGE = make_image(*LAYERS, media_type=OCI_IMAGE)


async def remove_all(host: Host) -> None:
    """As `p2pd cache rm`, each as soon as it is not in use any more."""
    async with asyncio.timeout(PATIENCE_S):
        for digest in (IMAGE.digest, *map(digest_of, IMAGE.blobs)):
            while (await host.remove(digest)).status == 409:
                pass
    assert await host.cached() == []


async def pull(host: Host, *, heads: bool) -> None:
    """The image by its digest. `heads`: each is asked for by HEAD first, as containerd does with manifests."""
    wanted = [(f"manifests/{IMAGE.digest}", IMAGE.manifest, OCI_IMAGE)]
    wanted += [(f"blobs/{digest_of(blob)}", blob, "application/octet-stream") for blob in IMAGE.blobs]
    for path, content, media_type in wanted:
        if heads:
            head = await ask(host.mirror, "HEAD", f"/v2/{REPOSITORY}/{path}")
            assert (head.status, head.headers["content-length"]) == (200, str(len(content))), path
            assert head.headers["content-type"] == media_type
        (reply,) = await together([ask(host.mirror, "GET", f"/v2/{REPOSITORY}/{path}")])
        assert (reply.status, reply.body == content) == (200, True), (path, reply.body[:300])


@asynchronous
async def test_what_was_removed_is_had_from_the_others(tmp_path: Path, registry: ImageRegistry) -> None:
    registry.push(REPOSITORY, "latest", IMAGE)
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(3)
        for host in hosts:
            await host.manifest("latest")
            await pull(host, heads=False)
        await asyncio.to_thread(registry.stop)
        for turn in range(6):
            await remove_all(hosts[turn % 3])
            await pull(hosts[turn % 3], heads=turn == 5)
