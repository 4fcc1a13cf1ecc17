"""The neighbour graph: regular, connected, near, and as cheap in a large swarm as in a small one."""

from __future__ import annotations

from collections import Counter

import pytest

from scheduler.core.graph import AVOIDED, SUPPLY
from scheduler.core.members import Host, Member, MemberCause, MemberState, Topology, distance
from scheduler.core.rng import Rng
from scheduler.core.settings import SchedulerSettings
from scheduler.core.swarm import Swarm

SETTINGS = SchedulerSettings()


def join(swarm: Swarm, number: int, topology: Topology) -> Member:
    host = Host(number, f"h{number}", f"h{number}:1", topology, 0.0)
    member = Member(host)
    swarm.members[host] = member
    swarm.graph.add(member)
    swarm.step(member, MemberCause.WANTS)
    swarm.gateways.begin(swarm.wanting.items)
    swarm.gateways.admit(member)
    swarm.graph.fill(member)
    swarm.graph.mend()
    return member


def leave(swarm: Swarm, member: Member) -> None:
    swarm.step(member, MemberCause.LEAVES)
    del swarm.members[member.host]
    swarm.graph.remove(member)
    swarm.gateways.leave(member)
    swarm.graph.mend()


def swarm_of(count: int, *, racks: int = 1, sites: int = 1) -> tuple[Swarm, list[Member]]:
    swarm = Swarm(b"d" * 32, SETTINGS, Rng(7))
    places = [Topology(f"s{number % sites}", "z", f"r{number % (sites * racks)}") for number in range(count)]
    return swarm, [join(swarm, number, topology) for number, topology in enumerate(places)]


def reached(start: Member) -> int:
    seen, todo = {start}, [start]
    while todo:
        for other in todo.pop().links:
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return len(seen)


def degrees(swarm: Swarm) -> list[int]:
    return [len(member.links) for member in swarm.graph.everyone.items]


def well_linked(swarm: Swarm, members: list[Member]) -> None:
    """Each has its links within its site, and nearly only gateways have others; these hold the sites together."""
    per_site = Counter(member.host.topology.site for member in members)
    few = [m.host.id for m in members if m.near < min(SETTINGS.degree_low, per_site[m.host.topology.site] - 1)]
    assert not few
    assert max(degrees(swarm)) <= SETTINGS.degree_high
    assert reached(members[0]) == len(members)


@pytest.mark.parametrize("count", range(1, 12))
def test_a_small_swarm_is_a_full_mesh(count: int) -> None:
    swarm, _ = swarm_of(count, racks=3)
    assert degrees(swarm) == [count - 1] * count


@pytest.mark.parametrize("count", [12, 30, 100, 1000])
@pytest.mark.parametrize(("racks", "sites"), [(1, 1), (8, 1), (4, 3)])
def test_joins_leave_everybody_with_8_to_16_links(count: int, racks: int, sites: int) -> None:
    swarm, members = swarm_of(count, racks=racks, sites=sites)
    swarm.graph.validate()
    well_linked(swarm, members)


@pytest.mark.parametrize(("racks", "sites"), [(1, 1), (8, 1), (4, 3)])
def test_churn_leaves_everybody_with_8_to_16_links(racks: int, sites: int) -> None:
    swarm, members = swarm_of(300, racks=racks, sites=sites)
    rng = Rng(3)
    for number in range(300, 1500):
        leave(swarm, members.pop(rng.randbelow(len(members))))
        members.append(join(swarm, number, rng.choice(members).host.topology))
    while len(members) > 60:
        leave(swarm, members.pop(rng.randbelow(len(members))))
    swarm.graph.validate()
    well_linked(swarm, members)


def test_neighbours_are_near_with_some_further_away() -> None:
    _, members = swarm_of(600, racks=10, sites=2)
    near = Counter(distance(a.host.topology, b.host.topology) for a in members for b in a.links)
    total = sum(near.values())
    assert near[0] > 0.6 * total
    assert near[1] > 0.05 * total
    assert 0 < near[3] < 0.05 * total


def test_few_links_cross_between_sites_however_large_they_are() -> None:
    for count in (400, 1600):
        swarm, members = swarm_of(count, racks=4, sites=2)
        assert len(swarm.graph.gateways) == 2 * SETTINGS.gateways
        assert 0 < sum(member.far for member in members) // 2 < 2 * SETTINGS.gateways * 6


def test_gateways_of_the_same_pieces_are_linked() -> None:
    swarm, _ = swarm_of(300, racks=2, sites=6)
    for gateway in swarm.graph.gateways.items:
        peers = [other for other in gateway.links if other.is_gateway and other.shares & gateway.shares]
        assert any(other.host.topology.site != gateway.host.topology.site for other in peers)


