"""Who exchanges with whom in one swarm: a graph that stays regular and connected while members come and go.

The problem: every member needs 8 to 16 neighbours, nearly all of them near and a few far, at a cost that does not grow
with the swarm. Linking a newcomer to random members makes hubs of the early ones; linking it to those that have the
fewest links makes neighbours of latecomers, who all hold nothing.

Ours:
1. A newcomer that wants `degree` links *splits* edges: it takes a random member `a` of its rack, and a random neighbour
   `b` of that, ends a-b and links both to itself. Nobody else's degree changes, whatever was connected stays connected,
   and an edge that crosses to another site still does. A member below the target is linked to directly instead.
2. It looks in its rack first, then in its zone, its site, and everywhere; one link in `far_share` starts further out.
3. If nobody among its neighbours has pieces or a lease, it is linked to one that has, as long as one has room.
4. Where a member leaves, its neighbours are linked in pairs, near with far, so that degrees and crossings stay.

In a cold swarm only a few hold anything, and they have no room for all: what the others have is a path to them (1),
and a report of starvation gets them a source as soon as one has room. Up to `degree + 1` members, everybody is linked
to everybody.
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
        "_crossings",
        "_places",
        "_settings",
        "_thin",
        "changes",
        "everyone",
        "looked_at",
        "sources",
    )

    def __init__(self, settings: Settings, chance: Chance) -> None:
        self._settings: Final = settings
        self._chance: Final = chance
        self._places: Final[dict[tuple[str, ...], Bag]] = {}
        self._crossings: Final[dict[str, int]] = {}
        self.everyone: Final = Bag(Seat.SWARM)
        self.sources: Final = Bag(Seat.SOURCES)
        self._thin: Final[dict[Member, None]] = {}
        """Members that could not be given enough links yet."""
        self.changes: Final[dict[Member, dict[Member, bool]]] = {}
        self.looked_at = 0

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
        for other in left:
            self._unlink(member, other)
        self.changes.pop(member, None)
        self._thin.pop(member, None)
        half = len(left) // 2
        for near, far in zip(left[:half], reversed(left[half:]), strict=False):
            if self._may_link(near, far):
                self._link(near, far)
        self._thin.update(dict.fromkeys(left))

    def mend(self) -> None:
        """Give new links to some of those that want pieces and have too few."""
        for member in list(self._thin)[:MENDED]:
            del self._thin[member]
            if self._is_thin(member):
                self.fill(member)

    def fill(self, member: Member) -> None:
        """Bring a member up to the number of links that it should have, as far as the swarm can."""
        goal = min(self._settings.degree, len(self.everyone) - 1)
        if len(self.everyone) <= self._settings.degree + 1:
            self._mesh(member)
        else:
            bags = [self._places[key] for _, key in reversed(_levels(member.host.place))] + [self.everyone]
            near = goal - goal // self._settings.far_share
            for bag in bags:
                self._attach(member, bag, near)
            further = bags[1:] if self._may_cross(member) else bags[1:-1]
            self._attach(member, self._chance.one_of(further), goal)
            self._attach(member, self.everyone, goal)
            if self._is_thin(member):
                self._mesh(member)
        if self._is_thin(member):
            self._thin[member] = None
        self.ensure_source(member)

    def ensure_source(self, member: Member) -> None:
        """Link a member to one that has pieces, or a lease, if none of its neighbours has and one has room."""
        if any(other.is_source for other in member.links):
            return
        for source in self._draw(self.sources):
            if self._may_link(member, source) and self._has_room(member, source):
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
        return member.wants and len(member.links) < min(self._settings.degree_low, len(self.everyone) - 1)

    def _mesh(self, member: Member) -> None:
        """Link to whoever is there and has room; draws from few if the swarm is large."""
        for other in self._draw(self.everyone):
            if len(member.links) >= self._settings.degree:
                return
            if self._may_link(member, other) and self._has_room(member, other):
                self._link(member, other)

    def _attach(self, member: Member, bag: Bag, goal: int) -> None:
        """Give a member links to those in a bag until it has `goal`, by rule 1 above."""
        tries = 3 * (goal - len(member.links))
        while len(member.links) < goal and tries > 0 and len(bag) > 1:
            tries -= 1
            self.looked_at += 1
            near = self._chance.one_of(bag.items)
            if not self._may_link(member, near):
                continue
            if len(near.links) < self._settings.degree:
                self._link(member, near)
            elif len(member.links) + 2 <= goal:
                far = self._chance.one_of(list(near.links))
                if self._may_link(member, far):
                    self._unlink(near, far)
                    self._link(member, near)
                    self._link(member, far)
            elif self._has_room(member, near):
                self._link(member, near)

    def _draw(self, bag: Bag) -> list[Member]:
        drawn = self._chance.some_of(bag.items, 2 * self._settings.degree_high)
        self.looked_at += len(drawn)
        return drawn

    def _may_link(self, a: Member, b: Member) -> bool:
        return a is not b and b not in a.links and b.host.id not in a.avoids and a.host.id not in b.avoids

    def _has_room(self, a: Member, b: Member) -> bool:
        return max(len(a.links), len(b.links)) < self._settings.degree_high

    def _may_cross(self, member: Member) -> bool:
        return self._crossings.get(member.host.place.site, 0) < self._settings.site_links

    def _link(self, a: Member, b: Member) -> None:
        a.links[b] = None
        b.links[a] = None
        self._note(a, b, made=True)

    def _unlink(self, a: Member, b: Member) -> None:
        del a.links[b]
        del b.links[a]
        self._note(a, b, made=False)

    def _note(self, a: Member, b: Member, *, made: bool) -> None:
        if a.host.place.site != b.host.place.site:
            for site in (a.host.place.site, b.host.place.site):
                self._crossings[site] = self._crossings.get(site, 0) + (1 if made else -1)
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
                    assert not (self._may_link(member, other) and self._has_room(member, other))


def _levels(place: Place) -> tuple[tuple[Seat, tuple[str, ...]], ...]:
    """The bags by place that a host is in, widest first."""
    return (
        (Seat.SITE, place[:1]),
        (Seat.ZONE, place[:2]),
        (Seat.RACK, place[:3]),
    )
