"""A publisher of wrong digests in a swarm of real nodes: it is found before others have its pieces."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from scheduler.core.settings import SchedulerSettings
from scheduler.core.spot_checks import MIN_MEMBERS, MIN_PIECES
from scheduler.protocol import from_host, to_host
from scheduler.protocol.geometry import piece_count, piece_length
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM, cluster, together, until_true
from tests.swarm.scripted import ScriptedHost, scripted

CONTENT = content_of("layer", 4 * MIB)
LENGTH = piece_length(len(CONTENT))


async def takes_a_lease(host: ScriptedHost) -> to_host.Lease:
    await host.tell(from_host.Join(host.raw_digest, UPSTREAM, REPOSITORY, len(CONTENT)))
    await until_true(lambda: bool(host.heard_of(to_host.Lease)))
    lease = host.heard_of(to_host.Lease)[0]
    assert isinstance(lease, to_host.Lease)
    return lease


def lying(host: ScriptedHost) -> None:
    """It sends the bytes that match what it says."""

    async def serve(_request: web.Request, start: int, stop: int) -> web.StreamResponse:
        return host.answer(start, stop, host.lie_of(start, stop))

    host.serve = serve


@asynchronous
async def test_a_liar_is_contradicted_before_others_have_its_piece(tmp_path: Path, registry: ImageRegistry) -> None:
    assert piece_count(len(CONTENT), LENGTH) >= MIN_PIECES
    digest = registry.put_blob(REPOSITORY, CONTENT)
    # The liar may get another lease, and does nothing with that: it has to end.
    async with cluster(tmp_path, registry, SchedulerSettings()) as swarm, scripted(swarm, "z-liar", CONTENT) as liar:
        lying(liar)
        lease = await takes_a_lease(liar)
        hosts = await swarm.add_many(MIN_MEMBERS)
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(host.blob(digest)) for host in hosts]
            await until_true(lambda: swarm.scheduler.core.statistics().members > MIN_MEMBERS)
            await liar.lease_landed(lease)
        replies = [pull.result() for pull in pulls]
        assert [(reply.status, reply.body == CONTENT) for reply in replies] == [(200, True)] * len(hosts)
        assert not swarm.scheduler.core.statistics().quarantined, "all hosts of this address are one witness"
        assert swarm.sent_bytes(digest) <= len(CONTENT) + 2 * LENGTH, "what was contradicted comes once more"
        assert sum([(await host.status())["downloads"]["corrupt"] for host in hosts]) == 0, "nobody begins anew"


@asynchronous
async def test_honest_hosts_check_each_other(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry) as swarm:
        hosts = await swarm.add_many(MIN_MEMBERS)
        replies = await together([host.blob(digest) for host in hosts])
        assert [reply.body == CONTENT for reply in replies] == [True] * len(hosts)
        assert swarm.sent_bytes(digest) <= 1.01 * len(CONTENT)
        assert not swarm.scheduler.core.statistics().quarantined
