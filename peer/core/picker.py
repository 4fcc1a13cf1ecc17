"""Which piece is asked of which neighbour, and what neighbours are told in return.

Rules:
1. A piece is asked of a neighbour only when its digest is known, and nobody else is asked for it.
2. A neighbour that is gone, slow, full or corrupt is dropped at once, and the scheduler is asked for another. A full or
   slow neighbour that holds what no other neighbour does is waited for.
3. What is asked for first: what clients wait for, then the first gap once enough pieces are held behind it, then the
   rarest piece (`peer.core.neighbours`).
4. A piece is advertised to all neighbours that lack it as soon as it matches the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from peer.core.events import Instruction, PeerOutcome, Tell, TellNeighbours
from peer.core.link_book import LinkBook
from peer.core.neighbours import EVERYTHING, Neighbours
from peer.core.peer_requests import PeerRequests
from peer.core.piece_sets import bitfield, spans
from peer.core.pieces import PieceTracker
from scheduler.protocol import link, to_host
from scheduler.protocol.from_host import Corrupt, Fault, NeighbourFailed


@dataclass(slots=True)
class PiecePicker:
    """The exchange of one download with its neighbours."""

    digest: bytes
    pieces: PieceTracker
    links: LinkBook
    numbers: Iterator[int]
    neighbours: Neighbours = field(default_factory=Neighbours)
    requests: PeerRequests = field(init=False)
    _awaited: int = 0
    """The pieces that are asked for as soon as a neighbour has them. While a piece is late, any news counts."""

    def __post_init__(self) -> None:
        self.requests = PeerRequests(self.digest, self.pieces, self.neighbours, self.numbers)

    def go_on(self, urgent: int, now: float) -> list[Instruction]:
        """Ask for what can be asked for, the `urgent` pieces first, and drop neighbours that take too long."""
        out: list[Instruction] = []
        late = now >= self.requests.late_at()
        if late:
            for host in self.requests.slow_hosts(now):
                out += self.drop(host, Fault.SLOW)
        out += self.requests.start(urgent, now)
        if late and not self.pieces.requestable & self.neighbours.held_by_any():
            out += self.requests.hedge(now)
        return out

    def settle(self, now: float) -> float:
        """Nothing is left to do now. Returns when something of `go_on` will be due; infinity if nothing will."""
        pieces, due = self.pieces, self.requests.late_at()
        if due <= now:
            self._awaited, due = EVERYTHING, self.requests.next_due(now)
        elif self.requests.is_full():
            self._awaited = pieces.requestable & pieces.sampled if pieces.samples else 0
            return due
        else:
            self._awaited = pieces.requestable
        return min(due, self.neighbours.next_free(now))

    def is_indifferent(self, host: str, fresh: int, now: float) -> bool:
        """Whether `host` holding the pieces `fresh` too changes nothing of what is asked of whom since `settle`."""
        if self._awaited == EVERYTHING:
            return False
        return not fresh & self._awaited or not self.neighbours.may_be_asked(host, now)

    # -- neighbours ------------------------------------------------------------------------------------------------

    def add(self, neighbours: tuple[to_host.Neighbour, ...]) -> list[Instruction]:
        """These are neighbours from now on; each is told what is held here."""
        out: list[Instruction] = []
        for each in neighbours:
            self.neighbours.add(each.host, each.distance, self.requests.asked_of(each.host))
            out += self.links.want(self.digest, each)
            out.append(TellNeighbours((each.host,), self.bitfield()))
        return out

    def remove(self, hosts: Iterable[str]) -> list[Instruction]:
        """These are neighbours no longer."""
        return [each for host in hosts for each in self.drop(host, None)]

    def drop(self, host: str, fault: Fault | None) -> list[Instruction]:
        """Do without this neighbour; with a `fault`, the scheduler is asked for another."""
        if host not in self.neighbours:
            return []
        self.neighbours.remove(host)
        out: list[Instruction] = [*self.requests.cancel_host(host), *self.links.unwant(self.digest, host)]
        if fault is not None:
            out.append(Tell(NeighbourFailed(self.digest, host, fault)))
        return out

    def failed(self, request: int, outcome: PeerOutcome, now: float) -> list[Instruction]:
        """A request to a neighbour has brought nothing; what that says of the neighbour."""
        ended = self.requests.failed(request, outcome)
        match outcome:
            case PeerOutcome.CHOKED:
                is_full = self.neighbours.refused(ended.host, now)
                needed = self.neighbours.held_by_none_but(ended.host) & self.pieces.wanted if is_full else 0
                return self.drop(ended.host, Fault.FULL) if is_full and not needed else []
            case PeerOutcome.GONE:
                return self.drop(ended.host, Fault.GONE)
            case PeerOutcome.CORRUPT:
                corrupt = Tell(Corrupt(self.digest, self.neighbours.generation, ended.index, ended.host))
                return [corrupt, *self.drop(ended.host, None)]
            case PeerOutcome.CANCELLED | PeerOutcome.DIFFERS:
                return []

    # -- what they are told ----------------------------------------------------------------------------------------

    def advertise(self, fresh: int) -> list[Instruction]:
        """Neighbours may have these pieces from now on."""
        if not fresh:
            return []
        hosts = self.neighbours.without(fresh)
        if not hosts:
            return []
        gained = tuple(link.Span(first, stop) for first, stop in spans(fresh))
        return [TellNeighbours(hosts, link.Have(self.digest, max(1, self.neighbours.generation), gained))]

    def bitfield(self) -> link.Bitfield:
        """What to tell a neighbour that was just added."""
        have = bitfield(self.pieces.advertised)
        return link.Bitfield(self.digest, max(1, self.neighbours.generation), complete=False, have=have)

    def advertise_all(self) -> list[Instruction]:
        """Neighbours may have the whole blob: its SHA-256 is right."""
        everything = link.Bitfield(self.digest, max(1, self.neighbours.generation), complete=True)
        return [TellNeighbours(tuple(self.neighbours), everything)]
