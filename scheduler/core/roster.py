"""What an operator sees of the hosts of a scheduler. Hosts say much of it themselves, and nothing is decided by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scheduler.core.members import Host
from scheduler.core.state import SchedulerState


class HostFacts(NamedTuple):
    """A connected host. `version` is "" for hosts that do not say it.

    `swarms` are the blobs that it exchanges, `wants` those of them that it lacks; `rate_bytes_per_s` is what it gets of
    them, from neighbours and registries. `missed_by` other hosts could not reach it at `address`. `certified`: its
    certificate proves its id. `last_error`: the last that went wrong with it, `error_age_s` ago.

    A named tuple, because there are lists of 100,000.
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
    error_age_s: float = 0.0


def roster(state: SchedulerState, now: float) -> Iterator[HostFacts]:
    """The connected hosts, in the order in which they came. Hosts may come and go while this is read."""
    return (facts_of(host, now) for host in list(state.hosts.values()))


def facts_of(host: Host, now: float) -> HostFacts:
    """One host."""
    return HostFacts(
        host.id,
        host.address,
        host.topology.site,
        host.topology.zone,
        host.topology.rack,
        host.version,
        round(max(0.0, now - host.connected_at), 1),
        not host.came_from,
        len(host.members),
        sum([member.wants for member in host.members.values()]),
        round(host.rate.now(now)),
        len(host.missed_by),
        host.last_error,
        round(max(0.0, now - host.error_at), 1) if host.last_error else 0.0,
    )


def merged(rosters: Iterable[Iterable[HostFacts]]) -> list[HostFacts]:
    """Each host once: what it does at several schedulers is added up, and all else is of the first of them."""
    found: dict[str, HostFacts] = {}
    for each in (host for roster in rosters for host in roster):
        known = found.get(each.id)
        found[each.id] = each if known is None else added_up(known, each)
    return list(found.values())


def added_up(one: HostFacts, other: HostFacts) -> HostFacts:
    """One host, as two schedulers know it."""
    errors = [(each.error_age_s, each.last_error) for each in (one, other) if each.last_error]
    error_age_s, last_error = min(errors, default=(0.0, ""))
    return one._replace(
        connected_s=max(one.connected_s, other.connected_s),
        swarms=one.swarms + other.swarms,
        wants=one.wants + other.wants,
        rate_bytes_per_s=one.rate_bytes_per_s + other.rate_bytes_per_s,
        missed_by=max(one.missed_by, other.missed_by),
        last_error=last_error,
        error_age_s=error_age_s,
    )
