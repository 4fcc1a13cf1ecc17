"""The scheduler is killed, gone, dead or mad, and hosts that connect to it are not what they seem."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import peer
import scheduler
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import TO_HOST
from scheduler.protocol.connection import PATH, Closing
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.swarm.cluster import MIB, REPOSITORY, Host, cluster, held_bytes, together, until_true
from tests.swarm.scripted import scripted

CONTENT = content_of("layer", 2 * MIB)
"""Eight pieces, which are two leases."""

NOWHERE = "http://127.0.0.1:1"


def starts(registry: ImageRegistry) -> list[int]:
    """Where the ranges begin that the origin was asked for."""
    return [int(seen.headers["range"][6:].split("-")[0]) for seen in tuple(registry.seen) if "range" in seen.headers]


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_scheduler_that_is_killed_in_mid_pull(tmp_path: Path, registry: ImageRegistry, comes_back: bool) -> None:
    @asynchronous
    async def test() -> None:
        digest = registry.put_blob(REPOSITORY, CONTENT)
        hold = registry.hold(REPOSITORY, digest, MIB + 1)
        async with cluster(tmp_path, registry) as swarm:
            hosts = await swarm.add_many(3, scheduler_wait_s=20 if comes_back else 0.2)

            async def kill() -> None:
                for host in hosts:
                    await held_bytes(host, digest, MIB)
                await until_true(hold.reached.is_set)
                await swarm.scheduler.stop()
                if comes_back:
                    await swarm.scheduler.start()
                hold.go.set()

            async with asyncio.TaskGroup() as group:
                group.create_task(kill())
                replies = await together([host.blob(digest) for host in hosts])
            assert [reply.body == CONTENT for reply in replies] == [True] * 3
            assert starts(registry).count(0) == 1, "what had been published was asked for again"

    test()


@asynchronous
async def test_neighbours_go_on_without_a_scheduler(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry) as swarm, scripted(swarm, "z-other", CONTENT) as other:
        await other.publish()
        await other.tell(from_host.Sealed(other.raw_digest, 1))
        gone = asyncio.Event()

        async def serve(request: web.Request, start: int, stop: int) -> web.StreamResponse:
            await gone.wait()
            return await other.serve_well(request, start, stop)

        other.serve = serve
        host = await swarm.add()

        async def kill() -> None:
            await until_true(lambda: other.asked > 0)
            await swarm.scheduler.stop()
            gone.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            (reply,) = await together([host.blob(digest)])
        assert reply.body == CONTENT
        assert swarm.sent_bytes(digest) == 0


@asynchronous
async def test_a_node_that_starts_without_a_scheduler_pulls_from_the_origin(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry) as swarm:
        host = await swarm.add(schedulers=[NOWHERE], scheduler_wait_s=0.2)
        for _ in range(2):
            (reply,) = await together([host.blob(digest)])
            assert reply.body == CONTENT


@asynccontextmanager
async def mad_scheduler(nonsense: bytes) -> AsyncIterator[str]:
    """It lets hosts in, and then talks nonsense."""

    async def welcome(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_bytes(TO_HOST.encode(to_host.Welcome(1)))
        await socket.send_bytes(nonsense)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.add_routes([web.get(PATH, welcome)])
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("nonsense", [b"\xc1", b"\x00" * 300_000, None])
def test_the_next_scheduler_is_joined_when_one_is_dead_or_mad(
    tmp_path: Path, registry: ImageRegistry, nonsense: bytes | None
) -> None:
    @asynchronous
    async def test() -> None:
        digest = registry.put_blob(REPOSITORY, CONTENT)
        async with cluster(tmp_path, registry) as swarm, mad_scheduler(nonsense or b"") as mad:
            host = await swarm.add(schedulers=[NOWHERE if nonsense is None else mad, swarm.scheduler.url])
            await until_true(lambda: swarm.scheduler.core.statistics().hosts == 1)
            (reply,) = await together([host.blob(digest)])
            assert reply.body == CONTENT
            assert swarm.scheduler.core.statistics().leases_given > 0

    test()


@asynchronous
async def test_garbage_at_the_scheduler_ends_that_connection_and_no_other(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry) as swarm:
        host = await swarm.add()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(swarm.scheduler.url + PATH) as socket,
        ):
            await socket.send_bytes(b"\xc1\xc1")
            assert (await socket.receive()).data == Closing.MALFORMED
        (reply,) = await together([host.blob(digest)])
        assert reply.body == CONTENT


@asynchronous
async def test_of_two_hosts_with_one_id_the_first_keeps_it_and_the_other_pulls_alone(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    async with cluster(tmp_path, registry) as swarm:
        first = await swarm.add(host_id="twin")
        (connection,) = swarm.scheduler.core._state.hosts
        second = await swarm.add(host_id="twin", schedulers=[swarm.scheduler.url], scheduler_wait_s=0.2)
        replies = await together([first.blob(digest), second.blob(digest)])
        assert [reply.body == CONTENT for reply in replies] == [True, True]
        assert (await first.status())["swarm"]["scheduler_connected"]
        assert list(swarm.scheduler.core._state.hosts) == [connection]


@asynchronous
async def test_a_host_that_leaves_hands_its_leases_back(tmp_path: Path, registry: ImageRegistry) -> None:
    digest = registry.put_blob(REPOSITORY, CONTENT)
    hold = registry.hold(REPOSITORY, digest, 1)
    async with cluster(tmp_path, registry) as swarm:
        leaving, staying = await swarm.add_many(2)

        async def leave() -> None:
            await until_true(hold.reached.is_set)
            await until_true(lambda: swarm.scheduler.core.statistics().members == 2)
            await leaving.stop()

        async def pull(host: Host, first: asyncio.Event) -> bytes:
            await first.wait()
            (reply,) = await together([host.blob(digest)])
            return reply.body

        now, then = asyncio.Event(), asyncio.Event()
        now.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(pull(leaving, now))
            body = group.create_task(pull(staying, then))
            await until_true(hold.reached.is_set)
            then.set()
            group.create_task(leave())
        assert body.result() == CONTENT


@pytest.mark.parametrize("package", [peer, scheduler])
def test_nothing_between_hosts_reads_the_wall_clock(package: object) -> None:
    """Clocks that differ can do no harm where nobody looks at them. (A certificate's dates are the wall clock's.)"""
    (root,) = package.__path__  # type: ignore[attr-defined] # it is a package
    for part in ("core", "swarm", "protocol", "shell"):
        for file in (Path(root) / part).glob("**/*.py"):
            if file.name == "admission.py":
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                assert not {"time", "datetime", module} & {"time", "datetime"} & {*names, module}, file
