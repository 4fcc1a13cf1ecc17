"""Clients' holds on blobs: what they may read now, and how they wait for the rest."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from msgspec.structs import replace

from peer import tracing
from peer.arrival import Arrival
from peer.core import events
from peer.download_trace import DownloadTrace
from peer.errors import OriginUnreachableError, P2pdError, StoreBrokenError, StoreFullError
from peer.host import Host
from peer.oci.descriptor import Descriptor
from peer.oci.digest import AnyDigest, Digest
from peer.origin.api import Credential
from peer.origin_range import OriginSource
from peer.store import Blob, BlobInfo
from peer.store.blob import EMPTY_DIGEST
from peer.store.facts import Came

MAX_BEGINNINGS = 4
"""Of one blob, while a client waits for its headers. Every failed attempt exposes a lying host or a wrong piece map."""


CHECK_BYTES = 8 * 1024 * 1024
"""So much of a blob is read back, and then sent while it is still in the cache."""

Wait = Callable[[int, int], Awaitable[None]]
"""Waits until bytes from a position on may be read, or some of them up to an end."""


Confirm = Callable[[], Awaitable[None]]
"""Raises P2pdError if the reader may not have what is here of the blob."""


async def _no_question() -> None:
    """The reader may have whatever comes."""


class BlobReader:
    """A client's hold on a blob: it is pinned, and `readable` says how far it may be sent."""

    def __init__(self, blob: Blob, wait: Wait | None, confirm: Confirm) -> None:
        self.blob = blob
        self.from_store = wait is None
        self._wait = wait
        self._confirm = confirm

    async def readable(self, start: int, stop: int) -> int:
        """The end of the bytes from `start` that may be sent now, at most `stop`; waits until there is at least one.

        Raises the error that ended the download, or why the reader may not have the bytes.
        """
        while True:
            await self._confirm()
            end = min(self.blob.servable_until(start), stop)
            if not end <= start < stop:
                return end
            assert self._wait is not None, "a blob from the store is whole"
            await self._wait(start, stop)


class StoredReader(BlobReader):
    """A hold on a blob that the store has whole. What is sent is right on the disk (`peer.store.check`).

    A blob that proves lost on the way is fetched again, and the reader goes on with it where it was.
    """

    def __init__(
        self,
        blob: Blob,
        check: Callable[[Blob, int, int], Awaitable[None]],
        fetch: Callable[[int, int | None], Awaitable[tuple[Blob, Wait]]],
        confirm: Confirm,
    ) -> None:
        super().__init__(blob, None, confirm)
        self._check = check
        self._fetch = fetch

    async def readable(self, start: int, stop: int) -> int:
        """As of any reader. Raises StoreError, and the error that ended the download."""
        if self._wait is None and start < stop:
            await self._confirm()
            try:
                if self.blob.is_checked(start, stop):
                    return stop
                end = min(stop, start + CHECK_BYTES)
                await self._check(self.blob, start, end)
            except StoreBrokenError:
                self.blob, self._wait = await self._fetch(start, stop)
            else:
                return end
        return await super().readable(start, stop)


