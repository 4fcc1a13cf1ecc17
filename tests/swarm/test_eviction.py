"""A blob is evicted while others know its holder as a neighbour: they are told, and go elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import from_host, link
from scheduler.protocol.codec import LINK, OnLink, Unknown
from scheduler.protocol.geometry import piece_length
from tests.support.client import ask
from tests.support.images import content_of
from tests.support.node import admin_headers, asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM, Host, cluster, held_bytes, together, until_true
from tests.swarm.scripted import scripted

CONTENT = content_of("layer", 2 * MIB)
OTHER = content_of("other", 2 * MIB)


async def until_idle(host: Host, digest: str) -> None:
    """Wait until the blob's data have been flushed: before that it is in use, and not evicted."""
    async with asyncio.timeout(PATIENCE_S):
        while any(blob["in_use"] for blob in await host.cached() if blob["digest"] == digest):
            pass


@pytest.mark.parametrize("why", ["room", "age"])
def test_neighbours_and_scheduler_are_told_of_an_evicted_blob(
    tmp_path: Path, registry: ImageRegistry, why: str
) -> None:
    @asynchronous
    async def test() -> None:
        digest, other = (registry.put_blob(REPOSITORY, content) for content in (CONTENT, OTHER))
        heard: list[OnLink | Unknown] = []

        async def listen(socket: web.WebSocketResponse) -> None:
            async for frame in socket:
                heard.append(LINK.decode(frame.data))  # noqa: PERF401 # it is read while it grows

        async with cluster(tmp_path, registry) as swarm, scripted(swarm, "z-neighbour", CONTENT) as neighbour:
            neighbour.talk = listen
            host = await swarm.add(max_bytes=3 * MIB, ttl_s=0.001 if why == "age" else 3600)
            await together([host.blob(digest)])
            await until_idle(host, digest)
            await neighbour.tell(from_host.Join(neighbour.raw_digest, UPSTREAM, REPOSITORY, len(CONTENT)))
            await until_true(lambda: link.Bitfield(neighbour.raw_digest, 1, complete=True) in heard)
            members = swarm.scheduler.core.statistics().members
            if why == "age":
                reply = await ask(host.admin, "POST", "/cache/gc", admin_headers(host.data))
                assert reply.json["removed"] == [digest]
            else:
                (reply,) = await together([host.blob(other)])
                assert reply.body == OTHER
            await until_true(lambda: link.DontHave(neighbour.raw_digest) in heard)
            left = members - 1 if why == "age" else members  # and is one of the other blob's
            await until_true(lambda: swarm.scheduler.core.statistics().members == left)
            piece = await ask(host.peer, "GET", f"/v2/swarm/blobs/{digest}", {"Range": "bytes=0-9"})
            assert piece.status == 404

    test()


@asynchronous
async def test_the_rest_comes_from_elsewhere_when_a_neighbour_evicts_a_blob(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """It has sent one piece when it does so, and it was the only one that held the blob."""
    registry.put_blob(REPOSITORY, CONTENT)
    async with (
        cluster(tmp_path, registry, SchedulerSettings(orphan_s=0.05)) as swarm,
        scripted(swarm, "z-evicting", CONTENT) as holder,
    ):
        await holder.publish()
        await holder.tell(from_host.Sealed(holder.raw_digest, 1))

        async def until_one_has_landed() -> None:
            """Before that the news would stop it too."""
            await held_bytes(host, holder.digest, piece_length(len(CONTENT)))

        async def talk(socket: web.WebSocketResponse) -> None:
            await holder.say(socket, link.Bitfield(holder.raw_digest, 1, complete=True))
            await until_one_has_landed()
            await holder.say(socket, link.DontHave(holder.raw_digest))
            await holder.tell(from_host.Leave(holder.raw_digest))
            await holder.listen(socket)

        async def serve(_request: web.Request, start: int, stop: int) -> web.StreamResponse:
            if start:
                await until_one_has_landed()
                return web.Response(status=404)
            return holder.answer(start, stop, CONTENT[start:stop])

        holder.talk, holder.serve = talk, serve
        host = await swarm.add()
        (reply,) = await together([host.blob(holder.digest)])
        assert (reply.status, reply.body) == (200, CONTENT)
        assert swarm.sent_bytes(holder.digest) == len(CONTENT) - piece_length(len(CONTENT))
