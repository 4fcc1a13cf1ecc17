"""A blob's exchange with its neighbours: whom to know, what to ask of whom, what to offer.

Rules:
1. A piece is asked of a neighbour only when its digest is known, and nothing else brings it.
2. A neighbour that is gone, slow, full or corrupt is dropped at once, and the scheduler is asked for another. One that
   is full or slow, and holds what no other neighbour does, is waited for.
3. What is asked for first: what clients wait for, then the piece that keeps many others from being of use to a client,
   then the rarest (`neighbours`).
4. A piece is offered to all neighbours that do not hold it as soon as it matches the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from peer.core.fetches import Fetches
from peer.core.neighbours import Neighbours
from peer.core.piece_book import PieceBook
from peer.core.piece_sets import bitfield, gap, spans
from peer.core.swarm_events import (
    AddNeighbour,
    FetchEnded,
    FetchOutcome,
    Instruction,
    RemoveNeighbour,
    Tell,
    TellNeighbours,
)
from scheduler.protocol import link, to_host
from scheduler.protocol.from_host import Corrupt, Fault, NeighbourFailed

BEHIND_GAP = 6
"""So many pieces that are here behind the first one that is missing make that one come first. Clients are sent what is
contiguous, and the SHA-256 goes on over it; in a cold swarm new pieces are rarer than an old one that is missing, and
both would wait for the end. In simulations of 16 to 300 hosts it costs nothing."""


@dataclass(slots=True)
class Exchange:
    """`generation`, of the piece map that this host goes by, is 0 before it has heard of any."""

    digest: bytes
    book: PieceBook
    neighbours: Neighbours = field(default_factory=Neighbours)
    fetches: Fetches = field(init=False)

    def __post_init__(self) -> None:
        self.fetches = Fetches(self.neighbours)

    @property
    def generation(self) -> int:
        return self.neighbours.generation

    def wanted(self) -> int:
        """The pieces that are not here yet, and whose digest is known."""
        return self.book.known & ~self.book.held

    def missing(self, from_origin: int) -> int:
        """The pieces that a neighbour may be asked for now: nothing brings them yet, and the origin does not."""
        return self.wanted() & ~self.fetches.pieces & ~from_origin

    def go_on(self, urgent: int, from_origin: int, now: float) -> list[Instruction]:
        """Ask for what can be asked for, the `urgent` pieces first, and give up who takes too long."""
        out: list[Instruction] = []
        late = self.fetches.is_late(now)
        if late:
            for host in self.fetches.slow_hosts(self.wanted(), now):
                out += self.drop(host, Fault.SLOW)
        if not self.fetches.is_full(from_origin):
            first = urgent or gap(self.book.held, BEHIND_GAP)
            out += self.fetches.start(self.missing(from_origin), first, self.book.expected, from_origin, now)
        if late and not self.missing(from_origin) & self.neighbours.held_by_any():
            out += self.fetches.hedge(self.book.expected, now)
        return out

    def next_due(self, from_origin: int, now: float) -> float:
        """When something of `go_on` will be due, after `now`; infinity if nothing will."""
        due = self.fetches.next_due(now)
        if self.fetches.is_full(from_origin) and not self.fetches.is_late(now):
            return due
        return min(due, self.neighbours.next_free(now))

    # -- neighbours ------------------------------------------------------------------------------------------------

    def meet(self, neighbours: tuple[to_host.Neighbour, ...]) -> list[Instruction]:
        """These are neighbours from now on, each at its address."""
        for each in neighbours:
            self.neighbours.add(each.host, each.distance, self.fetches.asked_of(each.host))
        return [AddNeighbour(each) for each in neighbours]

    def part(self, hosts: Iterable[str]) -> list[Instruction]:
        """These are neighbours no longer."""
        return [each for host in hosts for each in self.drop(host, None)]

    def drop(self, host: str, fault: Fault | None) -> list[Instruction]:
        """Do without this neighbour; with a `fault`, the scheduler is asked for another."""
        if host not in self.neighbours:
            return []
        self.neighbours.remove(host)
        out: list[Instruction] = [*self.fetches.stop(host), RemoveNeighbour(host)]
        if fault is not None:
            out.append(Tell(NeighbourFailed(self.digest, host, fault)))
        return out

    def fetch_ended(self, event: FetchEnded, now: float) -> list[Instruction]:
        """A request to a neighbour has ended; what it says of that neighbour."""
        host, index, stops = self.fetches.ended(event, now)
        match event.outcome:
            case FetchOutcome.BUSY:
                is_full = self.neighbours.refused(host, now)
                needed = self.neighbours.held_by_none_but(host) & self.wanted() if is_full else 0
                return self.drop(host, Fault.FULL) if is_full and not needed else []
            case FetchOutcome.GONE:
                return self.drop(host, Fault.GONE)
            case FetchOutcome.CORRUPT:
                return [Tell(Corrupt(self.digest, self.generation, index, host)), *self.drop(host, None)]
            case _:
                return list(stops)

    # -- what they are told ----------------------------------------------------------------------------------------

    def offer(self, fresh: int) -> list[Instruction]:
        """They may have these pieces from now on."""
        if not fresh:
            return []
        hosts = self.neighbours.without(fresh)
        if not hosts:
            return []
        gained = tuple(link.Span(first, stop) for first, stop in spans(fresh))
        return [TellNeighbours(hosts, link.Have(self.digest, max(1, self.generation), gained))]

    def holds(self) -> link.Bitfield:
        """What to tell a neighbour that was just met."""
        return link.Bitfield(self.digest, max(1, self.generation), complete=False, have=bitfield(self.book.offered))

    def offer_all(self) -> list[Instruction]:
        """They may have the whole blob, for its SHA-256 is right."""
        everything = link.Bitfield(self.digest, max(1, self.generation), complete=True)
        return [TellNeighbours(tuple(self.neighbours), everything)]
