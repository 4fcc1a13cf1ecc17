"""Keys for pieces on a link: first of all, and only between hosts with certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from peer.net.links import Links, _Link
from peer.tasks import BackgroundTasks
from peer.trust.piece_keys import Certificate, PieceKeys, PieceRequest
from scheduler.protocol.codec import LINK
from scheduler.protocol.link import LinkHello, PieceKey
from tests.support.node import asynchronous
from tests.swarm.test_encrypted_pieces import Trust

KEY = PieceKey(bytes(16), bytes(32), plain=True)


class Socket:
    """A link on which a neighbour with this certificate says `frames` and then hangs up."""

    def __init__(self, certificate: bytes | None, *frames: bytes) -> None:
        self._certificate = Certificate(certificate)
        self._frames = frames
        self.story: list[object] = []

    def get_extra_info(self, name: str) -> Certificate:
        assert name == "ssl_object"
        return self._certificate

    async def send_bytes(self, frame: bytes) -> None:
        self.story.append(LINK.decode(frame))

    async def close(self, *, code: int) -> None:
        assert code == aiohttp.WSCloseCode.GOING_AWAY
        self.story.append("hung up")

    async def __aiter__(self) -> AsyncIterator[aiohttp.WSMessage]:
        await asyncio.sleep(0)
        for frame in self._frames:
            yield aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, frame, None)


@asynccontextmanager
async def linked(socket: Socket, trust: Trust | None, keys: PieceKeys | None) -> AsyncIterator[list[object]]:
    """What was said and told, in order, once the link has ended."""
    async with BackgroundTasks() as background:
        links = Links(
            "a",
            background,
            on_message=lambda _host, message: socket.story.append(message),
            on_up=lambda _host: socket.story.append("up"),
            on_lost=lambda _host: socket.story.append("lost"),
            trust=trust,  # type: ignore[arg-type] # it has what is used of it
            keys=keys,
        )
        link: Any = _Link("")
        await links._talk(LinkHello("b", 1, 1), link, socket, dialled=True)  # type: ignore[arg-type] # as above
        yield socket.story


def keys() -> PieceKeys:
    return PieceKeys(asyncio.get_running_loop().time, plain=False)


@asynchronous
async def test_a_key_is_told_before_anything_else_and_one_that_is_told_is_kept() -> None:
    own, socket = keys(), Socket(b"good", LINK.encode(KEY))
    async with linked(socket, Trust(), own) as story:
        assert [type(each) for each in story] == [PieceKey, str], "the machine hears of no key"
        held = own.held("b")
        assert held is not None
        assert held.plain
        told = story[0]
        assert isinstance(told, PieceKey)
        other = keys()
        other.learn("a", told)
        known = other.held("a")
        assert known is not None
        request = PieceRequest("GET", "/", "")
        assert own.authenticate(request, known.authorize(request)[0]).certificate.der == b"good"


@asynchronous
async def test_a_neighbour_whose_certificate_is_over_gets_none_and_the_link_ends() -> None:
    async with linked(Socket(b"over"), Trust(), keys()) as story:
        assert story == []


class Renewing(Trust):
    async def watch(self, _connection: object, host: str | None, *, reopens: bool) -> None:
        assert (host, reopens) == ("b", True)


@asynchronous
async def test_a_link_is_hung_up_to_be_dialled_anew_when_a_certificate_is_soon_over() -> None:
    async with linked(Socket(b"good"), Renewing(), None) as story:
        await asyncio.sleep(0)
        assert story == ["up", "hung up"]


@asynchronous
async def test_without_certificates_no_key_is_told_or_kept() -> None:
    async with linked(Socket(None, LINK.encode(KEY)), None, None) as story:
        assert story == ["up"]
