"""What a host sends to others is limited: pieces at a time, bytes per second, and the time for one. Who cannot have a
piece now hears so, with a refusal or with the piece before, and is told when it can come."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event

import pytest
from aiohttp import web
from blake3 import blake3

from peer.core.choker import UploadRequest
from peer.core.uplink import STALLED_S
from peer.errors import FileLimitError, PeerBusyError, StoreBrokenError, StoreError
from peer.neighbour_http import CHOKED_HEADER, HOST_HEADER, NeighbourClient
from peer.net.peer_server import PeerServer
from peer.net.upload_sender import EARLY_DONE_BYTES, Uploading
from peer.pacing import PACED_BYTES
from peer.peer_piece import Pace, PeerPiece, PieceSource
from peer.store import Blob, Store
from peer.store.buffers import BufferPool
from scheduler.protocol.geometry import MAX_PIECE_BYTES
from tests.support.client import Client, Reply, ask
from tests.support.images import content_of, digest_of
from tests.support.node import asynchronous
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB, until_true

CONTENT = content_of("layer", 8 * MIB)
PATH = f"/v2/swarm/blobs/{digest_of(CONTENT)}"
RAW_DIGEST = bytes.fromhex(digest_of(CONTENT).removeprefix("sha256:"))

MANY = 24
"""Hosts that were refused: to tell them all takes some looks, and somebody who comes then is served while they wait."""


class Serving:
    """A peer port that has CONTENT, its address, and whom it has told that there is room."""

    def __init__(self, server: PeerServer, address: str, told: list[UploadRequest]) -> None:
        self.server = server
        self.address = address
        self.told = told

    async def asked_by(self, host: str, size_bytes: int = 9) -> Reply:
        return await ask(self.address, "GET", PATH, {**a_range(size_bytes), HOST_HEADER: host})


@asynccontextmanager
async def serving(
    directory: Path, *, fails: StoreError | None = None, stalled_s: float = STALLED_S, **options: object
) -> AsyncIterator[Serving]:
    """`fails` is what comes of each try to read CONTENT. Hosts whose name begins with `far` are in another site."""
    store = Store.open(directory / "data", max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    for index in range(blob.count):
        start, stop = blob.span(index)
        blob.land(index, memoryview(CONTENT)[start:stop])

    async def no_links(request: web.BaseRequest) -> web.StreamResponse:
        raise web.HTTPNotFound

    async def all_of_it(_digest: str, _start: int, _stop: int) -> Blob:
        if fails is not None:
            raise fails
        blob.acquire()
        return blob

    limits: dict[str, object] = {"rate_bytes_per_s": 0, **options}
    told: list[UploadRequest] = []
    server = PeerServer(
        all_of_it,
        no_links,
        uploading=Uploading(1, told.append, stalled_s=stalled_s),
        is_far=lambda host: host.startswith("far"),
        **limits,  # type: ignore[arg-type] # of several types
    )
    runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Serving(server, "{}:{}".format(*runner.addresses[0][:2]), told)
    finally:
        await runner.cleanup()
        blob.release()
        store.close()


@asynccontextmanager
async def filled(it: Serving) -> AsyncIterator[None]:
    """The line is full, for the length of the block: a host that does not read has a piece before it is out."""
    async with Client(it.address, receive_buffer_bytes=4096) as slow:
        await slow.request("GET", PATH, a_range(MAX_PIECE_BYTES))
        head = await slow.head()
        yield
        assert (await slow.rest(head)).body == CONTENT[:MAX_PIECE_BYTES]


@asynccontextmanager
async def stalled(directory: Path) -> AsyncIterator[tuple[Serving, Client]]:
    """A host has read nothing of a piece when the kernel has all of it, and that is not borne for long."""
    size_bytes = EARLY_DONE_BYTES + 64 * 1024
    async with serving(directory, stall_s=0.2) as it, Client(it.address, receive_buffer_bytes=4096) as slow:
        await slow.request("GET", PATH, a_range(size_bytes))
        await until_true(lambda: it.server.sent_bytes == size_bytes)
        yield it, slow


def a_range(size_bytes: int) -> dict[str, str]:
    return {"Range": f"bytes=0-{size_bytes - 1}"}


async def served(it: Serving, host: str) -> Reply:
    """The piece, once there is room for it."""
    async with asyncio.timeout(PATIENCE_S):
        while (reply := await it.asked_by(host)).status == 429:
            pass
    assert reply.status == 206
    return reply


@contextmanager
def receiving(directory: Path, address: str, *, background: bool = False) -> Iterator[PeerPiece]:
    """A request of host b for the first piece, which its store lacks."""
    store = Store.open(directory / "b", max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    start, stop = blob.span(0)
    origin = NeighbourClient("a", address, "b")
    try:
        digest = blake3(CONTENT[start:stop]).digest()
        yield PeerPiece(PieceSource(origin), blob, 0, digest, background=background)
    finally:
        origin.close()
        blob.release()
        store.close()


def has_landed(fetch: PeerPiece) -> bool:
    """Whether the neighbour had room for it."""
    try:
        fetch.run(BufferPool(len(CONTENT)), Pace(0), lambda _index, _digest: None)
    except PeerBusyError:
        return False
    return True


@asynchronous
async def test_who_comes_when_all_slots_are_taken_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        async with filled(it):
            assert (await it.asked_by("b")).status == 429
            assert it.server.busy_answers == 1
        reply = await served(it, "b")
        assert reply.body == CONTENT[:9], "the slot is free again"


@asynchronous
async def test_a_piece_that_is_in_the_kernels_buffer_still_has_its_slot(tmp_path: Path) -> None:
    size_bytes = EARLY_DONE_BYTES + 64 * 1024
    async with serving(tmp_path) as it, Client(it.address, receive_buffer_bytes=4096) as slow:
        await slow.request("GET", PATH, a_range(size_bytes))
        await until_true(lambda: it.server.sent_bytes == size_bytes)
        assert (await it.asked_by("b")).status == 429
        assert (await slow.rest(await slow.head())).body == CONTENT[:size_bytes]


@asynchronous
async def test_those_that_were_refused_are_told_when_there_is_room_and_those_of_other_sites_first(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as it:
        async with filled(it):
            await it.asked_by("near")
            await it.asked_by("far")
            assert (await ask(it.address, "GET", PATH, a_range(9))).status == 429, "nobody can tell who it is"
        await until_true(lambda: len(it.told) == 2)
        assert it.told == [UploadRequest("far", RAW_DIGEST, far=True), UploadRequest("near", RAW_DIGEST)]


@asynchronous
async def test_who_asks_for_a_piece_that_only_checkers_ask_for_checks_it(tmp_path: Path) -> None:
    async with serving(tmp_path, is_checked=lambda digest, start: (digest.raw, start) == (RAW_DIGEST, 0)) as it:
        async with filled(it):
            await it.asked_by("checker")
        await until_true(lambda: len(it.told) == 1)
        assert it.told == [UploadRequest("checker", RAW_DIGEST, checks=True)]


@asynchronous
async def test_a_request_of_the_background_is_told_after_one_of_a_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        with receiving(tmp_path, it.address, background=True) as fetch:
            async with filled(it):
                assert not await asyncio.to_thread(has_landed, fetch)
                await it.asked_by("near")
            await until_true(lambda: len(it.told) == 2)
        assert it.told == [UploadRequest("near", RAW_DIGEST), UploadRequest("b", RAW_DIGEST, background=True)]


@asynchronous
async def test_who_is_served_while_others_wait_is_told_so_with_the_piece(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        async with filled(it):
            for number in range(MANY):
                assert CHOKED_HEADER.lower() not in (await it.asked_by(f"waits{number}")).headers
        reply = await served(it, "b")
        assert reply.headers[CHOKED_HEADER.lower()] == "1"
        assert reply.body == CONTENT[:9]
        await until_true(lambda: UploadRequest("b", RAW_DIGEST) in it.told)
        assert it.told[-1].host == "b"


@asynchronous
async def test_who_is_served_while_nobody_waits_is_not_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        reply = await it.asked_by("b")
        assert reply.status == 206
        assert CHOKED_HEADER.lower() not in reply.headers


@pytest.mark.parametrize("others", [0, MANY])
def test_who_fetches_a_piece_hears_with_it_whether_others_come_first(tmp_path: Path, others: int) -> None:
    @asynchronous
    async def test() -> None:
        async with serving(tmp_path) as it:
            async with filled(it):
                for number in range(others):
                    await it.asked_by(f"waits{number}")
            with receiving(tmp_path, it.address) as fetch:
                async with asyncio.timeout(PATIENCE_S):
                    while not await asyncio.to_thread(has_landed, fetch):
                        pass
                assert fetch.choked == bool(others)
                if others:
                    await until_true(lambda: UploadRequest("b", RAW_DIGEST) in it.told)

    test()


@pytest.mark.parametrize(("error", "status"), [(FileLimitError("no files left"), 429), (StoreBrokenError("bad"), 404)])
def test_who_cannot_send_now_is_asked_again_and_who_has_lost_it_is_not(
    tmp_path: Path, error: StoreError, status: int
) -> None:
    @asynchronous
    async def test() -> None:
        async with serving(tmp_path, fails=error) as it:
            assert (await it.asked_by("b")).status == status

    test()


@asynchronous
async def test_a_host_that_does_not_read_loses_its_slot(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, stall_s=0.05, stalled_s=math.inf) as it,
        Client(it.address, receive_buffer_bytes=4096) as slow,
    ):
        await slow.request("GET", PATH, a_range(MAX_PIECE_BYTES))
        head = await slow.head()
        await served(it, "b")
        assert (await slow.rest(head)).end != "whole"


@asynchronous
async def test_a_host_that_takes_nothing_loses_its_slot_soon_if_others_wait_for_it(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, stalled_s=0.1, stall_s=10 * PATIENCE_S) as it,
        Client(it.address, receive_buffer_bytes=4096) as slow,
    ):
        await slow.request("GET", PATH, a_range(MAX_PIECE_BYTES))
        head = await slow.head()
        assert (await served(it, "b")).body == CONTENT[:9], "long before `stall_s`"
        assert (await slow.rest(head)).end != "whole"


@asynchronous
async def test_no_more_than_a_piece_is_sent_at_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        assert len((await it.asked_by("b", MAX_PIECE_BYTES)).body) == MAX_PIECE_BYTES
        refused = await it.asked_by("b", MAX_PIECE_BYTES + 1)
        assert refused.status == 400
        assert it.server.busy_answers == 0, "it had no slot"


@asynchronous
async def test_a_host_that_reads_no_more_once_the_kernel_has_all_of_a_piece_loses_its_connection(
    tmp_path: Path,
) -> None:
    async with stalled(tmp_path) as (it, slow):
        await served(it, "b")
        assert await slow.wait_for_end(), "else it would be kept for the next request"


def test_that_is_not_logged_as_a_fault_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @asynchronous
    async def test() -> None:
        async with stalled(tmp_path) as (it, _):
            await served(it, "b")

    test()
    assert not caplog.records


@asynchronous
async def test_uploads_keep_to_the_rate(tmp_path: Path) -> None:
    rate = 4 * MIB
    async with serving(tmp_path, rate_bytes_per_s=rate) as it:
        loop = asyncio.get_running_loop()
        before = loop.time()
        reply = await it.asked_by("b", 2 * MIB)
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


@pytest.mark.parametrize(("method", "size_bytes", "status"), [("HEAD", 100, 404), ("GET", MAX_PIECE_BYTES + 1, 400)])
@asynchronous
async def test_only_a_few_pieces_are_sent_at_a_time(tmp_path: Path, method: str, size_bytes: int, status: int) -> None:
    """An answer to HEAD has no body: the bytes of one would be taken for the next answer."""
    async with serving(tmp_path) as it:
        reply = await ask(it.address, method, PATH, a_range(size_bytes))
        assert (reply.status, it.server.sent_bytes) == (status, 0)
