"""A download's part in the blob's swarm: its conversation with the scheduler, and what follows from that.

Rules:
1. A length that nobody but the swarm has said is hearsay until the origin, or the store, has said the same.
2. Without a scheduler, new pieces do not spread: nobody tells their digests. If every host of a swarm asked the origin
   for itself, each would get its share of the origin's line, and what the others get would be of no use to it. So only
   the hosts go on that had a lease when the scheduler was lost, one piece at a time. Leases are granted in the order of
   pieces, so each takes every LEASES-th piece after its last one: without a message, no two take the same. Any other
   host waits as long as a host alone would, once for each neighbour that lacks pieces, and then asks for itself.
3. If the swarm moves to another scheduler, what is under way goes on. The new scheduler hears which pieces the origin
   was asked for under a lease, and leases them again; if it does not, they are announced as they land. Neighbours stay
   for a while that it does not name.
4. What the swarm gets wrong ends the download: `ending` says so, and `peer.core.download` acts on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec.structs import replace

from peer.core.events import Instruction, Prepare, RangeOpened, StoreInlineBlob, Tell
from peer.core.membership import Membership, MembershipState
from peer.core.neighbours import EVERYTHING, Neighbours
from peer.core.origin_requests import OriginRequests
from peer.core.phase import DownloadCause
from peer.core.picker import PiecePicker
from peer.core.piece_sets import bitfield, indices, pieces_of, spans
from peer.core.pieces import PieceTracker
from peer.core.publisher import Publisher
from peer.core.readers import Readers
from peer.core.session import SchedulerSession, SessionState
from peer.core.spot_checks import SpotChecks
from scheduler.protocol import from_host, to_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.geometry import is_divisible, piece_length, said_piece_length

MAP_DISPROVED = "the swarm's map of this blob proved wrong, what was fetched by it is thrown away: ask again"
RESIZED = "a wrong length was said of this blob, what was fetched by it is thrown away: ask again"

FORMER_S: Final = 5.0
"""How long after a swarm has moved the neighbours stay that the scheduler before has named."""

LEASES: Final = 4
"""The leases of one blob that a scheduler grants at a time, unless its operator has set another number."""


class Ending(NamedTuple):
    """Why a download ends; `status` is the origin's answer to other hosts, or 0."""

    cause: DownloadCause
    reason: str
    status: int = 0


