"""What an encrypted piece is made of while it goes out: the page cache, the disk, and memory that all pieces share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, web

from peer.errors import StoreBrokenError
from peer.net.piece_sender import PART_BYTES, PartMemory, PieceMessage
from peer.store import Blob, Store
from peer.store.data_file import DataFile
from peer.store.disk import is_in_memory
from peer.trust.aes128gcm import HEADER_BYTES, RECORD_BYTES, Decoder, Header
from peer.trust.piece_keys import AnswerKey
from tests.support.images import content_of, digest_of
from tests.support.node import asynchronous
from tests.support.small_disk import small_disk
from tests.swarm.cluster import MIB

CONTENT = content_of("sent", 8 * MIB)
KEY = AnswerKey(bytes(32), bytes(24))


@pytest.fixture
def blob(tmp_path: Path) -> Iterator[Blob]:
    store = Store.open(tmp_path, max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    for index in range(blob.count):
        start, stop = blob.span(index)
        blob.land(index, memoryview(CONTENT)[start:stop])
    with blob.pin():
        yield blob
    blob.release()
    store.close()


@asynccontextmanager
async def serving(blob: Blob, memory: PartMemory) -> AsyncIterator[tuple[str, list[Exception]]]:
    """A port with the bytes of `blob` between two numbers, and what it has raised."""
    raised: list[Exception] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        start, stop = (int(request.match_info[name]) for name in ("start", "stop"))
        message = PieceMessage(memory, blob, (start, stop), KEY)
        response = web.StreamResponse(headers={"Content-Length": str(message.encoded_bytes)})
        await response.prepare(request)
        try:
            await message.send(response, stop - start)
        except (StoreBrokenError, ConnectionError) as error:
            raised.append(error)
            assert request.transport is not None
            request.transport.abort()
        return response

    app = web.Application()
    app.add_routes([web.get("/{start}-{stop}", answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2]), raised
    finally:
        await runner.cleanup()


def decrypted(message: bytes) -> bytes:
    at = HEADER_BYTES + len(KEY.key_id)
    decoder = Decoder(KEY.input_key, Header(message[:HEADER_BYTES], max_record_bytes=RECORD_BYTES))
    data = memoryview(bytearray(RECORD_BYTES))
    whole = bytearray()
    while at < len(message):
        record = memoryview(message)[at : at + RECORD_BYTES]
        whole += data[: decoder.decrypt(record, data)]
        at += len(record)
    assert decoder.ended
    return bytes(whole)


@asynchronous
async def test_pieces_that_go_out_at_the_same_time_do_not_mix(blob: Blob) -> None:
    """The receivers read nothing until all have begun: what the kernel does not take is no longer in the memory."""
    spans = [(at, at + 2 * MIB) for at in range(0, len(CONTENT), 2 * MIB)] + [(5, 2 * PART_BYTES + 7)]
    async with serving(blob, PartMemory()) as (url, raised), ClientSession(read_bufsize=2**10) as session:
        answers = [await session.get(f"{url}/{start}-{stop}") for start, stop in spans]
        got = [decrypted(await answer.read()) for answer in answers]
    assert got == [CONTENT[start:stop] for start, stop in spans]
    assert not raised


@asynchronous
async def test_what_is_not_in_the_page_cache_is_read_from_the_disk(blob: Blob) -> None:
    os.fdatasync(blob.fileno())
    os.posix_fadvise(blob.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    async with (
        serving(blob, PartMemory()) as (url, _),
        ClientSession() as session,
        session.get(f"{url}/3-3000000") as it,
    ):
        assert decrypted(await it.read()) == CONTENT[3:3000000]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_file_system_in_memory_is_read_as_the_page_cache_is(tmp_path: Path) -> None:
    """It says nothing of its page cache, which is all that there is."""
    with small_disk(tmp_path / "memory", "size=1m") as directory:
        (directory / "file").write_bytes(CONTENT[:1000])
        file = DataFile(directory / "file", 1000)
        file.open(for_writing=False)
        got = bytearray(1000)
        assert file.read_cached(got, 0) == 1000
        assert got == CONTENT[:1000]
        file.close()
    assert not is_in_memory(Path("/proc").stat().st_dev)
    assert not is_in_memory(os.makedev(4095, 1))  # no such device


@asynchronous
async def test_a_file_that_was_cut_ends_the_answer(blob: Blob) -> None:
    os.truncate(blob.data_path, MIB)
    async with serving(blob, PartMemory()) as (url, raised), ClientSession() as session:
        with pytest.raises(ClientError):
            async with session.get(f"{url}/0-{2 * MIB}") as answer:
                await answer.read()
    assert isinstance(raised[0], StoreBrokenError)
