"""Real hosts in a swarm that has other pieces than the usual ones, and a host of the released version beside them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from p2pd.demo.process import command
from peer.store.record import peek
from tests.support.client import ask
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, PATIENT, REPOSITORY, Cluster, Host, cluster, together, until_true
from tests.swarm.process import started
from tests.swarm.released import released
from tests.swarm.test_upgrade import flags_of

LARGE = replace(PATIENT, large_swarm=2, piece_cost_s=0.001, settle_s=0.5)
"""A swarm of two hosts counts as a large one."""

CONTENT = content_of("divided", 24 * MIB)
USUAL, SHORT = MIB, MIB // 2


def length_at(host: Host, digest: str) -> int:
    """The length of the pieces of what a host has recorded of a blob."""
    return peek(host.data / "blobs" / digest[7:9] / f"{digest[7:]}.record")[0].piece_length


async def pulled(swarm: Cluster, hosts: list[Host], digest: str, content: bytes = CONTENT) -> None:
    replies = await together([host.blob(digest) for host in hosts])
    assert all(reply.body == content for reply in replies)
    raw = bytes.fromhex(digest[7:])
    await until_true(lambda: not len(swarm.scheduler.core._state.swarms[raw].wanting))


@asynchronous
async def test_hosts_exchange_shorter_pieces_and_know_them_again(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry, LARGE) as swarm:
        hosts = await swarm.add_many(3)
        await pulled(swarm, hosts, digest)
        assert [length_at(host, digest) for host in hosts] == [SHORT] * 3
        assert swarm.sent_bytes(digest) == len(CONTENT)
        await swarm.scheduler.stop()
        await swarm.scheduler.start()
        await until_true(lambda: swarm.scheduler.core.statistics().hosts == 3)
        late = await swarm.add()
        await pulled(swarm, [late], digest)
        assert length_at(late, digest) == SHORT
        assert swarm.sent_bytes(digest) == len(CONTENT), "the holders knew the digests"


@asynchronous
async def test_a_small_blob_beside_a_large_one_has_longer_pieces(tmp_path: Path, registry: ImageRegistry) -> None:
    small = content_of("small", 8 * MIB)
    large, beside = registry.put_blob(REPOSITORY, CONTENT), registry.put_blob(REPOSITORY, small)
    hold = registry.hold(REPOSITORY, large, MIB)
    async with cluster(tmp_path, registry) as swarm, asyncio.TaskGroup() as tasks:
        hosts = await swarm.add_many(2)
        waiting = tasks.create_task(hosts[0].blob(large))
        await asyncio.to_thread(hold.reached.wait)
        await pulled(swarm, hosts[:1], beside, small)
        await pulled(swarm, hosts[1:], beside, small)
        assert [length_at(host, beside) for host in hosts] == [MIB] * 2
        assert swarm.sent_bytes(beside) == len(small)
        hold.go.set()
        assert (await waiting).body == CONTENT
        other = content_of("alone", 8 * MIB)
        alone = registry.put_blob(REPOSITORY, other)
        await pulled(swarm, hosts, alone, other)
        assert [length_at(host, alone) for host in hosts] == [MIB // 2] * 2
        await swarm.scheduler.stop()
        await swarm.scheduler.start()
        await until_true(lambda: swarm.scheduler.core.statistics().hosts == 2)
        late = await swarm.add()
        assert (await late.blob(beside)).body == small
        assert length_at(late, beside) == MIB
        assert swarm.sent_bytes(beside) == len(small), "the holders knew the digests"


@asynchronous
async def test_a_host_of_the_released_version(tmp_path: Path, registry: ImageRegistry) -> None:
    divided, together_with_old = registry.put_blob(REPOSITORY, CONTENT), content_of("usual", 24 * MIB)
    usual = registry.put_blob(REPOSITORY, together_with_old)
    before = await asyncio.to_thread(released, tmp_path / "released")
    async with cluster(tmp_path, registry, LARGE) as swarm, AsyncExitStack() as stack:
        hosts = await swarm.add_many(2)
        await pulled(swarm, hosts, divided)
        flags = {**flags_of(tmp_path / "old", registry), "peer": "127.0.0.1:0", "allow-open": None}
        old = await started(stack, command("run", {**flags, "scheduler": swarm.scheduler.url}), before)
        await old.until_connected()

        replies = await together([old.blob(usual), *(host.blob(usual) for host in hosts)])
        assert [reply.body == together_with_old for reply in replies] == [True] * 3
        assert [length_at(host, usual) for host in hosts] == [USUAL] * 2
        assert swarm.sent_bytes(usual) == len(CONTENT), "all exchange the usual pieces with it"

        assert (await old.blob(divided)).body == CONTENT
        assert swarm.sent_bytes(divided) == 2 * len(CONTENT), "it does not know pieces of that length"
        late = await swarm.add()
        await pulled(swarm, [late], divided)
        assert length_at(late, divided) == SHORT
        assert swarm.sent_bytes(divided) == 2 * len(CONTENT)
        status = (await ask(old.at["admin"], "GET", "/status")).json
        assert status["swarm"]["scheduler_connected"]
