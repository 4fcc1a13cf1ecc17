"""A link ends when the neighbour is gone without a word, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from peer.net.links import ANSWERS_WITHIN_S, HEARTBEAT_S, Links, _Link
from peer.tasks import BackgroundTasks
from scheduler.protocol.codec import LINK
from scheduler.protocol.link import LinkHello, Unchoke
from tests.support.virtual_loop import run_in_virtual_time

NEWS = aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, LINK.encode(Unchoke(bytes(32))), None)
PONG = aiohttp.WSMessage(aiohttp.WSMsgType.PONG, b"", None)


class Neighbour:
    """A link on which the frames come that a test puts there. It ends with None."""

    def __init__(self, *, answers: bool = False, reads: bool = True) -> None:
        self._answers = answers
        self._reads = reads
        self.frames: asyncio.Queue[aiohttp.WSMessage | None] = asyncio.Queue()
        self.pings: list[float] = []

    async def ping(self) -> None:
        self.pings.append(asyncio.get_running_loop().time())
        if not self._reads:
            await asyncio.Event().wait()
        if self._answers:
            self.frames.put_nowait(PONG)

    async def __aiter__(self) -> AsyncIterator[aiohttp.WSMessage]:
        while (frame := await self.frames.get()) is not None:
            yield frame


async def lasts_s(neighbour: Neighbour, *says_at: float, ends_at: float) -> float:
    """How long a link lasts on which the neighbour speaks at these times, and hangs up at the last."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for at in says_at:
        loop.call_at(began + at, neighbour.frames.put_nowait, NEWS)
    end = loop.call_at(began + ends_at, neighbour.frames.put_nowait, None)
    async with BackgroundTasks() as background:
        heard: list[object] = []
        links = Links(
            "a",
            background,
            on_message=lambda _host, message: heard.append(message),
            on_up=lambda _host: None,
            on_lost=lambda _host: None,
        )
        link: Any = neighbour  # it has what is used of a socket
        await links._talk(LinkHello("b", 1, 1), _Link(""), link, dialled=True)
        assert not links._is_shunned("b"), "it has broken no rule"
        assert len(heard) == len([at for at in says_at if began + at < loop.time()])
    end.cancel()
    return loop.time() - began


@pytest.mark.parametrize("reads", [True, False])
def test_a_neighbour_that_answers_no_ping_is_lost(reads: bool) -> None:
    async def main() -> None:
        neighbour = Neighbour(reads=reads)
        assert await lasts_s(neighbour, 1.0, ends_at=100.0) == pytest.approx(1.0 + HEARTBEAT_S + ANSWERS_WITHIN_S)
        assert len(neighbour.pings) == 1

    run_in_virtual_time(main())


def test_one_that_answers_is_not() -> None:
    async def main() -> None:
        neighbour = Neighbour(answers=True)
        assert await lasts_s(neighbour, ends_at=100.0) == pytest.approx(100.0)
        assert 100.0 / (HEARTBEAT_S + ANSWERS_WITHIN_S) - 1 <= len(neighbour.pings) <= 100.0 / HEARTBEAT_S

    run_in_virtual_time(main())


def test_one_that_speaks_is_not_even_pinged() -> None:
    async def main() -> None:
        neighbour = Neighbour()
        assert await lasts_s(neighbour, *range(1, 100), ends_at=99.5) == pytest.approx(99.5)
        assert neighbour.pings == []

    run_in_virtual_time(main())
