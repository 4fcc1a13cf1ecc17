"""What hosts exchange now and have exchanged in the last day, for the operator: pulls, and blobs on their way.

Rules:
1. Every list is bounded, whatever hosts say.
2. Of digests the beginning is told: where another door is open, a whole one is as good as the content.
3. Of several schedulers each knows the blobs that are at it. What they know of one repository at one time is one pull
   (`merged`): its bytes are added up. Its hosts are those of the scheduler that knows the most, because nearly all of
   them have blobs at each.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.core.members import Source
from scheduler.core.pulls import DAY_S, GAP_S, MAX_PULLS, Pull
from scheduler.core.state import SchedulerState
from scheduler.core.swarm import Swarm

MAX_BLOBS: Final = 64

SHOWN_OF_DIGEST: Final = 12
"""Hexadecimal digits: 48 bits tell blobs apart."""


@dataclass(frozen=True, slots=True)
class PullFacts:
    """A pull (`scheduler.core.pulls`). Times are by the scheduler's clock; `ended_at` is None while it goes on.

    `left_bytes` are what hosts still lack. `saved_s` estimates how much longer all hosts would have taken, had each got
    all of it from the registry, at the rate that the registry gave p2pd; None: it cannot be told. The rate is that of
    `leased_bytes`, which came in the first `origin_s`.
    """

    number: int
    upstream: str
    repository: str
    began_at: float
    ended_at: float | None
    blobs: int
    size_bytes: int
    hosts: int
    finished: int
    broken_off: int
    received_bytes: int
    left_bytes: int
    origin_bytes: int
    far_bytes: int
    saved_s: float | None
    leased_bytes: int = 0
    origin_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """A blob that hosts want. `landed_percent` of it has left the registry, and hosts have `held_percent` of theirs."""

    blob: str
    pull: int
    size_bytes: int
    wanting: int
    complete: int
    landed_percent: int
    held_percent: int
    leases: int
    origin_status: int


@dataclass(frozen=True, slots=True)
class Exchanges:
    """The pulls, the newest first, and the blobs that the most hosts want. All pulls are told that ended after
    `began_at`, when whoever tells of them began, and after `forgot_at`: there were more of them before."""

    pulls: tuple[PullFacts, ...]
    blobs: tuple[BlobFacts, ...]
    blobs_in_all: int
    began_at: float
    forgot_at: float

    @property
    def pulls_since(self) -> float:
        return max(self.began_at, self.forgot_at)


def exchanges_of(state: SchedulerState, now: float) -> Exchanges:
    """Those of one scheduler."""
    left: Counter[int] = Counter()
    wanted: list[tuple[int, int, Swarm, int]] = []
    in_all = 0
    for number, swarm in enumerate(state.swarms.values()):
        if not len(swarm.wanting):
            continue
        in_all += 1
        if swarm.pull is None:
            continue
        missing = _missing_bytes(swarm)
        left[swarm.pull.number] += missing
        wanted.append((-len(swarm.wanting), number, swarm, missing))
    return Exchanges(
        pulls=tuple(_pull(pull, left[pull.number], now) for pull in reversed(state.pulls.all(now))),
        blobs=tuple(_blob(swarm, missing) for _, _, swarm, missing in heapq.nsmallest(MAX_BLOBS, wanted)),
        blobs_in_all=in_all,
        began_at=now if state.started_at is None else state.started_at,
        forgot_at=state.pulls.since,
    )


def merged(told: Sequence[Exchanges], now: float) -> Exchanges:
    """Those of several schedulers as one. The numbers of their pulls differ."""
    if len(told) == 1:
        return told[0]
    of_source: dict[Source, list[PullFacts]] = {}
    for pull in (each for exchanges in told for each in exchanges.pulls):
        if pull.ended_at is None or now - pull.ended_at <= DAY_S:
            of_source.setdefault(Source(pull.upstream, pull.repository), []).append(pull)
    groups = [group for pulls in of_source.values() for group in _at_one_time(pulls)]
    number_of = {pull.number: min(each.number for each in group) for group in groups for pull in group}
    pulls = sorted((_sum(group, now) for group in groups), key=lambda pull: -pull.began_at)
    blobs: dict[str, BlobFacts] = {}
    for blob in (each for exchanges in told for each in exchanges.blobs):
        known = blobs.get(blob.blob)  # one that moves is at two schedulers for a moment
        if known is None or known.wanting < blob.wanting:
            blobs[blob.blob] = replace(blob, pull=number_of.get(blob.pull, 0))
    return Exchanges(
        pulls=tuple(pulls[:MAX_PULLS]),
        blobs=tuple(heapq.nsmallest(MAX_BLOBS, blobs.values(), key=lambda blob: -blob.wanting)),
        blobs_in_all=sum(each.blobs_in_all for each in told),
        began_at=min(each.began_at for each in told),
        forgot_at=max(each.forgot_at for each in told) if len(pulls) <= MAX_PULLS else pulls[MAX_PULLS].began_at,
    )


def _at_one_time(pulls: list[PullFacts]) -> Iterable[list[PullFacts]]:
    """Pulls of one repository, apart if no host wanted anything of it for GAP_S."""
    group: list[PullFacts] = []
    until = 0.0
    for pull in sorted(pulls, key=lambda each: each.began_at):
        if group and pull.began_at > until + GAP_S:
            yield group
            group = []
        ends = _ends(pull)
        until = max(until, ends) if group else ends
        group.append(pull)
    yield group


def _ends(pull: PullFacts) -> float:
    return float("inf") if pull.ended_at is None else pull.ended_at


def _sum(group: list[PullFacts], now: float) -> PullFacts:
    first = group[0]
    if len(group) == 1:
        return first
    ends = max(map(_ends, group))
    added = {
        name: sum(getattr(pull, name) for pull in group)
        for name in (
            "blobs",
            "size_bytes",
            "finished",
            "broken_off",
            "received_bytes",
            "left_bytes",
            "origin_bytes",
            "far_bytes",
            "leased_bytes",
        )
    }
    origin_s = max(pull.began_at + pull.origin_s for pull in group) - first.began_at
    summed = replace(
        first,
        number=min(pull.number for pull in group),
        ended_at=None if ends == float("inf") else ends,
        hosts=max(pull.hosts for pull in group),
        origin_s=origin_s,
        **added,
    )
    return replace(summed, saved_s=_saved_s(summed, now))


def _saved_s(pull: PullFacts, now: float) -> float | None:
    taken_s = (now if pull.ended_at is None else pull.ended_at) - pull.began_at
    if not pull.leased_bytes or pull.origin_s <= 0 or pull.received_bytes <= pull.origin_bytes:
        return None
    return round(max(0.0, pull.received_bytes * pull.origin_s / pull.leased_bytes - taken_s), 1)


def _missing_bytes(swarm: Swarm) -> int:
    """What the members that want the blob lack of it, together. Pieces of members that want nothing count as theirs."""
    size = swarm.size_bytes or 0
    held = 0 if swarm.map is None or swarm.piece_counts is None else swarm.piece_counts.partial
    of_one = size // swarm.map.count if swarm.map is not None and swarm.map.count else 0
    return max(0, len(swarm.wanting) * size - held * of_one)


def _blob(swarm: Swarm, missing: int) -> BlobFacts:
    size, wanting = swarm.size_bytes or 0, len(swarm.wanting)
    pieces = swarm.map.count if swarm.map is not None else 0
    landed = 100 * swarm.map.known.bit_count() // pieces if swarm.map is not None and pieces else 0
    complete = len(swarm.graph.seeders)
    everyone = (wanting + complete) * size
    return BlobFacts(
        blob=swarm.digest.hex()[:SHOWN_OF_DIGEST],
        pull=0 if swarm.pull is None else swarm.pull.number,
        size_bytes=size,
        wanting=wanting,
        complete=complete,
        landed_percent=landed,
        held_percent=100 * (everyone - missing) // everyone if everyone else 0,
        leases=len(swarm.leases),
        origin_status=swarm.last_status,
    )


def _pull(pull: Pull, left_bytes: int, now: float) -> PullFacts:
    found = PullFacts(
        number=pull.number,
        upstream=pull.source.upstream,
        repository=pull.source.repository,
        began_at=pull.began_at,
        ended_at=None if pull.live else pull.ended_at,
        blobs=pull.blobs,
        size_bytes=pull.size_bytes,
        hosts=pull.hosts,
        finished=pull.finished,
        broken_off=pull.broken_off,
        received_bytes=pull.received_bytes,
        left_bytes=left_bytes,
        origin_bytes=max(pull.origin_bytes, pull.told_origin_bytes),
        far_bytes=pull.far_bytes,
        saved_s=None,
        leased_bytes=pull.origin_bytes,
        origin_s=max(0.0, pull.origin_until - pull.began_at),
    )
    return replace(found, saved_s=_saved_s(found, now))