class Readers:
    """All readers of a host's blobs."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._numbers = itertools.count(1)

    def peek(self, digest: Digest) -> BlobInfo | None:
        """What the store knows of a blob, without reading it."""
        return self._host.store.peek(digest)

    def came(self, digest: AnyDigest) -> Came:
        """What has come of a blob that is held, whole or not, since the start."""
        return self._host.store.came(digest)

    def holds(self, digest: Digest, spans: Iterable[tuple[int, int]]) -> bool:
        """Whether all of these bytes `[start, stop)` can be sent now."""
        arrival = self._host.arrivals.get(digest.raw)
        if arrival is None:
            return self.whole_length(digest) is not None
        blob = arrival.blob
        return blob is not None and all(blob.servable_until(start) >= stop for start, stop in spans)

    def whole_length(self, digest: AnyDigest) -> int | None:
        """The length of a blob that is held whole. It is proven, unlike the length in a manifest or in headers."""
        return self._host.store.whole_length(digest) if isinstance(digest, Digest) else None

    def is_only_for(self, digest: AnyDigest, place: tuple[str, str]) -> bool:
        """Whether nothing of `digest` is here, or on its way, because of another place (upstream, repository)."""
        if not isinstance(digest, Digest):
            return True  # it is not kept
        arrival = self._host.arrivals.get(digest.raw)
        return self._is_new(digest, place) if arrival is None else arrival.is_only_for(place)

    def _is_new(self, digest: Digest, place: tuple[str, str]) -> bool:
        """Whether a download of `digest` finds nothing in the store that came because of another place."""
        held = self.peek(digest)
        return held is None or (not held.complete and self._host.left_over.get(digest.raw) == place)

    async def read(self, digest: Digest, start: int, stop: int) -> bytes | None:
        """Bytes `[start, stop)`, at most CHECK_BYTES, of a blob that is held whole; None if it is not.

        A blob that is read whole is remembered for who asks next (`Store.recall`). Raises StoreError.
        """
        recalled = self._host.store.recall(digest, start, stop)
        if recalled is not None:
            return recalled
        blob = await self._held(digest, (start, stop), background=False)
        if blob is None:
            return None
        try:
            body = blob.read(start, stop)
            if len(body) == blob.size_bytes:
                self._host.store.remember(blob, body)
                blob.sent_whole()
            return body
        finally:
            blob.release()

    @asynccontextmanager
    async def open(
        self,
        digest: Digest,
        source: OriginSource | None,
        *,
        expected: Descriptor | None = None,
        at: tuple[int, int | None] = (0, None),
        background: bool = False,
        preheats: bool = False,
        confirm: Confirm = _no_question,
    ) -> AsyncIterator[BlobReader]:
        """A reader of `digest`, from the store or else from the swarm and `source`; yields once the length is known.

        `expected` is what a manifest, or the origin's answer to HEAD, said; `at` are the bytes that will be read first.
        Raises OriginError, StoreError. With `source` None only what is held, or on its way already, can be read.
        `background`: no client waits for it; with `preheats`, clients of all hosts come before it at the origin.
        `confirm` is asked each time before bytes are read.
        """
        async with AsyncExitStack() as stack:

            async def arriving(first_byte: int, stop: int | None) -> tuple[Blob, Wait]:
                arrival = self._arriving(digest, source, expected, (first_byte, stop), background, preheats)
                return await stack.enter_async_context(arrival)

            held = await self._held(digest, at, background=background)
            if held is None:
                reader = BlobReader(*await arriving(*at), confirm)
            else:
                stack.callback(held.release)
                reader = StoredReader(held, self._host.check, arriving, confirm)
            yield reader
            if not background and at == (0, None):
                reader.blob.sent_whole()

    @asynccontextmanager
    async def _arriving(
        self,
        digest: Digest,
        source: OriginSource | None,
        expected: Descriptor | None,
        at: tuple[int, int | None],
        background: bool,
        preheats: bool,
    ) -> AsyncIterator[tuple[Blob, Wait]]:
        """The blob that is on its way, pinned, and how to wait for it."""
        arrival, reader, blob = await self._known(digest, source, expected, at, background, preheats)
        try:
            with blob.pin():
                yield blob, partial(self._wait, arrival, reader, background, preheats)
        finally:
            self._left(arrival, reader, background=background)

    async def _held(self, digest: Digest, at: tuple[int, int | None], *, background: bool) -> Blob | None:
        """The blob, pinned, if it is held whole and what is read first of it is right on the disk."""
        blob = self._acquire_whole(digest, background=background)
        if blob is None:
            return None
        start, stop = at
        if not background:
            self._host.store.used_by_client(blob)
        blob.asked()
        try:
            await self._host.check(blob, start, min(blob.size_bytes if stop is None else stop, start + CHECK_BYTES))
        except StoreBrokenError:  # it has been dropped, and is fetched again
            blob.release()
            return None
        except BaseException:
            blob.release()
            raise
        return blob

    def _left(self, arrival: Arrival, reader: int, *, background: bool) -> None:
        if not background:
            arrival.client_left()
        self._host.feed(events.ReaderLeft(arrival.raw, reader))

    async def _known(
        self,
        digest: Digest,
        source: OriginSource | None,
        expected: Descriptor | None,
        at: tuple[int, int | None],
        background: bool,
        preheats: bool,
    ) -> tuple[Arrival, int, Blob]:
        """Join a blob's download as a reader, and wait until the length is known.

        If the download finds before that that the swarm has lied to it, it begins anew, and so does the wait for it.
        One that was begun ahead of clients, and had no room, begins anew for a client.
        """
        for times_left in reversed(range(MAX_BEGINNINGS)):
            arrival, reader = self._join(digest, source, expected, background=background), next(self._numbers)
            self._host.feed(events.ReaderMoved(arrival.raw, reader, *at, background, preheats))
            try:
                return arrival, reader, await arrival.known_blob()
            except BaseException as error:
                self._left(arrival, reader, background=background)
                lost_room = isinstance(error, StoreFullError) and arrival.begun_ahead and not background
                if not isinstance(error, P2pdError) or not (arrival.disproved or lost_room) or not times_left:
                    raise
        raise AssertionError("the last time returns or raises")

    async def _wait(
        self, arrival: Arrival, reader: int, background: bool, preheats: bool, position: int, stop: int
    ) -> None:
        arrival.raise_if_failed()
        self._host.feed(events.ReaderMoved(arrival.raw, reader, position, stop, background, preheats))
        await arrival.change(position)

    def _acquire_whole(self, digest: Digest, *, background: bool) -> Blob | None:
        if digest.raw in self._host.arrivals:
            return None
        blob = self._host.store.acquire(digest, background=background)
        if blob is None and digest == EMPTY_DIGEST:
            blob = self._host.store.create(digest, 0, "")
        if blob is not None and not blob.whole:
            blob.release()
            return None
        return blob

    def _join(
        self, digest: Digest, source: OriginSource | None, expected: Descriptor | None, *, background: bool
    ) -> Arrival:
        if self._host.closed:
            raise OriginUnreachableError("p2pd is stopping")
        arrival = self._host.arrivals.get(digest.raw)
        if arrival is None and source is None:
            raise OriginUnreachableError(f"{digest} is not held here, and there is no origin to ask")
        if arrival is None:
            is_new = source is not None and self._is_new(digest, source.place)
            arrival = Arrival(digest, expected.media_type if expected else "", is_new=is_new)
            arrival.begun_ahead = background
            self._host.arrivals[arrival.raw] = arrival
        span = tracing.current.get()
        if span is not None:
            self._trace(arrival, span)
        if not background:
            arrival.client_came()
            self._host.client_came()
        size_bytes = (expected.size_bytes or None) if expected else None
        if source is not None:
            self._add_source(arrival, source, size_bytes)
            if source.credential.authorization is not None:  # p2pd's own goes on when the client's has expired
                own = replace(source, credential=Credential(own=True))
                self._add_source(arrival, own, size_bytes, reserve=True)
        return arrival

    def _trace(self, arrival: Arrival, span: tracing.Span) -> None:
        """The first request with a trace that wants the blob has the download in its trace; others name that one."""
        if arrival.trace is None:
            arrival.trace = DownloadTrace(span, arrival.digest)
            self._host.traced.add(arrival.raw)
        else:
            span.event("joined a download under way", {tracing.HEADER: arrival.trace.traceparent})

    def _add_source(
        self, arrival: Arrival, source: OriginSource, size_bytes: int | None, *, reserve: bool = False
    ) -> None:
        number = arrival.add_source(source)
        if number is not None:
            self._host.feed(
                events.SourceAdded(
                    arrival.raw,
                    number,
                    source.upstream,
                    source.ref.repository,
                    size_bytes,
                    perishable=source.credential.authorization is not None,
                    reserve=reserve,
                    private=source.private or not (arrival.is_new or self._host.may_share(arrival.digest)),
                )
            )
