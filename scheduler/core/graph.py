"""Who exchanges with whom in one swarm: a graph that stays regular and connected while members come and go.

The problem: every member needs 8 to 16 neighbours, most in its rack and a few across, at a cost that does not grow
with the swarm. Linking a newcomer to random members makes hubs of the early ones; linking it to those that have the
fewest links makes neighbours of latecomers, who all hold nothing.

Ours:
1. A newcomer that wants `degree` links *splits* edges: it takes a random member `a` of its rack, and a random neighbour
   `b` of that, ends a-b and links both to itself. Nobody else's degree changes, and what was connected stays so.
   A member below the target is linked to directly instead.
2. It looks in its rack first, then in its zone and its site; one link in `far_share` starts further out.
3. If nobody among its neighbours has pieces or a lease, it is linked to one that has, as long as one has room.
4. Where a member leaves, its neighbours of its site are linked in pairs, near with far, so that degrees stay.
5. Links to other sites are made for gateways only (`gateways`), in the same way: by splitting a link between two
   others of the same shares, or, where there are none, with whoever has pieces.

In a cold swarm only a few hold anything, and they have no room for all: what the others have is a path to them (1),
and a report of starvation gets them a source as soon as one has room. Up to `degree + 1` members, everybody is linked
to everybody of its site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scheduler.core.members import Bag, Member, Place, Seat, distance

if TYPE_CHECKING:
    from scheduler.core.chance import Chance
    from scheduler.core.settings import Settings

AVOIDED: Final = 16
"""Hosts that a member remembers not to be linked to; the oldest is forgotten. As many as it can have neighbours."""

MENDED: Final = 16
"""Members with too few links that are looked at after one event: as many as one that leaves can leave behind."""


class Graph:
    """The links of one swarm, and the bags by place from which neighbours are drawn.

    `changes` says, for each member, which links were made (True) and ended (False) since it was last emptied.
    `looked_at` counts the members that were looked at: the cost of a join, in a unit that no machine changes.
    """

    __slots__ = (
        "_chance",
        "_places",
        "_settings",
        "_thin",
        "changes",
        "everyone",
        "gateways",
        "looked_at",
        "sources",
    )

    def __init__(self, settings: Settings, chance: Chance) -> None:
        self._settings: Final = settings
        self._chance: Final = chance
        self._places: Final[dict[tuple[str, ...], Bag]] = {}
        self.everyone: Final = Bag(Seat.SWARM)
        self.sources: Final = Bag(Seat.SOURCES)
        self.gateways: Final = Bag(Seat.GATEWAYS)
        self._thin: Final[dict[Member, None]] = {}
        """Members that could not be given enough links yet."""
        self.changes: Final[dict[Member, dict[Member, bool]]] = {}
        self.looked_at = 0

    def of_site(self, site: str) -> list[Member]:
        """All members in a site, in no order."""
        return self._places[(site,)].items if (site,) in self._places else []

    @property
    def is_of_sites(self) -> bool:
        """Whether there are members in more than one site."""
        some = self.everyone.items[:1]
        return any(len(self.of_site(member.host.place.site)) < len(self.everyone) for member in some)

    def add(self, member: Member) -> None:
        """Let others be linked to a member. It gets no links of its own yet."""
        self.everyone.add(member)
        for seat, key in _levels(member.host.place):
            if key not in self._places:
                self._places[key] = Bag(seat)
            self._places[key].add(member)

    def remove(self, member: Member) -> None:
        """Take a member out, and link those that it leaves behind."""
        self.everyone.discard(member)
        self.sources.discard(member)
        for _, key in _levels(member.host.place):
            self._places[key].discard(member)
            if not self._places[key]:
                del self._places[key]
        place = member.host.place
        left = sorted(member.links, key=lambda other: distance(place, other.host.place))
        near = left[: len(left) - member.far]
        for other in left:
            self._unlink(member, other)
        self.changes.pop(member, None)
        self._thin.pop(member, None)
        half = len(near) // 2
        for one, further in zip(near[:half], reversed(near[half:]), strict=False):
            if self._may_link(one, further):
                self._link(one, further)
        self._thin.update(dict.fromkeys(left))

    def mend(self) -> None:
        """Give new links to some of those that want pieces and have too few."""
        for member in list(self._thin)[:MENDED]:
            del self._thin[member]
            if self._is_thin(member):
                self.fill(member)

    def fill(self, member: Member) -> None:
        """Bring a member up to the number of links that it should have, as far as the swarm can."""
        self._fill_near(member)
        if member.is_gateway:
            self._reach_out(member)
        if self._is_thin(member):
            self._thin[member] = None
        self.ensure_source(member)

    def _fill_near(self, member: Member) -> None:
        bags = [self._places[key] for _, key in reversed(_levels(member.host.place))]
        site = bags[-1]
        goal = min(self._settings.degree, len(site) - 1)
        if len(site) <= self._settings.degree + 1:
            self._mesh(member, site)
            return
        near = goal - goal // self._settings.far_share
        for bag in bags:
            self._attach(member, bag, near)
        self._attach(member, self._chance.one_of(bags[1:]), goal)
        self._attach(member, site, goal)
        if self._lacks_near(member):
            self._mesh(member, site)

    def rewire(self, member: Member) -> None:
        """Give a member the links to other sites that suit its shares, which have changed."""
        for other in [other for other in member.links if _is_far(member, other)]:
            if other.is_gateway and not other.shares & member.shares:
                self._unlink(member, other)
                self._thin[other] = None
        self.fill(member)

    def ensure_source(self, member: Member) -> None:
        """Link a member to one that has pieces, or a lease, if none of its neighbours has and one has room.

        A gateway needs one in another site, too.
        """
        if not any(other.is_source and not _is_far(member, other) for other in member.links):
            site = self._places[member.host.place[:1]]
            self._link_one(member, self.sources if len(site) == len(self.everyone) else site)
        if member.is_gateway and not any(other.is_source and _is_far(member, other) for other in member.links):
            self._link_one(member, self.sources, far=True)

    def _link_one(self, member: Member, bag: Bag, *, far: bool = False) -> None:
        for source in self._draw(bag):
            fits = source.is_source and _is_far(member, source) is far
            if fits and self._may_link(member, source) and self._has_room(member, source):
                self._link(member, source)
                return

    def replace(self, member: Member, other: Member) -> None:
        """End a link that is of no use, for good, and give both members others."""
        self._unlink(member, other)
        member.avoids = (*member.avoids[1 - AVOIDED :], other.host.id)
        other.avoids = (*other.avoids[1 - AVOIDED :], member.host.id)
        self.fill(member)
        self._thin[other] = None

    def _is_thin(self, member: Member) -> bool:
        return member.wants and (self._lacks_near(member) or self._lacks_far(member))

    def _lacks_near(self, member: Member) -> bool:
        others = len(self.of_site(member.host.place.site)) - 1
        return len(member.links) - member.far < min(self._settings.degree_low, others)

    def _lacks_far(self, member: Member) -> bool:
        return member.is_gateway and member.far < self._far_goal(member)

    def _far_goal(self, member: Member) -> int:
        """How many links to other sites a gateway should have: more where its own site is small."""
        site = len(self.of_site(member.host.place.site))
        goal = max(self._settings.gateway_links, self._settings.degree - (site - 1))
        return min(goal, len(self.everyone) - site)

    def _far_most(self, member: Member) -> int:
        """How many it may have, for the others in its site need room."""
        site = len(self.of_site(member.host.place.site))
        return self._settings.degree_high - min(self._settings.degree, site - 1)

    def _mesh(self, member: Member, bag: Bag) -> None:
        """Link to whoever is there and has room; draws from few if there are many."""
        for other in self._draw(bag):
            if len(member.links) - member.far >= self._settings.degree:
                return
            if self._may_link(member, other) and self._has_room(member, other):
                self._link(member, other)

    def _attach(self, member: Member, bag: Bag, goal: int) -> None:
        """Give a member links to those in a bag, of its site, until it has `goal` there, by rule 1 above."""
        tries = 3 * (goal - len(member.links) + member.far)
        while (have := len(member.links) - member.far) < goal and tries > 0 and len(bag) > 1:
            tries -= 1
            self.looked_at += 1
            near = self._chance.one_of(bag.items)
            if not self._may_link(member, near):
                continue
            if len(near.links) - near.far < self._settings.degree and self._has_room(member, near):
                self._link(member, near)
            elif have + 2 <= goal:
                self._split(member, near, [other for other in near.links if not _is_far(near, other)])
            elif self._has_room(member, near):
                self._link(member, near)

    def _split(self, member: Member, near: Member, others: list[Member]) -> None:
        """Put a member between two that are linked: `near`, and one of the `others`."""
        far = self._chance.one_of(others)
        if self._may_link(member, far):
            self._unlink(near, far)
            self._link(member, near)
            self._link(member, far)

    def _reach_out(self, member: Member) -> None:
        """Give a gateway its links to other sites (rule 5)."""
        goal = self._far_goal(member)
        for peer in self._draw(self.gateways):
            if member.far >= goal:
                return
            if not peer.shares & member.shares or not _is_far(member, peer) or not self._may_link(member, peer):
                continue
            if peer.far < self._far_goal(peer) and self._has_room(member, peer):
                self._link(member, peer)
                continue
            others = [other for other in peer.links if _is_far(peer, other)]
            useless = [other for other in others if not other.is_gateway or not other.shares & peer.shares]
            if useless:
                self._unlink(peer, useless[0])
                self._thin[useless[0]] = None
                self._link(member, peer)
            elif others and member.far + 2 <= goal:
                self._split(member, peer, [other for other in others if _is_far(member, other)] or others)
            elif self._has_room(member, peer):
                self._link(member, peer)
        for bag in (self.sources, self.everyone):
            for other in self._draw(bag):
                if member.far >= goal:
                    return
                if _is_far(member, other) and self._may_link(member, other) and self._has_room(member, other):
                    self._link(member, other)

    def _draw(self, bag: Bag) -> list[Member]:
        drawn = self._chance.some_of(bag.items, 2 * self._settings.degree_high)
        self.looked_at += len(drawn)
        return drawn

    def _may_link(self, a: Member, b: Member) -> bool:
        return a is not b and b not in a.links and b.host.id not in a.avoids and a.host.id not in b.avoids

    def _has_room(self, a: Member, b: Member) -> bool:
        most = self._settings.degree_high
        if _is_far(a, b):
            return all(len(each.links) < most and each.far < self._far_most(each) for each in (a, b))
        return all(len(each.links) < most or self._sheds(each) for each in (a, b))

    def _sheds(self, member: Member) -> bool:
        """Make room for a link within the site, if more lead out of it than may: it was smaller when they were made."""
        if member.far <= self._far_most(member):
            return False
        far = next(other for other in member.links if _is_far(member, other))
        self._unlink(member, far)
        self._thin[far] = None
        return True

    def _link(self, a: Member, b: Member) -> None:
        a.links[b] = None
        b.links[a] = None
        self._note(a, b, made=True)

    def _unlink(self, a: Member, b: Member) -> None:
        del a.links[b]
        del b.links[a]
        self._note(a, b, made=False)

    def _note(self, a: Member, b: Member, *, made: bool) -> None:
        if _is_far(a, b):
            a.far += 1 if made else -1
            b.far += 1 if made else -1
        for one, other in ((a, b), (b, a)):
            changes = self.changes.setdefault(one, {})
            if changes.get(other, made) != made:
                del changes[other]
            else:
                changes[other] = made

    def validate(self) -> None:
        """Raise AssertionError if a link is one way, leads out of the swarm, or a member has too many."""
        for at, member in enumerate(self.everyone.items):
            assert member.seats[Seat.SWARM] == at
            assert len(member.links) <= self._settings.degree_high
            assert member not in member.links
            assert member.far == sum(_is_far(member, other) for other in member.links)
            for other in member.links:
                assert member in other.links
                assert other.seats[Seat.SWARM] >= 0
                assert other.host.id not in member.avoids
        for bag in self._places.values():
            assert len(bag) > 0

    def validate_degrees(self) -> None:
        """Raise AssertionError if a small swarm has a member that could be given links that it lacks."""
        if len(self.everyone) <= self._settings.degree_high:
            for member in filter(self._is_thin, self.everyone.items):
                for other in self.everyone.items:
                    lacks = self._lacks_far(member) if _is_far(member, other) else self._lacks_near(member)
                    assert not (lacks and self._may_link(member, other) and self._has_room(member, other))


def _is_far(a: Member, b: Member) -> bool:
    return a.host.place.site != b.host.place.site


def _levels(place: Place) -> tuple[tuple[Seat, tuple[str, ...]], ...]:
    """The bags by place that a host is in, widest first."""
    return (
        (Seat.SITE, place[:1]),
        (Seat.ZONE, place[:2]),
        (Seat.RACK, place[:3]),
    )
