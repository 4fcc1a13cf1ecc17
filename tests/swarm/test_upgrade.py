"""A rolling upgrade: hosts of the released version and of this one in one swarm, and one's files in the other's hands.

The cluster is open, as the released version knows no certificates. All are processes, and everything is on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pd.demo.process import command
from tests.support.client import Reply, ask
from tests.support.images import Image, content_of, make_image
from tests.support.ports import free_port
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, REPOSITORY, UPSTREAM
from tests.swarm.process import Process, started
from tests.swarm.released import released


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The variables of the released version."""
    return released(tmp_path_factory.mktemp("released"))


NOW: Mapping[str, str] = {}
"""The variables of this version."""


@dataclass
class MixedCluster:
    """A scheduler of one version, and nodes of both."""

    directory: Path
    registry: ImageRegistry
    scheduler: Process
    stack: AsyncExitStack

    async def add(self, name: str, version: Mapping[str, str]) -> Process:
        flags = {
            **flags_of(self.directory / name, self.registry),
            "peer": "127.0.0.1:0",
            "scheduler": f"http://{self.scheduler.at['listen']}",
            "allow-open": None,
        }
        node = await started(self.stack, command("run", flags), version)
        await node.until_connected()
        return node

    async def upgrade_scheduler(self) -> None:
        """At the same address, while hosts run. Returns when they have all connected again."""
        scheduler, hosts = self.scheduler, await self.connected_hosts()
        scheduler.daemon.process.terminate()
        await asyncio.to_thread(scheduler.daemon.wait, PATIENCE_S)
        self.scheduler = await a_scheduler(self.stack, self.directory, NOW, scheduler.at["listen"])
        while await self.connected_hosts() < hosts:  # noqa: ASYNC110 # other processes
            await asyncio.sleep(0.05)

    async def connected_hosts(self) -> int:
        status = (await ask(self.scheduler.at["admin"], "GET", "/status")).json
        return int(status["scheduler"]["hosts"])


def flags_of(data: Path, registry: ImageRegistry) -> dict[str, object]:
    """Flags of a node, that both versions have."""
    return {
        "data": data,
        "mirror": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "upstream": f"{UPSTREAM}={registry.url}",
        "min-free-bytes": 0,
        "shutdown-grace-s": 1,
        "scheduler-wait-s": 20,
        "serve-stale-tags": None,
    }


@asynccontextmanager
async def cluster(directory: Path, registry: ImageRegistry, version: Mapping[str, str]) -> AsyncIterator[MixedCluster]:
    async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
        scheduler = await a_scheduler(stack, directory, version, f"127.0.0.1:{free_port()}")
        yield MixedCluster(directory, registry, scheduler, stack)


async def a_scheduler(stack: AsyncExitStack, directory: Path, version: Mapping[str, str], listen: str) -> Process:
    """The released scheduler keeps nothing on the disk. It has no flag for that, so the place goes into a variable."""
    words = command("scheduler", {"listen": listen, "admin": "127.0.0.1:0"})
    return await started(stack, words, {**version, "P2PD_DATA": str(directory / "scheduler")})


def sent_bytes(registry: ImageRegistry, digest: str) -> int:
    """What has left the origin of a blob."""
    return registry.sent[f"/v2/{REPOSITORY}/blobs/{digest}"]


async def pull(node: Process, tag: str, image: Image) -> None:
    """Pull the image by its tag, as a client does, and see that all of it is right."""
    manifest = await ask(node.at["mirror"], "GET", f"/v2/{REPOSITORY}/manifests/{tag}")
    assert (manifest.status, manifest.body) == (200, image.manifest), manifest
    replies: list[Reply] = await asyncio.gather(*(node.blob(digest) for digest in image.layer_digests))
    assert [reply.body for reply in replies] == list(image.layers)


def pushed(registry: ImageRegistry, tag: str) -> Image:
    """An image of two layers, one of them tiny."""
    image = make_image(content_of(tag, 6 * MIB), content_of(f"{tag}, small", 5000))
    registry.push(REPOSITORY, tag, image)
    return image


@pytest.mark.parametrize("scheduler_is", ["released", "this"])
def test_hosts_of_both_versions_exchange_pieces(
    tmp_path: Path, registry: ImageRegistry, before: Mapping[str, str], scheduler_is: str
) -> None:
    async def main() -> None:
        async with cluster(tmp_path, registry, before if scheduler_is == "released" else NOW) as mixed:
            old, new = [await mixed.add("old", before), await mixed.add("new", NOW)]
            for tag, order in (("first", (old, new)), ("second", (new, old))):
                image = pushed(registry, tag)
                for node in order:
                    await pull(node, tag, image)
                for digest, layer in zip(image.layer_digests, image.layers, strict=True):
                    assert sent_bytes(registry, digest) == len(layer), "all else came from the other host"
            image = pushed(registry, "third")
            await asyncio.gather(*(pull(node, "third", image) for node in (old, new)))

    asyncio.run(main())


def test_the_scheduler_is_upgraded_under_its_hosts(
    tmp_path: Path, registry: ImageRegistry, before: Mapping[str, str]
) -> None:
    image = pushed(registry, "first")

    async def main() -> None:
        async with cluster(tmp_path, registry, before) as mixed:
            await pull(await mixed.add("old", before), "first", image)
            await mixed.upgrade_scheduler()
            await pull(await mixed.add("new", NOW), "first", image)
            for digest, layer in zip(image.layer_digests, image.layers, strict=True):
                assert sent_bytes(registry, digest) == len(layer), "all else came from the old host"

    asyncio.run(main())


def test_what_a_node_holds_is_not_fetched_again(
    tmp_path: Path, registry: ImageRegistry, before: Mapping[str, str]
) -> None:
    """An upgraded node has its blobs, and the pieces of a blob that was arriving when it was killed; and so back."""
    flags = flags_of(tmp_path / "node", registry)
    image, arriving = pushed(registry, "whole"), content_of("arriving", 8 * MIB)
    digest = registry.put_blob(REPOSITORY, arriving)
    hold = registry.hold(REPOSITORY, digest, 7 * MIB)

    async def is_killed_while_a_blob_arrives(node: Process) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(node.blob(digest))
            while await held_bytes(node, digest) < 6 * MIB:  # noqa: ASYNC110 # another process
                await asyncio.sleep(0.05)
            node.daemon.process.kill()
        hold.go.set()

    async def main() -> None:
        for number, version in enumerate((before, NOW, before, NOW)):
            async with asyncio.timeout(2 * PATIENCE_S), AsyncExitStack() as stack:
                if number == 3:
                    registry.stop()
                node = await started(stack, command("run", flags), version)
                await pull(node, "whole", image)
                if number == 0:
                    await is_killed_while_a_blob_arrives(node)
                    registry.sent.clear()
                else:
                    assert (await node.blob(digest)).body == arriving
        assert set(registry.sent) == {f"/v2/{REPOSITORY}/blobs/{digest}"}, "nothing else was fetched again"
        assert sent_bytes(registry, digest) <= 2 * MIB, "6 MiB of it were held"

    asyncio.run(main())


async def held_bytes(node: Process, digest: str) -> int:
    """How much a node of the released version holds of a blob."""
    rows = (await ask(node.at["admin"], "GET", "/cache")).json
    return sum(each["held_bytes"] for each in rows if each["digest"] == digest)


def test_a_clone_without_the_history_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="git fetch --unshallow"):
        released(tmp_path, "0" * 40)
