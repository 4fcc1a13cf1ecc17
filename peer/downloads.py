"""Downloads: carries out what `peer.core.download` decides, with threads for the bytes and the event loop for the rest.

One download a blob, however many clients want it. Everything here runs on the event loop; transfers run in threads and
tell the loop of each landed piece once, which wakes the readers that wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from peer.background import Background
from peer.core import download as core
from peer.core.download import Download, Outcome, Phase
from peer.errors import (
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginUnreachableError,
    P2pdError,
    StoreError,
)
from peer.origin.api import Origin
from peer.store import Blob, Landed, Store
from peer.store.blob import EMPTY_DIGEST
from peer.store.buffers import BufferPool
from peer.transfer import Source, Transfer
from scheduler.protocol.geometry import MAX_PIECE_BYTES

log = structlog.get_logger("peer.downloads")

MAX_THREADS = 64
BUFFER_BUDGET_BYTES = 8 * MAX_PIECE_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """`transfers_per_origin` is for data alone: the origin's own limit of connections has room for questions too."""

    transfers_per_origin: int = 12
    transfers_per_blob: int = 4
    linger_s: float = 30.0


@dataclass(frozen=True, slots=True)
class DownloadStatistics:
    active: int
    origin_bytes: int
    corrupt: int


class BlobReader:
    """A client's hold on a blob: it is pinned, and `readable` says how far it may be sent."""

    def __init__(self, blob: Blob, wait: Callable[[int, int], Awaitable[None]] | None) -> None:
        self.blob = blob
        self.from_store = wait is None
        self._wait = wait

    async def readable(self, start: int, stop: int) -> int:
        """The end of the bytes from `start` that may be sent now, at most `stop`; waits until there is at least one.

        Raises the error that ended the download.
        """
        while (end := min(self.blob.servable_until(start), stop)) <= start < stop:
            assert self._wait is not None, "a blob from the store is whole"
            await self._wait(start, stop)
        return end


