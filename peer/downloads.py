"""Downloads: carries out what the cores decide, with threads for the bytes and the event loop for the rest.

One download a blob, however many clients want it. Everything here runs on the event loop; transfers and fetches run in
threads and tell the loop of each landed piece once, which wakes the readers that wait for it. The decisions are those
of `peer.core.member` (the swarm) and, below it, of `peer.core.download` (the origin).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from peer.background import Background
from peer.core import download as core
from peer.core import swarm_events as swarming
from peer.core.download import Download, Outcome, Phase
from peer.core.member import Member
from peer.core.swarm_events import FetchOutcome
from peer.errors import (
    FetchStoppedError,
    OriginBrokenError,
    OriginCorruptError,
    OriginRefusedError,
    OriginUnreachableError,
    P2pdError,
    PeerBusyError,
    PeerCorruptError,
    PeerGoneError,
    StoreBrokenError,
    StoreError,
)
from peer.job import Job
from peer.origin.api import Origin
from peer.slots import Slots
from peer.store import Blob, Landed, Store
from peer.store.blob import EMPTY_DIGEST
from peer.store.buffers import BufferPool
from peer.swarm.fetching import Pace, PieceFetch, Wanted
from peer.swarm.swarm import Swarm
from peer.transfer import Source, Transfer
from scheduler.protocol import from_host, link
from scheduler.protocol.content import Content
from scheduler.protocol.geometry import MAX_PIECE_BYTES

log = structlog.get_logger("peer.downloads")

T = TypeVar("T")

MAX_THREADS = 64
BUFFER_BUDGET_BYTES = 8 * MAX_PIECE_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """`transfers_per_origin` is for data alone: the origin's own limit of connections has room for questions too.

    `download_rate_bytes_per_s` is for what neighbours send, all together; 0 is none.
    """

    transfers_per_origin: int = 12
    transfers_per_blob: int = 4
    linger_s: float = 30.0
    download_rate_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a blob before its first byte; none of it is believed against the bytes."""

    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class DownloadStatistics:
    active: int
    origin_bytes: int
    peer_bytes: int
    corrupt: int
    corrupt_pieces: int


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
    """All downloads of this host. Without a `swarm` each is the host's own, from the origin."""

    def __init__(self, store: Store, limits: Limits, background: Background, swarm: Swarm | None = None) -> None:
        self.store = store
        self._limits = limits
        self._background = background
        self._swarm = swarm
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="transfer")
        self._buffers = BufferPool(BUFFER_BUDGET_BYTES)
        self._pace = Pace(limits.download_rate_bytes_per_s)
        self._jobs: dict[str, Job] = {}
        self._slots: dict[Origin, Slots] = {}
        self._origin_bytes = 0
        self._peer_bytes = 0
        self._corrupt = 0
        self._corrupt_pieces = 0
        self._closed = False

    @asynccontextmanager
    async def open(
        self,
        digest: str,
        source: Source | None,
        *,
        expected: Expected | None = None,
        at: tuple[int, int | None] = (0, None),
        background: bool = False,
    ) -> AsyncIterator[BlobReader]:
        """A reader of `digest`, from the store or else from the swarm and `source`; yields once the length is known.

        `expected` is what a manifest, or the origin's answer to HEAD, said; `at` are the bytes that will be read first.
        Raises OriginError, StoreError. With `source` None only what is held, or on its way already, can be read.
        """
        blob = self._acquire_whole(digest)
        if blob is not None:
            try:
                yield BlobReader(blob, None)
            finally:
                blob.release()
            return
        job = self._join(digest, source, expected)
        reader = job.new_reader()
        self._feed(job, core.ReaderMoved(reader, *at, background))
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
        return DownloadStatistics(
            len(self._jobs), self._origin_bytes, self._peer_bytes, self._corrupt, self._corrupt_pieces
        )

    def close(self) -> None:
        """End every download; readers that wait get an error."""
        self._closed = True
        for job in list(self._jobs.values()):
            job.last_error = OriginUnreachableError("p2pd is stopping")
            self._feed(job, core.Stopped())
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- for the swarm (peer.swarm.swarm.Active) -------------------------------------------------------------------

    def feed_swarm(self, digest: bytes, event: swarming.Event) -> bool:
        job = self._jobs.get(_name(digest))
        if job is None or not job.recovered:
            return job is not None
        self._feed(job, event)
        return True

    def feed_all(self, event: swarming.Event) -> None:
        for job in list(self._jobs.values()):
            if job.recovered:
                self._feed(job, event)

    def active_holdings(self) -> Iterable[from_host.Holding]:
        return [holding for job in self._jobs.values() if (holding := job.member.holding()) is not None]

    def active_holds(self, digest: bytes) -> link.Holds | None:
        job = self._jobs.get(_name(digest))
        return None if job is None else job.member.holds()

    def serving(self, digest: bytes, start: int, stop: int) -> Blob | None:
        job = self._jobs.get(_name(digest))
        if job is None or job.blob is None or not job.member.may_serve(start, stop):
            return None
        job.blob.acquire()
        return job.blob

    # -- jobs ------------------------------------------------------------------------------------------------------

    def _acquire_whole(self, digest: str) -> Blob | None:
        if digest in self._jobs:
            return None
        blob = self.store.create(digest, 0, "") if digest == EMPTY_DIGEST else self.store.acquire(digest)
        if blob is not None and not blob.whole:
            blob.release()
            return None
        return blob

    def _join(self, digest: str, source: Source | None, expected: Expected | None) -> Job:
        if self._closed:
            raise OriginUnreachableError("p2pd is stopping")
        job = self._jobs.get(digest)
        if job is not None:
            if source is not None:
                self._add_source(job, source)
            return job
        if source is None:
            raise OriginUnreachableError(f"{digest} is not held here, and there is no origin to ask")
        member = Member(
            Download(self._limits.transfers_per_blob, self._limits.linger_s),
            bytes.fromhex(digest.removeprefix("sha256:")),
            source.namespace,
            source.ref.repository,
            patience_s=self._swarm.identity.patience_s if self._swarm else 0.0,
        )
        job = self._jobs[digest] = Job(digest, member, expected.media_type if expected else "")
        self._add_source(job, source)
        self._background.start(self._begin(job, expected))
        return job

    async def _begin(self, job: Job, expected: Expected | None) -> None:
        """Take in what an earlier download left of this blob, and only then ask anybody for what is missing."""
        try:
            blob = self.store.acquire(job.digest)
            if blob is not None:
                await self._take_in(job, blob)
        except StoreError as error:
            log.warning("a damaged blob was removed, it is fetched again", digest=job.digest, error=str(error))
            self.store.discard(job.digest)
        job.recovered = True
        for number in range(len(job.sources)):
            self._feed(job, core.SourceAdded(number))
        size_bytes = None if expected is None else expected.size_bytes
        if job.blob is not None:
            self._feed(job, swarming.Prepared())
            size_bytes = job.blob.size_bytes
        self._feed(job, swarming.Begun(self._swarm is not None and self._swarm.connected, size_bytes))
        if self._swarm is None or self._swarm.alone:
            self._feed(job, swarming.OriginOpened())

    async def _take_in(self, job: Job, blob: Blob) -> None:
        with ExitStack() as pin:
            pin.callback(blob.release)
            await self._in_thread(blob.recover)
            if blob.verdict is False:
                raise StoreBrokenError(f"the bytes that are held of {blob.digest} have another SHA-256")
            if job.adopt(blob):
                pin.pop_all()
        job.member.download.learn_geometry(blob.size_bytes, blob.header.piece_length)
        for index in blob.pieces:
            job.answered = True
            self._feed(job, core.PieceLanded(None, index, blob.piece_digests.get(index, b"")))
        job.wake()
        if blob.verdict is not None:
            self._verified(job, blob.verdict)

    def _add_source(self, job: Job, source: Source) -> None:
        if source not in job.sources:
            job.sources.append(source)
            if job.recovered:
                self._feed(job, core.SourceAdded(len(job.sources) - 1))

    # -- carrying out ----------------------------------------------------------------------------------------------

    def _feed(self, job: Job, event: swarming.Event) -> None:
        for instruction in job.member.handle(event, self._loop.time()):
            match instruction:
                case core.WantSlot(source):
                    granted = partial(self._grant, job, source)
                    self._slots_of(job, source).want(lambda: job.member.download.background, granted)
                case core.ReturnSlot():
                    assert isinstance(event, core.SlotGranted)
                    self._slots_of(job, event.source).free()
                case core.StartTransfer(number, source, first, stop):
                    transfer = Transfer(number, job.sources[source], job.blob, first, stop)
                    job.transfers[number] = transfer
                    self._background.start(self._run(job, transfer))
                case core.StopTransfer(number) if number in job.transfers:  # else its end is about to be told
                    job.transfers[number].stop()
                case core.Ended(phase):
                    self._ended(job, phase)
                case _:
                    self._carry_out_for_swarm(job, instruction)
        job.arm(self._loop, lambda: self._feed(job, core.Tick()))

    def _carry_out_for_swarm(self, job: Job, instruction: swarming.Instruction) -> None:
        match instruction:
            case swarming.Prepare(size_bytes):
                self._background.start(self._prepare(job, size_bytes))
            case swarming.Fetch():
                self._fetch(job, instruction)
            case swarming.StopFetch(number) if number in job.fetches:
                job.fetches[number].stop()
            case swarming.Deliver(data):
                self._background.start(self._deliver(job, data))
            case swarming.GiveUp(reason, status, tainted):
                self._give_up(job, reason, status, tainted=tainted)
            case swarming.Tell(message) if self._swarm is not None:
                self._swarm.tell(message)
            case swarming.TellContent() if self._swarm is not None and job.blob is not None:
                self._swarm.tell(Content(job.member.digest, job.blob.read(0, job.blob.size_bytes)))
            case swarming.TellNeighbours(hosts, message) if self._swarm is not None:
                self._swarm.tell_neighbours(hosts, message)
            case swarming.Meet(neighbour) if self._swarm is not None:
                self._swarm.meet(job.member.digest, neighbour)
            case swarming.Part(host) if self._swarm is not None:
                self._swarm.part(job.member.digest, host)
            case _:
                pass

    async def _prepare(self, job: Job, size_bytes: int) -> None:
        """Give the blob its place in the store before its first piece comes."""
        try:
            blob = await self._in_thread(self.store.create, job.digest, size_bytes, job.media_type)
        except StoreError as error:
            job.last_error = error
            self._feed(job, core.Stopped())
            return
        if not job.adopt(blob):
            blob.release()
        self._feed(job, swarming.Prepared())
        job.wake()

    def _give_up(self, job: Job, reason: str, status: int, *, tainted: bool) -> None:
        if 400 <= status < 500:
            job.last_error = OriginRefusedError(reason, status=status)
        else:
            job.last_error = OriginUnreachableError(reason)
        if tainted:
            job.tainted = True
            self._corrupt += 1
            self.store.discard(job.digest)
        self._feed(job, core.Stopped())

    async def _deliver(self, job: Job, data: bytes) -> None:
        """Take in a tiny blob that came whole from the scheduler, if it is the blob."""
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != job.digest:
            log.warning("the scheduler sent other bytes under a digest", digest=job.digest)
            return
        try:
            blob = await self._in_thread(self._put, job, data)
        except StoreError as error:
            job.last_error = error
            self._feed(job, core.Stopped())
            return
        self._peer_bytes += len(data)
        job.answered = True
        if not job.adopt(blob):
            blob.release()
        job.member.download.learn_geometry(blob.size_bytes, blob.header.piece_length)
        for index in range(blob.count):
            self._feed(job, core.PieceLanded(None, index, blob.piece_digests.get(index, b"")))
        self._verified(job, blob.whole)

    def _put(self, job: Job, data: bytes) -> Blob:
        blob = self.store.create(job.digest, len(data), job.media_type)
        for index in range(blob.count):
            start, stop = blob.span(index)
            blob.land(index, memoryview(data)[start:stop])
        return blob

    # -- transfers from the origin ---------------------------------------------------------------------------------

    async def _run(self, job: Job, transfer: Transfer) -> None:
        outcome, status = Outcome.FATAL, 0  # if it ends by a defect of ours
        try:
            report = _Relay(self._loop, partial(self._opened, job), partial(self._landed, job))
            await self._in_thread(transfer.run, self.store, self._buffers, report)
            outcome = Outcome.DONE
        except P2pdError as error:
            job.last_error = error
            outcome = _outcome(error)
            status = error.status if isinstance(error, OriginRefusedError) else 0
        finally:
            self._slots[transfer.source.origin].free()
            del job.transfers[transfer.number]
            self._feed(job, core.TransferEnded(transfer.number, outcome, status))

    def _opened(self, job: Job, transfer: Transfer, blob: Blob, first: int, stop: int) -> None:
        if not job.adopt(blob):
            blob.release()
        job.answered = True
        if transfer.number in job.transfers:
            self._feed(
                job,
                core.TransferOpened(transfer.number, blob.size_bytes, blob.header.piece_length, first, stop),
            )
        job.wake()

    def _landed(self, job: Job, transfer: Transfer, blob: Blob, landed: Landed) -> None:
        start, stop = blob.span(landed.index)
        self._origin_bytes += stop - start
        number: int | None = transfer.number
        successor = self._jobs.get(job.digest)
        if successor is not None and successor is not job and successor.blob is blob:
            job, number = successor, None  # its download had ended, and another has taken the blob over
        self._has_landed(job, number, landed)

    def _has_landed(self, job: Job, transfer: int | None, landed: Landed) -> None:
        job.answered = True
        self._feed(job, core.PieceLanded(transfer, landed.index, landed.digest))
        job.wake()
        if landed.whole is not None:
            self._verified(job, landed.whole)

    def _verified(self, job: Job, ok: bool) -> None:
        if not ok:
            job.last_error = OriginCorruptError(
                f"the bytes that came for {job.digest} have another SHA-256; they were removed"
            )
        self._feed(job, core.BlobVerified(ok))

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        if self._closed:
            raise asyncio.CancelledError  # as is what waits for a thread when they are shut down
        return await self._loop.run_in_executor(self._threads, partial(work, *args))

    def _slots_of(self, job: Job, source: int) -> Slots:
        origin = job.sources[source].origin
        if origin not in self._slots:
            self._slots[origin] = Slots(self._limits.transfers_per_origin)
        return self._slots[origin]

    def _grant(self, job: Job, source: int) -> None:
        self._loop.call_soon(self._feed, job, core.SlotGranted(source))

    # -- fetches from neighbours -----------------------------------------------------------------------------------

    def _fetch(self, job: Job, instruction: swarming.Fetch) -> None:
        origin = self._swarm.origin(instruction.host) if self._swarm else None
        if origin is None or job.blob is None:
            self._loop.call_soon(self._feed, job, swarming.FetchEnded(instruction.fetch, FetchOutcome.GONE))
            return
        wanted = Wanted(job.blob, instruction.index, instruction.expected)
        fetch = job.fetches[instruction.fetch] = PieceFetch(instruction.fetch, origin, wanted)
        self._background.start(self._run_fetch(job, fetch, instruction.host))

    async def _run_fetch(self, job: Job, fetch: PieceFetch, host: str) -> None:
        outcome = FetchOutcome.STOPPED
        landed: Landed | None = None
        try:
            landed = await self._in_thread(fetch.run, self._buffers, self._pace)
            start, stop = fetch.wanted.blob.span(landed.index)
            self._peer_bytes += stop - start
            outcome = FetchOutcome.LANDED
        except StoreError as error:
            job.last_error = error
        except P2pdError as error:
            outcome = _fetch_outcome(error)
            if outcome is FetchOutcome.CORRUPT:
                self._corrupt_pieces += 1
                log.warning("a neighbour sent wrong bytes", host=host, digest=job.digest, piece=fetch.wanted.index)
        finally:
            del job.fetches[fetch.number]
            if landed is not None:  # before the fetch has ended: else the piece is missing again for a moment
                self._has_landed(job, None, landed)
            self._feed(job, swarming.FetchEnded(fetch.number, outcome))
            if isinstance(job.last_error, StoreError):
                self._feed(job, core.Stopped())

    # -- ends ------------------------------------------------------------------------------------------------------

    def _ended(self, job: Job, phase: Phase) -> None:
        if phase is Phase.COMPLETE:
            assert job.blob is not None
            job.blob.acquire()
            self._background.start(self._seal(job.blob))
            self._end(job, None)
            return
        if isinstance(job.last_error, OriginCorruptError):
            self._corrupt += 1
            story = job.member.download.story()[-8:]
            log.error("wrong bytes from an origin", digest=job.digest, error=str(job.last_error), story=story)
        nothing = job.blob is not None and not job.blob.held_bytes
        if nothing or isinstance(job.last_error, OriginCorruptError | StoreBrokenError):
            self.store.discard(job.digest)  # what is wrong, or on a disk that fails, is not to be gone on with
        again = job.tainted and not self._closed
        if self._swarm is not None and not again:
            self._swarm.forget(job.member.digest)
        self._end(job, job.last_error or OriginBrokenError(f"nobody waited for {job.digest} any longer"))
        if again:
            self._begin_anew(job)

    def _begin_anew(self, job: Job) -> None:
        """Get a blob again whose map proved wrong, for who asks again: a swarm that all leave forgets who lied."""
        expected = Expected(job.member.download.size_bytes, job.media_type)
        for source in job.sources:
            self._join(job.digest, source, expected)

    def _end(self, job: Job, error: P2pdError | None) -> None:
        if self._jobs.get(job.digest) is job:
            del self._jobs[job.digest]
        for transfer in job.transfers.values():
            transfer.stop()
        for fetch in job.fetches.values():
            fetch.stop()
        job.end(error)

    async def _seal(self, blob: Blob) -> None:
        try:
            await self._in_thread(blob.seal)
        except StoreError as error:
            log.warning("a blob could not be flushed; it is hashed again after a restart", error=str(error))
        finally:
            blob.release()

    async def _wait(self, job: Job, reader: int, background: bool, position: int, stop: int) -> None:
        job.raise_if_failed()
        self._feed(job, core.ReaderMoved(reader, position, stop, background))
        assert job.blob is not None
        if job.blob.servable_until(position) <= position:
            await job.change()


