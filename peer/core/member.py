"""A host's part in one blob's swarm: pieces from neighbours, and from the origin what the scheduler leases.

It stands on `Download`, which knows what to ask of the origin; this machine says which pieces may be asked there, and
brings in the others. Rules:

1. No I/O and no clock. `handle(event, now)` is the only mutator.
2. A piece is asked of a neighbour only when its digest is known, and a digest is believed only from the scheduler.
3. The origin is asked under a lease, unless there is no scheduler: it is gone for longer than `patience_s`, or has not
   answered for some times that long. Then every piece may be asked there.
4. What is held, known and offered to neighbours is in the `PieceBook`.
5. When the swarm's map proves wrong, what was fetched by it is not to be trusted: the download ends, its bytes are
   thrown away, and the client that asks again finds the new map. No client got a complete wrong blob meanwhile, for the
   last piece waits for the blob's SHA-256.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from peer.core import origin_events as origin_side
from peer.core.download import Download
from peer.core.exchange import Exchange
from peer.core.leases import Leases
from peer.core.neighbours import EVERYTHING
from peer.core.origin_events import Outcome, Phase
from peer.core.piece_book import PieceBook
from peer.core.piece_sets import mask, pieces_of, union
from peer.core.reports import Reports
from peer.core.standing import Standing, State
from peer.core.swarm_events import (
    Begun,
    Event,
    FetchEnded,
    FromNeighbour,
    FromScheduler,
    GiveUp,
    Instruction,
    NeighbourLost,
    OriginOpened,
    Prepare,
    Prepared,
    Resized,
    SchedulerFound,
    SendInlineBlob,
    StoreInlineBlob,
    Tell,
    in_short,
)
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.fields import MAX_INLINE_BYTES
from scheduler.protocol.from_host import Fault, LeaseOutcome
from scheduler.protocol.geometry import MAX_PIECES, piece_length
from scheduler.protocol.inline_blob import InlineBlob

DISPROVED = "the swarm's map of this blob proved wrong, what was fetched by it is thrown away: ask again"
RESIZED = "the swarm said a wrong length of this blob, what was fetched by it is thrown away: ask again"


@dataclass(slots=True)
class Member:
    """One blob's swarm as this host sees it. `digest` is raw; the place is where its own client may have the blob."""

    download: Download
    digest: bytes
    upstream: str
    repository: str
    patience_s: float
    progress_s: float = 2.0
    standing: Standing = field(init=False)
    book: PieceBook = field(default_factory=PieceBook)
    exchange: Exchange = field(init=False)
    _leases: Leases = field(init=False)
    _reports: Reports = field(init=False)
    _prepared: bool = False
    own_size_bytes: int | None = None
    """The blob's length, unless only the swarm has said it: what this host may tell others."""
    _size_bytes: int | None = None
    _owes_content: bool = False
    _given_up: bool = False
    _now: float = 0.0
    _due: float | None = None
    _due_is_known: bool = False
    _story: deque[tuple[float, Event]] = field(init=False)

    def __post_init__(self) -> None:
        self.exchange = Exchange(self.digest, self.book)
        self._leases = Leases(self.digest, self.book)
        self._reports = Reports(self.digest, self.book, self.progress_s)
        self.standing = Standing(self.patience_s)
        self._story = deque(maxlen=self.download.remembers)
        self.download.allowed = ()

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event at monotonic time `now` (seconds) and say what is to be done."""
        self._now = now
        self._story.append((now, event))
        if self.is_over():
            return list(self.download.handle(event, now)) if isinstance(event, origin_side.Event) else []
        if isinstance(event, FromNeighbour) and self._changes_nothing(event, now):
            return []
        self._due_is_known = False
        out = self._take_in(event, now)
        if self._given_up:
            return out
        if isinstance(event, origin_side.Event) and not isinstance(event, origin_side.BlobVerified):
            self.download.allowed = self._allowed()
            out += self.download.handle(event, now)
            if isinstance(event, origin_side.PieceLanded) and event.transfer is None and self._is_fetched(event.index):
                return out  # the end of its request follows at once: what is next is decided then
        return out if self.is_over() else [*out, *self._keep_going(now)]

    def is_over(self) -> bool:
        """The download has ended, or is about to."""
        return self._given_up or self.download.phase is not Phase.FETCHING

    def next_deadline(self) -> float | None:
        """When `Tick` is due; None once it is over. What was due by the last event has been seen to."""
        if self.is_over():
            return None
        if not self._due_is_known:
            due = self.exchange.next_due(self._from_origin(), self._now)
            if self.standing.joined:
                due = min(due, self._reports.next_due(self._now))
            for when in (self.download.next_deadline(), self.standing.answer_due):
                if when is not None and self._now < when < due:
                    due = when
            self._due = None if due == math.inf else due
            self._due_is_known = True
        return self._due

    @property
    def generation(self) -> int:
        """Of the piece map that this host goes by; 0 before it has heard of any."""
        return self.exchange.generation

    def story(self) -> list[str]:
        """The last events, oldest first: what to log beside an error."""
        return [f"{now:.3f} {in_short(event)}" for now, event in self._story]

    def may_serve(self, start: int, stop: int) -> bool:
        """Whether neighbours may have bytes `[start, stop)` of the blob now."""
        length = self.download.piece_length
        if not length or stop > self.download.size_bytes:
            return False
        wanted = mask(start // length, -(-stop // length))
        return not wanted & ~self.book.offered

    def holding(self) -> from_host.Holding | None:
        """What to announce to a scheduler that is new; None when there is nothing to tell."""
        return self._reports.holding(self._size_bytes)

    def holds(self) -> link.Bitfield:
        """What to tell a neighbour that was just met."""
        return self.exchange.holds()

    def _changes_nothing(self, event: FromNeighbour, now: float) -> bool:
        """Take a neighbour's news in; most are of pieces that nobody here waits for, or is free to ask for."""
        exchange = self.exchange
        fresh = exchange.neighbours.on_message(event.host, event.message)
        if not self._due_is_known or (self._due is not None and self._due <= now):
            return False
        if not exchange.neighbours.may_be_asked(event.host, now):
            return True
        if exchange.fetches.is_late(now):
            return False
        from_origin = self._from_origin()
        return exchange.fetches.is_full(from_origin) or not fresh & exchange.missing(from_origin)

    def _is_fetched(self, index: int) -> bool:
        return bool(self.exchange.fetches.pieces >> index & 1)

    def _take_in(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case FromScheduler(message):
                return self._hear(message, now)
            case FromNeighbour():
                pass  # it has been heard
            case FetchEnded():
                return self.exchange.fetch_ended(event, now)
            case NeighbourLost(host):
                return self.exchange.drop(host, Fault.GONE)
            case origin_side.PieceLanded(transfer, index, digest):
                return self._landed(transfer, index, digest, now)
            case origin_side.TransferOpened():
                return self._opened(event)
            case origin_side.TransferEnded(transfer, outcome, status):
                return self._lease_ended(transfer, outcome, status)
            case origin_side.BlobVerified(ok):
                return self._verified(event, now) if ok else self._disproved(event, now)
            case _:
                return self._change_standing(event, now)
        return []

    # -- standing --------------------------------------------------------------------------------------------------

    def _change_standing(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case Begun(connected, size_bytes):
                self.own_size_bytes = size_bytes
                prepared = self._learn_size(size_bytes)
                self.standing.wait(now, asked=connected)
                return [*prepared, *self._join(now)] if connected else prepared
            case Prepared():
                self._prepared = True
            case Resized(transfer, size_bytes) if self.own_size_bytes is None:  # else the origin contradicts itself
                return self._resized(self.download.span_of(transfer)[0], size_bytes)
            case SchedulerFound() if self.standing.state is not State.EXPELLED:
                return self._join(now)
            case OriginOpened():
                self._do_alone()
            case _:
                pass
        return []

    def _join(self, now: float) -> list[Instruction]:
        self.standing.wait(now, asked=True)
        self._leases.clear()
        self._reports.begin(now)
        join = Tell(from_host.Join(self.digest, self.upstream, self.repository, self._size_bytes))
        holding = self.holding()
        announced = [] if holding is None else [Tell(from_host.Announce((holding,)))]
        return [*announced, *self._reports.needs(self._urgent()), join]

    def _do_alone(self, *, for_good: bool = False) -> None:
        self.standing.be_alone(for_good=for_good)
        self.exchange.neighbours.open_far = EVERYTHING
        self._leases.clear()

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def _hear(self, message: ToHost, now: float) -> list[Instruction]:
        match message:
            case to_host.Joined():
                return self._joined(message, now)
            case to_host.Sized(_, _, size_bytes):
                return self._learn_size(size_bytes)
            case to_host.Neighbours(_, add, remove):
                return [*self.exchange.part(remove), *self.exchange.meet(add)]
            case to_host.PieceDigests(_, generation, runs) if generation == self.generation:
                return [each for run in runs for each in self._offer(self.book.learn(run.first, run.digests), now)]
            case to_host.Reset(_, generation):
                return self._new_map(generation)
            case to_host.Gateway(_, shares):
                self.exchange.neighbours.open_far = pieces_of(shares)
                return []
            case InlineBlob(_, data):
                return [StoreInlineBlob(data)]
            case to_host.RequestDigests():
                return list(self._reports.recalled())
            case _:
                return self._hear_of_origin(message, now)

    def _joined(self, message: to_host.Joined, now: float) -> list[Instruction]:
        self.standing.join()
        self.exchange.neighbours.open_far = EVERYTHING
        early = self._leases.kept()
        out = [*self._new_map(message.generation), *self._learn_size(message.size_bytes)]
        if self._given_up:
            return out
        kept = {each.host for each in message.neighbours}
        out += self.exchange.part([host for host in self.exchange.neighbours if host not in kept])
        out += self.exchange.meet(message.neighbours)
        if message.neighbours:  # what was asked of the origin without a lease comes from them, or under one
            out += self.download.stop_within(0, MAX_PIECES)
        return out + [each for lease in early for each in self._hear_of_origin(lease, now)]

    def _hear_of_origin(self, message: ToHost, now: float) -> list[Instruction]:
        match message:
            case to_host.Lease() if self.standing.answer_due is not None:
                self._leases.keep(message)
            case to_host.Lease(generation=generation):
                usable = self.standing.joined and generation == self.generation
                if not usable or not self.download.has_source:
                    return self._give_back(message.lease)
                return self._publish(self._leases.take(message), now)
            case to_host.LeaseRevoked(lease, _):
                return list(self.download.stop_within(*self._leases.revoke(lease)))
            case to_host.OriginRefused():
                self._do_alone(for_good=True)
            case to_host.Failed(_, status, reason):
                settled = self.generation == 1 and status not in (401, 403)  # these are each client's own
                if settled or not self.download.has_source:
                    return self._give_up(GiveUp(reason, status))
                self._do_alone(for_good=True)
            case _:
                pass
        return []

    def _learn_size(self, size_bytes: int | None) -> list[Instruction]:
        if not size_bytes or size_bytes == self._size_bytes:
            return []
        if self._size_bytes is not None:
            return self._give_up(GiveUp(RESIZED, tainted=True))
        self._size_bytes = size_bytes
        if self.download.held is None:
            self.download.learn_geometry(size_bytes, piece_length(size_bytes), hearsay=True)
        return [] if self._prepared else [Prepare(size_bytes)]

    def _new_map(self, generation: int) -> list[Instruction]:
        """The map of this generation begins (rule 5)."""
        if generation == self.generation:
            return []
        tainted = self.book.offered & ~self.book.vouched | self.exchange.fetches.pieces
        self.book.forget_map()
        self.exchange.neighbours.begin_generation(generation)
        self._leases.clear()
        self._reports.hurry(self._now)
        return self._give_up(GiveUp(DISPROVED, tainted=True)) if tainted else []

    def _give_up(self, reason: GiveUp) -> list[Instruction]:
        """The shell stops the download at once; nothing new is begun."""
        self._given_up = True
        return [reason]

    # -- the origin ------------------------------------------------------------------------------------------------

    def _opened(self, event: origin_side.TransferOpened) -> list[Instruction]:
        """The origin's first answer tells the length, if nobody knew it."""
        if self._size_bytes not in (None, event.size_bytes):
            return self._resized(event.first, event.size_bytes)
        unknown, self._size_bytes, self._prepared = self._size_bytes is None, event.size_bytes, True
        self.own_size_bytes = event.size_bytes
        return list(self._leases.tell_length(event.first, event.size_bytes)) if unknown else []

    def _resized(self, first: int, size_bytes: int) -> list[Instruction]:
        """The origin has another length than was said."""
        told = self._leases.tell_length(first, size_bytes) if self.own_size_bytes is None else []
        self.own_size_bytes = self.own_size_bytes or size_bytes
        return [*told, *self._give_up(GiveUp(RESIZED, tainted=True))]

    def _lease_ended(self, transfer: int, outcome: Outcome, status: int) -> list[Instruction]:
        """What a transfer from the origin has left of its lease is for another host."""
        if outcome is Outcome.DONE:
            return []
        first, stop = self.download.span_of(transfer)
        span = mask(first, stop) if stop is not None else -1
        how = LeaseOutcome.REFUSED if outcome is Outcome.REFUSED and status else LeaseOutcome.FAILED
        return list(self._leases.end_within(span, how, status))

    def _give_back(self, lease: int) -> list[Instruction]:
        """It is for another host. If we had some of it from others, the scheduler does not know that yet."""
        self._leases.revoke(lease)
        how = LeaseOutcome.RETURNED if self.download.has_source else LeaseOutcome.FAILED
        report = self._reports.progress(self.generation) if self.standing.joined else []
        return [*report, Tell(from_host.LeaseEnded(lease, self.digest, how))]

    def _publish(self, lease: int, now: float) -> list[Instruction]:
        """Tell the digests of what has landed of a lease; neighbours may have it at once."""
        ready = self._leases.take_landed(lease, self._everything())
        if self._is_tiny():
            self._owes_content = self._owes_content or bool(ready)
            return []
        out = [*self._leases.published(lease, ready), *self._offer(self.book.publish(ready), now)]
        return [*out, *self._give_back(lease)] if self._leases.is_stuck(lease, self._everything()) else out

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _landed(self, transfer: int | None, index: int, digest: bytes, now: float) -> list[Instruction]:
        out = self._offer(self.book.land(index, digest, from_origin=transfer is not None), now)
        lease = self._leases.of_piece(index)
        return out if lease is None else [*self._publish(lease, now), *out]

    def _offer(self, fresh: int, now: float) -> list[Instruction]:
        """Neighbours may have these pieces from now on, and the scheduler hears of it in time."""
        if fresh:
            self._reports.gained(now)
        return self.exchange.offer(fresh)

    def _verified(self, event: origin_side.BlobVerified, now: float) -> list[Instruction]:
        """The SHA-256 is right. A map that has another digest for a piece of ours is wrong, and is not to be sealed."""
        generation = max(1, self.generation)
        disproved: list[Instruction] = [Tell(from_host.Disproved(self.digest, generation))]
        return [
            *(disproved if self.standing.joined and self.book.contradicts() else []),
            SendInlineBlob() if self._owes_content else Tell(from_host.Sealed(self.digest, generation)),
            *self.exchange.offer_all(),
            *self.download.handle(event, now),
        ]

    def _disproved(self, event: origin_side.BlobVerified, now: float) -> list[Instruction]:
        """The SHA-256 is wrong. If every piece is as the map says, the map is wrong; else what we had ourselves is.

        Where all of it came from the origin to this host, the map is what the origin sent, and the client is told so.
        """
        if not self.standing.joined or not self.book.agrees():
            return list(self.download.handle(event, now))
        told = Tell(from_host.Disproved(self.digest, self.generation))
        if self.book.vouched == self._everything():
            return [told, *self.download.handle(event, now)]
        return [told, *self._give_up(GiveUp(DISPROVED, tainted=True))]

    # -- what next -------------------------------------------------------------------------------------------------

    def _keep_going(self, now: float) -> list[Instruction]:
        if self.standing.is_overdue(now):
            self._do_alone()
        out: list[Instruction] = []
        urgent = self._urgent()
        if self._prepared:
            out += self.exchange.go_on(urgent, self._from_origin(), now)
        if self.standing.joined and self._size_bytes is not None:
            under_way = len(self.exchange.fetches) or len(self._leases) or self.download.spans()
            busy = bool(under_way) or self.book.held == self._everything()
            out += self._reports.due(self.generation, busy=busy, now=now)
            if urgent:
                out += self._reports.needs(urgent)
        return [*out, *self.download.go_on(self._allowed(), self.exchange.fetches.pieces)]

    def _allowed(self) -> tuple[tuple[int, int], ...] | None:
        """What the origin may be asked for: all when nobody leases it, and nothing before the store has the blob."""
        if self._size_bytes is not None and not self._prepared:
            return ()
        if self.standing.origin_is_open:
            return None
        return self._leases.spans() if self._leases else ()

    def _from_origin(self) -> int:
        """The pieces that the origin is asked for now."""
        spans = self.download.spans()
        return union((first, stop or self._piece_count()) for first, stop in spans) if spans else 0

    def _urgent(self) -> int:
        """What clients wait for that asked for a range, rather than for the blob from here to its end."""
        ranges = self.download.urgent_ranges()
        return union(ranges) & self._everything() if ranges else 0

    def _is_tiny(self) -> bool:
        """Whether the blob travels whole in messages, and without neighbours."""
        return self._size_bytes is not None and self._size_bytes <= MAX_INLINE_BYTES

    def _everything(self) -> int:
        return mask(0, self._piece_count())

    def _piece_count(self) -> int:
        """How many pieces the blob has; 0 as long as nobody knows."""
        return 0 if self.download.held is None else self.download.held.count

    def validate(self) -> None:
        """Raise AssertionError, with the story, if an invariant does not hold. Looks at every piece: for tests."""
        try:
            self._validate()
        except AssertionError as error:
            raise AssertionError("\n  ".join([str(error), *self.story()])) from error

    def _validate(self) -> None:
        self.book.validate()
        if self.is_over():
            return
        self.download.validate()
        self._leases.validate()
        self.exchange.fetches.validate()
        assert set(self.download.held or ()) == set(self.book.own), "the download holds other pieces"
        assert not self.exchange.fetches.pieces & ~self.book.known, "a piece is fetched whose digest is not known"
        assert not len(self._leases) or self.standing.joined, "a lease from nobody"
        self.standing.validate()
        assert (self.next_deadline() or float("inf")) > self._now, "what is due was not seen to"