def test_a_join_looks_at_as_many_members_in_a_large_swarm_as_in_a_small_one() -> None:
    costs = []
    for count in (100, 4_000):
        swarm, _ = swarm_of(count, racks=count // 50)
        before = swarm.graph.looked_at
        for number in range(50):
            join(swarm, count + number, Topology("s0", "z", "r1"))
        costs.append((swarm.graph.looked_at - before) / 50)
    assert costs[1] < 1.5 * costs[0]


def test_a_newcomer_is_linked_to_a_provider() -> None:
    swarm, members = swarm_of(500)
    swarm.hold(members[17], 1)
    newcomers = [join(swarm, 500 + number, Topology("s0", "z", "r0")) for number in range(6)]
    assert all(any(other.is_provider for other in newcomer.links) for newcomer in newcomers)


def test_a_useless_neighbour_is_replaced_for_good() -> None:
    swarm, members = swarm_of(100)
    useless = next(iter(members[0].links))
    swarm.graph.replace(members[0], useless)
    swarm.graph.mend()
    for _ in range(50):
        swarm.graph.fill(members[0])
    assert useless not in members[0].links
    assert len(members[0].links) >= SETTINGS.degree


@pytest.mark.parametrize("count", [60, 600])
def test_neighbours_that_were_full_are_linked_again_whatever_the_number_of_providers(count: int) -> None:
    swarm, members = swarm_of(count)
    for each in members:
        swarm.hold(each, 1)
    member = members[0]
    full = list(member.links)[:5]
    for each in full:
        swarm.graph.replace(member, each, for_good=False)
    leave(swarm, full.pop())
    for each in (member, *full):  # room for these links, and for no others
        for other in [each for each in each.links if each not in full][SETTINGS.degree_low :]:
            swarm.graph._unlink(each, other)
    swarm.graph.validate()
    before = swarm.graph.looked_at
    swarm.graph.relink(member)
    assert swarm.graph.looked_at - before <= AVOIDED
    assert set(full) < set(member.links)
    swarm.graph.validate()


def test_changes_that_undo_each_other_are_not_told() -> None:
    swarm, members = swarm_of(3)
    swarm.graph.changes.clear()
    newcomer = join(swarm, 3, Topology("s0", "z", "r0"))
    leave(swarm, newcomer)
    assert not any(swarm.graph.changes.get(member) for member in members)


def warm(seeders: int, newcomers: int, *, racks: int = 1) -> tuple[Swarm, list[Member]]:
    """Seeders that were linked while they wanted the blob, and members that join after that."""
    swarm, held = swarm_of(seeders, racks=racks)
    for member in held:
        swarm.step(member, MemberCause.HOLDS_ALL)
    places = [Topology("s0", "z", f"r{number % racks}") for number in range(newcomers)]
    return swarm, [join(swarm, seeders + number, place) for number, place in enumerate(places)]


def seeders_of(member: Member) -> list[Member]:
    return [other for other in member.links if other.state is MemberState.COMPLETE]


def receivers_of(member: Member) -> int:
    return sum(other.wants for other in member.links)


class TestWarm:
    def test_newcomers_share_the_seeders_evenly(self) -> None:
        swarm, newcomers = warm(270, 30, racks=9)
        swarm.graph.validate()
        counts = Counter(receivers_of(member) for member in swarm.graph.seeders.items)
        assert max(counts) == 1, "no two newcomers share one"
        assert counts[0] < 0.05 * 270, "nearly each seeder has somebody to send to"
        supplies = [len(seeders_of(each)) for each in newcomers]
        assert min(supplies) >= 8
        assert max(supplies) <= 10

    def test_few_newcomers_leave_seeders_to_others(self) -> None:
        _, newcomers = warm(270, 3)
        assert [len(seeders_of(each)) for each in newcomers] == [SUPPLY] * 3

    def test_where_newcomers_are_as_many_as_seeders_each_has_several(self) -> None:
        _, newcomers = warm(100, 100)
        assert min(len(seeders_of(each)) for each in newcomers) >= 2

    def test_seeders_of_a_member_that_is_done_go_to_members_that_have_fewer(self) -> None:
        swarm, newcomers = warm(90, 10)
        graph = swarm.graph
        before = sum(map(len, map(seeders_of, newcomers[1:])))
        swarm.step(newcomers[0], MemberCause.HOLDS_ALL)
        assert graph.lacks_seeders
        for _ in newcomers:
            graph.mend()
        graph.validate()
        assert not swarm.graph.lacks_seeders
        assert sum(map(len, map(seeders_of, newcomers[1:]))) > before + 8

    def test_a_newcomer_whose_site_has_few_seeders_shares_them(self) -> None:
        """The many of another site are no reason to leave those nearby alone."""
        swarm, _ = warm(100, 0)
        here = [join(swarm, 100 + number, Topology("s1", "z", "r")) for number in range(2)]
        for member in here:
            swarm.step(member, MemberCause.HOLDS_ALL)
        for number in range(20):
            join(swarm, 200 + number, Topology("s1", "z", "r"))
        assert min(map(receivers_of, here)) > 5
        swarm.graph.validate()

    def test_newcomers_are_linked_to_each_other_too(self) -> None:
        members = warm(100, 100)[1]
        links = sum(map(receivers_of, members))
        assert links > 5 * 100

    def test_links_between_seeders_make_room(self) -> None:
        """All links of these seeders are to each other, and each may have no more."""
        swarm, held = swarm_of(SETTINGS.degree_high + 1)
        for one in held:
            for other in held:
                if other not in one.links and one is not other:
                    swarm.graph._link(one, other)
            swarm.step(one, MemberCause.HOLDS_ALL)
        newcomer = join(swarm, 99, Topology("s0", "z", "r0"))
        count = len(seeders_of(newcomer))
        assert count > SETTINGS.degree, "more than it gets by splitting such links"
        swarm.graph.validate()

    def test_a_cold_swarm_is_linked_as_ever(self) -> None:
        """One seeder among many that want the blob is no reason for more links."""
        swarm, members = warm(1, 100)
        most = max(map(len, (seeders_of(member) for member in members)))
        assert most <= 1
        swarm.graph.validate()
