"""A host that others cannot reach has fetched a blob and told its digests: it must not keep the blob from them."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from scheduler.core.settings import SchedulerSettings
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY, cluster, together
from tests.swarm.scripted import scripted

CONTENT = content_of("layer", MIB + 7)


@asynchronous
async def test_a_neighbour_that_cannot_be_reached_does_not_keep_a_blob_from_others(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """It holds all of it, has told the digests, and nobody gets a byte: the origin is asked again."""
    registry.put_blob(REPOSITORY, CONTENT)
    async with (
        cluster(tmp_path, registry, SchedulerSettings()) as swarm,
        scripted(swarm, "z-bad", CONTENT) as bad,
    ):
        await bad.publish()

        async def refuse(request: web.Request, start: int, stop: int) -> web.StreamResponse:
            return web.Response(status=404)

        bad.serve = refuse
        host = await swarm.add()
        (reply,) = await together([host.blob(bad.digest)])
        assert (reply.status, reply.body) == (200, CONTENT)
        assert bad.asked > 0
