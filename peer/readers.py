"""Clients' holds on blobs: what they may read now, and how they wait for the rest."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from peer.arrival import Arrival
from peer.core import events
from peer.errors import OriginUnreachableError, P2pdError
from peer.host import Host
from peer.oci.descriptor import Descriptor
from peer.oci.digest import Digest
from peer.origin_range import OriginSource
from peer.store import Blob, BlobInfo
from peer.store.blob import EMPTY_DIGEST

MAX_BEGINNINGS = 4
"""Of one blob, while a client waits for its headers. Every failed attempt exposes a lying host or a wrong piece map."""


Confirm = Callable[[], Awaitable[None]]
"""Raises P2pdError if the reader may not have what the blob holds now."""


class BlobReader:
    """A client's hold on a blob: it is pinned, and `readable` says how far it may be sent."""

    def __init__(
        self, blob: Blob, wait: Callable[[int, int], Awaitable[None]] | None, confirm: Confirm | None = None
    ) -> None:
        self.blob = blob
        self.from_store = wait is None
        self._wait = wait
        self._confirm = confirm

    async def readable(self, start: int, stop: int) -> int:
        """The end of the bytes from `start` that may be sent now, at most `stop`; waits until there is at least one.

        Raises the error that ended the download, or why the reader may not have the bytes.
        """
        while True:
            if self._confirm is not None:
                await self._confirm()
            end = min(self.blob.servable_until(start), stop)
            if not end <= start < stop:
                return end
            assert self._wait is not None, "a blob from the store is whole"
            await self._wait(start, stop)


class Readers:
    """All readers of a host's blobs."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._numbers = itertools.count(1)

    def peek(self, digest: Digest) -> BlobInfo | None:
        """What the store knows of a blob, without reading it."""
        return self._host.store.peek(digest)

    def whole_length(self, digest: Digest) -> int | None:
        """The length of a blob that is held whole. It is proven, unlike the length in a manifest or in headers."""
        held = self.peek(digest)
        return held.size_bytes if held is not None and held.complete else None

    def is_only_for(self, digest: Digest, place: tuple[str, str]) -> bool:
        """Whether nothing of `digest` is here, or on its way, because of another place (upstream, repository)."""
        arrival = self._host.arrivals.get(digest.raw)
        return self.peek(digest) is None if arrival is None else arrival.is_only_for(place)

    @asynccontextmanager
    async def open(
        self,
        digest: Digest,
        source: OriginSource | None,
        *,
        expected: Descriptor | None = None,
        at: tuple[int, int | None] = (0, None),
        background: bool = False,
        confirm: Confirm | None = None,
    ) -> AsyncIterator[BlobReader]:
        """A reader of `digest`, from the store or else from the swarm and `source`; yields once the length is known.

        `expected` is what a manifest, or the origin's answer to HEAD, said; `at` are the bytes that will be read first.
        Raises OriginError, StoreError. With `source` None only what is held, or on its way already, can be read.
        `confirm` is asked each time before bytes are read.
        """
        blob = self._acquire_whole(digest)
        if blob is not None:
            try:
                yield BlobReader(blob, None, confirm)
            finally:
                blob.release()
            return
        arrival, reader, blob = await self._known(digest, source, expected, at, background=background)
        try:
            with blob.pin():
                yield BlobReader(blob, partial(self._wait, arrival, reader, background), confirm)
        finally:
            self._host.feed(events.ReaderLeft(arrival.raw, reader))

    async def _known(
        self,
        digest: Digest,
        source: OriginSource | None,
        expected: Descriptor | None,
        at: tuple[int, int | None],
        *,
        background: bool,
    ) -> tuple[Arrival, int, Blob]:
        """Join a blob's download as a reader, and wait until the length is known.

        If the download finds before that that the swarm has lied to it, it begins anew, and so does the wait for it.
        """
        for times_left in reversed(range(MAX_BEGINNINGS)):
            arrival, reader = self._join(digest, source, expected), next(self._numbers)
            self._host.feed(events.ReaderMoved(arrival.raw, reader, *at, background))
            try:
                return arrival, reader, await arrival.known_blob()
            except BaseException as error:
                self._host.feed(events.ReaderLeft(arrival.raw, reader))
                if not isinstance(error, P2pdError) or not arrival.disproved or not times_left:
                    raise
        raise AssertionError("the last time returns or raises")

    async def _wait(self, arrival: Arrival, reader: int, background: bool, position: int, stop: int) -> None:
        arrival.raise_if_failed()
        self._host.feed(events.ReaderMoved(arrival.raw, reader, position, stop, background))
        await arrival.change(position)

    def _acquire_whole(self, digest: Digest) -> Blob | None:
        if digest.raw in self._host.arrivals:
            return None
        blob = self._host.store.create(digest, 0, "") if digest == EMPTY_DIGEST else self._host.store.acquire(digest)
        if blob is not None and not blob.whole:
            blob.release()
            return None
        return blob

    def _join(self, digest: Digest, source: OriginSource | None, expected: Descriptor | None) -> Arrival:
        if self._host.closed:
            raise OriginUnreachableError("p2pd is stopping")
        arrival = self._host.arrivals.get(digest.raw)
        if arrival is None and source is None:
            raise OriginUnreachableError(f"{digest} is not held here, and there is no origin to ask")
        if arrival is None:
            is_new = self._host.store.peek(digest) is None
            arrival = Arrival(digest, expected.media_type if expected else "", is_new=is_new)
            self._host.arrivals[arrival.raw] = arrival
        if source is not None and (number := arrival.add_source(source)) is not None:
            size_bytes = (expected.size_bytes or None) if expected else None
            repository = source.ref.repository
            self._host.feed(events.SourceAdded(arrival.raw, number, source.upstream, repository, size_bytes))
        return arrival
