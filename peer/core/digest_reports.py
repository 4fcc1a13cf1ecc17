"""The answer to a Recall: what this host knows of a blob's piece map, however scattered, in few messages.

A map of which every second piece of the largest blob is known makes 32,768 runs. As one message each they would fill
the queue to the scheduler, which would then cut us off as one that floods it; 512 to a message, they make 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from peer.core.piece_sets import digest_runs
from scheduler.protocol.fields import DIGEST_BYTES, MAX_DIGESTS_PER_MESSAGE, MAX_RUNS_PER_MESSAGE
from scheduler.protocol.from_host import DigestReport
from scheduler.protocol.to_host import DigestRun


def digest_reports(digest: bytes, digests: Mapping[int, bytes]) -> list[DigestReport]:
    """All of `digests` (of pieces, by index), for the scheduler that asks about the blob `digest`."""
    batches = list(_batches(digests)) or [(DigestRun(0, b""),)]
    return [
        DigestReport(digest, first.first, first.digests, last=number == len(batches), more=tuple(more))
        for number, (first, *more) in enumerate(batches, 1)
    ]


def _batches(digests: Mapping[int, bytes]) -> Iterator[tuple[DigestRun, ...]]:
    """Runs, so many together as fit into one message."""
    batch: list[DigestRun] = []
    room = MAX_DIGESTS_PER_MESSAGE
    for first, run in digest_runs(digests):
        count = len(run) // DIGEST_BYTES
        if count > room or len(batch) == MAX_RUNS_PER_MESSAGE:
            yield tuple(batch)
            batch, room = [], MAX_DIGESTS_PER_MESSAGE
        batch.append(DigestRun(first, run))
        room -= count
    if batch:
        yield tuple(batch)
