"""Relaying: what an origin sends is passed straight on to a client, and not kept.

For what the store and the swarm cannot take: content named by another algorithm than SHA-256, a blob that there is no
room for, or whose store fails; and for the few bytes that a lazy snapshotter asks for of a blob that is not here yet.

Rules:
1. Access is decided before, as for all content, and the client's own credential is used, as for a download.
2. An answer that ends at the content's last byte is verified by the digest's own algorithm over all of the content. The
   last buffer waits for that; if the digest is wrong, the answer is cut. `verified=False` is for a part of content that
   its client verifies by digests of its own.
3. Worker threads receive, one buffer at a time, and the next when the client has taken that one. RELAYS of one upstream
   run at a time: they share its connections with downloads and small requests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from aiohttp import web
from msgspec.structs import replace

from peer.errors import OriginBrokenError, OriginCorruptError
from peer.oci.digest import Hasher
from peer.origin.api import Body
from peer.origin_range import OriginSource
from peer.store import Blob
from peer.threads import Threads
from proxy.blob_response import Begin, Sent, SpanSender
from proxy.core.ranges import ByteSpan

RELAYS = 3
"""Of one upstream, at a time. Unless p2pd is set otherwise it has 16 connections, and downloads use 12 of them."""

MAX_THREADS = 16
BUFFER_BYTES = 256 * 1024

T = TypeVar("T")


class Relay:
    """Relays of all upstreams. After `headers_within_s` without a first byte the headers are sent before it."""

    def __init__(self, headers_within_s: float) -> None:
        self._headers_within_s = headers_within_s
        self._threads = Threads(MAX_THREADS, "relay")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # of those in use

    def sender(
        self, source: OriginSource, size_bytes: int, sent: Sent, *, verified: bool = True, begun: Blob | None = None
    ) -> SpanSender:
        """Sends spans of the content of `source`, which has `size_bytes`. Raises OriginError, StoreError.

        If the origin is slow, the answer begins before the origin does.

        `begun`: the client has the bytes before the span from this blob of the store, which is pinned.
        """
        digest = source.ref.digest
        source = replace(source, ref=replace(source.ref, size_bytes=size_bytes))

        async def send_span(begin: Begin, span: ByteSpan) -> None:
            at = time.monotonic()
            check = digest.hasher() if verified and span.stop == size_bytes else None
            first = 0 if check is not None and begun is None else span.start
            last = None if span.stop == size_bytes else span.stop
            async with self._opened(source, first, last, begin) as reading:
                if reading.body.size_bytes != size_bytes:
                    raise OriginCorruptError(f"{digest} has {reading.body.size_bytes} bytes, not {size_bytes}")
                if check is not None and begun is not None:
                    await self._run(_hash_of_blob, begun, first, check)
                response: web.StreamResponse | None = None
                position = reading.body.start  # 0 if the origin ignores Range
                while position < span.stop:
                    most = min(BUFFER_BYTES, span.stop - position)
                    chunk = await self._run(reading.read, most, check, max(0, first - position))
                    position += len(chunk)
                    if check is not None and position == size_bytes and check.hexdigest() != digest.hex:
                        raise OriginCorruptError(f"the origin's bytes for {digest} are others; the answer was cut")
                    if wanted := chunk[max(0, len(chunk) - (position - span.start)) :]:
                        at = sent.has_bytes(at)
                        response = response or await begin()
                        await response.write(wanted)
                        at = sent.has_sent(len(wanted), at)
                if response is None:  # there is nothing to send
                    await begin()

        return send_span

    async def whole(self, source: OriginSource, most_bytes: int) -> tuple[bytes, str]:
        """All bytes of small content, verified, and its media type. Raises OriginError."""
        digest, check = source.ref.digest, source.ref.digest.hasher()
        async with self._opened(source, 0, None, None) as reading:
            size_bytes = reading.body.size_bytes
            if size_bytes > most_bytes:
                raise OriginCorruptError(f"{digest} has {size_bytes} bytes, more than {most_bytes}")
            body = bytes(await self._run(reading.read, size_bytes, check, 0))
            if check.hexdigest() != digest.hex:
                raise OriginCorruptError(f"the origin's bytes for {digest} are others")
            return body, reading.body.media_type

    @asynccontextmanager
    async def _opened(
        self, source: OriginSource, start: int, stop: int | None, begin: Begin | None
    ) -> AsyncIterator[_Reading]:
        def open_it() -> _Reading:
            return _Reading(source.origin.open(source.ref, start, stop, credential=source.credential))

        turn = self._turns.setdefault(source.upstream, asyncio.Semaphore(RELAYS))
        async with turn:
            opening = asyncio.get_running_loop().run_in_executor(self._threads, open_it)
            try:
                if begin is not None and not (await asyncio.wait((opening,), timeout=self._headers_within_s))[0]:
                    await begin()
                reading = await asyncio.shield(opening)
            except asyncio.CancelledError:  # the client is gone, and the thread waits for the origin
                opening.add_done_callback(_close_unwanted)
                raise
            try:
                yield reading
            except BaseException:
                reading.body.abort()
                raise
            finally:
                self._threads.submit(reading.close)

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args))


class _Reading:
    """A body that one thread at a time uses."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self._lock = threading.Lock()

    def read(self, amount: int, check: Hasher | None, skip: int) -> memoryview:
        """The next `amount` bytes; `check` takes in those after the first `skip`. Raises OriginError."""
        view = memoryview(bytearray(amount))
        with self._lock:
            if self.body.readinto(view) < amount:
                raise OriginBrokenError("the origin's body ends before the length that it announced")
        if check is not None:
            check.update(view[skip:])
        return view

    def close(self) -> None:
        with self._lock:
            self.body.close()


def _close_unwanted(opening: asyncio.Future[_Reading]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _hash_of_blob(blob: Blob, stop: int, check: Hasher) -> None:
    """Bytes `[0, stop)` of a blob in the store, taken into `check`. Raises StoreError."""
    for start in range(0, stop, BUFFER_BYTES):
        check.update(memoryview(blob.read(start, min(stop, start + BUFFER_BYTES))))
