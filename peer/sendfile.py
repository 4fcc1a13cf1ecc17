"""Bytes of a blob's file to a socket, by `sendfile` where nothing, or the kernel, encrypts them.

The disk's errors are told apart from those of the connection.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from aiohttp import web

from peer.errors import StoreBrokenError
from peer.store import Blob
from peer.store.disk import BAD_BYTES

ENCRYPTED_BYTES: Final = 512 * 1024
"""What is read, and encrypted in this process, at a time."""


def encrypts_here(transport: asyncio.BaseTransport) -> bool:
    """Whether what goes through the transport is encrypted in this process, so that there is no sendfile for it."""
    is_tls = transport.get_extra_info("ssl_object") is not None
    return is_tls and not transport.get_extra_info("ktls_send_enabled", False)


async def send_encrypted(response: web.StreamResponse, blob: Blob, start: int, count: int) -> None:
    """Send bytes `[start, start + count)` of a pinned blob where `encrypts_here`: 1 CPU-s per GiB. Raises what
    `send_file` does."""
    for at in range(start, start + count, ENCRYPTED_BYTES):
        await response.write(await asyncio.to_thread(blob.read, at, min(at + ENCRYPTED_BYTES, start + count)))


async def send_file(transport: asyncio.WriteTransport, blob: Blob, start: int, count: int) -> None:
    """Send bytes `[start, start + count)` of a pinned blob.

    Raises StoreBrokenError if the file does not have them any more: the answer ends early then, and the blob is checked
    when it is asked for again. Raises OSError for the connection.
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.sendfile(transport, blob, start, count)  # type: ignore[arg-type] # has fileno()
    except OSError as error:
        if error.errno not in BAD_BYTES:
            raise
        blob.doubt()
        raise StoreBrokenError(f"{blob.data_path}: {error.strerror}; check the disk") from error
    if os.fstat(blob.fileno()).st_size < start + count:  # the loop's `sendfile` does not say how much it has sent
        blob.doubt()
        raise StoreBrokenError(f"{blob.data_path} is shorter than it was")
