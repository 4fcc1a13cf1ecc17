"""What a host sends to others is limited: pieces at a time, bytes per second, and the time for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event

import pytest
from aiohttp import web

from peer.background import Background
from peer.errors import FileLimitError, StoreBrokenError, StoreError
from peer.store import Blob, Store
from peer.swarm.fetching import PACED_BYTES, Pace
from peer.swarm.server import PeerServer
from peer.swarm.uploading import Uploading
from tests.proxy.client import Client, ask
from tests.proxy.images import content_of, digest_of
from tests.proxy.node import asynchronous
from tests.swarm.cluster import MIB

CONTENT = content_of("layer", 8 * MIB)
PATH = f"/v2/swarm/blobs/{digest_of(CONTENT)}"


@asynccontextmanager
async def serving(
    directory: Path, *, fails: StoreError | None = None, **options: float
) -> AsyncIterator[tuple[PeerServer, str]]:
    """A peer port that has CONTENT, and its address. `fails` is what comes of each try to read it."""
    store = Store.open(directory / "data", max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    for index in range(blob.count):
        start, stop = blob.span(index)
        blob.land(index, memoryview(CONTENT)[start:stop])

    async def no_links(request: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound

    @contextmanager
    def all_of_it(_digest: str, _start: int, _stop: int) -> Iterator[Blob]:
        if fails is not None:
            raise fails
        with blob.pin():
            yield blob

    limits: dict[str, object] = {"rate_bytes_per_s": 0, **options}
    async with Background() as background:
        uploading = Uploading(1, background, lambda _: None, lambda _: False)
        server = PeerServer(all_of_it, no_links, uploading=uploading, **limits)  # type: ignore[arg-type]
        runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield server, "{}:{}".format(*runner.addresses[0][:2])
        finally:
            await runner.cleanup()
            blob.release()
            store.close()


def a_range(size_bytes: int) -> dict[str, str]:
    return {"Range": f"bytes=0-{size_bytes - 1}"}


@asynchronous
async def test_who_comes_when_all_slots_are_taken_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, address), Client(address, receive_buffer_bytes=4096) as slow:
        await slow.request("GET", PATH, a_range(len(CONTENT)))
        head = await slow.head()
        reply = await ask(address, "GET", PATH, a_range(9))
        assert (reply.status, server.busy_answers) == (429, 1)
        assert (await slow.rest(head)).body == CONTENT
        assert (await ask(address, "GET", PATH, a_range(9))).body == CONTENT[:9]  # the slot is free again


@pytest.mark.parametrize(("error", "status"), [(FileLimitError("no files left"), 429), (StoreBrokenError("bad"), 404)])
def test_who_cannot_send_now_is_asked_again_and_who_has_lost_it_is_not(
    tmp_path: Path, error: StoreError, status: int
) -> None:
    @asynchronous
    async def test() -> None:
        async with serving(tmp_path, fails=error) as (_, address):
            assert (await ask(address, "GET", PATH, a_range(9))).status == status

    test()


@asynchronous
async def test_a_host_that_does_not_read_loses_its_slot(tmp_path: Path) -> None:
    async with serving(tmp_path, stall_s=0.05) as (_, address), Client(address, receive_buffer_bytes=4096) as slow:
        await slow.request("GET", PATH, a_range(len(CONTENT)))
        head = await slow.head()
        async with asyncio.timeout(10):
            while (await ask(address, "GET", PATH, a_range(9))).status == 429:
                pass
        assert (await slow.rest(head)).end != "whole"


@asynchronous
async def test_uploads_keep_to_the_rate(tmp_path: Path) -> None:
    rate = 4 * MIB
    async with serving(tmp_path, rate_bytes_per_s=rate) as (_, address):
        loop = asyncio.get_running_loop()
        before = loop.time()
        reply = await ask(address, "GET", PATH, a_range(2 * MIB))
        assert reply.body == CONTENT[: 2 * MIB]
        burst = rate // 10
        assert loop.time() - before >= (2 * MIB - burst - PACED_BYTES) / rate, "that is the least that it must take"


class _Waits:
    """A clock that stands still, and notes how long it was waited for."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def monotonic(self) -> float:
        return self.waited_s

    def wait(self, _stopped: Event, seconds: float) -> None:
        self.waited_s += seconds


def test_downloads_keep_to_the_rate() -> None:
    clock = _Waits()
    pace = Pace(4 * MIB, clock)  # type: ignore[arg-type] # all that a Pace needs of a clock
    for _ in range(8 * MIB // PACED_BYTES):
        pace.wait(PACED_BYTES, Event())
    assert clock.waited_s == pytest.approx((8 * MIB - 4 * MIB // 10) / (4 * MIB))
