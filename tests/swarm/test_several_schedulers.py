"""Several schedulers by a fixed list, each a process of its own, one of which is killed without a last word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from p2pd.demo.process import command
from scheduler.protocol.rendezvous import owner_of
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, Cluster, Host, cluster, held_bytes, together, until_true
from tests.swarm.process import Process, started
from tests.swarm.several import LEASE_BYTES, overdue_leases

LAYERS = [content_of(f"layer {number}", 2 * MIB) for number in range(9)]
"""Of eight pieces each."""


async def a_scheduler(stack: AsyncExitStack, data: Path, listen: str) -> Process:
    return await started(stack, command("scheduler", {"listen": listen, "admin": "127.0.0.1:0", "data": data}))


@asynccontextmanager
async def schedulers(directory: Path, count: int) -> AsyncIterator[dict[str, Process]]:
    """So many schedulers that know nothing of each other, by URL."""
    async with AsyncExitStack() as stack:
        made = [
            await a_scheduler(stack, directory / f"scheduler-{number}", f"127.0.0.1:{free_port()}")
            for number in range(count)
        ]
        yield {f"http://{each.at['listen']}": each for each in made}


def raw(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))


def at(digests: Sequence[str], url: str, urls: Sequence[str]) -> list[str]:
    """Those of the blobs that are to be at the scheduler with this URL."""
    return [digest for digest in digests if owner_of(raw(digest), urls) == url]


async def connections(host: Host) -> dict[str, dict[str, Any]]:
    """What a host says of the schedulers to which it wants a connection, by URL."""
    return {each["url"]: each for each in (await host.status())["swarm"]["schedulers"]}


async def until_at(host: Host, expected: dict[str, int]) -> None:
    """Wait until so many of the host's blobs are at each scheduler, and it is connected to each of those."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            told = await connections(host)
            if expected == {url: each["blobs"] for url, each in told.items() if each["blobs"] and each["connected"]}:
                return


def shares(digests: Sequence[str], urls: Sequence[str]) -> dict[str, int]:
    """How many of the blobs are to be at each scheduler."""
    counts = {url: len(at(digests, url, urls)) for url in urls}
    return {url: count for url, count in counts.items() if count}


async def have_given_up(hosts: Sequence[Host], urls: Sequence[str]) -> bool:
    """Whether a host has lost one of these, which live: on a machine that stalls for seconds they seem silent."""
    told = [each for host in hosts for url, each in (await connections(host)).items() if url in urls]
    return any(each["last_error"] for each in told)


def sent_twice(swarm: Cluster, digests: Sequence[str]) -> int:
    """The bytes that have left the origin beyond a first copy."""
    return sum(swarm.sent_bytes(digest) for digest in digests) - len(digests) * len(LAYERS[0])


@asynchronous
async def test_a_scheduler_that_is_killed_in_mid_pull_and_comes_back(tmp_path: Path, registry: ImageRegistry) -> None:
    digests = [registry.put_blob(REPOSITORY, layer) for layer in LAYERS]
    async with schedulers(tmp_path, 3) as running, cluster(tmp_path, registry) as swarm:
        urls = list(running)
        victim = max(urls, key=lambda url: len(at(digests, url, urls)))
        others = [url for url in urls if url != victim]
        held = at(digests, victim, urls)[0]
        hold = registry.hold(REPOSITORY, held, MIB + 1)
        overdue = 0
        hosts = [await swarm.add(schedulers=urls) for _ in range(4)]

        async def kill() -> None:
            nonlocal overdue
            await until_true(hold.reached.is_set)
            for host in hosts:
                for digest in digests:
                    await held_bytes(host, digest, len(LAYERS[0]) - LEASE_BYTES * (digest == held))
            overdue = await overdue_leases([running[victim]])
            for host in hosts:
                await until_at(host, shares(digests, urls))
            running[victim].daemon.process.kill()
            for host in hosts:
                await until_at(host, shares(digests, others))
            hold.go.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            pulls = [host.blob(digest) for host in hosts for digest in digests]
            replies = await together(pulls)
        assert [reply.body for reply in replies] == LAYERS * 4, "a client has noticed"
        overdue += await overdue_leases([running[url] for url in others])
        if not await have_given_up(hosts, others):
            assert sent_twice(swarm, digests) <= LEASE_BYTES * (1 + overdue), "one lease was in flight"
            assert not any([(await host.status())["swarm"]["alone"] for host in hosts])

        async with AsyncExitStack() as stack:
            await a_scheduler(stack, tmp_path / "again", victim.removeprefix("http://"))
            for host in hosts:
                await until_at(host, shares(digests, urls))


@asynchronous
async def test_two_views_that_differ_cost_a_second_copy_of_some_blobs(tmp_path: Path, registry: ImageRegistry) -> None:
    digests = [registry.put_blob(REPOSITORY, layer) for layer in LAYERS]
    async with schedulers(tmp_path, 3) as running, cluster(tmp_path, registry) as swarm:
        urls = list(running)
        moved = at(digests, urls[2], urls)
        same = [digest for digest in digests if digest not in moved]
        hosts = [await swarm.add(schedulers=urls[: 2 + number % 2]) for number in range(4)]
        replies = await together([host.blob(digest) for host in hosts for digest in digests])
        assert [reply.body for reply in replies] == LAYERS * 4
        late_bytes = LEASE_BYTES * await overdue_leases(running.values())
        if not await have_given_up(hosts, urls):
            assert sent_twice(swarm, same) <= late_bytes
            assert sent_twice(swarm, moved) <= len(moved) * len(LAYERS[0]) + late_bytes
