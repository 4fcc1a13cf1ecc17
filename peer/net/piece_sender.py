"""A piece on its way out encrypted, outside of TLS: read, encrypted and sent a part at a time.

1. All of it is on the event loop, like `sendfile` for a piece in the clear: to hand a part over to a thread and back
   costs the CPU more than to encrypt it. Only what is not in the page cache is read by a thread.
2. The parts of all pieces are made in the same memory, which stays in the core's cache: a part is read, encrypted and
   given to the transport at one go. aiofastnet's transport copies what the kernel does not take at once.
"""

from __future__ import annotations

import asyncio
import mmap
import secrets
from typing import Final

from aiohttp import web

from peer.store import Blob
from peer.store.data_file import DataFile
from peer.trust.aes128gcm import DATA_BYTES, MAX_HEADER_BYTES, RECORD_BYTES, SALT_BYTES, Encoder, encoded_bytes
from peer.trust.piece_keys import AnswerKey

PART_RECORDS: Final = 2
PART_BYTES: Final = PART_RECORDS * DATA_BYTES
"""The data of a part. With its records it fills a core's cache (1 MiB is common)."""


class PartMemory:
    """Memory for one part: its data, with room for a delimiter, and what is sent of it."""

    def __init__(self) -> None:
        self.data: Final = memoryview(mmap.mmap(-1, PART_BYTES + 1))
        self.encoded: Final = memoryview(mmap.mmap(-1, MAX_HEADER_BYTES + PART_RECORDS * RECORD_BYTES))


class PieceMessage:
    """Bytes `[start, stop)` of a pinned blob as one message."""

    def __init__(self, memory: PartMemory, blob: Blob | DataFile, span: tuple[int, int], key: AnswerKey) -> None:
        self._memory: Final = memory
        self._blob: Final = blob
        self._at, self._stop = span
        self._encoder: Final = Encoder(key.input_key, key.key_id, secrets.token_bytes(SALT_BYTES))
        self.encoded_bytes: Final = encoded_bytes(self._stop - self._at, len(key.key_id))
        self._header = self._encoder.header

    async def send(self, response: web.StreamResponse, count: int) -> None:
        """Send the records of the next `count` bytes: whole records, or the rest.

        Raises ConnectionError if the other host goes away, StoreBrokenError.
        """
        stop = self._at + count
        while self._at < stop:
            size_bytes = min(PART_BYTES, stop - self._at)
            with self._memory.data[:size_bytes] as data:
                cached_bytes = self._blob.read_cached(data, self._at)
            read = b""
            if cached_bytes < size_bytes:
                read = await asyncio.to_thread(self._blob.read, self._at, self._at + size_bytes)
            self._at += size_bytes
            with self._encrypted(size_bytes, read) as part:
                await response.write(part)
            await asyncio.sleep(0)  # a line that takes all of it at once is not to keep the others waiting

    def _encrypted(self, size_bytes: int, read: bytes) -> memoryview:
        """The records of a part, which is in the memory, or was `read` by a thread. The header precedes the first."""
        begin, self._header = self._header, b""
        with self._memory.data[: size_bytes + 1] as data, self._memory.encoded[len(begin) :] as records:
            if read:
                data[:size_bytes] = read
            length = len(begin) + self._encoder.encrypt(data, records, last=self._at == self._stop)
        self._memory.encoded[: len(begin)] = begin
        return self._memory.encoded[:length]
