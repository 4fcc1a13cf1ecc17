"""What a host has the store do that takes time: each in a thread, and it ends by one event."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import structlog

from peer.arrival import Arrival
from peer.core import events
from peer.core.events import Event
from peer.errors import FileLimitError, StoreBrokenError, StoreError, StoreFullError, StoreReadOnlyError
from peer.oci.digest import Digest
from peer.store import Blob, Store
from peer.workers import Workers
from scheduler.protocol.fields import MAX_INLINE_BYTES

ROOM_WITHIN_S = 2.0
ROOM_AGAIN_S = 0.02
"""How long a client may wait for room that others have, and how often it is looked for."""

log = structlog.get_logger("peer.store_work")


class StoreWork:
    """For the blobs on their way, `arrivals`. `post` takes the events."""

    def __init__(
        self, arrivals: Mapping[bytes, Arrival], store: Store, workers: Workers, post: Callable[[Event], None]
    ) -> None:
        self.inline_bytes = 0
        """What came inside the scheduler's messages."""
        self._arrivals = arrivals
        self._store = store
        self._workers = workers
        self._post = post

    async def recover(self, arrival: Arrival) -> None:
        """Say what an earlier download left of this blob."""
        held = events.PiecesHeld(arrival.raw)
        try:
            blob = self._store.acquire(arrival.digest, background=arrival.background)
            if blob is not None:
                held = await self._recovered(arrival, blob)
        except (FileLimitError, StoreReadOnlyError) as error:
            self._failed(arrival, error)
            return
        except StoreError as error:
            log.warning("a damaged blob was removed, it is fetched again", digest=arrival.digest, error=str(error))
            self._store.discard(arrival.digest)
        if self._arrivals.get(arrival.raw) is arrival:
            self._post(held)
            arrival.wake()

    async def _recovered(self, arrival: Arrival, blob: Blob) -> events.PiecesHeld:
        with ExitStack() as pin:
            pin.callback(blob.release)
            await self._workers.run(blob.recover)
            if blob.verdict is False:
                raise StoreBrokenError(f"the bytes that are held of {blob.digest} have another SHA-256")
            if not blob.held_bytes:  # nor is its length to be believed: somebody's, who has sent nothing of it
                return events.PiecesHeld(arrival.raw)
            pin.pop_all()
        return self._adopted(arrival, blob)

    def _adopted(self, arrival: Arrival, blob: Blob) -> events.PiecesHeld:
        """The pieces that are held of a blob, which the arrival takes over."""
        arrival.answered = arrival.answered or bool(blob.held_bytes)
        digests = {index: blob.piece_digests.get(index, b"") for index in blob.pieces}
        held = events.PiecesHeld(arrival.raw, blob.size_bytes, blob.header.piece_length, digests, blob.verdict)
        arrival.adopt(blob)
        return held

    async def prepare(self, arrival: Arrival, size_bytes: int, told_length: int = 0) -> None:
        """Give the blob its place in the store before its first piece comes."""
        try:
            blob = await self._created_in_time(arrival, size_bytes, told_length)
        except StoreError as error:
            self._failed(arrival, error)
            return
        arrival.adopt(blob)
        if self._arrivals.get(arrival.raw) is arrival:
            self._post(events.Prepared(arrival.raw))
        arrival.wake()

    async def store_inline(self, arrival: Arrival, data: bytes) -> None:
        """Take in a tiny blob that came whole from the scheduler, if it is the blob."""
        if hashlib.sha256(data).digest() != arrival.raw:
            log.warning("the scheduler sent other bytes under a digest", digest=arrival.digest)
            return
        try:
            blob = await self._workers.run(self._put, arrival, data)
        except StoreError as error:
            self._failed(arrival, error)
            return
        self.inline_bytes += len(data)
        blob.came = blob.came.plus(peer_bytes=len(data))
        held = self._adopted(arrival, blob)
        if self._arrivals.get(arrival.raw) is arrival:
            self._post(held)
        arrival.wake()

    def _put(self, arrival: Arrival, data: bytes) -> Blob:
        blob = self._created(arrival, len(data))
        for index in range(blob.count):
            start, stop = blob.span(index)
            blob.land(index, memoryview(data)[start:stop])
        return blob

    async def _created_in_time(self, arrival: Arrival, size_bytes: int, told_length: int) -> Blob:
        """The new blob. A client waits a little for what others are about to be done with. Raises StoreError."""
        until_s = self._workers.loop.time() + ROOM_WITHIN_S
        while True:
            try:
                return await self._workers.run(self._created, arrival, size_bytes, told_length)
            except StoreFullError as error:
                if not error.passing or arrival.background or self._workers.loop.time() > until_s:
                    raise
            finally:
                arrival.waits_for_room = False
            arrival.waits_for_room = True
            await asyncio.sleep(ROOM_AGAIN_S)

    def _created(self, arrival: Arrival, size_bytes: int, told_length: int = 0) -> Blob:
        return self._store.create(
            arrival.digest, size_bytes, arrival.media_type, told_length=told_length, background=arrival.background
        )

    def _failed(self, arrival: Arrival, error: StoreError) -> None:
        if self._arrivals.get(arrival.raw) is arrival:
            arrival.last_error = error
            self._post(events.StoreFailed(arrival.raw, discard=isinstance(error, StoreBrokenError)))

    async def read_digests(self, digest: bytes) -> None:
        """What the record of a whole blob has, or all of a tiny one."""
        self._post(await asyncio.to_thread(self._recorded, digest))

    def _recorded(self, digest: bytes) -> events.DigestsRead:
        nothing = events.DigestsRead(digest, {})
        try:
            blob = self._store.acquire(Digest.from_raw(digest))
            if blob is None:
                return nothing
            with ExitStack() as pin:
                pin.callback(blob.release)
                return self._read(blob) if blob.whole else nothing
        except StoreError as error:
            log.warning("a blob could not be read", digest=digest.hex(), error=str(error))
            return nothing

    def _read(self, blob: Blob) -> events.DigestsRead:
        raw = blob.digest.raw
        try:
            if blob.size_bytes > MAX_INLINE_BYTES:
                return events.DigestsRead(raw, blob.record.digests(), piece_length=blob.header.told_piece_length)
            if not blob.is_checked(0, blob.size_bytes):
                blob.check(0, blob.size_bytes)
            return events.DigestsRead(raw, {}, blob.read(0, blob.size_bytes))
        except StoreBrokenError as error:
            self._store.drop(blob, str(error))
            return events.DigestsRead(raw, {})

    async def check(self, blob: Blob, start: int, stop: int) -> None:
        """See that bytes `[start, stop)` of a pinned blob are right on the disk. Raises StoreError."""
        try:
            if not blob.is_checked(start, stop):
                await self._workers.run(blob.check, start, stop)
        except StoreBrokenError as error:
            self._store.drop(blob, str(error))
            raise

    async def seal(self, blob: Blob) -> None:
        try:
            await self._workers.run(blob.seal)
        except StoreReadOnlyError as error:
            self._unsealed(blob, error)
        except StoreBrokenError as error:
            self._store.drop(blob, str(error))
        except StoreError as error:
            self._unsealed(blob, error)
        finally:
            blob.release()

    def _unsealed(self, blob: Blob, error: StoreError) -> None:
        log.warning("a blob could not be flushed; it is hashed again after a restart", error=str(error))
        self._post(events.BlobRemoved(blob.digest.raw))
