"""What downloads have of the origin: connections for data, and the transfers on them.

Everything here runs on the event loop; each transfer runs in a thread, and tells the loop of each piece that landed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from peer.core import origin_events
from peer.core import swarm_events as swarming
from peer.core.origin_events import Outcome
from peer.errors import (
    OriginBrokenError,
    OriginRefusedError,
    OriginResizedError,
    OriginUnreachableError,
    P2pdError,
)
from peer.job import Job
from peer.origin.api import Origin
from peer.priority_semaphore import PrioritySemaphore
from peer.store import Blob, Store
from peer.tasks import BackgroundTasks
from peer.transfer import Transfer
from peer.workers import Workers


class OriginSide:
    """For all downloads; `jobs` are those that are under way, by the blob's digest."""

    def __init__(
        self,
        jobs: Mapping[str, Job],
        store: Store,
        workers: Workers,
        background: BackgroundTasks,
        *,
        transfers_per_origin: int,
    ) -> None:
        self.received_bytes = 0
        self._jobs = jobs
        self._store = store
        self._workers = workers
        self._background = background
        self._transfers_per_origin = transfers_per_origin
        self._slots: dict[Origin, PrioritySemaphore] = {}

    def want_slot(self, job: Job, source: int) -> None:
        """Have `SlotGranted` fed once the origin of `source` has a connection for this download."""

        def granted() -> None:
            self._workers.loop.call_soon(job.feed, origin_events.SlotGranted(source))

        self._slots_of(job, source).want(lambda: job.member.download.background, granted)

    def return_slot(self, job: Job, source: int) -> None:
        """What was granted is not needed."""
        self._slots_of(job, source).free()

    def start(self, job: Job, wanted: origin_events.StartTransfer) -> None:
        """Begin a transfer, on the slot that was just granted; `TransferEnded` is fed when it is over."""
        transfer = Transfer(wanted.transfer, job.sources[wanted.source], job.blob, wanted.first, wanted.stop)
        job.transfers[wanted.transfer] = transfer
        self._background.start(self._run(job, transfer))

    async def _run(self, job: Job, transfer: Transfer) -> None:
        outcome, status = Outcome.FATAL, 0  # if it ends by a defect of ours
        try:
            report = _Relay(self._workers.loop, self, job)
            await self._workers.run(transfer.run, self._store, self._workers.buffers, report)
            outcome = Outcome.DONE
        except P2pdError as error:
            job.last_error = error
            outcome = _outcome(error)
            if isinstance(error, OriginResizedError):
                job.feed(swarming.Resized(transfer.number, error.size_bytes))
            status = error.status if isinstance(error, OriginRefusedError) else 0
        finally:
            self._slots[transfer.source.origin].free()
            del job.transfers[transfer.number]
            job.feed(origin_events.TransferEnded(transfer.number, outcome, status))

    def opened(self, job: Job, transfer: Transfer, blob: Blob, first: int, stop: int) -> None:
        """See `Report`."""
        if not job.adopt(blob):
            blob.release()
        job.answered = True
        if transfer.number in job.transfers:
            job.feed(
                origin_events.TransferOpened(transfer.number, blob.size_bytes, blob.header.piece_length, first, stop)
            )
        job.wake()

    def landed(self, job: Job, transfer: Transfer, blob: Blob, index: int, digest: bytes) -> None:
        """See `Report`."""
        start, stop = blob.span(index)
        self.received_bytes += stop - start
        concerned = self._concerned(job, blob)
        concerned.landed(transfer.number if concerned is job else None, index, digest)

    def verified(self, job: Job, blob: Blob, ok: bool) -> None:
        """See `Report`."""
        self._concerned(job, blob).verified(ok)

    def _concerned(self, job: Job, blob: Blob) -> Job:
        """`job`, or the one that has taken its blob over after it ended."""
        successor = self._jobs.get(job.digest)
        return job if successor is None or successor.blob is not blob else successor

    def _slots_of(self, job: Job, source: int) -> PrioritySemaphore:
        origin = job.sources[source].origin
        if origin not in self._slots:
            self._slots[origin] = PrioritySemaphore(self._transfers_per_origin)
        return self._slots[origin]


@dataclass(frozen=True, slots=True)
class _Relay:
    """Carries a transfer's reports from its thread to the event loop, in order."""

    loop: asyncio.AbstractEventLoop
    side: OriginSide
    job: Job

    def opened(self, transfer: Transfer, blob: Blob, first: int, stop: int) -> None:
        self.loop.call_soon_threadsafe(self.side.opened, self.job, transfer, blob, first, stop)

    def landed(self, transfer: Transfer, blob: Blob, index: int, digest: bytes) -> None:
        self.loop.call_soon_threadsafe(self.side.landed, self.job, transfer, blob, index, digest)

    def verified(self, blob: Blob, ok: bool) -> None:
        self.loop.call_soon_threadsafe(self.side.verified, self.job, blob, ok)


def _outcome(error: P2pdError) -> Outcome:
    match error:
        case OriginBrokenError():
            return Outcome.BROKEN
        case OriginRefusedError() | OriginUnreachableError():
            return Outcome.REFUSED  # the origin client has tried again as often as is sensible
        case _:
            return Outcome.FATAL
