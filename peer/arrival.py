"""A blob on its way to this host, as its readers and its requests share it."""

from __future__ import annotations

import asyncio

from peer.download_trace import DownloadTrace
from peer.errors import P2pdError
from peer.oci.digest import Digest
from peer.origin_range import OriginSource
from peer.store import Blob


class Arrival:
    """A blob on its way, as its readers see it. On the event loop; `peer.core.download` decides.

    `sources` are the ways to ask an origin, by number. `answered`: something of the blob has come, from anybody, so it
    is worth telling a client that it will. `is_new`: the store had nothing of the blob before.
    """

    def __init__(self, digest: Digest, media_type: str, *, is_new: bool = False) -> None:
        self.digest = digest
        self.raw = digest.raw
        self.media_type = media_type
        self.is_new = is_new
        self.blob: Blob | None = None
        self.sources: list[OriginSource] = []
        self.answered = False
        self.clients = 0
        """Who waits for it, but for what is fetched ahead."""
        self.had_client = False
        """A client has waited for it."""
        self.begun_ahead = False
        """It was begun when no client waited for it."""
        self.disproved = False
        """The swarm's map or length was wrong: the blob is on its way anew."""
        self.waits_for_room = False
        self.trace: DownloadTrace | None = None
        self.last_error: P2pdError | None = None
        self._error: P2pdError | None = None
        self._changed = asyncio.Event()
        self._ended = False

    def add_source(self, source: OriginSource) -> int | None:
        """The number of a source that is new; None for one that is known."""
        if source in self.sources:
            return None
        self.sources.append(source)
        return len(self.sources) - 1

    def is_only_for(self, place: tuple[str, str]) -> bool:
        """Whether nothing of the blob can have come because of another place (upstream, repository)."""
        return self.is_new and all(source.place == place for source in self.sources)

    def adopt(self, blob: Blob) -> bool:
        """Take over the pin on `blob`; False, and it is let go, if it is not needed (any more)."""
        if self.blob is not None or self._ended:
            blob.release()
            return False
        self.blob = blob
        blob.is_ahead = blob.is_ahead and not self.clients
        return True

    @property
    def background(self) -> bool:
        """No client waits for it."""
        return not self.clients

    def client_came(self) -> None:
        """From now on its room is a client's."""
        self.clients += 1
        self.had_client = True
        if self.blob is not None:
            self.blob.is_ahead = False

    def client_left(self) -> None:
        """With no client left, others may have its room until it is whole."""
        self.clients -= 1
        if self.blob is not None and not self.clients and not self.blob.whole:
            self.blob.is_ahead = True

    @property
    def holds_something(self) -> bool:
        """Whether something of it is in the store; that may be more than `peer.core.download` has heard of yet."""
        return self.blob is not None and self.blob.held_bytes > 0

    def wake(self) -> None:
        """Something has come."""
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self, error: P2pdError | None) -> None:
        """The download is over: readers go on with what is there, or get the error."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        if self.blob is not None:
            self.blob.release()
        self.wake()

    async def known_blob(self) -> Blob:
        """The blob, once somebody has begun to send it. Raises the error that ended the download before that."""
        while self.blob is None or not self.answered:
            self.raise_if_failed()
            await self._changed.wait()
        self.raise_if_failed()
        return self.blob

    async def change(self, position: int) -> None:
        """Wait until the bytes at `position` are there, or the download has failed. Other pieces are no news."""
        assert self.blob is not None
        while self._error is None and self.blob.servable_until(position) <= position:
            await self._changed.wait()

    def raise_if_failed(self) -> None:
        """Raise the error that ended the download, if one did."""
        if self._error is not None:
            raise self._error
