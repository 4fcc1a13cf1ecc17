"""A host's part in one blob's swarm: pieces from neighbours, and from the origin what the scheduler leases.

It stands on `Download`, which knows what to ask of the origin; this machine says which pieces may be asked there, and
brings in the others. Rules:

1. No I/O and no clock. `handle(event, now)` is the only mutator.
2. A piece is asked of a neighbour only when its digest is known, and a digest is believed only from the scheduler.
3. The origin is asked under a lease, unless there is no scheduler: it is gone for longer than `patience_s`, or has not
   answered for so long. Then every piece may be asked there.
4. A piece is offered to neighbours once its bytes match the map of this generation.
5. When the swarm's map proves wrong, what was fetched by it is not to be trusted: the download ends, its bytes are
   thrown away, and the client that asks again finds the new map. No client got a complete wrong blob meanwhile, for the
   last piece waits for the blob's SHA-256.

Standing with the scheduler:

    ALONE    --Begun, SchedulerFound--> JOINING --Joined--> JOINED     (JOINING: the origin is closed, yet)
    JOINING  --patience, OriginOpened--> ALONE <--OriginOpened-- JOINED
    JOINING, JOINED --OriginRefused--> EXPELLED (this host's client gets the origin's own answer)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from peer.core import download as origin_side
from peer.core.download import Download, Outcome
from peer.core.fetches import MAX_FETCHES, Fetches
from peer.core.neighbours import Neighbours
from peer.core.piece_sets import bitfield, digest_runs, mask, spans
from peer.core.swarm_events import (
    Begun,
    Deliver,
    Event,
    FetchEnded,
    FetchOutcome,
    FromNeighbour,
    FromScheduler,
    GiveUp,
    Instruction,
    Meet,
    NeighbourLost,
    OriginOpened,
    Part,
    Prepare,
    Prepared,
    SchedulerFound,
    Tell,
    TellContent,
    TellNeighbours,
)
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import OnLink, ToHost
from scheduler.protocol.content import Content
from scheduler.protocol.fields import DIGEST_BYTES, MAX_CONTENT_BYTES
from scheduler.protocol.from_host import Fault, LeaseOutcome
from scheduler.protocol.geometry import piece_length

STARVING_AFTER_S = 1.0
"""How long nothing may be left to ask of anybody until the scheduler is told."""

DISPROVED = "the swarm's map of this blob proved wrong, what was fetched by it is thrown away: ask again"


class Standing(Enum):
    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    EXPELLED = "expelled"


@dataclass(frozen=True, slots=True)
class _Lease:
    first: int
    stop: int


@dataclass(slots=True)
class Member:
    """One blob's swarm as this host sees it. `digest` is raw; the place is where its own client may have the blob."""

    download: Download
    digest: bytes
    upstream: str
    repository: str
    patience_s: float
    progress_s: float = 2.0
    standing: Standing = Standing.ALONE
    generation: int = 0
    neighbours: Neighbours = field(default_factory=Neighbours)
    offered: int = 0
    """Pieces that neighbours may have, as a set; so are `_known`, `_held` and `_published`."""
    _expected: dict[int, bytes] = field(default_factory=dict)
    _known: int = 0
    _own: dict[int, bytes] = field(default_factory=dict)
    _held: int = 0
    _published: int = 0
    _leases: dict[int, _Lease] = field(default_factory=dict)
    _fetches: Fetches = field(init=False)
    _prepared: bool = False
    _size_bytes: int | None = None
    _answer_due: float | None = None
    _progress_due: float | None = None
    _told: int = 0
    _idle_since: float | None = None

    def __post_init__(self) -> None:
        self._fetches = Fetches(self.neighbours)
        self.download.allowed = ()

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event at monotonic time `now` (seconds) and say what is to be done."""
        if self.download.is_over():
            return list(self.download.handle(event, now)) if isinstance(event, origin_side.Event) else []
        out = self._take_in(event, now)
        if isinstance(event, origin_side.Event) and not isinstance(event, origin_side.BlobVerified):
            out += self.download.handle(event, now)
        return out if self.download.is_over() else [*out, *self._keep_going(now)]

    def next_deadline(self) -> float | None:
        """When `Tick` is due."""
        deadlines = [self.download.next_deadline(), self._answer_due, *self._fetches.deadlines()]
        if self.standing is Standing.JOINED:
            deadlines.append(self._progress_due)
            deadlines.append(None if self._idle_since is None else self._idle_since + STARVING_AFTER_S)
        if len(self._fetches) < MAX_FETCHES:
            deadlines.append(self.neighbours.next_free(self._missing()))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def may_serve(self, start: int, stop: int) -> bool:
        """Whether neighbours may have bytes `[start, stop)` of the blob now."""
        length = self.download.piece_length
        if not length or stop > self.download.size_bytes:
            return False
        wanted = mask(start // length, -(-stop // length))
        return not wanted & ~self.offered

    def holding(self) -> from_host.Holding | None:
        """What to announce to a scheduler that is new; None when there is nothing to offer."""
        if not self.offered or self._size_bytes is None:
            return None
        return from_host.Holding(self.digest, self._size_bytes, complete=False, have=bitfield(self.offered))

    def holds(self) -> link.Holds:
        """What to tell a neighbour that was just met."""
        return link.Holds(self.digest, max(1, self.generation), complete=False, have=bitfield(self.offered))

    def _take_in(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case FromScheduler(message):
                return self._hear(message, now)
            case FromNeighbour(host, news):
                self._news(host, news)
            case FetchEnded(number, outcome):
                return self._fetch_ended(number, outcome, now)
            case NeighbourLost(host):
                return self._drop_neighbour(host, Fault.GONE)
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
                prepared = self._learn_size(size_bytes)
                self.standing, self._answer_due = Standing.JOINING, now + self.patience_s
                return [*prepared, *self._join(now)] if connected else prepared
            case Prepared():
                self._prepared = True
            case SchedulerFound() if self.standing is not Standing.EXPELLED:
                return self._join(now)
            case OriginOpened():
                self._stand_alone()
            case _:
                pass
        return []

    def _join(self, now: float) -> list[Instruction]:
        self.standing = Standing.JOINING
        self._answer_due = now + self.patience_s
        self._leases.clear()
        join = Tell(from_host.Join(self.digest, self.upstream, self.repository, self._size_bytes))
        holding = self.holding()
        return [join] if holding is None else [Tell(from_host.Announce((holding,))), join]

    def _stand_alone(self) -> None:
        if self.standing is not Standing.EXPELLED:
            self.standing = Standing.ALONE
        self._answer_due = None
        self._leases.clear()

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def _hear(self, message: ToHost, now: float) -> list[Instruction]:
        match message:
            case to_host.Joined(_, generation, size_bytes, _, neighbours):
                self.standing = Standing.JOINED
                self._answer_due = None
                renewed = self._new_map(generation)
                return [*renewed, *self._learn_size(size_bytes), *self._meet(neighbours)]
            case to_host.Sized(_, _, size_bytes):
                return self._learn_size(size_bytes)
            case to_host.Neighbours(_, add, remove):
                parted = [each for host in remove for each in self._drop_neighbour(host, None)]
                return [*parted, *self._meet(add)]
            case to_host.PieceDigests(_, generation, runs) if generation == self.generation:
                return [each for run in runs for each in self._learn_digests(run, now)]
            case to_host.Reset(_, generation):
                return self._new_map(generation)
            case Content(_, data):
                return [Deliver(data)]
            case to_host.Recall():
                return self._recall()
            case _:
                return self._hear_of_origin(message)

    def _hear_of_origin(self, message: ToHost) -> list[Instruction]:
        match message:
            case to_host.Lease(lease, _, generation, first, stop, _):
                usable = self.standing is Standing.JOINED and self.download.has_source
                if generation != self.generation or not usable:
                    return [Tell(from_host.LeaseEnded(lease, self.digest, LeaseOutcome.RETURNED))]
                self._leases[lease] = _Lease(first, stop)
            case to_host.LeaseRevoked(lease, _):
                revoked = self._leases.pop(lease, None)
                if revoked is not None:
                    within = self.download.transfers_within(revoked.first, revoked.stop)
                    return [origin_side.StopTransfer(transfer) for transfer in within]
            case to_host.OriginRefused():
                self.standing = Standing.EXPELLED
                self._stand_alone()
            case to_host.Failed(_, status, reason):
                return [GiveUp(reason, status)]
            case _:
                pass
        return []

    def _learn_size(self, size_bytes: int | None) -> list[Instruction]:
        if not size_bytes or self._size_bytes is not None:
            return []
        self._size_bytes = size_bytes
        if self.download.held is None:
            self.download.learn_geometry(size_bytes, piece_length(size_bytes))
        return [] if self._prepared else [Prepare(size_bytes)]

    def _new_map(self, generation: int) -> list[Instruction]:
        """The map of this generation begins (rule 5)."""
        if generation == self.generation:
            return []
        tainted = any(self._expected.get(index) == own for index, own in self._own.items())
        self.generation = generation
        self._expected.clear()
        self._known = self.offered = 0
        self._leases.clear()
        self.neighbours.forget_holdings()
        return [GiveUp(DISPROVED, tainted=True)] if tainted else []

    def _learn_digests(self, run: to_host.Run, now: float) -> list[Instruction]:
        matching = 0
        for offset in range(len(run.digests) // DIGEST_BYTES):
            index = run.first + offset
            digest = run.digests[offset * DIGEST_BYTES : (offset + 1) * DIGEST_BYTES]
            self._expected[index] = digest
            self._known |= 1 << index
            if self._own.get(index) == digest:
                matching |= 1 << index
        return self._offer(matching, now)

    def _recall(self) -> list[Instruction]:
        """Tell the digests that we go by: the scheduler has lost them."""
        runs = list(digest_runs(self._expected)) or [(0, b"")]
        return [
            Tell(from_host.Recalled(self.digest, first, digests, last=number == len(runs)))
            for number, (first, digests) in enumerate(runs, 1)
        ]

    # -- the origin ------------------------------------------------------------------------------------------------

    def _opened(self, event: origin_side.TransferOpened) -> list[Instruction]:
        """The origin's first answer tells the length, if nobody knew it."""
        unknown, self._size_bytes, self._prepared = self._size_bytes is None, event.size_bytes, True
        leases = [number for number, lease in self._leases.items() if lease.first == event.first]
        return [Tell(from_host.Length(leases[0], self.digest, event.size_bytes))] if unknown and leases else []

    def _lease_ended(self, transfer: int, outcome: Outcome, status: int) -> list[Instruction]:
        """What a transfer from the origin has left of its lease is for another host."""
        if outcome is Outcome.DONE:
            return []
        first, stop = self.download.span_of(transfer)
        how = LeaseOutcome.REFUSED if outcome is Outcome.REFUSED and status else LeaseOutcome.FAILED
        out: list[Instruction] = []
        for number, lease in list(self._leases.items()):
            if first < lease.stop and (stop is None or lease.first < stop):
                del self._leases[number]
                out.append(Tell(from_host.LeaseEnded(number, self.digest, how, status)))
        return out

    # -- neighbours ------------------------------------------------------------------------------------------------

    def _meet(self, neighbours: tuple[to_host.Neighbour, ...]) -> list[Instruction]:
        for each in neighbours:
            self.neighbours.add(each.host, each.distance)
        return [Meet(each) for each in neighbours]

    def _drop_neighbour(self, host: str, fault: Fault | None) -> list[Instruction]:
        """Do without this neighbour; with a `fault`, the scheduler is asked for another."""
        if host not in self.neighbours:
            return []
        self.neighbours.remove(host)
        out: list[Instruction] = [*self._fetches.stop(host), Part(host)]
        if fault is not None and self.standing is Standing.JOINED:
            out.append(Tell(from_host.NeighbourFailed(self.digest, host, fault)))
        return out

    def _news(self, host: str, message: OnLink) -> None:
        match message:
            case link.Holds(_, _, True):
                self.neighbours.holds(host, -1)  # every piece, however many there are
            case link.Holds(_, generation, False, have) if generation == self.generation:
                self.neighbours.holds(host, int.from_bytes(have, "little"))
            case link.Gained(_, generation, spans) if generation == self.generation:
                for span in spans:
                    self.neighbours.gains(host, mask(span.first, span.stop))
            case link.Dropped():
                self.neighbours.holds(host, 0)
            case _:
                pass

    def _fetch_ended(self, number: int, outcome: FetchOutcome, now: float) -> list[Instruction]:
        host, index, stops = self._fetches.ended(number, outcome, now)
        match outcome:
            case FetchOutcome.BUSY if self.neighbours.refused(host, now):
                return self._drop_neighbour(host, Fault.FULL)
            case FetchOutcome.GONE:
                return self._drop_neighbour(host, Fault.GONE)
            case FetchOutcome.CORRUPT:
                report = Tell(from_host.Corrupt(self.digest, self.generation, index, host))
                return [report, *self._drop_neighbour(host, None)]
            case _:
                return list(stops)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _landed(self, transfer: int | None, index: int, digest: bytes, now: float) -> list[Instruction]:
        self._own[index] = digest
        self._held |= 1 << index
        out: list[Instruction] = []
        lease = next((number for number, each in self._leases.items() if each.first <= index < each.stop), None)
        if transfer is not None and lease is not None:
            self._expected.setdefault(index, digest)
            self._known |= 1 << index
            self._published |= 1 << index
            if not self._is_tiny():
                out.append(Tell(from_host.LeasePieces(lease, self.digest, index, digest)))
            if not mask(self._leases[lease].first, self._leases[lease].stop) & self._everything() & ~self._held:
                del self._leases[lease]
        return out + self._offer(1 << index, now) if self._expected.get(index) == digest else out

    def _offer(self, pieces: int, now: float) -> list[Instruction]:
        """These pieces match the map: neighbours may have them, and the scheduler hears of it in time."""
        fresh = pieces & ~self.offered
        if not fresh:
            return []
        self.offered |= fresh
        if self._progress_due is None:
            self._progress_due = now + self.progress_s
        gained = tuple(link.Span(first, stop) for first, stop in spans(fresh))
        return [TellNeighbours(tuple(self.neighbours), link.Gained(self.digest, max(1, self.generation), gained))]

    def _verified(self, event: origin_side.BlobVerified, now: float) -> list[Instruction]:
        whole = link.Holds(self.digest, max(1, self.generation), complete=True)
        sealed = from_host.Sealed(self.digest, max(1, self.generation))
        return [
            TellContent() if self._is_tiny() else Tell(sealed),
            TellNeighbours(tuple(self.neighbours), whole),
            *self.download.handle(event, now),
        ]

    def _disproved(self, event: origin_side.BlobVerified, now: float) -> list[Instruction]:
        """The SHA-256 is wrong. If every piece is as the map says, the map is wrong; else what we had ourselves is.

        Where all of it came from the origin to this host, the map is what the origin sent, and the client is told so.
        """
        by_the_map = all(self._expected.get(index) == digest for index, digest in self._own.items())
        if self.standing is not Standing.JOINED or not by_the_map:
            return list(self.download.handle(event, now))
        told = Tell(from_host.Disproved(self.digest, self.generation))
        if self._published == self._everything():
            return [told, *self.download.handle(event, now)]
        return [told, GiveUp(DISPROVED, tainted=True)]

    # -- what next -------------------------------------------------------------------------------------------------

    def _keep_going(self, now: float) -> list[Instruction]:
        if self._answer_due is not None and now >= self._answer_due:
            self._stand_alone()
        out: list[Instruction] = []
        for host in self._fetches.slow_hosts(now):
            out += self._drop_neighbour(host, Fault.SLOW)
        if self._prepared:
            out += self._fetches.start(self._missing(), self._urgent(), self._expected, now)
            if not self._missing():
                out += self._fetches.hedge(self._expected, now)
        out += self._tell_progress(now)
        return [*out, *self.download.go_on(self._allowed(), self._fetches.pieces)]

    def _allowed(self) -> tuple[tuple[int, int], ...] | None:
        """What the origin may be asked for: all when nobody leases it, and nothing before the store has the blob."""
        if self._size_bytes is not None and not self._prepared:
            return ()
        if self.standing in (Standing.ALONE, Standing.EXPELLED):
            return None
        return tuple((lease.first, lease.stop) for lease in self._leases.values())

    def _tell_progress(self, now: float) -> list[Instruction]:
        """What we hold, coarsely; and at once when nobody has what we miss."""
        if self.standing is not Standing.JOINED or self._size_bytes is None:
            return []
        busy = len(self._fetches) or self._leases or self.download.spans() or self._held == self._everything()
        if busy:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        starving = self._idle_since is not None and now - self._idle_since >= STARVING_AFTER_S
        due = self._progress_due is not None and now >= self._progress_due
        if not starving and not due:
            return []
        self._progress_due = None
        if starving:
            self._idle_since = now
        elif self.offered == self._told:
            return []
        self._told = self.offered
        return [Tell(from_host.Progress(self.digest, self.generation, bitfield(self.offered), starving))]

    def _missing(self) -> int:
        """The pieces that a neighbour may be asked for: their digest is known, and nothing brings them yet."""
        missing = self._known & ~self._held & ~self._fetches.pieces
        for first, stop in self.download.spans():
            missing &= ~(mask(first, stop) if stop is not None else -1)
        return missing

    def _urgent(self) -> int:
        """What clients wait for that asked for a range, rather than for the blob from here to its end."""
        urgent = 0
        for first, stop in self.download.urgent_ranges():
            urgent |= mask(first, stop)
        return urgent

    def _is_tiny(self) -> bool:
        """Whether the blob travels whole in messages, and without neighbours."""
        return self._size_bytes is not None and self._size_bytes <= MAX_CONTENT_BYTES

    def _everything(self) -> int:
        held = self.download.held
        return 0 if held is None else mask(0, held.count)
