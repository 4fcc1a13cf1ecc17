"""What an operator sees of the hosts of a scheduler. Hosts say much of it themselves, and nothing is decided by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from scheduler.core.members import Host
from scheduler.core.state import SchedulerState


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A connected host. `version` is "" for hosts that do not say it.

    `swarms` are the blobs that it exchanges, `wants` those of them that it lacks; `rate_bytes_per_s` is what it gets of
    them, from neighbours and registries. `missed_by` other hosts could not reach it at `address`. `certified`: its
    certificate proves its id. `last_error`: the last that went wrong with it.
    """

    id: str
    address: str
    site: str
    zone: str
    rack: str
    version: str
    connected_s: float
    certified: bool
    swarms: int
    wants: int
    rate_bytes_per_s: int
    missed_by: int
    last_error: str


def roster(state: SchedulerState, now: float) -> Iterator[HostFacts]:
    """The connected hosts, in the order in which they came."""
    return (facts_of(host, now) for host in state.hosts.values())


def facts_of(host: Host, now: float) -> HostFacts:
    """One host."""
    return HostFacts(
        id=host.id,
        address=host.address,
        site=host.topology.site,
        zone=host.topology.zone,
        rack=host.topology.rack,
        version=host.version,
        connected_s=round(max(0.0, now - host.connected_at), 1),
        certified=not host.came_from,
        swarms=len(host.members),
        wants=sum(member.wants for member in host.members.values()),
        rate_bytes_per_s=round(host.rate.now(now)),
        missed_by=len(host.missed_by),
        last_error=host.last_error,
    )


def merged(rosters: Iterable[Iterable[HostFacts]]) -> list[HostFacts]:
    """Each host once: what it does at several schedulers is added up, and all else is of the first of them."""
    found: dict[str, HostFacts] = {}
    for each in (host for roster in rosters for host in roster):
        known = found.get(each.id)
        found[each.id] = each if known is None else _sum(known, each)
    return list(found.values())


def _sum(one: HostFacts, other: HostFacts) -> HostFacts:
    return replace(
        one,
        connected_s=max(one.connected_s, other.connected_s),
        swarms=one.swarms + other.swarms,
        wants=one.wants + other.wants,
        rate_bytes_per_s=one.rate_bytes_per_s + other.rate_bytes_per_s,
        missed_by=max(one.missed_by, other.missed_by),
        last_error=one.last_error or other.last_error,
    )
