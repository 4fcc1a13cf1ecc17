"""One blob on its way to this host, and what belongs to it outside of its core: readers, transfers and fetches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from peer.core import origin_events
from peer.core.member import Member
from peer.core.swarm_events import Event
from peer.errors import OriginCorruptError, P2pdError
from peer.store import Blob
from peer.swarm.fetching import PieceFetch
from peer.transfer import Source, Transfer


class Job:
    """A download's place on the event loop. `member` decides, and `handle` has it decide and carries that out."""

    def __init__(self, digest: str, member: Member, media_type: str, handle: Callable[[Job, Event], None]) -> None:
        self.digest = digest
        self.media_type = media_type
        self.member = member
        self._handle = handle
        self.blob: Blob | None = None
        self.sources: list[Source] = []
        self.transfers: dict[int, Transfer] = {}
        self.fetches: dict[int, PieceFetch] = {}
        self.recovered = False
        self.early: list[Event] = []
        """What the scheduler said before that, to a host that was a member already: a lease, perhaps."""
        self.tainted = False
        """What landed is not to be trusted: the swarm's map was wrong."""
        self.answered = False
        """Something of the blob has come, from anybody: it is worth telling a client that it will."""
        self.last_error: P2pdError | None = None
        self._error: P2pdError | None = None
        self._changed = asyncio.Event()
        self._readers = 0
        self._ended = False
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        """For when the timer is set: uvloop gives no handle that knows, where that time has come already."""

    def new_reader(self) -> int:
        self._readers += 1
        return self._readers

    def feed(self, event: Event) -> None:
        """Something happened."""
        self._handle(self, event)

    def landed(self, transfer: int | None, index: int, digest: bytes) -> None:
        """A piece is in the store; `transfer` None: not by one from the origin."""
        self.answered = True
        self.feed(origin_events.PieceLanded(transfer, index, digest))
        self.wake()

    def take_in(self, blob: Blob) -> None:
        """What the store has of the blob is here, without a transfer or a fetch."""
        self.member.download.learn_geometry(blob.size_bytes, blob.header.piece_length)
        for index in blob.pieces:
            self.landed(None, index, blob.piece_digests.get(index, b""))
        if blob.verdict is not None:
            self.verified(blob.verdict)

    def verified(self, ok: bool) -> None:
        """The SHA-256 over all pieces is the digest, or is not."""
        if not ok:
            self.last_error = OriginCorruptError(
                f"the bytes that came for {self.digest} have another SHA-256; they were removed"
            )
        self.feed(origin_events.BlobVerified(ok))

    def fail(self, error: P2pdError) -> None:
        """It cannot go on."""
        self.last_error = error
        self.feed(origin_events.Stopped())

    def adopt(self, blob: Blob) -> bool:
        """Take over the pin on `blob`; False if it is not needed (any more)."""
        if self.blob is not None or self._ended:
            return False
        self.blob = blob
        return True

    async def known_blob(self) -> Blob:
        """The blob, once somebody has begun to send it. Raises the error that ended the download before that."""
        while self.blob is None or not self.answered:
            self.raise_if_failed()
            await self.change()
        self.raise_if_failed()
        return self.blob

    async def change(self) -> None:
        await self._changed.wait()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error

    def arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the core told when its next deadline has come.

        Each event moves that, mostly to later: a timer that is early costs less than to set another each time.
        """
        deadline = None if self._ended else self.member.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(deadline, self._due, loop), deadline

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        deadline = None if self._ended else self.member.next_deadline()
        if deadline is not None and deadline <= loop.time():
            self.feed(origin_events.Tick())
        else:
            self.arm(loop)

    def end(self, error: P2pdError | None) -> None:
        """The download is over: readers go on with what is there, or get the error."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
        if self.blob is not None:
            self.blob.release()
        self.wake()
