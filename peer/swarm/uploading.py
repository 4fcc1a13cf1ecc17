"""What goes out of this host to others: how many pieces at a time, and how far each is, as the kernel knows it.

A piece is out when the other host has acknowledged nearly all of it, and not when the kernel has taken it: its buffer
holds a whole piece on a slow line, and the next piece would have to share that line with what is still in there.
"""

from __future__ import annotations

import asyncio
import asyncio.trsock
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from peer.background import Background
from peer.core.throughput import Throughput
from peer.core.uploads import Refused, Uploads

_BYTES_ACKED: Final = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` of `struct tcp_info` (linux/tcp.h), since Linux 4.1."""

LOOKS_S: Final = 0.05
"""How often a host that sends looks whether it has room for one that it has refused."""

NEARLY_BYTES: Final = 256 * 1024
"""What may still be on its way of a piece that counts as out: that much hides the round trip until the next begins."""

DRAINS_S: Final = 0.005


Connection = asyncio.trsock.TransportSocket


class Uploading:
    """All uploads of this host. `tell_room` tells a host that was refused that there is room.

    `is_far` says of a host whether it is in another site.
    """

    def __init__(
        self,
        slots: int,
        background: Background,
        tell_room: Callable[[Refused], None],
        is_far: Callable[[str], bool],
    ) -> None:
        self._uploads: Final = Uploads(slots)
        self._throughput: Final = Throughput()
        self._background: Final = background
        self._tell_room: Final = tell_room
        self._is_far: Final = is_far
        self._loop: Final = asyncio.get_running_loop()
        self._going: Final[dict[Connection, int]] = {}
        """Connections on which a piece goes out, and what was acknowledged on each before."""
        self._acked_before = 0
        self._watched = False

    @asynccontextmanager
    async def turn(self, asking: Refused | None, connection: Connection) -> AsyncIterator[bool]:
        """Whether a piece may go out on `connection` for the length of the block, which ends when it is out."""
        now = self._loop.time()
        if asking is not None:
            asking = asking._replace(far=self._is_far(asking.host))
        if not self._uploads.begin(asking, room=self._throughput.has_room(self._acked(), now)):
            yield False
            return
        self._throughput.begin(now, first=not self._going)
        self._going[connection] = _bytes_acked(connection)
        self._throughput.sample(self._acked(), now)
        if not self._watched:
            self._watched = True
            self._background.start(self._watch())
        try:
            yield True
        finally:
            self._acked_before += _passed(connection, self._going.pop(connection))
            self._uploads.end()
            self._tell()

    async def drained(self, connection: Connection, size_bytes: int) -> None:
        """Wait until the piece of `size_bytes` that goes out on `connection` is out."""
        out = self._going[connection] + size_bytes - NEARLY_BYTES
        while 0 < _bytes_acked(connection) < out:  # noqa: ASYNC110 # the kernel tells nobody of an acknowledgement
            await asyncio.sleep(DRAINS_S)

    async def _watch(self) -> None:
        """Measure, and tell who was refused that there is room, as long as anything goes out."""
        try:
            while self._going:
                await asyncio.sleep(LOOKS_S)
                self._throughput.sample(self._acked(), self._loop.time())
                self._tell()
        finally:
            self._watched = False

    def _tell(self) -> None:
        if self._uploads.waited_for:
            for refused in self._uploads.tell(room=self._throughput.has_room(self._acked(), self._loop.time())):
                self._tell_room(refused)

    def _acked(self) -> int:
        """Bytes of pieces that other hosts have acknowledged, since ever."""
        return self._acked_before + sum(_passed(each, before) for each, before in self._going.items())


def _passed(connection: Connection, before: int) -> int:
    return max(0, _bytes_acked(connection) - before)


def _bytes_acked(connection: Connection) -> int:
    """What the other side has acknowledged of all that was sent on a connection; 0 on one that is closed."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
    except OSError:
        return 0
    return int(_BYTES_ACKED.unpack(info)[0])
