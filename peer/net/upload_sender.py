"""What goes out of this host to others: how many pieces at a time, and how far each is, as the kernel knows it.

A piece is out when the other host has acknowledged nearly all of it, and not when the kernel has taken it: its buffer
holds a whole piece on a slow line, and the next piece would have to share that line with what is in there. Who comes
when is decided in `peer.core.choker`. A receiver that takes next to nothing loses its connection, if others wait
(`peer.core.uplink.Progress`).
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from peer.core.choker import FREE_SOON_S, Admission, Choker, Uplink, UploadRequest
from peer.core.uplink import LEAST_S, SHARED_LOOK_S, STALLED_S, Progress, Throughput

_TCP_INFO: Final = struct.Struct("=24xI92xQ16xII")
"""`tcpi_unacked` (packets), `tcpi_bytes_acked`, `tcpi_notsent_bytes` and `tcpi_min_rtt` (microseconds) of `struct
tcp_info` (linux/tcp.h), since Linux 4.6."""

POLL_INTERVAL_S: Final = 0.05
"""How often a host that sends looks whether a part of its line is unused."""

TELL_WITHIN_S: Final = 0.015
"""The least time between two looks whether a piece is nearly out: a third of `FREE_SOON_S`."""

EARLY_DONE_BYTES: Final = 256 * 1024
EARLY_DONE_S: Final = 0.005
"""What may still be on its way of a piece that counts as out: that hides the round trip until the next begins. It is
known no more exactly than this when a piece is out."""

MAX_QUEUE_S: Final = 1.0
"""How long one waits at most: well below what a host gives another to answer (`peer.neighbour_http.STALL_S`)."""


class Upload:
    """A piece of `size_bytes` that goes out on `transport`, or waits for its turn.

    `requeue`: others are to be served first after it, and who asks is told when it can come again.
    """

    def __init__(self, receiver: UploadRequest | None, transport: asyncio.Transport, size_bytes: int) -> None:
        self.receiver: Final = receiver
        self.transport: Final = transport
        self.size_bytes: Final = size_bytes
        self.requeue = False
        self.told = False
        """Others have been told that it is nearly out."""
        self.turn: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        """Done when it goes out."""
        self.out: asyncio.Future[None] | None = None
        """Done when it is out, or the connection is closed, if anybody waits for that."""
        self.acked_bytes = 0
        """Of it, until the last look, or until the connection was closed."""
        self._socket: Final[socket.socket] = transport.get_extra_info("socket")
        self._began_s = 0.0
        self._before_bytes = 0
        self._waits = False
        self._round_trip_us = 0
        self._progress = Progress(0.0)

    def begin(self, now: float, *, requeue: bool, patience_s: float) -> None:
        """Its turn has come."""
        self.requeue = requeue
        self._began_s = now
        self._progress = Progress(now, patience_s)
        self.look()
        self._before_bytes, self.acked_bytes = self.acked_bytes, 0
        if not self.turn.done():
            self.turn.set_result(None)

    def look(self) -> None:
        """Ask the kernel how far it is. A closed connection's descriptor may be another connection's."""
        if not self.transport.is_closing():
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            unacked, acked_bytes, unsent_bytes, self._round_trip_us = _TCP_INFO.unpack(info)
            self.acked_bytes = acked_bytes - self._before_bytes
            self._waits = bool(unacked or unsent_bytes)

    def round_trip_s(self) -> float:
        """To the other host and back, while all queues are empty, as was known at the last look."""
        return self._round_trip_us / 1e6

    def is_stalled(self, now: float) -> bool:
        """Whether the receiver has taken next to nothing for too long."""
        return self._progress.is_stalled(now, self.acked_bytes, waits=self._waits)

    def left_s(self, now: float, best_bytes_per_s: float) -> float:
        """How long until it is out, at its rate so far. One that has only begun goes at the best rate there was."""
        left_bytes = self.size_bytes - EARLY_DONE_BYTES - self.acked_bytes
        if left_bytes <= 0:
            return 0.0
        went_s = now - self._began_s
        rate = self.acked_bytes / went_s if went_s > LEAST_S else best_bytes_per_s
        return left_bytes / rate if rate > 1.0 else float(left_bytes)


class Uploading:
    """All uploads of this host. `send_unchoke` tells a host that was refused that it can come."""

    def __init__(
        self,
        slots: int,
        send_unchoke: Callable[[UploadRequest], None],
        *,
        stalled_s: float = STALLED_S,
    ) -> None:
        self._choker: Final[Choker[Upload]] = Choker(slots)
        self._stalled_s: Final = stalled_s
        self._throughput: Final = Throughput()
        self._send_unchoke: Final = send_unchoke
        self._loop: Final = asyncio.get_running_loop()
        self._active: Final[dict[Upload, None]] = {}
        self._acked_before = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def turn(self, upload: Upload) -> AbstractAsyncContextManager[bool]:
        """Whether it may go out, for the length of the block, which ends when it is out."""
        return _Turn(self, upload)

    async def drained(self, upload: Upload) -> None:
        """Wait until all of a piece is out that was given to the kernel, or the connection is closed.

        The kernel tells nobody of an acknowledgement. So it is asked when the rest will be out.
        """
        now = self._look()
        if not self._is_out(upload, now):
            upload.out = self._loop.create_future()
            self._set_timer(now)
            await upload.out

    async def has_turn(self, upload: Upload) -> bool:
        """Whether the turn comes, and has begun: `end` ends it."""
        now = self._look()
        match self._choker.ask(upload, upload.receiver, self._uplink(now), already=self._already(upload.receiver)):
            case Admission.SEND:
                self._begin(upload, now)
                return True
            case Admission.REJECT:
                self._set_timer(now)
                return False
        try:
            await asyncio.wait([upload.turn], timeout=MAX_QUEUE_S)
        except asyncio.CancelledError:
            self._choker.cancel(upload)
            if upload.turn.done():
                self.end(upload)
            raise
        self._choker.cancel(upload, rejected=True)
        return upload.turn.done()

    def _already(self, receiver: UploadRequest | None) -> int:
        """How many pieces go out to this host now."""
        count = 0
        for active in self._active:
            if receiver is not None and active.receiver is not None and active.receiver.host == receiver.host:
                count += 1
        return count

    def _begin(self, upload: Upload, now: float) -> None:
        upload.begin(now, requeue=self._choker.is_wanted, patience_s=self._stalled_s)
        first, round_trip_s = not self._active, upload.round_trip_s()
        self._throughput.begin(self._acked_bytes(), now, first=first, round_trip_s=round_trip_s)
        self._active[upload] = None
        self._set_timer(now)

    def end(self, upload: Upload) -> None:
        """It is out, or its receiver has gone."""
        now = self._look()
        self._acked_before += upload.acked_bytes
        del self._active[upload]
        self._choker.end(upload.receiver if upload.requeue else None)
        self._go_on(now)
        if not upload.transport.is_closing():  # what is still on its way has the line before the piece that has begun
            self._acked_before += upload.size_bytes - upload.acked_bytes
        self._throughput.change(self._acked_bytes(), now)

    def _go_on(self, now: float) -> None:
        """Begin who waits, and tell others that they can come, if that is so."""
        uplink = self._uplink(now)
        while (upload := self._choker.next(uplink)) is not None:
            self._begin(upload, now)
            uplink = self._uplink(now)
        if not self._choker.is_to_tell:
            return
        last = next(iter(self._active)) if uplink is Uplink.FREE_SOON else None
        if last is not None and last.told:
            return
        for receiver in self._choker.unchoke(uplink):
            self._send_unchoke(receiver)
            if last is not None:
                last.told = True

    def _watch(self) -> None:
        """Measure, as long as anything goes out, and go on when a part of the line is unused, until all are told."""
        self._timer, self._timer_at = None, math.inf
        now = self._look()
        self._throughput.sample(self._acked_bytes(), now)
        for active in self._active:
            if active.out is not None and not active.out.done() and self._is_out(active, now):
                active.out.set_result(None)
        stalled = [active for active in self._active if active.is_stalled(now)]
        if self._choker.is_wanted:
            for upload in stalled:
                upload.transport.abort()
            self._go_on(now)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        """Have it watched when it is time, as long as there is anything to watch. A timer that is early stays."""
        at = now + self._looks_s(now)
        if at >= self._timer_at or not (self._active or self._choker.is_wanted):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._watch), at

    def _look(self) -> float:
        """Ask the kernel how far all are. Returns the time of that: what is decided by it needs no other look."""
        for active in self._active:
            active.look()
        return self._loop.time()

    def _looks_s(self, now: float) -> float:
        """How soon to look again: when others are to be told that a piece is nearly out, or when one is out.

        The sender looks at a piece once the kernel has all of it. Until then nobody waits for its end. The time until a
        piece is nearly out is an estimate: `TELL_WITHIN_S` bounds the looks for it.
        """
        is_shared = self._choker.active > 1 and self._choker.is_wanted and not self._choker.is_full
        looks_s = SHARED_LOOK_S if is_shared else POLL_INTERVAL_S
        best, is_to_tell = self._throughput.best, self._choker.is_to_tell and self._choker.is_alone
        for active in self._active:
            is_to_be_told = is_to_tell and not active.told
            is_awaited = active.out is not None and not active.out.done()
            if is_to_be_told or is_awaited:
                left_s = active.left_s(now, best)
                if is_to_be_told:
                    looks_s = min(looks_s, max(left_s - FREE_SOON_S, TELL_WITHIN_S))
                if is_awaited:
                    looks_s = min(looks_s, left_s - EARLY_DONE_S)
        return max(EARLY_DONE_S, looks_s)

    def _is_out(self, upload: Upload, now: float) -> bool:
        return upload.transport.is_closing() or upload.left_s(now, self._throughput.best) <= EARLY_DONE_S

    def _uplink(self, now: float) -> Uplink:
        """What there is on the line, as far as can be told."""
        if not self._active:
            return Uplink.FREE
        if not self._choker.is_full and self._throughput.has_spare(self._acked_bytes(), now):
            return Uplink.FREE
        if self._choker.is_alone and next(iter(self._active)).left_s(now, self._throughput.best) <= FREE_SOON_S:
            return Uplink.FREE_SOON
        return Uplink.FULL

    def _acked_bytes(self) -> int:
        """Of all pieces, since ever."""
        acked_bytes = self._acked_before
        for active in self._active:
            acked_bytes += active.acked_bytes
        return acked_bytes


class _Turn:
    """A block in which a piece goes out, if it may."""

    def __init__(self, uploading: Uploading, upload: Upload) -> None:
        self._uploading: Final = uploading
        self._upload: Final = upload
        self._has_begun = False

    async def __aenter__(self) -> bool:
        self._has_begun = await self._uploading.has_turn(self._upload)
        return self._has_begun

    async def __aexit__(self, *_: object) -> None:
        if self._has_begun:
            self._uploading.end(self._upload)
