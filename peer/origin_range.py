"""A range of a blob from its origin into the store, piece by piece, in a worker thread.

The data path: the socket fills a pooled buffer of one piece, the piece is hashed there while it is in the cache, and is
then written to the blob's file. Sockets, hashlib, blake3 and pwrite all release the interpreter lock. While one thread
lands a piece, a second one receives the next, if there is a buffer for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from peer.core.events import Outcome
from peer.core.origin_requests import FIRST_SPAN_BYTES
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
from scheduler.protocol.geometry import MAX_BLOB_BYTES


class OriginSource(Struct, frozen=True):
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

    def run(self, store: Store, buffers: BufferPool, report: RangeReport, spawn: Callable[..., None]) -> None:
        """Returns when all pieces have landed. Raises OriginError, StoreError; what landed before stays.

        `spawn` has a function called in another thread.
        """
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
                _Turns(self, body, blob, range(first, end), buffers, report, spawn).run()
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

    def is_trimmed(self, index: int) -> bool:
        """Whether it ends before piece `index`. Raises OriginBrokenError if it is to end at once."""
        if index < self._trimmed and self._stopped.is_set():
            raise OriginBrokenError(f"the transfer of {self.source.ref.digest} was stopped")
        return index >= self._trimmed

    def keep_pace(self, received_bytes: int) -> None:
        """Wait as long as it takes to have been allowed what was received, or until it is to end."""
        if self._pace is not None:
            self._pace.wait(received_bytes, self._stopped)

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


class _Turns:
    """Receives the pieces of one body by one thread or two: while one lands a piece, the other has its turn to receive.

    The pieces are received in order, and each is at hand of the store before the next has come (`Blob.land`), so their
    SHA-256 finds all of them in memory. A second thread begins with each piece for which there is a buffer, and ends
    when it is not its turn: a thread that waits for a turn keeps no buffer.
    """

    def __init__(
        self,
        owner: OriginRange,
        body: Body,
        blob: Blob,
        indices: range,
        buffers: BufferPool,
        report: RangeReport,
        spawn: Callable[..., None],
    ) -> None:
        self._range = owner
        self._body = body
        self._blob = blob
        self._buffers = buffers
        self._report = report
        self._spawn = spawn
        self._next = indices.start
        self._stop = indices.stop
        self._turn = threading.Condition()  # notified when nobody receives any more, and when the second thread ends
        self._receiving = False
        self._asked = False
        """A second thread is to begin; it may never do so, where threads are short or this process ends."""
        self._helped = False
        self._error: Exception | None = None

    def run(self) -> None:
        """Returns when all pieces have landed. Raises what either thread has met first."""
        while self._wait_for_turn():
            try:
                with self._buffers.buffer(self._buffer_bytes) as buffer:
                    self._take_turns(buffer)
            except Exception as error:  # there is no memory: what the second thread lands needs the blob to its end
                self._fail(error)
        if self._error is not None:
            raise self._error

    @property
    def _buffer_bytes(self) -> int:
        return min(self._blob.header.piece_length, self._blob.size_bytes)

    def _wait_for_turn(self) -> bool:
        """Whether there is something to receive now. If not, the second thread has ended as well."""
        with self._turn:
            self._turn.wait_for(lambda: not self._receiving and (not self._is_over() or not self._helped))
            return not self._is_over()

    def _is_over(self) -> bool:
        return self._error is not None or self._next >= self._stop

    def _help(self) -> None:
        """The second thread."""
        with self._turn:
            self._asked, self._helped = False, not self._is_over()
            if not self._helped:
                return
        try:
            with self._buffers.spare(self._buffer_bytes) as buffer:
                if buffer is not None:
                    self._take_turns(buffer)
        finally:
            with self._turn:
                self._helped = False
                self._turn.notify()

    def _take_turns(self, buffer: memoryview) -> None:
        while self._take_turn():
            try:
                self._receive(buffer)
            except Exception as error:
                self._fail(error)

    def _take_turn(self) -> bool:
        with self._turn:
            if self._receiving or self._is_over():
                return False
            self._receiving = True
            return True

    def _receive(self, buffer: memoryview) -> None:
        """Receive the next piece, give the turn away, and land the piece."""
        index, blob = self._next, self._blob
        if self._range.is_trimmed(index):
            self._stop = index
            self._give_turn(index)
            return
        start, stop = blob.span(index)
        with buffer[: stop - start] as piece:
            received_bytes = self._body.readinto(piece)
            if received_bytes < len(piece):
                raise OriginResizedError(
                    f"the origin's {blob.digest} ends before the length that it announced", start + received_bytes
                )
            self._range.keep_pace(len(piece))
            give_turn = partial(self._give_turn, index + 1)
            whole = blob.land(index, piece, on_held=partial(self._report.received, blob), on_at_hand=give_turn).whole
        if whole is not None:
            self._report.verified(blob, whole)

    def _give_turn(self, index: int) -> None:
        """Piece `index` is the next to be received, by this thread once it has landed its own, or by a second one."""
        with self._turn:
            self._next, self._receiving = index, False
            self._turn.notify()
            needs_help = not (self._helped or self._asked or self._is_over())
            self._asked = self._asked or needs_help
        if needs_help:
            self._spawn(copy_context().run, self._help)

    def _fail(self, error: Exception) -> None:
        with self._turn:
            self._error = self._error or error
            self._receiving = False
            self._turn.notify()
        self._range.stop()


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
