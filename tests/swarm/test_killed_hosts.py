"""A host is killed in the middle of what it does for others: they notice, and do without it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.protocol.geometry import piece_length
from scheduler.shell.bounds import Bounds
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, PATIENT, REPOSITORY, cluster, held_bytes, together, until_true
from tests.swarm.process import HostProcess, host_process

CONTENT = content_of("layer", 2 * MIB)
"""Eight pieces, which are two leases."""

LARGE = content_of("large", 24 * MIB)
"""Its pieces, of 1 MiB, go out in several parts where uploads have a limit."""


def starts(registry: ImageRegistry) -> list[int]:
    """Where the ranges begin that the origin was asked for."""
    return [int(seen.headers["range"][6:].split("-")[0]) for seen in tuple(registry.seen) if "range" in seen.headers]


async def pull_until_killed(host: HostProcess, digest: str) -> None:
    """Its client sees the connection end."""
    with suppress(OSError, AssertionError):
        await host.blob(digest)


@pytest.mark.parametrize("end", [HostProcess.kill, HostProcess.freeze])
def test_a_host_that_is_gone_while_it_fetches_from_the_origin(
    tmp_path: Path, registry: ImageRegistry, end: Callable[[HostProcess], None]
) -> None:
    """What it had told and given to others is not asked for again; what it had not is another's to fetch."""

    @asynchronous
    async def test() -> None:
        digest = registry.put_blob(REPOSITORY, CONTENT)
        hold = registry.hold(REPOSITORY, digest, MIB + 1)
        async with (
            cluster(tmp_path, registry, None, Bounds(heartbeat_s=1.0)) as swarm,
            asyncio.TaskGroup() as group,
            host_process(swarm, tmp_path) as victim,
        ):
            group.create_task(pull_until_killed(victim, digest))
            await until_true(hold.reached.is_set)
            others = await swarm.add_many(3)
            pulls = [group.create_task(host.blob(digest)) for host in others]
            for host in others:
                await held_bytes(host, digest, MIB)
            end(victim)
            replies = await together(pulls)
            assert [reply.body == CONTENT for reply in replies] == [True] * 3
            times = Counter(starts(registry))
            requeue = {start for start, count in times.items() if count > 1}
            assert requeue, "what it had a lease for was not fetched by another"
            assert min(requeue) >= MIB, "more than its leases was fetched again"
            assert max(times.values()) == 2, "more than once"

    test()


@asynchronous
async def test_a_host_that_is_killed_in_the_middle_of_a_piece(tmp_path: Path, registry: ImageRegistry) -> None:
    """It was the only one that held the blob: what it has not sent whole leaves the origin once more, and once."""
    digest = registry.put_blob(REPOSITORY, LARGE)
    async with (
        cluster(tmp_path, registry, replace(PATIENT, orphan_s=0.05)) as swarm,
        host_process(swarm, tmp_path, upload_rate=MIB // 4) as victim,
        asyncio.TaskGroup() as group,
    ):
        (reply,) = await together([victim.blob(digest)])
        assert reply.body == LARGE
        pulls = [group.create_task(host.blob(digest)) for host in await swarm.add_many(2)]
        async with asyncio.timeout(PATIENCE_S):
            while not (sent_bytes := await victim.sent_bytes()):
                pass
        assert sent_bytes < piece_length(len(LARGE)), "a part of a piece, and no more of the blob"
        victim.kill()
        replies = await together(pulls)
        assert [reply.body == LARGE for reply in replies] == [True] * 2
        assert swarm.sent_bytes(digest) <= 2 * len(LARGE)
