"""Hosts that lie: about a blob's length, about what they hold, and about what they are going to fetch.

No client ever gets a wrong blob, and none is kept from the right one. Nobody is quarantined for a length:
the hosts of this machine are one witness.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import from_host, to_host
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import Answering, Seen
from tests.swarm.cluster import MIB, PATIENT, REPOSITORY, UPSTREAM, cluster, together, until_true
from tests.swarm.scripted import ScriptedHost, scripted

CONTENT = content_of("layer", 2 * MIB)
OTHER_LENGTHS = [len(CONTENT) - 1, 3 * MIB, 4096]
"""Of as many pieces; of more; of a tiny blob, which would have no pieces and no neighbours."""


def no_length(seen: Seen) -> Answering | None:
    """An answer to HEAD as of a registry that says no length: hosts know it from each other, or not at all."""
    return Answering(200, headers={"Content-Length": None}, then="close") if seen.method == "HEAD" else None


async def lie(liar: ScriptedHost, how: str, size_bytes: int) -> None:
    """Tell another length, before anybody has told one."""
    if how == "announces":
        await liar.tell(from_host.Announce((from_host.Holding(liar.raw_digest, size_bytes, complete=True),)))
        return
    known = size_bytes if how == "joins" else None
    await liar.tell(from_host.Join(liar.raw_digest, UPSTREAM, REPOSITORY, known))
    await until_true(lambda: bool(liar.heard_of(to_host.Lease)))
    if how == "fetches":
        lease = liar.heard_of(to_host.Lease)[0].lease
        await liar.tell(from_host.Length(lease, liar.raw_digest, size_bytes))


@pytest.mark.parametrize("size_bytes", OTHER_LENGTHS)
@pytest.mark.parametrize("how", ["announces", "joins", "fetches"])
@pytest.mark.parametrize("known", [True, False])
def test_a_host_that_tells_another_length(
    tmp_path: Path, registry: ImageRegistry, how: str, size_bytes: int, known: bool
) -> None:
    @asynchronous
    async def test() -> None:
        digest = registry.put_blob(REPOSITORY, CONTENT)
        if not known:
            registry.rules[f"/v2/{REPOSITORY}/blobs/{digest}"] = no_length
        settings = SchedulerSettings(lease_s=0.5, digest_request_s=0.2, quorum_s=0.2)
        async with cluster(tmp_path, registry, settings) as swarm, scripted(swarm, "z-liar", CONTENT) as liar:
            await lie(liar, how, size_bytes)
            hosts = await swarm.add_many(3)
            replies = await together([host.blob(digest) for host in hosts])
            assert [(reply.status, reply.body == CONTENT) for reply in replies] == [(200, True)] * 3
            assert not liar.sentenced
            assert swarm.scheduler.core.statistics().quarantined == 0
            assert swarm.scheduler.core.statistics().hosts == 4

    test()


async def refuse(_request: web.Request, _start: int, _stop: int) -> web.StreamResponse:
    return web.Response(status=404)


@asynchronous
async def test_hosts_that_claim_to_hold_everything_and_have_nothing(tmp_path: Path, registry: ImageRegistry) -> None:
    """They are asked for digests, which they do not tell, and then for pieces, which they do not send."""
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry, replace(PATIENT, digest_request_s=0.1)) as swarm, AsyncExitStack() as stack:
        claimants = [await stack.enter_async_context(scripted(swarm, f"z-{name}", CONTENT)) for name in "abc"]
        for each in claimants:
            each.serve = refuse
            holding = from_host.Holding(each.raw_digest, len(CONTENT), complete=True)
            await each.tell(from_host.Announce((holding,)))
        replies = await together([host.blob(digest) for host in await swarm.add_many(3)])
        assert [reply.body == CONTENT for reply in replies] == [True] * 3
        assert swarm.sent_bytes(digest) == len(CONTENT)
        assert sum(each.asked for each in claimants) > 0


@pytest.mark.parametrize("count", [3, 12])
def test_hosts_that_take_leases_and_do_nothing(tmp_path: Path, registry: ImageRegistry, count: int) -> None:
    """Each is waited for once; with all of them gone through, who does fetch has every lease."""

    @asynchronous
    async def test() -> None:
        digest = registry.put_blob(REPOSITORY, CONTENT)
        async with cluster(tmp_path, registry, SchedulerSettings(lease_s=0.5)) as swarm, AsyncExitStack() as stack:
            idlers = [await stack.enter_async_context(scripted(swarm, f"z-{name}", CONTENT)) for name in range(count)]
            for each in idlers:
                each.talk = each.listen
                await each.tell(from_host.Join(each.raw_digest, UPSTREAM, REPOSITORY, len(CONTENT)))
            await until_true(lambda: sum(len(each.heard_of(to_host.Lease)) for each in idlers) >= 2)
            hosts = await swarm.add_many(2)
            replies = await together([host.blob(digest) for host in hosts])
            assert [(reply.status, reply.body == CONTENT) for reply in replies] == [(200, True)] * 2
            of_idlers = sum(len(each.heard_of(to_host.Lease)) for each in idlers)
            late = max(0, swarm.scheduler.core.statistics().leases_overdue - of_idlers)  # a busy machine's
            assert swarm.sent_bytes(digest) <= len(CONTENT) + late * MIB

    test()
