"""The scrubber: reads slowly through all that is held, and has what is not as it was stored dropped.

A disk that rots changes no time of a file, so nothing else notices before a client does. Each whole blob is read once a
pass and its SHA-256 compared, the ones first that were not read for longest; what this process has not read yet comes
in random order, since nothing of an earlier process is remembered. What is dropped is fetched again when it is wanted.

It gives way: one thread of the lowest priority, `rate_bytes_per_s` on the average, and pages that it has brought into
the page cache leave it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from peer.errors import FileLimitError, StoreError
from peer.store.blob import Blob
from peer.store.store import Store

log = structlog.get_logger("peer.store")

START_AFTER_S: Final = 60.0
"""A machine that has just booted has better to do."""
PASS_EVERY_S: Final = 24 * 3600.0
"""From the beginning of one pass to that of the next, at least: a small cache need not be read over and over."""
READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ScrubPass:
    """One pass. `ended` is in Unix seconds. `bad` counts blobs."""

    ended: float
    seconds: float
    blobs: int
    read_bytes: int
    bad: int


@dataclass(frozen=True, slots=True)
class ScrubStatistics:
    """`rate_bytes_per_s` 0: it is off. `read_bytes` and `bad` (blobs) are since the start."""

    rate_bytes_per_s: int
    read_bytes: int
    bad: int
    last_pass: ScrubPass | None


class Scrubber:
    """Of one store. `sleep` waits for so many seconds."""

    def __init__(
        self, store: Store, rate_bytes_per_s: int, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._store = store
        self._rate = rate_bytes_per_s
        self._sleep = sleep
        self._read_at: dict[str, float] = {}
        self._read_bytes = 0
        self._bad = 0
        self._last: ScrubPass | None = None

    def statistics(self) -> ScrubStatistics:
        return ScrubStatistics(self._rate, self._read_bytes, self._bad, self._last)

    async def run(self) -> None:
        """Pass after pass, until it is cancelled; nothing at a rate of 0."""
        if not self._rate:
            return
        await self._sleep(START_AFTER_S)
        with ThreadPoolExecutor(1, "scrubber", give_way) as thread:
            while True:
                began = time.monotonic()
                await self._pass(thread)
                await self._sleep(max(0.0, began + PASS_EVERY_S - time.monotonic()))

    async def _pass(self, thread: ThreadPoolExecutor) -> None:
        began, read_before, bad_before, blobs = time.monotonic(), self._read_bytes, self._bad, 0
        held = self._store.whole_blobs()
        random.shuffle(held)
        held.sort(key=lambda blob: self._read_at.get(blob.digest, 0.0))
        self._read_at = {blob.digest: self._read_at.get(blob.digest, 0.0) for blob in held}
        for blob in held:
            if not blob.discarded:
                blobs += 1
                await self._look_at(blob, thread)
        self._last = ScrubPass(
            ended=time.time(),
            seconds=time.monotonic() - began,
            blobs=blobs,
            read_bytes=self._read_bytes - read_before,
            bad=self._bad - bad_before,
        )
        log.info("read through the store", blobs=blobs, read_bytes=self._last.read_bytes, bad=self._last.bad)

    async def _look_at(self, blob: Blob, thread: ThreadPoolExecutor) -> None:
        why = ""
        try:
            with blob.upkeep():
                why = await self._fault(blob, thread)
        except FileLimitError as error:
            log.warning("a blob could not be looked at", digest=blob.digest, error=str(error))
        except StoreError as error:
            why = str(error)
        self._read_at[blob.digest] = time.monotonic()
        if why and not blob.discarded:
            self._bad += 1
            self._store.drop(blob, why)

    async def _fault(self, blob: Blob, thread: ThreadPoolExecutor) -> str:
        """What is wrong with a pinned blob's bytes, "" if nothing. Raises StoreError."""
        loop = asyncio.get_running_loop()
        sha256, buffer, at = hashlib.sha256(), bytearray(READ_BYTES), 0
        signature = blob.data.signature()
        if signature.size_bytes != blob.size_bytes:
            return f"its file has {signature.size_bytes} bytes, not {blob.size_bytes}"
        while at < blob.size_bytes:
            if blob.discarded:
                return ""
            got = await loop.run_in_executor(thread, _hash_some, blob, sha256, buffer, at)
            at += got
            self._read_bytes += got
            await self._sleep(got / self._rate)
        if sha256.digest() != blob.digest.raw:
            return "its bytes have another SHA-256 than its digest"
        blob.read_whole(signature)
        return ""


def _hash_some(blob: Blob, sha256: hashlib._Hash, buffer: bytearray, at: int) -> int:
    """Hash the next bytes of a blob; returns how many. Raises StoreBrokenError."""
    got = blob.data.read_gently(buffer, at)
    with memoryview(buffer) as view:
        sha256.update(view[:got])
    return got


def give_way() -> None:
    """The thread has the lowest priority, for the processor and, by that, for the disk (ioprio_set(2))."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
