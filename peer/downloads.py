"""Downloads: each blob that this host is getting, from the first client that asks for it to its end.

One download a blob, however many clients want it. Everything here runs on the event loop. The decisions are those of
`peer.core.member` (the swarm) and, below it, of `peer.core.download` (the origin); what they decide is carried out by
`OriginSide` and `SwarmSide`, with threads for the bytes. Each landed piece wakes the readers that wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from peer.core import origin_events
from peer.core import swarm_events as swarming
from peer.core.download import Download
from peer.core.member import Member
from peer.core.origin_events import Phase
from peer.errors import (
    FileLimitError,
    OriginBrokenError,
    OriginCorruptError,
    OriginUnreachableError,
    P2pdError,
    StoreBrokenError,
    StoreError,
)
from peer.job import Job
from peer.origin_side import OriginSide
from peer.store import Blob, Store
from peer.store.blob import EMPTY_DIGEST
from peer.swarm.swarm import Swarm
from peer.swarm_side import SwarmSide
from peer.tasks import BackgroundTasks
from peer.transfer import Source
from peer.workers import Workers
from scheduler.protocol import from_host, link

log = structlog.get_logger("peer.downloads")

MAX_BEGINNINGS = 4
"""Of one blob, while a client waits for its headers. Each that fails makes a liar known, or a map that was wrong."""


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
    """What is known of a blob before its first byte; none of it is believed against the bytes. 0: not known."""

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

    def __init__(self, store: Store, limits: Limits, background: BackgroundTasks, swarm: Swarm | None = None) -> None:
        self.store = store
        self._limits = limits
        self._background = background
        self._swarm = swarm
        self._workers = Workers()
        self._jobs: dict[str, Job] = {}
        self._origin = OriginSide(
            self._jobs, store, self._workers, background, transfers_per_origin=limits.transfers_per_origin
        )
        self._neighbours = SwarmSide(store, self._workers, background, swarm, limits.download_rate_bytes_per_s)
        self._corrupt = 0
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
        job, reader, blob = await self._known(digest, source, expected, at, background=background)
        try:
            blob.acquire()
            try:
                yield BlobReader(blob, partial(self._wait, job, reader, background))
            finally:
                blob.release()
        finally:
            job.feed(origin_events.ReaderLeft(reader))

    async def _known(
        self,
        digest: str,
        source: Source | None,
        expected: Expected | None,
        at: tuple[int, int | None],
        *,
        background: bool,
    ) -> tuple[Job, int, Blob]:
        """Join a blob's download as a reader, and wait until the length is known.

        If the download finds before that that the swarm has lied to it, it is begun anew, and so is the wait for it.
        """
        for times_left in reversed(range(MAX_BEGINNINGS)):
            job = self._join(digest, source, expected)
            reader = job.new_reader()
            job.feed(origin_events.ReaderMoved(reader, *at, background))
            try:
                return job, reader, await job.known_blob()
            except BaseException as error:
                job.feed(origin_events.ReaderLeft(reader))
                if not isinstance(error, P2pdError) or not job.tainted or not times_left:
                    raise
        raise AssertionError("the last time returns or raises")

    def statistics(self) -> DownloadStatistics:
        return DownloadStatistics(
            active=len(self._jobs),
            origin_bytes=self._origin.received_bytes,
            peer_bytes=self._neighbours.received_bytes,
            corrupt=self._corrupt + self._neighbours.tainted,
            corrupt_pieces=self._neighbours.corrupt_pieces,
        )

    def close(self) -> None:
        """End every download; readers that wait get an error."""
        self._closed = True
        for job in list(self._jobs.values()):
            job.fail(OriginUnreachableError("p2pd is stopping"))
        self._workers.close()

    # -- for the swarm (peer.swarm.swarm.Active) -------------------------------------------------------------------

    def feed_swarm(self, digest: bytes, event: swarming.Event) -> bool:
        job = self._jobs.get(_name(digest))
        if job is None:
            return False
        if job.recovered:
            job.feed(event)
        elif isinstance(event, swarming.FromScheduler):
            job.early.append(event)
        return True

    def feed_all(self, event: swarming.Event) -> None:
        for job in list(self._jobs.values()):
            if job.recovered:
                job.feed(event)

    def active_holdings(self) -> Iterable[from_host.Holding]:
        return [holding for job in self._jobs.values() if (holding := job.member.holding()) is not None]

    def active_holds(self, digest: bytes) -> link.Bitfield | None:
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
            source.upstream,
            source.ref.repository,
            patience_s=self._swarm.identity.patience_s if self._swarm else 0.0,
        )
        job = self._jobs[digest] = Job(digest, member, expected.media_type if expected else "", self._feed)
        self._add_source(job, source)
        self._background.start(self._begin(job, expected))
        return job

    async def _begin(self, job: Job, expected: Expected | None) -> None:
        """Take in what an earlier download left of this blob, and only then ask anybody for what is missing."""
        try:
            blob = self.store.acquire(job.digest)
            if blob is not None:
                await self._take_in(job, blob)
        except FileLimitError as error:
            job.fail(error)
            return
        except StoreError as error:
            log.warning("a damaged blob was removed, it is fetched again", digest=job.digest, error=str(error))
            self.store.discard(job.digest)
        job.recovered = True
        for number in range(len(job.sources)):
            job.feed(origin_events.SourceAdded(number))
        size_bytes = None if expected is None else expected.size_bytes
        if job.blob is not None:
            job.feed(swarming.Prepared())
            size_bytes = job.blob.size_bytes
        job.feed(swarming.Begun(self._swarm is not None and self._swarm.connected, size_bytes))
        for event in job.early:
            job.feed(event)
        if self._swarm is None or self._swarm.alone:
            job.feed(swarming.OriginOpened())

    async def _take_in(self, job: Job, blob: Blob) -> None:
        with ExitStack() as pin:
            pin.callback(blob.release)
            await self._workers.run(blob.recover)
            if blob.verdict is False:
                raise StoreBrokenError(f"the bytes that are held of {blob.digest} have another SHA-256")
            if job.adopt(blob):
                pin.pop_all()
        job.take_in(blob)

    def _add_source(self, job: Job, source: Source) -> None:
        if source not in job.sources:
            job.sources.append(source)
            if job.recovered:
                job.feed(origin_events.SourceAdded(len(job.sources) - 1))

    def _feed(self, job: Job, event: swarming.Event) -> None:
        """Have the core decide what follows from `event`, and carry it out."""
        for instruction in job.member.handle(event, self._workers.loop.time()):
            match instruction:
                case origin_events.WantSlot(source):
                    self._origin.want_slot(job, source)
                case origin_events.ReturnSlot():
                    assert isinstance(event, origin_events.SlotGranted)
                    self._origin.return_slot(job, event.source)
                case origin_events.StartTransfer():
                    self._origin.start(job, instruction)
                case origin_events.StopTransfer(number) if number in job.transfers:  # else its end is about to be told
                    job.transfers[number].stop()
                case origin_events.Ended(phase):
                    self._ended(job, phase)
                case _:
                    self._neighbours.carry_out(job, instruction)
        job.arm(self._workers.loop)

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
        expected = Expected(job.member.own_size_bytes or 0, job.media_type)
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
            await self._workers.run(blob.seal)
        except StoreError as error:
            log.warning("a blob could not be flushed; it is hashed again after a restart", error=str(error))
        finally:
            blob.release()

    async def _wait(self, job: Job, reader: int, background: bool, position: int, stop: int) -> None:
        job.raise_if_failed()
        job.feed(origin_events.ReaderMoved(reader, position, stop, background))
        assert job.blob is not None
        if job.blob.servable_until(position) <= position:
            await job.change()


def _name(digest: bytes) -> str:
    return f"sha256:{digest.hex()}"
