"""Bytes of a blob's file to a socket, by `sendfile`. The disk's errors are told apart from those of the connection."""

from __future__ import annotations

import asyncio
import os

from peer.errors import StoreBrokenError
from peer.store import Blob
from peer.store.disk import BAD_BYTES


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