class Downloads:
    """All downloads of this host."""

    def __init__(self, store: Store, limits: Limits, background: Background) -> None:
        self.store = store
        self._limits = limits
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="transfer")
        self._buffers = BufferPool(BUFFER_BUDGET_BYTES)
        self._jobs: dict[str, _Job] = {}
        self._slots: dict[Origin, _Slots] = {}
        self._origin_bytes = 0
        self._corrupt = 0
        self._closed = False

    @asynccontextmanager
    async def open(self, digest: str, source: Source | None, *, background: bool = False) -> AsyncIterator[BlobReader]:
        """A reader of `digest`, from the store or else from `source`; yields once the blob's length is known.

        Raises OriginError, StoreError. With `source` None only what is held, or on its way already, can be read.
        """
        blob = self._acquire_whole(digest)
        if blob is not None:
            try:
                yield BlobReader(blob, None)
            finally:
                blob.release()
            return
        job = self._join(digest, source)
        reader = job.new_reader()
        self._feed(job, core.ReaderMoved(reader, 0, None, background))
        try:
            blob = await job.known_blob()
            blob.acquire()
            try:
                yield BlobReader(blob, partial(self._wait, job, reader, background))
            finally:
                blob.release()
        finally:
            self._feed(job, core.ReaderLeft(reader))

    def statistics(self) -> DownloadStatistics:
        return DownloadStatistics(len(self._jobs), self._origin_bytes, self._corrupt)

    def close(self) -> None:
        """End every download; readers that wait get an error."""
        self._closed = True
        for job in list(self._jobs.values()):
            self._end(job, OriginUnreachableError("p2pd is stopping"))
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- jobs ------------------------------------------------------------------------------------------------------

    def _acquire_whole(self, digest: str) -> Blob | None:
        if digest in self._jobs:
            return None
        blob = self.store.create(digest, 0, "") if digest == EMPTY_DIGEST else self.store.acquire(digest)
        if blob is not None and not blob.whole:
            blob.release()
            return None
        return blob

    def _join(self, digest: str, source: Source | None) -> _Job:
        if self._closed:
            raise OriginUnreachableError("p2pd is stopping")
        job = self._jobs.get(digest)
        if job is not None:
            if source is not None:
                self._add_source(job, source)
            return job
        if source is None:
            raise OriginUnreachableError(f"{digest} is not held here, and there is no origin to ask")
        job = self._jobs[digest] = _Job(digest, Download(self._limits.transfers_per_blob, self._limits.linger_s))
        self._background.start(self._recover(job, source))
        return job

    async def _recover(self, job: _Job, source: Source) -> None:
        """Take in what an earlier download left of this blob, and only then ask the source for what is missing."""
        try:
            blob = self.store.acquire(job.digest)
            if blob is not None:
                landed = await self._loop.run_in_executor(self._threads, blob.recover)
                self._opened(job, None, blob, 0, 0)
                for index in blob.pieces:
                    self._feed(job, core.PieceLanded(None, index))
                if landed is not None:
                    self._landed(job, None, landed)
        except StoreError as error:
            log.warning("a damaged blob was removed, it is fetched again", digest=job.digest, error=str(error))
            self.store.discard(job.digest)
        self._add_source(job, source)

    def _add_source(self, job: _Job, source: Source) -> None:
        if source not in job.sources:
            job.sources.append(source)
            self._feed(job, core.SourceAdded(len(job.sources) - 1))

    def _feed(self, job: _Job, event: core.Event) -> None:
        for instruction in job.core.handle(event, self._loop.time()):
            match instruction:
                case core.WantSlot(source):
                    self._slots_of(job, source).want(job, source)
                case core.ReturnSlot():
                    assert isinstance(event, core.SlotGranted)
                    self._slots_of(job, event.source).free()
                case core.StartTransfer(number, source, first, stop):
                    transfer = Transfer(number, job.sources[source], job.blob, first, stop)
                    job.transfers[number] = transfer
                    self._background.start(self._run(job, transfer))
                case core.StopTransfer(number):
                    job.transfers[number].stop()
                case core.Ended(phase):
                    self._ended(job, phase)
        job.arm(self._loop, lambda: self._feed(job, core.Tick()))
        job.wake()

    # -- transfers -------------------------------------------------------------------------------------------------

    async def _run(self, job: _Job, transfer: Transfer) -> None:
        outcome = Outcome.FATAL  # if it ends by a defect of ours
        try:
            report = _Relay(self._loop, partial(self._opened, job), partial(self._landed, job))
            await self._loop.run_in_executor(self._threads, transfer.run, self.store, self._buffers, report)
            outcome = Outcome.DONE
        except P2pdError as error:
            job.last_error = error
            outcome = _outcome(error)
        finally:
            self._slots[transfer.source.origin].free()
            del job.transfers[transfer.number]
            self._feed(job, core.TransferEnded(transfer.number, outcome))

    def _opened(self, job: _Job, transfer: Transfer | None, blob: Blob, first: int, stop: int) -> None:
        if not job.adopt(blob):
            blob.release()
        if transfer is None:
            job.core.learn_geometry(blob.size_bytes, blob.header.piece_length)
            job.wake()
        elif transfer.number in job.transfers:
            self._feed(
                job,
                core.TransferOpened(transfer.number, blob.size_bytes, blob.header.piece_length, first, stop),
            )

    def _landed(self, job: _Job, transfer: Transfer | None, landed: Landed) -> None:
        if transfer is not None and job.blob is not None:
            start, stop = job.blob.span(landed.index)
            self._origin_bytes += stop - start
        self._feed(job, core.PieceLanded(transfer.number if transfer else None, landed.index))
        if landed.whole is not None:
            self._feed(job, core.BlobVerified(landed.whole))

    # -- ends ------------------------------------------------------------------------------------------------------

    def _ended(self, job: _Job, phase: Phase) -> None:
        if phase is Phase.COMPLETE:
            assert job.blob is not None
            job.blob.acquire()
            self._background.start(self._seal(job.blob))
            self._end(job, None)
            return
        if job.blob is not None and job.blob.pieces.complete:
            job.last_error = OriginCorruptError(
                f"the origin's bytes for {job.digest} have another SHA-256; they were removed"
            )
        if isinstance(job.last_error, OriginCorruptError):
            self._corrupt += 1
            story = job.core.story()[-8:]
            log.error("wrong bytes from an origin", digest=job.digest, error=str(job.last_error), story=story)
            self.store.discard(job.digest)
        self._end(job, job.last_error or OriginBrokenError(f"nobody waited for {job.digest} any longer"))

    def _end(self, job: _Job, error: P2pdError | None) -> None:
        if self._jobs.get(job.digest) is job:
            del self._jobs[job.digest]
        for transfer in job.transfers.values():
            transfer.stop()
        job.end(error)

    async def _seal(self, blob: Blob) -> None:
        try:
            await self._loop.run_in_executor(self._threads, blob.seal)
        except StoreError as error:
            log.warning("a blob could not be flushed; it is hashed again after a restart", error=str(error))
        finally:
            blob.release()

    async def _wait(self, job: _Job, reader: int, background: bool, position: int, stop: int) -> None:
        job.raise_if_failed()
        self._feed(job, core.ReaderMoved(reader, position, stop, background))
        assert job.blob is not None
        if job.blob.servable_until(position) <= position:
            await job.change()

    def _slots_of(self, job: _Job, source: int) -> _Slots:
        origin = job.sources[source].origin
        if origin not in self._slots:
            self._slots[origin] = _Slots(self._limits.transfers_per_origin, self._grant)
        return self._slots[origin]

    def _grant(self, job: _Job, source: int) -> None:
        self._loop.call_soon(self._feed, job, core.SlotGranted(source))


