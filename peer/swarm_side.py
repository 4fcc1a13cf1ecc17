"""What downloads have of their swarms: pieces fetched from neighbours, and what neighbours and the scheduler are told.

Everything here runs on the event loop; each fetch runs in a thread, and tells the loop once its piece is in the store:
the neighbour has done its part then, and is asked for the next one while the SHA-256 is carried on.
"""

from __future__ import annotations

import hashlib

import structlog

from peer.core import swarm_events as swarming
from peer.core.swarm_events import FetchOutcome
from peer.errors import (
    FetchStoppedError,
    OriginRefusedError,
    OriginUnreachableError,
    P2pdError,
    PeerBusyError,
    PeerCorruptError,
    PeerGoneError,
    StoreError,
)
from peer.job import Job
from peer.store import Blob, Store
from peer.swarm.fetching import Pace, PieceFetch, Wanted
from peer.swarm.swarm import Swarm
from peer.tasks import BackgroundTasks
from peer.workers import Workers
from scheduler.protocol.inline_blob import InlineBlob

log = structlog.get_logger("peer.swarm_side")


class SwarmSide:
    """For all downloads. Without a `swarm` there is nobody to ask or to tell."""

    def __init__(
        self, store: Store, workers: Workers, background: BackgroundTasks, swarm: Swarm | None, rate_bytes_per_s: int
    ) -> None:
        self.received_bytes = 0
        self.corrupt_pieces = 0
        self.tainted = 0
        """Blobs whose map proved wrong."""
        self._store = store
        self._workers = workers
        self._background = background
        self._swarm = swarm
        self._pace = Pace(rate_bytes_per_s)

    def carry_out(self, job: Job, instruction: swarming.Instruction) -> None:
        """Do one thing that the core decided."""
        match instruction:
            case swarming.Prepare(size_bytes):
                self._background.start(self._prepare(job, size_bytes))
            case swarming.Fetch():
                self._fetch(job, instruction)
            case swarming.StopFetch(number) if number in job.fetches:
                job.fetches[number].stop()
            case swarming.StoreInlineBlob(data):
                self._background.start(self._deliver(job, data))
            case swarming.GiveUp():
                self._give_up(job, instruction)
            case _ if self._swarm is not None:
                _tell(self._swarm, job, instruction)
            case _:
                pass

    async def _prepare(self, job: Job, size_bytes: int) -> None:
        """Give the blob its place in the store before its first piece comes."""
        try:
            blob = await self._workers.run(self._store.create, job.digest, size_bytes, job.media_type)
        except StoreError as error:
            job.fail(error)
            return
        if not job.adopt(blob):
            blob.release()
        job.feed(swarming.Prepared())
        job.wake()

    def _give_up(self, job: Job, told: swarming.GiveUp) -> None:
        if told.tainted:
            job.tainted = True
            self.tainted += 1
            self._store.discard(job.digest)
        if 400 <= told.status < 500:
            job.fail(OriginRefusedError(told.reason, status=told.status))
        else:
            job.fail(OriginUnreachableError(told.reason))

    async def _deliver(self, job: Job, data: bytes) -> None:
        """Take in a tiny blob that came whole from the scheduler, if it is the blob."""
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != job.digest:
            log.warning("the scheduler sent other bytes under a digest", digest=job.digest)
            return
        try:
            blob = await self._workers.run(self._put, job, data)
        except StoreError as error:
            job.fail(error)
            return
        self.received_bytes += len(data)
        if not job.adopt(blob):
            blob.release()
        job.take_in(blob)

    def _put(self, job: Job, data: bytes) -> Blob:
        blob = self._store.create(job.digest, len(data), job.media_type)
        for index in range(blob.count):
            start, stop = blob.span(index)
            blob.land(index, memoryview(data)[start:stop])
        return blob

    def _fetch(self, job: Job, asked: swarming.Fetch) -> None:
        origin = self._swarm.origin(asked.host) if self._swarm else None
        if origin is None or job.blob is None:
            self._workers.loop.call_soon(job.feed, swarming.FetchEnded(asked.fetch, FetchOutcome.GONE))
            return
        wanted = Wanted(job.blob, asked.index, asked.expected)
        fetch = job.fetches[asked.fetch] = PieceFetch(asked.fetch, asked.host, origin, wanted)
        self._workers.start(self._run, job, fetch)

    def _run(self, job: Job, fetch: PieceFetch) -> None:
        """In a thread: get the piece, and tell the loop of what comes of it."""
        tell = self._workers.loop.call_soon_threadsafe

        def on_held(index: int, digest: bytes) -> None:
            tell(self._held, job, fetch, index, digest)

        try:
            landed = fetch.run(self._workers.buffers, self._pace, on_held)
        except StoreError as error:
            tell(self._ended, job, fetch, FetchOutcome.STOPPED)
            tell(job.fail, error)
        except P2pdError as error:
            tell(self._ended, job, fetch, _outcome(error))
        except Exception:  # a defect of ours
            log.exception("a fetch failed", digest=job.digest, piece=fetch.wanted.index)
            tell(self._ended, job, fetch, FetchOutcome.STOPPED)
        else:
            if landed.whole is not None:
                tell(job.verified, landed.whole)

    def _held(self, job: Job, fetch: PieceFetch, index: int, digest: bytes) -> None:
        start, stop = fetch.wanted.blob.span(index)
        self.received_bytes += stop - start
        del job.fetches[fetch.number]
        job.landed(None, index, digest)  # before the fetch has ended: else the piece is missing again for a moment
        job.feed(swarming.FetchEnded(fetch.number, FetchOutcome.LANDED, fetch.busy))

    def _ended(self, job: Job, fetch: PieceFetch, outcome: FetchOutcome) -> None:
        """A fetch has ended without its piece, or with the piece but not with its part of the SHA-256."""
        if job.fetches.pop(fetch.number, None) is None:
            return
        if outcome is FetchOutcome.CORRUPT:
            self.corrupt_pieces += 1
            log.warning("a neighbour sent wrong bytes", host=fetch.host, digest=job.digest, piece=fetch.wanted.index)
        job.feed(swarming.FetchEnded(fetch.number, outcome))


def _tell(swarm: Swarm, job: Job, instruction: swarming.Instruction) -> None:
    match instruction:
        case swarming.Tell(message):
            swarm.tell(message)
        case swarming.SendInlineBlob() if job.blob is not None:
            swarm.tell(InlineBlob(job.member.digest, job.blob.read(0, job.blob.size_bytes)))
        case swarming.TellNeighbours(hosts, message):
            swarm.tell_neighbours(hosts, message)
        case swarming.AddNeighbour(neighbour):
            swarm.add_neighbour(job.member.digest, neighbour)
        case swarming.RemoveNeighbour(host):
            swarm.remove_neighbour(job.member.digest, host)
        case _:
            pass


def _outcome(error: P2pdError) -> FetchOutcome:
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
