"""Gateways: the members of a site that fetch a blob's pieces from other sites, so that each piece enters a site once.

Rules:
1. A swarm of one site has no gateways. Its hosts are told nothing and may ask any neighbour for any piece.
2. In a swarm of several sites the pieces are divided into shares. In each site, one member that wants the blob owns a
   share: the gateway of the share. Only the gateway asks other sites for the pieces of the share, and leases of these
   pieces go to gateways. The first gateway of a site owns all shares. Each of the next few gateways takes half of the
   largest set of shares in the site. All sites divide the shares in the same way, so gateways of different sites own
   the same sets and can be linked.
3. When a gateway leaves, another member of its site takes over its shares. A gateway that has completed the blob stays,
   because the pieces of its shares are in the site.
4. If a gateway gains no piece for GATEWAY_S while a member of its site starves, the starving member takes over. A
   complete gateway, which gains no piece any more, is replaced only if the starving member has gained none for
   GATEWAY_S either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scheduler.core.graph import Graph
from scheduler.core.members import Member
from scheduler.core.settings import SchedulerSettings
from scheduler.core.story import Story
from scheduler.protocol.geometry import ALL_SHARES, SHARES

GATEWAY_S: Final = 10.0
"""How long a gateway may gain nothing while a member of its site starves, before that member replaces the gateway."""


class Gateways:
    """The gateways of one swarm. `shares_changed` holds the members that must be told their shares."""

    __slots__ = ("_graph", "_of_site", "_settings", "_story", "are_needed", "shares_changed")

    def __init__(self, graph: Graph, settings: SchedulerSettings, story: Story) -> None:
        self._graph: Final = graph
        self._settings: Final = settings
        self._story: Final = story
        self._of_site: Final[dict[str, list[Member]]] = {}
        self.are_needed = False
        """Whether the swarm has had members in more than one site."""
        self.shares_changed: Final[dict[Member, None]] = {}

    def begin(self, wanting: Iterable[Member]) -> None:
        """Start to appoint gateways if there are several sites. `wanting` are the members that want the blob."""
        if not self.are_needed and self._graph.is_of_sites:
            self.are_needed = True
            for member in list(wanting):
                self.admit(member)

    def admit(self, member: Member) -> None:
        """Handle a member that wants the blob, for the first time or again. It may become a gateway."""
        if not self.are_needed:
            return
        self.shares_changed[member] = None
        if member.is_gateway:
            return
        gateways = self._of_site.setdefault(member.host.topology.site, [])
        member.shares = 0
        if not gateways:
            self._appoint(member, ALL_SHARES)
        elif len(gateways) < min(self._settings.gateways, SHARES):
            giver = max(gateways, key=lambda gateway: gateway.shares.bit_count())
            kept = _lower_half(giver.shares)
            self._appoint(member, giver.shares & ~kept)
            giver.shares = kept
            self._told_anew(giver)

    def leave(self, member: Member) -> None:
        """Handle a member that has left the swarm. Another member takes over its shares."""
        self.shares_changed.pop(member, None)
        if member.is_gateway:
            shares = self._dismiss(member)
            successor = self._successor(member)
            if successor is not None:
                self._appoint(successor, shares)

    def replace(self, member: Member) -> None:
        """Have another member of its site take over a member's shares, if there is one that wants the blob."""
        successor = self._successor(member) if member.is_gateway else None
        if successor is not None and successor.wants:
            self._appoint(successor, self._dismiss(member))
            self.shares_changed[member] = None

    def on_starving(self, member: Member, now: float) -> None:
        """Handle a member that lacks pieces and has had no neighbour to ask for them for a while (rule 4)."""
        late = now - GATEWAY_S
        for gateway in list(self._of_site.get(member.host.topology.site, ())):
            if gateway.progressed_at > late or not (gateway.wants or member.progressed_at <= late):
                continue
            successor = self._successor(member) if gateway is member else member
            if successor is not None and successor is not gateway:
                self._appoint(successor, self._dismiss(gateway))
                self.shares_changed[gateway] = None
        if member.is_gateway:
            self._graph.fill(member)

    def owners_of(self, pieces: int, members: Iterable[Member]) -> list[Member]:
        """The members that own the share of the first piece in `pieces` and want the blob."""
        share = 1 << max(0, (pieces & -pieces).bit_length() - 1) % SHARES
        return [member for member in members if member.wants and member.shares & share]

    def _appoint(self, member: Member, shares: int) -> None:
        gateways = self._of_site.setdefault(member.host.topology.site, [])
        if member not in gateways:
            gateways.append(member)
            self._graph.gateways.add(member)
            member.shares = 0
        member.shares |= shares
        member.progressed_at = self._story.now
        self._told_anew(member)

    def _told_anew(self, member: Member) -> None:
        self._story.tell("%s: shares %s of its site", member.host.id, bin(member.shares))
        self.shares_changed[member] = None
        self._graph.rewire(member)

    def _dismiss(self, member: Member) -> int:
        """Take away a gateway's shares and return them for the next gateway."""
        site = member.host.topology.site
        self._of_site[site].remove(member)
        if not self._of_site[site]:
            del self._of_site[site]
        self._graph.gateways.discard(member)
        shares, member.shares = member.shares, 0
        return shares

    def _successor(self, leaving: Member) -> Member | None:
        """The successor of a gateway: a member that wants the blob, has few failures, and owns few shares."""
        others = [member for member in self._graph.members_in(leaving.host.topology[:1]) if member is not leaving]
        able = [member for member in others if member.wants] or self._of_site.get(leaving.host.topology.site, [])
        return min(able, key=lambda member: (member.failures, member.shares.bit_count()), default=None)

    def validate(self, wanting: Iterable[Member]) -> None:
        """Raise AssertionError if a share has no owner in a site, or two owners."""
        for gateways in self._of_site.values():
            assert gateways
            assert sum(gateway.shares for gateway in gateways) == ALL_SHARES
            assert all(gateway.is_gateway and gateway.shares for gateway in gateways)
        for member in wanting:
            assert member.is_gateway or member.shares == (0 if self.are_needed else ALL_SHARES)
            assert not self.are_needed or member.host.topology.site in self._of_site
        assert len(self._graph.gateways) == sum(map(len, self._of_site.values()))


def _lower_half(shares: int) -> int:
    """The lower half of a set of shares. Of a single share, the share itself."""
    kept, left = 0, shares
    for _ in range((shares.bit_count() + 1) // 2):
        kept |= left & -left
        left &= left - 1
    return kept
