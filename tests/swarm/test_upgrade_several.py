"""A rolling upgrade of three schedulers on a fixed list, and of hosts, from the released version to this one.

A host of the released version has all its blobs at one scheduler; one of this version has each blob at its owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from p2pd.demo.process import command
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, together, until_true
from tests.swarm.process import Process, started
from tests.swarm.released import released
from tests.swarm.several import LEASE_BYTES, overdue_leases
from tests.swarm.test_upgrade import NOW, a_scheduler, flags_of, sent_bytes

HOSTS = 3
BLOBS = 6
BLOB_BYTES = 2 * MIB


class Rolling:
    """Schedulers and hosts, each of which is upgraded by itself."""

    def __init__(self, stack: AsyncExitStack, directory: Path, registry: ImageRegistry) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.schedulers: list[Process] = []
        self.hosts: list[Process] = []
        self.registry = registry
        self._stack = stack
        self._directory = directory
        self._blobs = 0

    async def scheduler(self, number: int, version: Mapping[str, str]) -> Process:
        directory = self._directory / f"scheduler-{number}"
        return await a_scheduler(self._stack, directory, version, f"127.0.0.1:{self.ports[number]}")

    async def host(self, number: int, version: Mapping[str, str]) -> Process:
        urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        flags = {**flags_of(self._directory / f"host-{number}", self.registry), "peer": "127.0.0.1:0"}
        node = await started(self._stack, command("run", {**flags, "scheduler": urls, "allow-open": None}), version)
        await node.until_connected()
        return node

    async def start(self, version: Mapping[str, str]) -> None:
        self.schedulers = list(await asyncio.gather(*(self.scheduler(each, version) for each in range(3))))
        self.hosts = list(await asyncio.gather(*(self.host(each, version) for each in range(HOSTS))))

    async def upgrade_scheduler(self, number: int) -> None:
        await end(self.schedulers[number])
        self.schedulers[number] = await self.scheduler(number, NOW)

    async def upgrade_host(self, number: int) -> None:
        await end(self.hosts[number])
        self.hosts[number] = await self.host(number, NOW)

    def push(self) -> dict[str, bytes]:
        contents = [content_of(f"blob {self._blobs + number}", BLOB_BYTES) for number in range(BLOBS)]
        self._blobs += BLOBS
        return {self.registry.put_blob(REPOSITORY, content): content for content in contents}

    def copies(self, blobs: Mapping[str, bytes]) -> float:
        return sum(sent_bytes(self.registry, digest) for digest in blobs) / (BLOBS * BLOB_BYTES)

    async def pull(self, blobs: Mapping[str, bytes], hosts: list[Process]) -> None:
        replies = await together([host.blob(digest) for host in hosts for digest in blobs])
        assert [reply.body for reply in replies] == list(blobs.values()) * len(hosts), "a client has noticed"


async def end(process: Process) -> None:
    process.daemon.process.terminate()
    await asyncio.to_thread(process.daemon.wait, PATIENCE_S)


@asynchronous
async def test_three_schedulers_and_their_hosts_one_after_the_other(tmp_path: Path, registry: ImageRegistry) -> None:
    before = released(tmp_path / "released")
    async with AsyncExitStack() as stack:
        rolling = Rolling(stack, tmp_path, registry)
        await rolling.start(before)
        blobs = rolling.push()
        holds = [registry.hold(REPOSITORY, digest, MIB + 1) for digest in list(blobs)[:3]]
        async with asyncio.TaskGroup() as group:
            group.create_task(rolling.pull(blobs, rolling.hosts))
            for number, hold in enumerate(holds):
                await until_true(hold.reached.is_set)
                await rolling.upgrade_scheduler(number)
                hold.go.set()
        for number in range(HOSTS):
            blobs = rolling.push()
            others = rolling.hosts[:number] + rolling.hosts[number + 1 :]
            async with asyncio.TaskGroup() as group:
                group.create_task(rolling.pull(blobs, others))
                group.create_task(rolling.upgrade_host(number))
            assert rolling.copies(blobs) <= len(rolling.schedulers) + 0.06, "each host of the old version is at one"
        overdue = await overdue_leases(rolling.schedulers)
        blobs = rolling.push()
        await rolling.pull(blobs, rolling.hosts)
        late_bytes = LEASE_BYTES * (await overdue_leases(rolling.schedulers) - overdue)
        assert (rolling.copies(blobs) - 1) * BLOBS * BLOB_BYTES <= late_bytes
