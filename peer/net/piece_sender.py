"""A piece on its way out encrypted, outside of TLS: read, encrypted and sent by a thread, record by record.

1. The thread writes to the socket itself: what it has encrypted goes from its buffer to the kernel, and the event loop
   has to do with a piece only when it begins and when it is out.
2. The thread has a descriptor of its own for the socket, which the loop may close meanwhile. If the thread is still
   sending, `close` ends the connection, and with it the thread.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from peer.store import Blob
from peer.threads import Threads
from peer.trust.aes128gcm import DATA_BYTES, RECORD_BYTES, SALT_BYTES, Encoder, encoded_bytes
from peer.trust.piece_keys import AnswerKey

MAX_THREADS: Final = 64
MEMORY_BYTES: Final = DATA_BYTES + 1 + RECORD_BYTES
"""What a thread needs: the data of a record with its delimiter, and the record."""

FLUSH_INTERVAL_S: Final = 0.005


class Senders:
    """The threads, which begin as they are needed. Each keeps its buffer: to map one for each piece costs the CPU more
    than to encrypt the piece. There are as many as pieces go out at a time."""

    def __init__(self) -> None:
        self.threads: Final = Threads(MAX_THREADS, "upload", ready=False)
        self._own: Final = threading.local()

    def buffer(self) -> memoryview:
        """The buffer of the running thread, of `MEMORY_BYTES`."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(mmap.mmap(-1, MEMORY_BYTES))
        buffer: memoryview = self._own.buffer
        return buffer

    def close(self) -> None:
        """Begin nothing new."""
        self.threads.shutdown(wait=False, cancel_futures=True)


class PieceMessage:
    """Bytes `[start, stop)` of a pinned blob as one message, for the connection of a transport.

    `patience_s`: how long the other host may take for what is sent at a time.
    """

    def __init__(
        self,
        senders: Senders,
        blob: Blob,
        span: tuple[int, int],
        key: AnswerKey,
        transport: asyncio.Transport,
        patience_s: float,
    ) -> None:
        self._senders: Final = senders
        self._blob: Final = blob
        self._at, self._stop = span
        self._transport: Final = transport
        self._patience_s: Final = patience_s
        self._encoder: Final = Encoder(key.input_key, key.key_id, secrets.token_bytes(SALT_BYTES))
        self.encoded_bytes: Final = encoded_bytes(self._stop - self._at, len(key.key_id))
        self._header = self._encoder.header
        self._socket: Final = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._lock: Final = threading.Lock()
        self._busy = False
        self._closed: Final = threading.Event()

    async def send(self, count: int) -> None:
        """Send the records of the next `count` bytes, in a thread. What the transport was given before goes first.

        Raises ConnectionError if the other host goes away or takes nothing, StoreBrokenError.
        """
        while self._transport.get_write_buffer_size():  # noqa: ASYNC110 # the protocol hears of it, and we do not
            await asyncio.sleep(FLUSH_INTERVAL_S)
        await asyncio.get_running_loop().run_in_executor(self._senders.threads, self._run, self._at + count)

    def close(self) -> None:
        """The connection ends, if a thread is still sending."""
        with self._lock:
            self._closed.set()
            if not self._busy:
                self._socket.close()
                return
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, stop: int) -> None:
        with self._lock:
            if self._closed.is_set():
                raise ConnectionAbortedError("nobody waits for this piece any more")
            self._busy = True
        try:
            deadline = time.monotonic() + self._patience_s
            for part in self._records(stop, self._senders.buffer()):
                with part:
                    self._send_all(part, deadline)
        finally:
            with self._lock:
                self._busy = False
                if self._closed.is_set():
                    self._socket.close()

    def _records(self, stop: int, memory: memoryview) -> Iterator[memoryview]:
        """The next parts of the message, up to the record with byte `stop - 1`."""
        if self._header:
            yield memoryview(self._header)
            self._header = b""
        while self._at < stop:
            size_bytes = min(DATA_BYTES, self._stop - self._at)
            with memory[: size_bytes + 1] as data, memory[DATA_BYTES + 1 :] as record:
                with data[:size_bytes] as bare:
                    self._blob.read_into(bare, self._at)
                self._at += size_bytes
                length = self._encoder.encrypt(data, record, last=self._at == self._stop)
                yield record[:length]

    def _send_all(self, part: memoryview, deadline: float) -> None:
        sent = 0
        while sent < len(part):
            try:
                with part[sent:] as rest:
                    sent += self._socket.send(rest)
            except BlockingIOError:  # the loop has made the connection so
                self._wait(deadline)

    def _wait(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise ConnectionResetError("the other host takes nothing")
