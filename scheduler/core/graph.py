"""The neighbour graph of one swarm. It stays regular and connected while members come and go.

The problem: every member needs 8 to 16 neighbours, most of them in its rack and a few elsewhere, at a cost that does
not grow with the swarm. Linking a newcomer to random members makes hubs of the early members. Linking a newcomer to
the members with the fewest links makes neighbours of the latecomers, and latecomers hold no pieces.

Our rules:
1. A newcomer that wants `degree` links *splits* edges: it takes a random member `a` of its rack and a random neighbour
   `b` of `a`, ends the link a-b, and links itself to both. No other degree changes, and the graph stays connected. A
   member with fewer than `degree` links is linked to directly instead.
2. A newcomer looks in its rack first, then in its zone and its site. One link in FAR_SHARE starts further out.
3. If a member has no provider (a member with pieces or a lease) among its neighbours, it is linked to a provider that
   has room.
4. When a member leaves, its neighbours in its site are linked in pairs, near with far, so that their degrees stay.
5. In a warm swarm, a newcomer is linked first to seeders, as many of its links as the share of the seeders in the
   swarm, and then to others that want the blob. Unused seeders come first. If there are none left, the newcomer gets
   its share of the seeders from members that have more, where EXCLUSIVE seeders or more are there for each member;
   where there are fewer, seeders are shared. When a member completes the blob, its seeders go to members that have
   room for them. Links between two seeders serve nobody, and end where they take the room of such a link.
6. Only gateways have links to other sites (`gateways`). A new gateway splits a link between two gateways of the same
   shares. If there is no such link, the gateway is linked to a provider.

In a cold swarm only a few members hold pieces, and those members have no room for all others. Every other member has a
path to them (rule 1), and a member that reports starvation is linked to a provider as soon as a provider has room. In a
site of up to `degree + 1` members, every member is linked to every other member.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final

from scheduler.core.members import ABSENT, Member, MemberState, PoolKind, RandomSet, Topology, distance
from scheduler.core.rng import Rng
from scheduler.core.settings import SchedulerSettings

FAR_SHARE: Final = 4
"""One link in this many leaves the rack even where the rack has enough members, so that no rack is an island."""

AVOIDED: Final = 16
"""Hosts that a member avoids, and members that were full for it; the oldest are forgotten. As many as `degree_high`."""

SUPPLY: Final = 12.0
"""The uplinks of seeders that a member is linked to: a seeder with two receivers counts as a half for each. So those
that come first leave some to the others. Receiving ten times as fast as hosts send is common (1 and 10 Gbit/s)."""

EXCLUSIVE: Final = 4.0
"""From so many seeders for each member that wants the blob on, each seeder sends to one of them alone. Then all
newcomers finish together; with fewer, a slow seeder would be too large a part of what a member has."""

MENDED: Final = 16
"""Members with too few links that are repaired after one event. A leaving member has at most this many neighbours."""


class Graph:
    """The links of one swarm, and the pools of each site, zone and rack, from which neighbours are drawn.

    Links of the members in `kept` are not split: those of a publisher lead to the hosts that check it.
    `changes` has, for each member, the links made (True) and ended (False) since `changes` was last emptied.
    `looked_at` counts the members that were examined: the cost of a join, independent of the machine.
    """

    __slots__ = (
        "_kept",
        "_pools",
        "_rng",
        "_settings",
        "_short",
        "_thin",
        "changes",
        "everyone",
        "gateways",
        "looked_at",
        "providers",
        "seeders",
        "unused",
        "wanting",
    )

    def __init__(self, settings: SchedulerSettings, rng: Rng, kept: Container[Member] = ()) -> None:
        self._settings: Final = settings
        self._kept: Final = kept
        self._rng: Final = rng
        self._pools: Final[dict[tuple[str, ...], RandomSet]] = {}
        self.everyone: Final = RandomSet(PoolKind.SWARM)
        self.providers: Final = RandomSet(PoolKind.PROVIDERS)
        self.gateways: Final = RandomSet(PoolKind.GATEWAYS)
        self.seeders: Final = RandomSet(PoolKind.SEEDERS)
        self.unused: Final = RandomSet(PoolKind.UNUSED)
        self.wanting: Final = RandomSet(PoolKind.WANTING)
        self._thin: Final[dict[Member, None]] = {}
        """Members that have too few links and will be given more (`mend`)."""
        self._short: Final[dict[Member, None]] = {}
        """Members of a warm swarm that have room for more seeders (rule 5)."""
        self.changes: Final[dict[Member, dict[Member, bool]]] = {}
        self.looked_at = 0

    @property
    def is_of_sites(self) -> bool:
        """Whether the swarm has members in more than one site."""
        return len(self.everyone) > 0 and len(self.of_site(self.everyone.items[0])) < len(self.everyone)

    def of_site(self, member: Member) -> RandomSet:
        """All members in the site of a member."""
        return self._pools[member.host.topology[:1]]

    def members_in(self, topology: tuple[str, ...]) -> list[Member]:
        """All members in a site, a zone or a rack, in no order."""
        return self._pools[topology].items if topology in self._pools else []

    def add(self, member: Member) -> None:
        """Add a member to the pools, so that other members can be linked to it. The member has no links yet."""
        self.everyone.add(member)
        for kind, key in _levels(member.host.topology):
            if key not in self._pools:
                self._pools[key] = RandomSet(kind)
            self._pools[key].add(member)
        site = self.of_site(member)
        if len(site) <= self._settings.degree + 1:  # links within the site need more of the room now
            for other in site.items:
                while other.far > self._far_most(other):
                    self._drop(other, self._least_useful(other))

    @property
    def lacks_seeders(self) -> bool:
        """Whether a member has room for seeders, and a seeder has nobody to send to."""
        return len(self._short) > 0 and len(self.unused) > 0

    def stepped(self, member: Member, *, wanted: bool) -> None:
        """Follow a change of a member's state; before it, the member wanted pieces or did not."""
        if member.state is MemberState.COMPLETE:
            self.seeders.add(member)
            member.receivers = sum([other.wants for other in member.links])
        else:
            self.seeders.discard(member)
        self._count_receivers(member, 0)
        if member.wants != wanted:
            for other in member.links:
                if other.state is MemberState.COMPLETE:
                    self._count_receivers(other, member.wants - wanted)

    def remove(self, member: Member) -> None:
        """Remove a member, and link its neighbours in pairs."""
        self.everyone.discard(member)
        self.providers.discard(member)
        self.seeders.discard(member)
        self.unused.discard(member)
        for _, key in _levels(member.host.topology):
            self._pools[key].discard(member)
            if not self._pools[key]:
                del self._pools[key]
        topology = member.host.topology
        left = sorted(member.links, key=lambda other: distance(topology, other.host.topology))
        near = left[: len(left) - member.far]
        for other in left:
            self._unlink(member, other)
        self.changes.pop(member, None)
        self._thin.pop(member, None)
        self._short.pop(member, None)
        half = len(near) // 2
        for one, further in zip(near[:half], reversed(near[half:]), strict=False):
            if self._may_link(one, further):
                self._link(one, further)
        self._thin.update(dict.fromkeys(left))

    def mend(self) -> None:
        """Give new links to some of the members that want pieces and have too few links, or too few seeders."""
        if self.lacks_seeders:
            member = next(iter(self._short))
            del self._short[member]
            if member.wants:
                self._fill_warm(member)
        for member in list(self._thin)[:MENDED]:
            del self._thin[member]
            if self._is_thin(member):
                self.fill(member)

    def fill(self, member: Member) -> None:
        """Give a member the links that it lacks, as far as other members have room."""
        if member.wants:
            self._fill_warm(member)
        self._fill_near(member)
        if member.is_gateway:
            self._reach_out(member)
        if self._is_thin(member):
            self._thin[member] = None
        self.ensure_provider(member)

    def _fill_warm(self, member: Member) -> None:
        """Link a member to seeders that nobody else receives from, and then to others that want the blob (rule 5)."""
        high = self._settings.degree_high
        most = high * len(self.seeders) // len(self.everyone)
        if not most or _seeders_of(member) >= most or _supply(member) >= SUPPLY:
            return
        self._give_seeders(member, self._draw(self.unused), most, SUPPLY)
        fair = min(SUPPLY, len(self.seeders) / len(self.wanting))
        apart = fair >= EXCLUSIVE and len(self.everyone) > high + 1  # else a member can be linked to all others
        if apart:
            self._give_seeders(member, self._spared(member, fair), most, fair)
        if not apart or not _seeders_of(member):
            self._give_seeders(member, self._draw(self.seeders), most, SUPPLY)
        count = _seeders_of(member)
        for other in self._draw(self.wanting):
            if len(member.links) >= max(self._settings.degree, count + high - most):
                break
            if not is_far(member, other) and self._may_link(member, other) and self._has_room(member, other):
                self._link(member, other)
        if count < most and _supply(member) < SUPPLY:
            self._short[member] = None

    def _give_seeders(self, member: Member, seeders: list[Member], most: int, supply: float) -> None:
        """Link a member to some of `seeders`, until it has `most` of them or the uplinks of `supply`."""
        count, has = _seeders_of(member), _supply(member)
        place = member.host.topology
        for seeder in sorted(seeders, key=lambda each: (each.receivers, distance(place, each.host.topology))):
            if count >= most or has >= supply:
                return
            if is_far(member, seeder) or not self._may_link(member, seeder):
                continue
            if len(seeder.links) >= self._settings.degree_high:
                self._drop_idle(seeder)
            if self._has_room(member, seeder):
                self._link(member, seeder)
                count += 1
                has += 1 / seeder.receivers

    def _spared(self, member: Member, fair: float) -> list[Member]:
        """Seeders that members with more than their share do without, as many as `member` lacks. They are free now."""
        spared: list[Member] = []
        for rich in self._draw(self.wanting):
            surplus = math.ceil(_supply(rich) - fair) if rich is not member and not is_far(rich, member) else 0
            for seeder in [each for each in rich.links if each.state is MemberState.COMPLETE]:
                if surplus <= 0 or _supply(member) + len(spared) + 1 > fair:
                    break
                if seeder.receivers == 1 and self._may_link(member, seeder):
                    self._unlink(rich, seeder)
                    spared.append(seeder)
                    surplus -= 1
        return spared

    def _drop_idle(self, seeder: Member) -> None:
        """End a link of a seeder to another seeder."""
        for other in seeder.links:
            if other.state is MemberState.COMPLETE and not is_far(seeder, other):
                self._unlink(seeder, other)
                return

    def _fill_near(self, member: Member) -> None:
        pools = [self._pools[key] for _, key in reversed(_levels(member.host.topology))]
        site = pools[-1]
        goal = min(self._settings.degree, len(site) - 1)
        if len(site) <= self._settings.degree + 1:
            self._mesh(member, site)
            return
        near = goal - goal // FAR_SHARE
        for pool in pools:
            self._attach(member, pool, near)
        self._attach(member, self._rng.choice(pools[1:]), goal)
        self._attach(member, site, goal)
        if self._lacks_near(member):
            self._mesh(member, site)

    def rewire(self, member: Member) -> None:
        """Give a gateway links that suit its new shares."""
        for other in _far_of(member):
            if other.is_gateway and not other.shares & member.shares:
                self._drop(member, other)
        for other in _near_of(member)[self._settings.degree :]:
            self._drop(member, other)
        self.fill(member)

    def ensure_provider(self, member: Member) -> None:
        """Link a member to a provider if none of its neighbours is a provider and a provider has room.

        A gateway needs a provider in another site, too.
        """
        if not any(other.is_provider for other in _near_of(member)):
            site = self.of_site(member)
            self._link_one(member, self.providers if len(site) == len(self.everyone) else site)
        if member.is_gateway and not any(other.is_provider for other in _far_of(member)):
            self._link_one(member, self.providers, far=True)

    def _link_one(self, member: Member, pool: RandomSet, *, far: bool = False) -> None:
        for provider in self._draw(pool):
            if len(provider.links) >= self._settings.degree_high:  # as nearly all have in a large swarm that is cold
                continue
            fits = provider.is_provider and is_far(member, provider) is far
            if fits and self._may_link(member, provider) and self._has_room(member, provider):
                self._link(member, provider)
                return

    def replace(self, member: Member, other: Member, *, for_good: bool = True) -> None:
        """End a useless link, and give both members other links. If not `for_good`, `relink` may make it again."""
        self._unlink(member, other)
        if for_good:
            member.avoids = (*member.avoids[1 - AVOIDED :], other.host.id)
            other.avoids = (*other.avoids[1 - AVOIDED :], member.host.id)
        else:
            member.full = (*member.full[1 - AVOIDED :], other)
        self.fill(member)
        self._thin[other] = None

    def relink(self, member: Member) -> None:
        """Link a member again to providers that were too busy for it: they may hold what no other neighbour does."""
        full, member.full = member.full, ()
        self.looked_at += len(full)
        for other in full:
            if other.is_provider and self._may_link(member, other) and self._has_room(member, other):
                self._link(member, other)

    def _is_thin(self, member: Member) -> bool:
        return member.wants and (self._lacks_near(member) or self._lacks_far(member))

    def _lacks_near(self, member: Member) -> bool:
        return member.near < min(self._settings.degree_low, len(self.of_site(member)) - 1)

    def _lacks_far(self, member: Member) -> bool:
        outside = len(self.everyone) - len(self.of_site(member))
        return member.is_gateway and member.far < min(self._far_goal(member) // 2, outside)

    def _far_goal(self, member: Member) -> int:
        """The number of links to other sites that a gateway should have: the room that links within its site leave."""
        return min(self._settings.degree, self._far_most(member))

    def _far_most(self, member: Member) -> int:
        """The most links to other sites that a member may have."""
        return self._settings.degree_high - min(self._settings.degree, len(self.of_site(member)) - 1)

    def _mesh(self, member: Member, pool: RandomSet) -> None:
        """Link a member to every member of the pool that has room. From a large pool only some members are drawn."""
        for other in self._draw(pool):
            if member.near >= self._settings.degree:
                return
            if self._may_link(member, other) and self._has_room(member, other):
                self._link(member, other)

    def _attach(self, member: Member, pool: RandomSet, goal: int) -> None:
        """Link a member to members of a pool until it has `goal` links within its site (rule 1)."""
        tries = 3 * (goal - member.near)
        while member.near < goal and tries > 0 and len(pool.items) > 1:
            tries -= 1
            self.looked_at += 1
            near = self._rng.choice(pool.items)
            if not self._may_link(member, near):
                continue
            if near.near < self._settings.degree and self._has_room(member, near):
                self._link(member, near)
            elif member.near + 2 <= goal and near.near:
                self._split(member, near, _near_of(near))
            elif self._has_room(member, near):
                self._link(member, near)

    def _split(self, member: Member, one: Member, others: list[Member]) -> None:
        """Put a member between `one` and one of its neighbours among `others`."""
        other = self._rng.choice(others)
        if one in self._kept or other in self._kept:
            return
        if self._may_link(member, other) and len(member.links) + 2 <= self._settings.degree_high:
            self._unlink(one, other)
            self._link(member, one)
            self._link(member, other)

    def _reach_out(self, member: Member) -> None:
        """Give a gateway its links to other sites (rule 6)."""
        goal = self._far_goal(member)
        for peer in self._draw(self.gateways):
            if member.far < goal and _are_peers(member, peer) and self._may_link(member, peer):
                self._link_peer(member, peer, goal)
        for pool in (self.providers, self.everyone):
            for other in self._draw(pool) if member.far < goal else ():
                fits = is_far(member, other) and member.far < goal
                if fits and self._may_link(member, other) and self._has_room(member, other):
                    self._link(member, other)

    def _link_peer(self, member: Member, peer: Member, goal: int) -> None:
        """Link a gateway to a gateway of the same shares. `peer` may have to end another link first."""
        if peer.far >= self._far_goal(peer):
            useless = self._least_useful(peer)
            if _are_peers(peer, useless):
                others = [other for other in _far_of(peer) if is_far(member, other)]
                if others and member.far + 2 <= goal:
                    self._split(member, peer, others)
                return
            self._drop(peer, useless)
        if self._has_room(member, peer):
            self._link(member, peer)

    def _least_useful(self, member: Member) -> Member:
        """The neighbour in another site that a member needs least."""
        return min(_far_of(member), key=lambda other: _are_peers(member, other))

    def _drop(self, member: Member, other: Member) -> None:
        """End a link to make room for another. Both members may need new links."""
        self._unlink(member, other)
        self._thin.update({member: None, other: None})

    def _draw(self, pool: RandomSet) -> list[Member]:
        drawn = self._rng.sample(pool.items, 2 * self._settings.degree_high)
        self.looked_at += len(drawn)
        return drawn

    def _may_link(self, a: Member, b: Member) -> bool:
        if a is b or b in a.links:
            return False
        if b in a.full or a in b.full:
            return False
        return not (a.avoids and b.host.id in a.avoids) and not (b.avoids and a.host.id in b.avoids)

    def _has_room(self, a: Member, b: Member) -> bool:
        if max(len(a.links), len(b.links)) >= self._settings.degree_high:
            return False
        if is_far(a, b):
            return a.far < self._far_most(a) and b.far < self._far_most(b)
        return not any(each.is_gateway and each.near >= self._settings.degree for each in (a, b))

    def _link(self, a: Member, b: Member) -> None:
        a.links[b] = None
        b.links[a] = None
        if a.state is MemberState.COMPLETE:
            self._count_receivers(a, b.wants)
        if b.state is MemberState.COMPLETE:
            self._count_receivers(b, a.wants)
        self._note(a, b, made=True)

    def _unlink(self, a: Member, b: Member) -> None:
        del a.links[b]
        del b.links[a]
        if a.state is MemberState.COMPLETE:
            self._count_receivers(a, -b.wants)
        if b.state is MemberState.COMPLETE:
            self._count_receivers(b, -a.wants)
        self._note(a, b, made=False)

    def _count_receivers(self, member: Member, more: int) -> None:
        member.receivers += more
        if member.state is MemberState.COMPLETE and not member.receivers:
            self.unused.add(member)
        elif member.positions[PoolKind.UNUSED] != ABSENT:
            self.unused.discard(member)

    def _note(self, a: Member, b: Member, *, made: bool) -> None:
        if is_far(a, b):
            a.far += 1 if made else -1
            b.far += 1 if made else -1
        for one, other in ((a, b), (b, a)):
            changes = self.changes.get(one)
            if changes is None:
                changes = self.changes[one] = {}
            if changes.get(other, made) != made:
                del changes[other]
            else:
                changes[other] = made

    def validate(self) -> None:
        """Raise AssertionError if a link is one-way or leaves the swarm, or if a member has too many links."""
        for at, member in enumerate(self.everyone.items):
            assert member.positions[PoolKind.SWARM] == at
            assert len(member.links) <= self._settings.degree_high
            assert member not in member.links
            assert member.far == len(_far_of(member)) <= self._far_most(member)
            for other in member.links:
                assert member in other.links
                assert other.positions[PoolKind.SWARM] >= 0
                assert other.host.id not in member.avoids
                assert other not in member.full
            is_complete = member.state is MemberState.COMPLETE
            assert not is_complete or member.receivers == sum([other.wants for other in member.links])
            is_unused = is_complete and not member.receivers
            assert (member.positions[PoolKind.UNUSED] != ABSENT) is is_unused
        for pool in self._pools.values():
            assert len(pool) > 0

    def validate_degrees(self) -> None:
        """Raise AssertionError if a member of a small swarm lacks a link that could be made.

        A member that has told only what it needs is linked when it joins.
        """
        if len(self.everyone) <= self._settings.degree_high:
            for member in filter(self._is_thin, self.everyone.items):
                for other in (each for each in self.everyone.items if each.wants or each.is_provider):
                    cut_off = member.is_gateway and not member.far
                    lacks = cut_off if is_far(member, other) else self._lacks_near(member)
                    assert not (lacks and self._may_link(member, other) and self._has_room(member, other))


def is_far(a: Member, b: Member) -> bool:
    """Whether two members are in different sites."""
    one, other = a.host.topology, b.host.topology
    return one is not other and one.site != other.site  # `Membership` gives hosts of one rack the same object


def _near_of(member: Member) -> list[Member]:
    return [other for other in member.links if not is_far(member, other)] if member.far else list(member.links)


def _seeders_of(member: Member) -> int:
    """The number of neighbours that hold the whole blob."""
    return sum([other.state is MemberState.COMPLETE for other in member.links])


def _supply(member: Member) -> float:
    """The uplinks of seeders that a member is linked to, if each seeder divides its own evenly."""
    return sum([1 / other.receivers for other in member.links if other.state is MemberState.COMPLETE])


def _far_of(member: Member) -> list[Member]:
    return [other for other in member.links if is_far(member, other)] if member.far else []


def _are_peers(a: Member, b: Member) -> bool:
    """Whether two members are gateways of different sites that own a common share."""
    return a.is_gateway and b.is_gateway and a.shares & b.shares != 0 and is_far(a, b)


def _levels(topology: Topology) -> tuple[tuple[PoolKind, tuple[str, ...]], ...]:
    """The pools of a host's site, zone and rack, in this order."""
    return (
        (PoolKind.SITE, topology[:1]),
        (PoolKind.ZONE, topology[:2]),
        (PoolKind.RACK, topology[:3]),
    )
