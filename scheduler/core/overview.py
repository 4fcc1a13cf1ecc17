"""What an operator sees of a cluster at a glance: places, pulls, blobs on their way, and hosts with problems.

Rules:
1. It is made when somebody looks: a pass over the hosts, without their lists, and one over the swarms.
2. Every list is bounded, whatever hosts say: of places, blobs and problems the first are told, and how many there are.
3. Of digests the beginning is told: where another door is open, a whole one is as good as the content.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from scheduler.core.members import Host
from scheduler.core.pulls import Pull
from scheduler.core.roster import HostFacts, facts_of
from scheduler.core.state import SchedulerState
from scheduler.core.swarm import Swarm

MAX_PLACES: Final = 512
MAX_BLOBS: Final = 64
MAX_PROBLEMS: Final = 128
MAX_VERSIONS: Final = 8

SHOWN_OF_DIGEST: Final = 12
"""Hexadecimal digits: 48 bits tell blobs apart."""

ERROR_COUNTS_S: Final = 900.0
"""An error that a host had longer ago is over, most likely."""

ELSEWHERE: Final = ("(other places)", "")
"""Hosts of further places, which are more than anybody's."""


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """The hosts of a zone of a site. `pulling` want blobs; `serving` are in swarms of blobs, and want none."""

    site: str
    zone: str
    hosts: int
    pulling: int
    serving: int
    problems: int
    rate_bytes_per_s: int


@dataclass(frozen=True, slots=True)
class PullFacts:
    """A pull (`scheduler.core.pulls`). Times are by the scheduler's clock; `ended_at` is None while it goes on.

    `left_bytes` are what hosts still lack. `saved_s` estimates how much longer all hosts would have taken, had each got
    all of it from the registry, at the rate that the registry gave p2pd; None: it cannot be told.
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
class Trouble:
    """A host with problems, the worst first."""

    id: str
    address: str
    site: str
    zone: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it. `pulls_since`: pulls that ended before this time are not told."""

    hosts: int
    pulling: int
    rate_bytes_per_s: int
    versions: tuple[tuple[str, int], ...]
    places: tuple[PlaceFacts, ...]
    pulls: tuple[PullFacts, ...]
    pulls_since: float
    blobs: tuple[BlobFacts, ...]
    blobs_in_all: int
    troubles: tuple[Trouble, ...]
    troubles_in_all: int


@dataclass(slots=True)
class _Place:
    hosts: int = 0
    pulling: int = 0
    serving: int = 0
    problems: int = 0
    rate: float = 0.0


def overview(state: SchedulerState, now: float, expiring: frozenset[str]) -> Overview:
    """The cluster. `expiring` are the ids of hosts that should have renewed their certificates and have not."""
    versions = Counter([host.version for host in state.hosts.values()])
    usual = versions.most_common(1)[0][0] if versions else ""
    places: dict[tuple[str, str], _Place] = {}
    troubles: list[tuple[int, int, Host]] = []
    for number, host in enumerate(state.hosts.values()):
        key = host.topology[:2]
        place = places.get(key)
        if place is None:
            key = key if len(places) < MAX_PLACES else ELSEWHERE
            place = places.setdefault(key, _Place())
        place.hosts += 1
        if host.rate.per_s:
            place.rate += host.rate.now(now)
        if host.members:
            wants = any(member.wants for member in host.members.values())
            place.pulling += wants
            place.serving += not wants
        if host.missed_by or host.last_error or host.version != usual or (expiring and host.id in expiring):
            found = problems_of(host, now, usual, expiring)
            if found:
                place.problems += 1
                troubles.append((found[0][0], number, host))
    pulls, blobs = _exchanges(state, now)
    shown = [host for _, _, host in heapq.nsmallest(MAX_PROBLEMS, troubles)]
    return Overview(
        hosts=len(state.hosts),
        pulling=sum(place.pulling for place in places.values()),
        rate_bytes_per_s=round(sum(place.rate for place in places.values())),
        versions=tuple(versions.most_common(MAX_VERSIONS)),
        places=tuple(
            PlaceFacts(*key, place.hosts, place.pulling, place.serving, place.problems, round(place.rate))
            for key, place in sorted(places.items())
        ),
        pulls=tuple(pulls),
        pulls_since=max(now if state.started_at is None else state.started_at, state.pulls.since),
        blobs=tuple(blobs),
        blobs_in_all=sum(1 for swarm in state.swarms.values() if len(swarm.wanting)),
        troubles=tuple(_trouble(host, now, usual, expiring) for host in shown),
        troubles_in_all=len(troubles),
    )


def hosts_at(
    state: SchedulerState, now: float, site: str | None, zone: str | None, text: str, first: int, most: int
) -> tuple[int, list[HostFacts]]:
    """Some hosts of a place, by id, whose id or address has `text` in it; and how many there are. None: any place."""
    found = [
        host
        for host in state.hosts.values()
        if (site is None or host.topology.site == site)
        and (zone is None or host.topology.zone == zone)
        and (not text or text in host.id or text in host.address)
    ]
    found.sort(key=lambda host: host.id)
    return len(found), [facts_of(host, now) for host in found[first : first + most]]


def problems_of(host: Host, now: float, usual_version: str, expiring: frozenset[str]) -> list[tuple[int, str]]:
    """What an operator should look at, the worst first, each with its rank."""
    found = []
    if host.missed_by:
        reporters = f"{len(host.missed_by)} hosts" if len(host.missed_by) > 1 else "a host"
        found.append((0, f"{reporters} could not reach it at {host.address}"))
    if host.id in expiring:
        found.append((1, "its certificate ends soon and was not renewed"))
    if host.last_error and now - host.error_at <= ERROR_COUNTS_S and not host.missed_by:
        found.append((2, host.last_error))
    if host.version != usual_version:
        found.append((3, f"runs p2pd {host.version or 'of an older version'}, and most run {usual_version or 'older'}"))
    return found


def _trouble(host: Host, now: float, usual: str, expiring: frozenset[str]) -> Trouble:
    place = host.topology
    problems = tuple(text for _, text in problems_of(host, now, usual, expiring))
    return Trouble(host.id, host.address, place.site, place.zone, problems)


def _exchanges(state: SchedulerState, now: float) -> tuple[Iterator[PullFacts], list[BlobFacts]]:
    """The pulls, the newest first, and the blobs that the most hosts want."""
    left: Counter[int] = Counter()
    wanted: list[tuple[int, int, Swarm, int]] = []
    for number, swarm in enumerate(state.swarms.values()):
        if not len(swarm.wanting) or swarm.pull is None:
            continue
        missing = _missing_bytes(swarm)
        left[swarm.pull.number] += missing
        wanted.append((-len(swarm.wanting), number, swarm, missing))
    blobs = [_blob(swarm, missing) for _, _, swarm, missing in heapq.nsmallest(MAX_BLOBS, wanted)]
    return (_pull(pull, left[pull.number], now) for pull in reversed(state.pulls.all(now))), blobs


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
    origin_bytes = max(pull.origin_bytes, pull.told_origin_bytes)
    taken_s = (now if pull.live else pull.ended_at) - pull.began_at
    origin_s = pull.origin_until - pull.began_at
    saved = None
    if pull.origin_bytes and origin_s > 0 and pull.received_bytes > origin_bytes:
        saved = round(max(0.0, pull.received_bytes * origin_s / pull.origin_bytes - taken_s), 1)
    return PullFacts(
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
        origin_bytes=origin_bytes,
        far_bytes=pull.far_bytes,
        saved_s=saved,
    )
