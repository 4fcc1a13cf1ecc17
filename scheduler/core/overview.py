"""What an operator sees of a cluster at a glance: places, pulls, blobs on their way, and hosts with problems.

Rules:
1. It is made when somebody looks: a pass over the hosts, without their lists, and one over the swarms.
2. Every list is bounded, whatever hosts say: of places, blobs and problems the first are told, and how many there are.
3. It is of all schedulers, as far as the caller knows of the others (`Others`). A host that is connected to several of
   them counts once: it pulls if it wants a blob at any of them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from scheduler.core.exchanges import BlobFacts, Exchanges, PullFacts, exchanges_of, merged
from scheduler.core.members import Host
from scheduler.core.roster import HostFacts, added_up, facts_of
from scheduler.core.state import SchedulerState

MAX_PLACES: Final = 512
MAX_PROBLEMS: Final = 128
MAX_VERSIONS: Final = 8

ERROR_COUNTS_S: Final = 900.0
"""An error that a host had longer ago is over, most likely."""

ELSEWHERE: Final = ("(other places)", "")
"""Hosts of further places, which are more than anybody's."""


@dataclass(frozen=True, slots=True)
class Others:
    """What is known of the other schedulers, as they told it some seconds ago. Times are by this scheduler's clock.

    `live` of them live, of which `untold` have told nothing lately. `problem`: why nothing is known of them.
    """

    hosts: Mapping[str, HostFacts] = field(default_factory=dict)
    exchanges: tuple[Exchanges, ...] = ()
    live: int = 0
    untold: int = 0
    problem: str = ""


ALONE: Final = Others()


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
class Trouble:
    """A host with problems, the worst first."""

    id: str
    address: str
    site: str
    zone: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it. `pulls_since`, by the scheduler's clock (seconds): pulls that ended before it are not told."""

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
    schedulers: int = 1
    untold: int = 0
    """Schedulers that live and of which nothing is in this."""
    problem: str = ""
    """Why it is of this scheduler alone, although there are others."""


@dataclass(slots=True)
class _Place:
    hosts: int = 0
    pulling: int = 0
    serving: int = 0
    problems: int = 0
    rate: float = 0.0


def overview(state: SchedulerState, now: float, expiring: frozenset[str], others: Others = ALONE) -> Overview:
    """The cluster. `expiring` are the ids of hosts that should have renewed their certificates and have not."""
    only_there = [there for there in others.hosts.values() if there.id not in state.hosts_by_id]
    versions = Counter([host.version for host in state.hosts.values()])
    versions.update([there.version for there in only_there])
    usual = versions.most_common(1)[0][0] if versions else ""
    places: dict[tuple[str, str], _Place] = {}
    troubles: list[tuple[int, int, HostFacts]] = []

    def place_of(key: tuple[str, str]) -> _Place:
        place = places.get(key)
        if place is None:
            key = key if len(places) < MAX_PLACES else ELSEWHERE
            place = places.setdefault(key, _Place())
        place.hosts += 1
        return place

    def examine(place: _Place, facts: HostFacts) -> None:
        found = problems_of(facts, usual, expiring)
        if found:
            place.problems += 1
            troubles.append((found[0][0], len(troubles), facts))

    for host in state.hosts.values():
        place = place_of(host.topology[:2])
        wants = any(member.wants for member in host.members.values())
        in_swarms = bool(host.members)
        if host.rate.per_s:
            place.rate += host.rate.now(now)
        there = others.hosts.get(host.id)
        if there is not None:
            wants, in_swarms = wants or there.wants > 0, in_swarms or there.swarms > 0
            place.rate += there.rate_bytes_per_s
        place.pulling += wants
        place.serving += in_swarms and not wants
        has_erred = host.missed_by or host.last_error or (there is not None and (there.missed_by or there.last_error))
        if has_erred or host.version != usual or (expiring and host.id in expiring):
            facts = facts_of(host, now)
            examine(place, facts if there is None else added_up(facts, there))
    for there in only_there:
        place = place_of((there.site, there.zone))
        place.rate += there.rate_bytes_per_s
        place.pulling += there.wants > 0
        place.serving += there.swarms > 0 and not there.wants
        examine(place, there)
    exchanges = merged([exchanges_of(state, now), *others.exchanges], now)
    return Overview(
        hosts=len(state.hosts) + len(only_there),
        pulling=sum(place.pulling for place in places.values()),
        rate_bytes_per_s=round(sum(place.rate for place in places.values())),
        versions=tuple(versions.most_common(MAX_VERSIONS)),
        places=tuple(
            PlaceFacts(*key, place.hosts, place.pulling, place.serving, place.problems, round(place.rate))
            for key, place in sorted(places.items())
        ),
        pulls=exchanges.pulls,
        pulls_since=exchanges.pulls_since,
        blobs=exchanges.blobs,
        blobs_in_all=exchanges.blobs_in_all,
        troubles=tuple(_trouble(facts, usual, expiring) for _, _, facts in heapq.nsmallest(MAX_PROBLEMS, troubles)),
        troubles_in_all=len(troubles),
        schedulers=1 + others.live,
        untold=others.untold,
        problem=others.problem,
    )


def hosts_at(
    state: SchedulerState,
    now: float,
    site: str | None,
    zone: str | None,
    text: str,
    first: int,
    most: int,
    others: Others = ALONE,
) -> tuple[int, list[HostFacts]]:
    """Some hosts of a place, by id, whose id or address has `text` in it; and how many there are. None: any place."""

    def fits(host_site: str, host_zone: str, host: str, address: str) -> bool:
        return site in (None, host_site) and zone in (None, host_zone) and (text in host or text in address)

    found: dict[str, Host | None] = {
        there.id: None
        for there in others.hosts.values()
        if fits(there.site, there.zone, there.id, there.address) and there.id not in state.hosts_by_id
    }
    for host in state.hosts.values():
        if fits(host.topology.site, host.topology.zone, host.id, host.address):
            found[host.id] = host
    shown = sorted(found)[first : first + most]
    return len(found), [_facts_of(name, found[name], others, now) for name in shown]


def _facts_of(name: str, here: Host | None, others: Others, now: float) -> HostFacts:
    if here is None:
        return others.hosts[name]
    there = others.hosts.get(name)
    return facts_of(here, now) if there is None else added_up(facts_of(here, now), there)


def problems_of(host: HostFacts, usual_version: str, expiring: frozenset[str]) -> list[tuple[int, str]]:
    """What an operator should look at, the worst first, each with its rank."""
    found = []
    if host.missed_by:
        reporters = f"{host.missed_by} hosts" if host.missed_by > 1 else "a host"
        found.append((0, f"{reporters} could not reach it at {host.address}"))
    if host.id in expiring:
        found.append((1, "its certificate ends soon and was not renewed"))
    if host.last_error and host.error_age_s <= ERROR_COUNTS_S and not host.missed_by:
        found.append((2, host.last_error))
    if host.version != usual_version:
        found.append((3, f"runs p2pd {host.version or 'of an older version'}, and most run {usual_version or 'older'}"))
    return found


def _trouble(host: HostFacts, usual: str, expiring: frozenset[str]) -> Trouble:
    problems = tuple(text for _, text in problems_of(host, usual, expiring))
    return Trouble(host.id, host.address, host.site, host.zone, problems)
