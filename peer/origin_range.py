"""A range of a blob from its origin into the store, piece by piece, in a worker thread.

The data path: the socket fills a pooled buffer of one piece, the piece is hashed there while it is in the cache, and is
then written to the blob's file. Sockets, hashlib, blake3 and pwrite all release the interpreter lock.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from peer.core.events import Outcome
from peer.core.origin_requests import SPAN_PIECES
from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginResizedError,
    OriginUnreachableError,
    OriginUnusableError,
    P2pdError,
    StoreBrokenError,
)
from peer.origin.api import Body, ContentRef, Credential, Kind, Origin
from peer.origin.headers import unsatisfied_range
from peer.peer_piece import Pace
from peer.store import Blob, Store
from peer.store.buffers import BufferPool
from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECE_BYTES

FIRST_SPAN_BYTES = SPAN_PIECES * MAX_PIECE_BYTES
"""What the first request asks for, while the blob's length is not known: a whole number of pieces of any length."""


@dataclass(frozen=True, slots=True)
class OriginSource:
    """A way to get a blob: which origin, where and as what it is there, and with whose authorisation.

    `upstream` is the origin's name among hosts. Blobs are known by place: (upstream, repository).
    `private`: what comes this way is not for other hosts.
    """

    origin: Origin
    ref: ContentRef
    credential: Credential
    upstream: str = ""
    private: bool = False

    @property
    def place(self) -> tuple[str, str]:
        return self.upstream, self.ref.repository


class RangeReport(Protocol):
    """Whom a range tells of its progress, from its own thread."""

    def opened(self, blob: Blob, first: int, stop: int) -> None:
        """The source answered with pieces `[first, stop)` of `blob`, which is pinned once more, for the receiver."""
        ...

    def received(self, blob: Blob, index: int, digest: bytes) -> None:
        """Piece `index` of `blob` is in the store, by this request or by another that was quicker."""
        ...

    def verified(self, blob: Blob, ok: bool) -> None:
        """All pieces of `blob` are in the store, and their SHA-256 is its digest, or is not."""
        ...


class OriginRange:
    """Fetches pieces `[first, stop)` of `known`, or the first span of a blob that is not known yet."""

    def __init__(
        self,
        source: OriginSource,
        known: Blob | None,
        first: int,
        stop: int | None,
        *,
        is_background: Callable[[], bool] = lambda: False,
        pace: Pace | None = None,
    ) -> None:
        """`is_background`: no client waits for the blob now. `pace` is kept between two pieces."""
        self.source = source
        self._known = known
        self._first = first
        self._stop = stop
        self._trimmed = sys.maxsize
        self._is_background = is_background
        self._body: Body | None = None
        self._stopped = threading.Event()
        self._pace = pace
        self._lock = threading.Lock()

    def run(self, store: Store, buffers: BufferPool, report: RangeReport) -> None:
        """Returns when all pieces have landed. Raises OriginError, StoreError; what landed before stays."""
        start, stop = self._byte_range()
        ref = replace(self.source.ref, size_bytes=self._known.size_bytes if self._known else None)
        with self._open(ref, start, stop) as body:
            self._hold(body)
            self._check_size(body.size_bytes)
            blob = self._pinned_blob(store, body)
            try:
                first, end = _whole_pieces(body, blob)
                blob.acquire()
                report.opened(blob, first, end)
                self._receive(body, blob, range(first, end), buffers, report)
            finally:
                blob.release()

    def stop(self) -> None:
        """End it soon, from any thread: `run` raises OriginBrokenError."""
        with self._lock:
            self._stopped.set()
            if self._body is not None:
                self._body.abort()

    def trim(self, stop: int) -> None:
        """End before piece `stop`, from any thread, unless that piece is coming already."""
        self._trimmed = stop

    def _open(self, ref: ContentRef, start: int, stop: int | None) -> Body:
        try:
            return self.source.origin.open(ref, start, stop, credential=self.source.credential)
        except OriginRefusedError as error:
            size_bytes = unsatisfied_range(error.headers.get("Content-Range", ""))
            if error.status == 416 and size_bytes is not None:
                self._check_size(size_bytes)
            raise

    def _receive(self, body: Body, blob: Blob, indices: range, buffers: BufferPool, report: RangeReport) -> None:
        received = partial(report.received, blob)
        with buffers.buffer(min(blob.header.piece_length, blob.size_bytes)) as buffer:
            for index in indices:
                if index >= self._trimmed:
                    return
                if self._stopped.is_set():
                    raise OriginBrokenError(f"the transfer of {blob.digest} was stopped")
                start, stop = blob.span(index)
                with buffer[: stop - start] as piece:
                    received_bytes = body.readinto(piece)
                    if received_bytes < len(piece):
                        raise OriginResizedError(
                            f"the origin's {blob.digest} ends before the length that it announced",
                            start + received_bytes,
                        )
                    whole = blob.land(index, piece, on_held=received).whole
                if whole is not None:
                    report.verified(blob, whole)
                if self._pace is not None:
                    self._pace.wait(stop - start, self._stopped)

    def _pinned_blob(self, store: Store, body: Body) -> Blob:
        """The blob that the download is about, even if the store has removed it meanwhile; else a new one."""
        if self._known is None:
            digest, background = self.source.ref.digest, self._is_background()
            return store.create(digest, body.size_bytes, body.media_type, background=background)
        self._known.acquire()
        return self._known

    def _check_size(self, size_bytes: int) -> None:
        digest = self.source.ref.digest
        if self._known is not None and size_bytes != self._known.size_bytes:
            raise OriginResizedError(
                f"the origin says that {digest} has {size_bytes} bytes; before, it had {self._known.size_bytes}",
                size_bytes,
            )
        if not 0 < size_bytes <= MAX_BLOB_BYTES:
            raise OriginUnusableError(f"the origin says that {digest} has {size_bytes} bytes, which no blob may have")

    def _byte_range(self) -> tuple[int, int | None]:
        if self._known is None:
            return 0, None if self.source.ref.kind is Kind.MANIFEST else FIRST_SPAN_BYTES
        last = self._known.count if self._stop is None else self._stop
        return self._known.span(self._first)[0], self._known.span(last - 1)[1]

    def _hold(self, body: Body) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise OriginBrokenError(f"the transfer of {self.source.ref.digest} was stopped")
            self._body = body


def _whole_pieces(body: Body, blob: Blob) -> tuple[int, int]:
    """Which pieces the body has in whole; an origin that ignores Range has them all."""
    length = blob.header.piece_length
    stop = blob.count if body.stop >= blob.size_bytes else body.stop // length
    if body.start % length or body.start // length >= stop:
        raise OriginUnusableError(
            f"the origin sent bytes {body.start} to {body.stop} of {blob.digest}, which nobody asked for"
        )
    return body.start // length, stop


def outcome_of(error: P2pdError) -> Outcome:
    """What the error that ended a range says to the core."""
    match error:
        case OriginBrokenError():
            return Outcome.BROKEN
        case OriginRefusedError() | OriginUnreachableError():
            return Outcome.REFUSED  # the origin client has tried again as often as is sensible
        case OriginUnusableError():
            return Outcome.UNUSABLE
        case OriginCorruptError() | StoreBrokenError():
            return Outcome.CORRUPT
        case _:
            return Outcome.FATAL
