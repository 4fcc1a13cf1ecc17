"""The thread that sends a piece ends with its connection, however long the other host may take."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from peer.net.piece_sender import PieceMessage, Senders
from peer.store import Store
from peer.trust.piece_keys import AnswerKey
from tests.support.images import content_of, digest_of
from tests.support.node import asynchronous
from tests.support.registry_server import PATIENCE_S
from tests.swarm.cluster import MIB

CONTENT = content_of("sent", 16 * MIB)


@asynchronous
async def test_a_thread_ends_with_its_connection(tmp_path: Path) -> None:
    store = Store.open(tmp_path, max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    for index in range(blob.count):
        start, stop = blob.span(index)
        blob.land(index, memoryview(CONTENT)[start:stop])
    loop, senders = asyncio.get_running_loop(), Senders()
    with socket.create_server(("127.0.0.1", 0)) as server, blob.pin():
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.getsockname())
        key = AnswerKey(bytes(32), bytes(24))
        message = PieceMessage(senders, blob, (0, len(CONTENT)), key, transport, patience_s=1000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(message.send(len(CONTENT)), 0.2)  # nobody reads
        transport.abort()
        message.close()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(senders.threads.shutdown)
        assert message._socket.fileno() == -1
    blob.release()
    store.close()


@asynchronous
async def test_a_piece_that_nobody_waits_for_is_not_begun(tmp_path: Path) -> None:
    store = Store.open(tmp_path, max_bytes=1 << 30, min_free_bytes=0, ttl_s=0)
    blob = store.create(digest_of(CONTENT), len(CONTENT), "")
    loop, senders = asyncio.get_running_loop(), Senders()
    with socket.create_server(("127.0.0.1", 0)) as server, blob.pin():
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.getsockname())
        message = PieceMessage(senders, blob, (0, 10), AnswerKey(bytes(32), bytes(24)), transport, patience_s=1000)
        message.close()
        with pytest.raises(ConnectionAbortedError):
            await message.send(10)
        transport.abort()
    senders.close()
    blob.release()
    store.close()