class _Job:
    """One download and what belongs to it outside of the core: blob, sources, running transfers, waiting readers."""

    def __init__(self, digest: str, download: Download) -> None:
        self.digest = digest
        self.core = download
        self.blob: Blob | None = None
        self.sources: list[Source] = []
        self.transfers: dict[int, Transfer] = {}
        self.last_error: P2pdError | None = None
        self._error: P2pdError | None = None
        self._changed = asyncio.Event()
        self._readers = 0
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None

    def new_reader(self) -> int:
        self._readers += 1
        return self._readers

    def adopt(self, blob: Blob) -> bool:
        """Take over the pin on `blob`; False if it is not needed (any more)."""
        if self.blob is not None or self._ended:
            return False
        self.blob = blob
        return True

    async def known_blob(self) -> Blob:
        """The blob, once its length is known. Raises the error that ended the download before that."""
        while self.blob is None:
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

    def arm(self, loop: asyncio.AbstractEventLoop, tick: Callable[[], None]) -> None:
        """Have `tick` called when the core's next deadline has come."""
        deadline = None if self._ended else self.core.next_deadline()
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = None if deadline is None else loop.call_at(deadline, tick)

    def end(self, error: P2pdError | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        if self.blob is not None:
            self.blob.release()
        self.wake()


class _Slots:
    """The connections of one origin that data may use; what clients wait for comes before what is fetched ahead."""

    def __init__(self, limit: int, grant: Callable[[_Job, int], None]) -> None:
        self._free = limit
        self._grant = grant
        self._waiting: deque[tuple[_Job, int]] = deque()

    def want(self, job: _Job, source: int) -> None:
        self._waiting.append((job, source))
        self._serve()

    def free(self) -> None:
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free and self._waiting:
            chosen = next((entry for entry in self._waiting if not entry[0].core.background), self._waiting[0])
            self._waiting.remove(chosen)
            self._free -= 1
            self._grant(*chosen)


@dataclass(frozen=True, slots=True)
class _Relay:
    """Carries a transfer's reports from its thread to the event loop, in order."""

    loop: asyncio.AbstractEventLoop
    on_opened: Callable[[Transfer, Blob, int, int], None]
    on_landed: Callable[[Transfer, Landed], None]

    def opened(self, transfer: Transfer, blob: Blob, first: int, stop: int) -> None:
        self.loop.call_soon_threadsafe(self.on_opened, transfer, blob, first, stop)

    def landed(self, transfer: Transfer, landed: Landed) -> None:
        self.loop.call_soon_threadsafe(self.on_landed, transfer, landed)


def _outcome(error: P2pdError) -> Outcome:
    match error:
        case OriginBrokenError():
            return Outcome.BROKEN
        case OriginRefusedError() | OriginUnreachableError():
            return Outcome.REFUSED  # the origin client has tried again as often as is sensible
        case _:
            return Outcome.FATAL