@dataclass(frozen=True, slots=True)
class _Relay:
    """Carries a transfer's reports from its thread to the event loop, in order."""

    loop: asyncio.AbstractEventLoop
    on_opened: Callable[[Transfer, Blob, int, int], None]
    on_landed: Callable[[Transfer, Blob, Landed], None]

    def opened(self, transfer: Transfer, blob: Blob, first: int, stop: int) -> None:
        self.loop.call_soon_threadsafe(self.on_opened, transfer, blob, first, stop)

    def landed(self, transfer: Transfer, blob: Blob, landed: Landed) -> None:
        self.loop.call_soon_threadsafe(self.on_landed, transfer, blob, landed)


def _name(digest: bytes) -> str:
    return f"sha256:{digest.hex()}"


def _outcome(error: P2pdError) -> Outcome:
    match error:
        case OriginBrokenError():
            return Outcome.BROKEN
        case OriginRefusedError() | OriginUnreachableError():
            return Outcome.REFUSED  # the origin client has tried again as often as is sensible
        case _:
            return Outcome.FATAL


def _fetch_outcome(error: P2pdError) -> FetchOutcome:
    match error:
        case PeerBusyError():
            return FetchOutcome.BUSY
        case PeerCorruptError():
            return FetchOutcome.CORRUPT
        case FetchStoppedError():
            return FetchOutcome.STOPPED
        case PeerGoneError():
            return FetchOutcome.GONE
        case _:
            return FetchOutcome.STOPPED