@dataclass(slots=True)
class SwarmMember:
    """One blob's swarm as this host sees it."""

    digest: bytes
    upstream: str
    repository: str
    pieces: PieceTracker
    readers: Readers
    origin: OriginRequests
    neighbours: Neighbours
    picker: PiecePicker
    session: SchedulerSession
    numbers: Iterator[int]
    beside_bytes: Callable[[bytes], int]
    scheduler_timeout_s: float
    progress_s: float
    membership: Membership = field(init=False)
    publisher: Publisher = field(init=False)
    spot_checks: SpotChecks = field(init=False)
    size_bytes: int | None = None
    """The blob's length, whoever has said it."""
    own_size_bytes: int | None = None
    """The blob's length, unless only the swarm has said it: what this host may tell others."""
    has_place: bool = False
    """The store has made room for the blob."""
    ending: Ending | None = None
    told_background: bool = False
    """What the scheduler was told last of who wants the blob here."""
    last_leased: int | None = None
    """The last piece that was leased to this host when the scheduler was lost."""
    spares_origin_until: float = 0.0
    """Without a scheduler, when this host asks the origin for all that it lacks (rule 2)."""
    moved: bool = False
    """Whether this host was a member of the swarm at another scheduler, and has no answer of this one yet."""
    former: set[str] = field(default_factory=set)
    """Neighbours that the scheduler before has named, and this one has not."""
    former_until: float = 0.0
    """When they are neighbours no longer."""

    def __post_init__(self) -> None:
        self.membership = Membership(self.scheduler_timeout_s)
        self.publisher = Publisher(
            self.digest,
            self.pieces,
            self.origin,
            self.neighbours,
            self.picker,
            self.membership,
            self.progress_s,
        )
        self.spot_checks = SpotChecks(self.digest, self.pieces, self.origin, self.numbers)

    def begin(self, size_bytes: int | None, now: float) -> list[Instruction]:
        """The store has said what it has; `size_bytes` is what it, or a manifest, says of the length."""
        self.own_size_bytes = size_bytes
        out = self._learn_size(size_bytes)
        if self.membership.state is MembershipState.ORIGIN_ONLY:  # the blob is private
            return out
        connected = self.session.state is SessionState.CONNECTED
        self.membership.wait(now, asked=connected)
        if connected:
            out += self.join(now)
        if self.session.state is SessionState.MISSING:
            self.open_origin(now)
        return out

    def join(self, now: float) -> list[Instruction]:
        """There is a scheduler: it is told what is held, and asked who has the rest."""
        if self.membership.state is MembershipState.ORIGIN_ONLY:
            return []
        if not self.session.knows_pieces(self.pieces.size_bytes, self.pieces.told_piece_length):
            self.open_origin(now, refused=True)
            return []
        self.membership.wait(now, asked=True)
        if self.moved:
            self.publisher.leases.carry()
        else:
            self.publisher.leases.clear()
        self.publisher.reports.begin(now)
        self.told_background = self.readers.preheats
        wanted = (self.digest, self.upstream, self.repository, self.size_bytes)
        join = from_host.Join(*wanted, background=self.told_background, moved=self.moved)
        if self.size_bytes is not None and is_divisible(self.size_bytes):
            if self.pieces.count:
                join = replace(join, piece_length=self.pieces.piece_length)
            else:
                join = replace(join, beside_bytes=self.beside_bytes(self.digest))
        if self.moved:
            join = replace(join, fetching=bitfield(self.publisher.leases.carried))
        holding = self.publisher.reports.holding(self.size_bytes)
        announced = [] if holding is None else [Tell(from_host.Announce((holding,)))]
        return [*announced, *self._needs(), Tell(join)]

    def _needs(self) -> list[Instruction]:
        """What clients wait for before all else: in usual pieces, while the swarm has not said how it is divided."""
        if self.pieces.count or self.size_bytes is None:
            return list(self.publisher.reports.needs(self.readers.urgent()))
        usual = self.readers.urgent_of(self.size_bytes, piece_length(self.size_bytes))
        return [Tell(from_host.Need(self.digest, first, stop)) for first, stop in spans(usual)]

    def move(self, session: SchedulerSession) -> None:
        """Another scheduler has the swarm from now on."""
        self.session = session
        self.moved = self.moved or self.membership.joined

    def end_former(self, now: float) -> list[Instruction]:
        """Neighbours that the scheduler before has named are none any more, once all have had the time to move."""
        if not self.former or now < self.former_until:
            return []
        idle = {host for host in self.former if not self.picker.requests.asked_of(host)}
        self.former -= idle
        self.former_until = now + FORMER_S
        return self.picker.remove(sorted(idle))

    def tell_priority(self) -> list[Instruction]:
        """Whether only preheats want the blob here: the scheduler was told otherwise."""
        if not self.membership.joined:
            return []
        self.told_background = self.readers.preheats
        return [Tell(from_host.Priority(self.digest, self.told_background))]

    def scheduler_lost(self) -> None:
        """The connection to the scheduler is lost."""
        leased = self.publisher.leases.all()
        self.last_leased = leased.bit_length() - 1 if leased else None

    def open_origin(self, now: float, *, refused: bool = False) -> None:
        """Everything may be asked of every neighbour, and of the origin, at once or in a while (rule 2)."""
        self.membership.open_origin(refused=refused)
        others = 0 if refused else self.neighbours.count_wanting()
        self.spares_origin_until = now + self.scheduler_timeout_s * others
        self.neighbours.open_far = EVERYTHING
        self.publisher.leases.clear()

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def on_message(self, message: ToHost, now: float) -> list[Instruction]:
        """The scheduler says something of the blob."""
        if self.ending is not None:
            return []
        match message:
            case to_host.Joined():
                return self._joined(message, now)
            case to_host.Sized(_, _, size_bytes, length):
                return self._told_size(size_bytes, length, now)
            case to_host.Neighbours(_, add, remove):
                self.former -= {each.host for each in add}
                return [*self.picker.remove(remove), *self.picker.add(add), *self._share_origin()]
            case to_host.PieceDigests(_, generation, runs) if generation == self.neighbours.generation:
                self.spot_checks.told(runs)
                return [*self.publisher.expect(runs, now), *self._yield_to_others()]
            case to_host.SpotCheck(_, generation) if generation == self.neighbours.generation:
                return self.spot_checks.requested(message, now)
            case to_host.Reset(_, generation):
                return self._new_map(generation, now)
            case to_host.Gateway(_, shares):
                self.neighbours.open_far = pieces_of(shares)
                return []
            case to_host.InlineBlob(_, data):
                return [StoreInlineBlob(self.digest, data)]
            case to_host.RequestDigests():
                return list(self.publisher.reports.digest_reports())
            case _:
                return self._on_message_of_origin(message, now)

    def _joined(self, message: to_host.Joined, now: float) -> list[Instruction]:
        self.membership.accept()
        self.neighbours.open_far = EVERYTHING
        early = self.publisher.leases.kept()
        out = self._new_map(message.generation, now)
        out += self._told_size(message.size_bytes, message.piece_length, now)
        if self.ending is not None:
            return out
        kept = {each.host for each in message.neighbours}
        others = [host for host in self.neighbours if host not in kept]
        if self.moved:
            self.former, self.former_until, self.moved = set(others), now + FORMER_S, False
        else:
            out += self.picker.remove(others)
        out += self.picker.add(message.neighbours)
        if message.neighbours:  # what was asked of the origin without a lease comes from them, or under one
            out += self.origin.cancel_within(~self.publisher.leases.carried)
        return out + [each for lease in early for each in self._on_message_of_origin(lease, now)]

    def _on_message_of_origin(self, message: ToHost, now: float) -> list[Instruction]:
        match message:
            case to_host.Lease() if self.membership.answer_due < math.inf:
                self.publisher.leases.keep(message)
            case to_host.Lease():
                return self.publisher.leased(message, now)
            case to_host.LeaseRevoked(lease, _, at_once):  # else the request goes on: the origin may be slow for all
                left = self.publisher.leases.revoke(lease)
                return list(self.origin.cancel_within(left)) if at_once else []
            case to_host.OriginRefused():
                self.open_origin(now, refused=True)
            case to_host.Failed(_, status, reason):
                settled = self.neighbours.generation == 1 and status not in (401, 403)  # these are each client's own
                if self.pieces.held and (not status or status >= 500):
                    settled = False  # clients have been sent some of it, and the origin may be well again in a moment
                if settled or not self.origin.sources:
                    return self._end(DownloadCause.REFUSED, reason, status)
                self.open_origin(now, refused=True)
            case _:
                pass
        return []

    def _told_size(self, size_bytes: int | None, length: int, now: float) -> list[Instruction]:
        """The scheduler says the blob's length, and how the swarm has divided it."""
        out = self._learn_size(size_bytes, length)
        if not size_bytes or self.ending is not None:
            return out
        if self.pieces.piece_length != said_piece_length(size_bytes, length):
            self.open_origin(now, refused=True)
            out.append(Tell(from_host.Leave(self.digest)))
        return out

    def _learn_size(self, size_bytes: int | None, length: int = 0) -> list[Instruction]:
        if size_bytes and size_bytes != self.size_bytes:
            if self.size_bytes is not None:
                return self._end(DownloadCause.MAP_WRONG, RESIZED)
            self.size_bytes = size_bytes
        return self.divide(length)

    def divide(self, length: int = 0) -> list[Instruction]:
        """Divide the blob into pieces, unless it is: as the scheduler says, or as usual if none will say otherwise."""
        if self.size_bytes is None or self.pieces.count:
            return []
        if self.membership.state is MembershipState.JOINING and is_divisible(self.size_bytes):
            return []
        self.pieces.learn_geometry(self.size_bytes, said_piece_length(self.size_bytes, length))
        return [] if self.has_place else [Prepare(self.digest, self.size_bytes, self.pieces.told_piece_length)]

    def _new_map(self, generation: int, now: float) -> list[Instruction]:
        """The map of this generation begins: what was received by the last one is doubtful."""
        if generation == self.neighbours.generation:
            return []
        doubtful = self.pieces.advertised & ~self.pieces.from_origin | self.pieces.asked_of_peers
        self.pieces.forget_map()
        self.spot_checks.clear()
        self.neighbours.begin_generation(generation)
        self.publisher.leases.clear()
        self.publisher.reports.hurry(now)
        return self._end(DownloadCause.MAP_WRONG, MAP_DISPROVED) if doubtful else []

    def _share_origin(self) -> list[Instruction]:
        """Other hosts take part: the origin is asked for what is leased, and no more."""
        if not self.membership.joined or not len(self.neighbours):
            return []
        return list(self.origin.trim(self.publisher.leases.all() | self.publisher.leases.carried))

    def _yield_to_others(self) -> list[Instruction]:
        """Ask neighbours for what the origin is asked for without a lease, now that a neighbour has it."""
        if not self.membership.joined:
            return []
        asked = self.pieces.asked_of_origin & self.pieces.known & ~self.pieces.held
        return list(self.origin.cancel_within(asked & ~self.publisher.leases.all()))

    # -- the origin ------------------------------------------------------------------------------------------------

    def opened(self, event: RangeOpened) -> list[Instruction]:
        """The origin has answered: its first answer tells the length, if nobody knew it."""
        if self.size_bytes not in (None, event.size_bytes):
            return self.resized(event.first, event.size_bytes)
        unknown, self.size_bytes, self.has_place = self.size_bytes is None, event.size_bytes, True
        self.own_size_bytes = event.size_bytes
        self.pieces.learn_geometry(event.size_bytes, event.piece_length)
        self.origin.answered = True
        self.pieces.narrow_range(event.request, event.first, event.stop)
        return list(self.publisher.leases.tell_length(event.first, event.size_bytes)) if unknown else []

    @property
    def is_size_proven(self) -> bool:
        """Whether the origin, or the store, has said the length. A manifest has its author's word."""
        return self.own_size_bytes is not None and self.origin.answered

    def resized(self, first: int, size_bytes: int) -> list[Instruction]:
        """The origin has another length than was said."""
        told = [] if self.is_size_proven else self.publisher.leases.tell_length(first, size_bytes)
        self.own_size_bytes = self.own_size_bytes if self.is_size_proven else size_bytes
        return [*told, *self._end(DownloadCause.MAP_WRONG, RESIZED)]

    def allowed(self, now: float) -> tuple[tuple[int, int], ...] | None:
        """What the origin may be asked for: all when nobody leases it, and nothing before the store has the blob."""
        if self.size_bytes is not None and not self.has_place:
            return ()
        if self.membership.origin_is_open:
            return None if now >= self.spares_origin_until else self._continued()
        return self.publisher.leases.spans()

    def _continued(self) -> tuple[tuple[int, int], ...]:
        """What a publisher goes on with without a scheduler: one piece that no neighbour holds."""
        pieces = self.pieces
        if self.last_leased is None or pieces.origin_requests:
            return ()
        lacking = pieces.everything & ~pieces.held & ~pieces.asked_of_peers & ~self.neighbours.held_by_any()
        own = (piece for piece in indices(lacking >> self.last_leased << self.last_leased))
        first = next((piece for piece in own if not (piece - self.last_leased) % LEASES), None)
        return () if first is None else ((first, first + 1),)

    def _end(self, cause: DownloadCause, reason: str, status: int = 0) -> list[Instruction]:
        self.ending = self.ending or Ending(cause, reason, status)
        return []
