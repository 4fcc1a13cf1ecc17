"""What goes out of this host to others: how many pieces at a time, and how far each is, as the kernel knows it.

1. A piece is out when the other host has acknowledged nearly all of it, and not when the kernel has taken it: its
   buffer holds a whole piece on a slow line, and the next piece would have to share that line with what is in there.
2. The next few that come wait for their turn, so that the line is never idle between two pieces, and none of them costs
   a refusal and another request. All others are refused at once, and told when the last of those that wait goes out.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from peer.background import Background
from peer.core.throughput import Throughput
from peer.core.uploads import TOLD, Refused, Uploads

_BYTES_ACKED: Final = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` of `struct tcp_info` (linux/tcp.h), since Linux 4.1."""

LOOKS_S: Final = 0.05
"""How often a host that sends looks whether it has room for another piece."""

NEARLY_BYTES: Final = 256 * 1024
"""What may still be on its way of a piece that counts as out: that much hides the round trip until the next begins."""

DRAINS_S: Final = 0.005
"""How exactly it is known when a piece is out."""

MAX_WAITING: Final = TOLD
"""So many are told that there is room: all of them find it."""

WAITS_S: Final = 1.0
"""How long one waits at most: well below what a host gives another to answer (`peer.swarm.fetching.STALL_S`)."""


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
        self._going: Final[dict[asyncio.Transport, _Going]] = {}
        self._waiting: Final[dict[asyncio.Future[None], tuple[Refused | None, asyncio.Transport]]] = {}
        """Those whose turn comes, first come first. A turn that has come has begun."""
        self._acked_before = 0
        self._watched = False

    @asynccontextmanager
    async def turn(self, asking: Refused | None, transport: asyncio.Transport) -> AsyncIterator[bool]:
        """Whether a piece may go out on `transport` for the length of the block, which ends when it is out."""
        if asking is not None:
            asking = asking._replace(far=self._is_far(asking.host))
        if not self._begin(asking, transport, room=self._has_room()) and not await self._wait(asking, transport):
            yield False
            return
        try:
            yield True
        finally:
            self._end(transport)

    async def drained(self, transport: asyncio.Transport, size_bytes: int) -> None:
        """Wait until the piece of `size_bytes` that goes out on `transport` is out, or the connection is closed.

        The kernel tells nobody of an acknowledgement. So it is asked when the rest will be out at the rate so far.
        """
        going = self._going[transport]
        while not transport.is_closing():
            acked_bytes = going.acked_bytes()
            left_bytes = size_bytes - NEARLY_BYTES - acked_bytes
            if left_bytes <= 0:
                return
            left_s = (self._loop.time() - going.began_s) * left_bytes / max(1, acked_bytes)
            await asyncio.sleep(min(LOOKS_S, max(DRAINS_S, left_s)))

    def _begin(self, asking: Refused | None, transport: asyncio.Transport, *, room: bool) -> bool:
        if not self._uploads.begin(asking, room=room):
            return False
        now = self._loop.time()
        self._throughput.begin(now, first=not self._going)
        self._throughput.sample(self._acked_bytes(), now)
        self._going[transport] = _Going(transport, now)
        if not self._watched:
            self._watched = True
            self._background.start(self._watch())
        return True

    async def _wait(self, asking: Refused | None, transport: asyncio.Transport) -> bool:
        """Whether the turn comes, and has begun, within `WAITS_S`."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        turn = self._loop.create_future()
        self._waiting[turn] = asking, transport
        try:
            await asyncio.wait([turn], timeout=WAITS_S)
        except asyncio.CancelledError:
            if turn.done():
                self._end(transport)
            raise
        finally:
            self._waiting.pop(turn, None)
        return turn.done()

    def _end(self, transport: asyncio.Transport) -> None:
        self._acked_before += self._going.pop(transport).acked_bytes()
        self._uploads.end()
        self._go_on(room=self._has_room())

    def _go_on(self, *, room: bool) -> None:
        """A piece is out, or there is room beside it: begin who waits, and tell others when nobody waits any more."""
        for turn, (asking, transport) in list(self._waiting.items()):
            if not self._begin(asking, transport, room=room):
                return
            del self._waiting[turn]
            turn.set_result(None)
            room = False  # until it shows what this one leaves unused
        for refused in self._uploads.tell(room=True):
            self._tell_room(refused)

    async def _watch(self) -> None:
        """Measure, as long as anything goes out, and go on when a part of the line is unused, until all are told."""
        try:
            while self._going or self._uploads.waited_for:
                await asyncio.sleep(LOOKS_S)
                self._throughput.sample(self._acked_bytes(), self._loop.time())
                if (self._waiting or self._uploads.waited_for) and self._has_room():
                    self._go_on(room=True)
        finally:
            self._watched = False

    def _has_room(self) -> bool:
        """Whether what goes out now leaves a part of the line unused."""
        return not self._going or self._throughput.has_room(self._acked_bytes(), self._loop.time())

    def _acked_bytes(self) -> int:
        """Of all pieces, since ever."""
        return self._acked_before + sum(going.acked_bytes() for going in self._going.values())


class _Going:
    """A piece that goes out, and what the other host has acknowledged of it."""

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self.began_s: Final = now
        self._transport: Final = transport
        self._socket: Final[socket.socket] = transport.get_extra_info("socket")
        self._acked_bytes = 0
        self._before_bytes: Final = self._all_acked_bytes()

    def acked_bytes(self) -> int:
        """Until now, or until the connection was closed: its descriptor may be another connection's after that."""
        if not self._transport.is_closing():
            self._acked_bytes = self._all_acked_bytes() - self._before_bytes
        return self._acked_bytes

    def _all_acked_bytes(self) -> int:
        """Of all that was sent on the connection."""
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])
