"""One blob on its way to this host: pieces from neighbours, and from the origin what the scheduler leases.

Rules:
1. No I/O and no clock. `handle(event, now)` is the only mutator; `peer.core.host` hands it what concerns the blob.
2. The state of each piece is in the `PieceTracker`. A piece is asked of a neighbour only when its digest is known, and
   a digest is believed only from the scheduler.
3. The origin is asked under a lease, unless there is no scheduler (`peer.core.membership`): then every piece may be
   asked there.
4. When the swarm's map or length proves wrong, what was received by it is not to be trusted: the download ends as
   DISPROVED, its bytes are thrown away, and it begins anew. No client has got a complete wrong blob by then: the last
   piece waits for the blob's SHA-256.
5. With no source left the download has failed; the pieces that landed stay in the store.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from peer.core.events import (
    BlobVerified,
    Draining,
    Ended,
    Event,
    FromNeighbour,
    FromScheduler,
    GiveWay,
    Instruction,
    LinkLost,
    Outcome,
    PeerOutcome,
    Phase,
    PieceFailed,
    PieceReceived,
    PiecesHeld,
    Prepared,
    RangeEnded,
    RangeOpened,
    ReaderLeft,
    ReaderMoved,
    RequestRange,
    SampleFetched,
    SchedulerFound,
    SchedulerLost,
    SchedulerMissing,
    SourceAdded,
    Stopped,
    StoreFailed,
    Tell,
    TrimRange,
    in_short,
)
from peer.core.link_book import LinkBook
from peer.core.neighbours import EVERYTHING, Neighbours
from peer.core.origin_lanes import OriginLanes
from peer.core.origin_requests import GIVE_UP_S, REFUSED_CREDENTIAL, SPAN_PIECES, OriginRequests
from peer.core.phase import DOWNLOAD_TRANSITIONS, DownloadCause
from peer.core.picker import PiecePicker
from peer.core.piece_sets import mask
from peer.core.pieces import PieceTracker
from peer.core.readers import Readers
from peer.core.session import SchedulerSession
from peer.core.swarm_member import MAP_DISPROVED, SwarmMember
from scheduler.protocol import from_host
from scheduler.protocol.codec import ToHost
from scheduler.protocol.from_host import Fault, LeaseOutcome

_FETCHING: Final = Phase.FETCHING


class IllegalTransitionError(Exception):
    """An event that cannot happen in this state: a bug of ours. Carries the story so far."""


class DownloadSettings(Struct, frozen=True):
    """`max_ranges` bounds the requests to the origin; the download goes on for `linger_s` though nobody reads it.

    After a piece has come, an origin that fails is asked again for `give_up_s`.
    Where there is no scheduler for `scheduler_timeout_s`, the origin is asked without one. `remembers`: so many of the
    last events are in the story.
    """

    max_ranges: int = 4
    linger_s: float = 30.0
    give_up_s: float = GIVE_UP_S
    scheduler_timeout_s: float = 3.0
    progress_s: float = 2.0
    remembers: int = 64
    host: str = ""


@dataclass(slots=True)
class Download:
    """One blob. `digest` is raw; `upstream` and `repository` are where this host's own client may have the blob."""

    digest: bytes
    upstream: str
    repository: str
    settings: DownloadSettings
    session: SchedulerSession
    links: LinkBook
    numbers: Iterator[int]
    lanes: OriginLanes
    beside_bytes: Callable[[bytes], int]
    """The length of all blobs on their way to this host beside one, by its digest."""
    manifest_size_bytes: int | None = None
    """The blob's length as a manifest, or the origin's answer to HEAD, said."""
    phase: Phase = Phase.RECOVERING
    pieces: PieceTracker = field(default_factory=PieceTracker)
    readers: Readers = field(init=False)
    origin: OriginRequests = field(init=False)
    neighbours: Neighbours = field(init=False)
    picker: PiecePicker = field(init=False)
    member: SwarmMember = field(init=False)
    ended: Ended | None = None
    _now: float = 0.0
    due: float = 0.0
    """`next_deadline`, if the download is settled."""
    is_settled: bool = False
    """The last event has changed nothing of what is to be done, and `due` is when something will be."""
    _early: list[ToHost] = field(default_factory=list)
    """What the scheduler said while the store was asked, to a host that was a member already: a lease, perhaps."""
    _story: deque[tuple[float, Event]] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.readers = Readers(self.pieces, settings.linger_s)
        self.origin = OriginRequests(
            self.digest, self.pieces, self.readers, self.lanes, settings.max_ranges, settings.give_up_s
        )
        self.neighbours = Neighbours(host=settings.host)
        self.picker = PiecePicker(self.digest, self.pieces, self.links, self.numbers, self.neighbours)
        self.member = SwarmMember(
            self.digest,
            self.upstream,
            self.repository,
            self.pieces,
            self.readers,
            self.origin,
            self.neighbours,
            self.picker,
            self.session,
            self.numbers,
            self.beside_bytes,
            settings.scheduler_timeout_s,
            settings.progress_s,
        )
        self._story = deque(maxlen=settings.remembers)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event at monotonic time `now` (seconds) and say what is to be done.

        A download that has ended takes nothing in any more. Raises IllegalTransitionError.
        """
        self._now = now
        if self.settings.remembers:
            self._story.append((now, event))
        if isinstance(event, FromNeighbour) and self._changes_nothing(event, now):
            return []
        self.is_settled = False
        out = self._take_in(event, now)
        if self.member.ending is not None and self.ended is None:
            out += self._end(*self.member.ending)
        if self.phase is _FETCHING:
            if self.member.told_background is not self.readers.preheats:
                out += self.member.tell_priority()
            out += self._go_on(now)
        elif self.phase is Phase.RECOVERING and now >= self.readers.gone_at and not isinstance(event, SourceAdded):
            out += self._end(DownloadCause.UNWANTED)  # after a source its reader comes, even where nothing lingers
        return out

    def is_over(self) -> bool:
        """Whether the download has ended."""
        return self.ended is not None

    def next_deadline(self) -> float:
        """When `Tick` is due; infinity if none is. What was due by the last event has been seen to."""
        if not self.is_settled:
            self.is_settled = True
            member, now, due = self.member, self._now, math.inf
            membership, reports = member.membership, member.publisher.reports
            if self.phase is _FETCHING:
                due = self.picker.settle(now)
                if self.origin.has_paused:
                    due = min(due, self.origin.next_due(now))
                if membership.joined:
                    if now < reports.due_at < due:
                        due = reports.due_at
                    if now < reports.starving_at < due:
                        due = reports.starving_at
            if now < self.readers.gone_at < due:
                due = self.readers.gone_at
            if now < membership.answer_due < due:
                due = membership.answer_due
            if now < member.spares_origin_until < due:
                due = member.spares_origin_until
            if now < member.former_until < due:
                due = member.former_until
            self.due = due
        return self.due

    @property
    def generation(self) -> int:
        """The generation of the piece map that this host goes by; 0 before it has heard of any."""
        return self.neighbours.generation

    def story(self) -> list[str]:
        """The last events, oldest first: what to log beside an error."""
        return [f"{now:.3f} {in_short(event)}" for now, event in self._story]

    def may_serve(self, start: int, stop: int) -> bool:
        """Whether neighbours may have bytes `[start, stop)` of the blob now."""
        length = self.pieces.piece_length
        if not length or stop > self.pieces.size_bytes:
            return False
        return not mask(start // length, -(-stop // length)) & ~self.pieces.advertised

    def is_checked(self, start: int) -> bool:
        """Whether the piece at byte `start` is one that only hosts ask for that check it."""
        length = self.pieces.piece_length
        return length > 0 and self.pieces.untold >> start // length & 1 == 1

    def knows(self, request: int) -> bool:
        """Whether a request is one of this download that is under way."""
        return request in self.pieces.peer_requests or request in self.pieces.origin_requests

    def hide(self) -> list[Instruction]:
        """The blob is private: the origin alone has it, as far as this host knows, and nobody hears of it."""
        self.is_settled = False
        self.member.open_origin(self._now, refused=True)
        return self.picker.remove(list(self.neighbours))

    def move(self, session: SchedulerSession) -> None:
        """The blob's swarm is at another scheduler from now on, where this host joins once it is connected."""
        self.session = session
        self.member.move(session)

    # -- the origin's slots ----------------------------------------------------------------------------------------

    def next_upstream(self) -> str | None:
        """The upstream that one more request is to go to, once there is a slot for it. None: to none."""
        member = self.member
        if self.phase is not _FETCHING or not (member.publisher.leases.left or member.membership.origin_is_open):
            return None
        if self._next_span() is None:
            return None
        source = self.origin.next_source(self._now)
        return None if source is None else self.origin.sources[source].upstream

    def start_range(self, *, others_wait: bool) -> RequestRange:
        """There is a slot: the origin is asked. What for is decided only now: a client may need other pieces first.

        `others_wait`: other downloads are to have their turn soon.
        """
        source, span = self.origin.next_source(self._now), self._next_span(others_wait=others_wait)
        assert source is not None
        assert span is not None
        number = next(self.numbers)
        first, stop = span
        is_long = stop is not None and stop - first > SPAN_PIECES
        self.pieces.request_range(number, source, first, stop, self._now, is_long=is_long)
        self.is_settled = False
        return RequestRange(self.digest, number, source, *span)

    def shorten_range(self, upstream: str) -> list[TrimRange]:
        """A client's download needs a slot of the upstream: a request ends with the piece that is coming."""
        self.is_settled = False
        return self.origin.shorten(upstream)

    def _next_span(self, *, others_wait: bool = False) -> tuple[int, int | None] | None:
        allowed, alone = self.member.allowed(self._now), not len(self.neighbours)
        return self.origin.next_span(allowed, self._now, alone=alone, others_wait=others_wait)

    # -- events ----------------------------------------------------------------------------------------------------

    def _changes_nothing(self, event: FromNeighbour, now: float) -> bool:
        """Take a neighbour's news in; most are of pieces that this host does not wait for, or cannot ask for now.

        News by which the neighbour may hold less are different: another neighbour may be asked for its pieces.
        """
        fresh = self.neighbours.on_message(event.host, event.message)
        if self.phase is not _FETCHING:
            return True
        if fresh is None or not self.is_settled or self.due <= now:
            return False
        return self.picker.is_indifferent(event.host, fresh, now)

    def _take_in(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case FromNeighbour():  # has been taken in
                return []
            case PieceReceived():
                return self._received(event, now)
            case FromScheduler(message) if self.phase is _FETCHING:
                return self.member.on_message(message, now)
            case FromScheduler(message):
                self._early.append(message)
            case PieceFailed(_, request, outcome):
                return self._piece_failed(request, outcome, now) if self.knows(request) else []
            case RangeOpened(_, request) if self.knows(request):
                self.origin.opened(event, now)
                out = self.member.opened(event)
                self._check_geometry(event.size_bytes, event.piece_length)
                return out
            case RangeEnded():
                return self._range_ended(event, now)
            case ReaderMoved():
                self.readers.move(event)
            case ReaderLeft(_, reader):
                self.readers.leave(reader, now)
            case SourceAdded():
                self.origin.add_source(event)
                self.readers.begin(now)
            case BlobVerified(_, ok):
                return self._verified() if ok else self._mismatched()
            case _:
                return self._take_in_rare(event, now)
        return []

    def _take_in_rare(self, event: Event, now: float) -> list[Instruction]:
        match event:
            case PiecesHeld():
                return self._took_over(event, now)
            case Prepared():
                self.member.has_place = True
            case SampleFetched():
                return self.member.spot_checks.fetched(event)
            case LinkLost(host):
                return self.picker.drop(host, Fault.GONE)
            case SchedulerFound() if self.phase is _FETCHING:
                return self.member.join(now)
            case SchedulerLost():
                self.member.scheduler_lost()
            case SchedulerMissing() if self.phase is _FETCHING:
                self.member.open_origin(now)
            case StoreFailed(_, discard):
                return self._end(DownloadCause.STORE_FAILED, discard=discard)
            case GiveWay():
                return self._end(DownloadCause.UNWANTED) if self.readers.gone_at < math.inf else []
            case Draining():
                self.readers.end_linger(now)
                return self._end(DownloadCause.UNWANTED) if self.readers.background else []
            case Stopped():
                return self._end(DownloadCause.UNWANTED)
            case _:
                pass
        return []

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _took_over(self, event: PiecesHeld, now: float) -> list[Instruction]:
        """Pieces are held without a request; the first such event is the answer to `Recover`."""
        out: list[Instruction] = []
        if event.size_bytes and self.member.size_bytes not in (None, event.size_bytes):
            return self.member.resized(0, event.size_bytes)  # the store proves the length, or holds none of this blob
        if event.size_bytes:
            self.pieces.learn_geometry(event.size_bytes, event.piece_length)
            self._check_geometry(event.size_bytes, event.piece_length)
            self.member.has_place = self.origin.answered = True
            for index, digest in event.pieces.items():
                out += self.member.publisher.landed(index, digest, now, from_origin=False)
        if event.verified is not None:
            return out + (self._verified() if event.verified else self._mismatched())
        return out + self._begin(now) if self.phase is Phase.RECOVERING else out

    def _begin(self, now: float) -> list[Instruction]:
        """The store has said what it has: the scheduler, if there is one, knows who has the rest."""
        self._step(DownloadCause.RECOVERED)
        out = self.member.begin(self.pieces.size_bytes or self.manifest_size_bytes, now)
        early, self._early = self._early, []
        return out + [each for message in early for each in self.member.on_message(message, now)]

    def _check_geometry(self, size_bytes: int, length: int) -> None:
        if (self.pieces.size_bytes, self.pieces.piece_length) != (size_bytes, length) and self.member.ending is None:
            raise self._illegal(f"the blob's length changed from {self.pieces.size_bytes} to {size_bytes}")

    # -- the origin ------------------------------------------------------------------------------------------------

    def _range_ended(self, event: RangeEnded, now: float) -> list[Instruction]:
        """What a request to the origin has left of its lease is for another host."""
        request, outcome = event.request, event.outcome
        if request not in self.pieces.origin_requests:
            return []
        asked = self.pieces.origin_requests[request]
        first, stop = asked.first, asked.stop
        self.origin.ended(request, outcome, event.status, now)
        if event.size_bytes is not None and not self.member.is_size_proven:
            return self.member.resized(first, event.size_bytes)
        if outcome is Outcome.DONE or (asked.cancelled and outcome is Outcome.BROKEN):
            return []  # a lease of these pieces that has come since it was cancelled is fetched anew
        left = EVERYTHING if stop is None else mask(first, stop)
        how = LeaseOutcome.REFUSED if outcome is Outcome.REFUSED and event.status else LeaseOutcome.FAILED
        if event.status in REFUSED_CREDENTIAL and self.origin.sources:
            how = LeaseOutcome.RETURNED  # another credential goes on
        out: list[Instruction] = list(self.member.publisher.leases.end_within(left, how, event.status))
        match outcome:
            case Outcome.CORRUPT:
                out += self._end(DownloadCause.CORRUPT, discard=True)
            case Outcome.UNUSABLE if event.size_bytes is not None:  # the origin contradicts itself
                out += self._end(DownloadCause.CORRUPT, discard=True)
            case Outcome.FATAL:
                out += self._end(DownloadCause.STORE_FAILED)
            case _:
                pass
        return out

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _received(self, event: PieceReceived, now: float) -> list[Instruction]:
        """A piece came by a request; or by a request of an earlier download of this blob."""
        request, pieces = event.request, self.pieces
        if not pieces.count:
            raise self._illegal("a piece landed before the geometry was known")
        if event.index >= pieces.count:
            raise self._illegal(f"piece {event.index} landed of a blob of {pieces.count}")
        from_origin = request in pieces.origin_requests
        if from_origin:
            self.origin.received(request, now)
        asked = pieces.peer_requests.get(request)
        from_far = asked is not None and self.links.is_far(asked.host)
        publisher = self.member.publisher
        out = publisher.landed(event.index, event.piece_digest, now, from_origin=from_origin, from_far=from_far)
        out += self.member.spot_checks.landed(event.index)
        if request in pieces.peer_requests:
            out += self.picker.requests.received(request, now, choked=event.choked)
        return out

    def _piece_failed(self, request: int, outcome: PeerOutcome, now: float) -> list[Instruction]:
        """A request to a neighbour has brought nothing, or a piece that is not the origin's."""
        asked = self.pieces.peer_requests.get(request)
        out = self.picker.failed(request, outcome, now)
        if outcome is PeerOutcome.DIFFERS and asked is not None:
            out += self.member.spot_checks.differs(asked.index)
        return out

    def _verified(self) -> list[Instruction]:
        return [*self.member.publisher.sealed(), *self._end(DownloadCause.SHA256_RIGHT)]

    def _mismatched(self) -> list[Instruction]:
        """The SHA-256 is wrong. If every piece is as the map says, the map is wrong; else what we had ourselves is.

        Where all of it came from the origin to this host, the map is what the origin sent, and the client is told so.
        """
        if not self.member.membership.joined or not self.pieces.agrees():
            return self._end(DownloadCause.CORRUPT, discard=True)
        told = Tell(from_host.Disproved(self.digest, self.generation))
        if self.pieces.from_origin == self.pieces.everything:
            return [told, *self._end(DownloadCause.CORRUPT, discard=True)]
        return [told, *self._end(DownloadCause.MAP_WRONG, MAP_DISPROVED)]

    # -- what next -------------------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> list[Instruction]:
        member, membership, pieces = self.member, self.member.membership, self.pieces
        if now >= membership.answer_due:
            member.open_origin(now)
        if now >= self.readers.gone_at:
            return self._end(DownloadCause.UNWANTED)
        if not self.origin.sources and membership.origin_is_open:
            return self._end(DownloadCause.NO_SOURCE)
        out: list[Instruction] = member.end_former(now) if member.former else []
        if not pieces.count:
            out += member.divide()
        urgent = self.readers.urgent() if self.readers.ask_for_ranges else 0
        if member.has_place:
            out += self.picker.go_on(urgent, now)
            if urgent:
                out += self.origin.make_way(urgent)
        if membership.joined and member.size_bytes is not None:
            under_way = pieces.peer_requests or pieces.origin_requests or member.publisher.leases.left
            busy = bool(under_way) or pieces.held == pieces.everything
            out += member.publisher.reports.due(self.neighbours.generation, busy=busy, now=now)
            if urgent:
                out += member.publisher.reports.needs(urgent)
        return out

    def _end(
        self, cause: DownloadCause, reason: str = "", status: int = 0, *, discard: bool = False
    ) -> list[Instruction]:
        """Nothing new is begun, and what is under way is cancelled. A place in the store that is empty is given up."""
        is_empty = self.phase is not Phase.RECOVERING and not self.pieces.held  # until then only the store knows
        self._step(cause)
        discard = discard or cause is DownloadCause.MAP_WRONG or is_empty
        story = tuple(self.story()[-8:]) if cause is DownloadCause.CORRUPT else ()
        self.ended = Ended(self.digest, self.phase, reason, status, discard, story)
        return [*self.origin.cancel_all(), *self.picker.requests.cancel_all()]

    def _step(self, cause: DownloadCause) -> None:
        try:
            self.phase = DOWNLOAD_TRANSITIONS[self.phase][cause]
        except KeyError:
            raise self._illegal(f"{cause.name} cannot happen while {self.phase.name}") from None

    def _illegal(self, what: str) -> IllegalTransitionError:
        return IllegalTransitionError("\n  ".join([what, *self.story()]))

    # -- checks ----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raise AssertionError, with the story, if an invariant does not hold. Looks at every piece: for tests."""
        try:
            self.pieces.validate()
            if self.is_over():
                return
            self.origin.validate()
            self.member.publisher.leases.validate()
            self.picker.requests.validate()
            self.member.membership.validate()
            assert not len(self.member.publisher.leases) or self.member.membership.joined, "a lease from nobody"
            assert self.next_deadline() > self._now, "what is due was not seen to"
        except AssertionError as error:
            raise AssertionError("\n  ".join([str(error), *self.story()])) from error
