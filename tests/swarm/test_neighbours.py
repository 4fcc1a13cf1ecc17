"""Neighbours that misbehave: the pull completes in bounded time, they are dropped, and liars are reported.

The neighbour `bad` has published the right digests, so that it is asked for pieces first; `good` says that it holds
the blob once `bad` has shown what it does. So a pull completes without a byte from the origin.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import web

from peer.core.neighbours import BUSY_S, PER_NEIGHBOUR
from peer.neighbour_http import CHOKED_HEADER
from scheduler.protocol import from_host, link
from scheduler.protocol.codec import LINK
from scheduler.protocol.geometry import piece_count, piece_length
from tests.support.client import ask
from tests.support.images import content_of
from tests.support.node import asynchronous
from tests.support.registry import ImageRegistry
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, PATIENT, REPOSITORY, Cluster, Host, cluster, together, until_true
from tests.swarm.scripted import ScriptedHost, scripted

CONTENT = content_of("layer", MIB + 7)
REPORTED_ONCE = replace(PATIENT, corrupt_reports=1)


@dataclass
class Scene:
    swarm: Cluster
    host: Host
    bad: ScriptedHost
    good: ScriptedHost

    async def pull(self) -> None:
        (reply,) = await together([self.host.blob(self.bad.digest)])
        assert (reply.status, reply.body) == (200, CONTENT)


@asynccontextmanager
async def scene(directory: Path, registry: ImageRegistry) -> AsyncIterator[Scene]:
    registry.put_blob(REPOSITORY, CONTENT)
    async with (
        cluster(directory, registry, REPORTED_ONCE) as swarm,
        scripted(swarm, "z-bad", CONTENT) as bad,
        scripted(swarm, "z-good", CONTENT) as good,
    ):
        await bad.publish()
        await bad.tell(from_host.Sealed(bad.raw_digest, 1))
        await good.tell(from_host.Announce((from_host.Holding(good.raw_digest, len(CONTENT), complete=True),)))

        async def once_bad_has_been_asked(socket: web.WebSocketResponse) -> None:
            await until_true(lambda: bad.asked > 0 or bad.ending.is_set())
            await good.tell_that_all_is_held(socket)

        good.talk = once_bad_has_been_asked
        yield Scene(swarm, await swarm.add(), bad, good)


def is_member(swarm: Cluster, host: ScriptedHost) -> bool:
    members = swarm.scheduler.core._state.swarms[host.raw_digest].members
    return host.name in {member.id for member in members}


@pytest.mark.parametrize("how", ["other bytes", "fewer bytes", "nothing", "one byte at a time", "refuses", "resets"])
def test_a_neighbour_that_does_not_send_the_piece(tmp_path: Path, registry: ImageRegistry, how: str) -> None:
    @asynchronous
    async def test() -> None:
        async with scene(tmp_path, registry) as it:
            bad = it.bad

            async def serve(request: web.Request, start: int, stop: int) -> web.StreamResponse:
                if how == "other bytes":
                    return bad.answer(start, stop, bad.lie_of(start, stop))
                if how == "refuses":
                    return web.Response(status=404)
                headers = {**bad.range_headers(start, stop), "Content-Length": str(stop - start)}
                response = web.StreamResponse(status=206, headers=headers)
                await response.prepare(request)
                assert request.transport is not None
                if how == "nothing":
                    await bad.ending.wait()
                elif how == "one byte at a time":
                    while not bad.ending.is_set() and request.transport is not None:
                        await response.write(b"x")
                        await asyncio.sleep(0.05)
                elif how == "fewer bytes":
                    await response.write(bad.content[start : start + 9])
                if request.transport is not None:
                    request.transport.abort() if how == "resets" else request.transport.close()
                return response

            bad.serve = serve
            await it.pull()
            assert bad.asked > 0
            assert it.good.asked > 0
            assert it.swarm.sent_bytes(bad.digest) == 0
            if how == "other bytes":
                await until_true(lambda: not is_member(it.swarm, bad))
                assert not bad.sentenced, "a report is no proof"
                metrics = (await ask(it.host.admin, "GET", "/metrics")).body.decode()
                (counted,) = re.findall(r"^p2pd_corrupt_pieces_total (\S+)$", metrics, re.MULTILINE)
                assert 1 <= float(counted) <= bad.asked, "what was stopped because of the first is not counted"
            if how in ("nothing", "one byte at a time"):
                assert not bad.was_dropped, "another was asked before it was given up as slow"

    test()


@pytest.mark.parametrize("what", ["garbage", "text", "oversized", "flood", "pings", "long messages"])
def test_a_link_that_breaks_the_protocol_ends_and_is_not_made_again(
    tmp_path: Path, registry: ImageRegistry, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.net.links.BURST", 1000)  # a loaded machine takes longer for more than the rate allows
    monkeypatch.setattr("peer.net.links.MESSAGES_PER_S", 100)

    @asynchronous
    async def test() -> None:
        async with scene(tmp_path, registry) as it:
            bad = it.bad

            async def talk(socket: web.WebSocketResponse) -> None:
                if what == "text":
                    await socket.send_str("hello")
                elif what == "flood":
                    for _ in range(4000):
                        await bad.say(socket, link.Have(bad.raw_digest, 9, (link.Span(0, 1),)))
                elif what == "pings":
                    for _ in range(4000):
                        await socket.ping()
                elif what == "long messages":
                    spans = tuple(link.Span(2 * at, 2 * at + 1) for at in range(link.MAX_SPANS_PER_MESSAGE))
                    frame = LINK.encode(link.Have(bad.raw_digest, 9, spans))
                    for _ in range(200):
                        await socket.send_bytes(frame)
                else:
                    await socket.send_bytes(b"\xc1" * (9 if what == "garbage" else 300_000))
                await bad.listen(socket)

            async def once_bad_is_dropped(socket: web.WebSocketResponse) -> None:
                await until_true(lambda: bad.was_dropped)
                await it.good.tell_that_all_is_held(socket)

            bad.talk, it.good.talk = talk, once_bad_is_dropped
            await it.pull()
            await until_true(lambda: not bad.open_links)
            assert (bad.links, bad.asked) == (1, 0)

    test()


async def has_received(host: Host, size_bytes: int) -> None:
    """Wait until a host has so many bytes from others, and has heard what they said with them."""
    async with asyncio.timeout(PATIENCE_S):
        while (await host.status())["downloads"]["peer_bytes"] < size_bytes:
            pass


def test_a_neighbour_that_is_busy_is_not_asked_again_until_it_says_that_it_has_room(
    tmp_path: Path, registry: ImageRegistry
) -> None:
    """With each piece it says that others come first; nobody else holds the blob."""
    content = content_of("layer", 16 * MIB)
    piece_bytes = piece_length(len(content))
    pieces = piece_count(len(content), piece_bytes)
    too_early: list[int] = []
    without_room_s = pieces // PER_NEIGHBOUR * BUSY_S

    @asynchronous
    async def test() -> None:
        registry.put_blob(REPOSITORY, content)
        async with cluster(tmp_path, registry) as swarm, scripted(swarm, "z-busy", content) as busy:
            await busy.publish()
            await busy.tell(from_host.Sealed(busy.raw_digest, 1))
            host = await swarm.add()
            may_ask = PER_NEIGHBOUR

            async def serve(_request: web.Request, start: int, stop: int) -> web.StreamResponse:
                if busy.asked > may_ask:
                    too_early.append(start)
                answer = busy.answer(start, stop, content[start:stop])
                answer.headers[CHOKED_HEADER] = "1"
                return answer

            async def talk(socket: web.WebSocketResponse) -> None:
                nonlocal may_ask
                await busy.say(socket, link.Bitfield(busy.raw_digest, 1, complete=True))
                for asked in range(PER_NEIGHBOUR, pieces, PER_NEIGHBOUR):
                    await has_received(host, asked * piece_bytes)
                    may_ask = asked + PER_NEIGHBOUR
                    await busy.say(socket, link.Unchoke(busy.raw_digest))
                await busy.listen(socket)

            busy.serve, busy.talk = serve, talk
            async with asyncio.timeout(without_room_s):
                reply = await host.blob(busy.digest)
            assert (reply.status, reply.body) == (200, content)
            assert busy.asked == pieces
            assert swarm.sent_bytes(busy.digest) == 0

    test()
    assert not too_early
