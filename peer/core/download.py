"""One blob on its way to this host: which pieces to ask of whom next, and when it has come or failed.

Rules:
1. No I/O and no clock here. `handle(event, now)` is the only mutator; it returns instructions for the shell.
2. Every `WantSlot` is answered by one `SlotGranted`, every `StartTransfer` by exactly one `TransferEnded`.
3. What to fetch is decided when a slot is granted, not when it was asked for: by then a client may have come that
   needs other pieces first.
4. Pieces that a waiting client needs go first, each client's from where it stands; then the rest in order, so that
   the blob becomes whole and later clients are served from the store.
5. A source that refuses (its credentials, an unknown blob) is dropped and the others go on. With no source left the
   download has failed; the pieces that landed stay in the store.

States:

    FETCHING --all pieces verified--> COMPLETE
    FETCHING --no source left, wrong digest, store fault--> FAILED
    FETCHING --nobody wanted it for `linger_s`, or p2pd stops--> ABANDONED
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from peer.core.origin_events import (
    BlobVerified,
    Ended,
    Event,
    Instruction,
    Outcome,
    Phase,
    PieceLanded,
    ReaderLeft,
    ReaderMoved,
    ReturnSlot,
    SlotGranted,
    SourceAdded,
    StartTransfer,
    Stopped,
    StopTransfer,
    TransferEnded,
    TransferOpened,
    WantSlot,
)
from peer.core.pieces import PieceSet
from scheduler.protocol.geometry import piece_count

SPAN_PIECES = 4
"""Pieces that one origin request asks for. More makes fewer requests (one costs docker-registry 2 ms of CPU), fewer
lets the prefix that clients are served grow evenly. Four pieces of 4 MiB: 64 requests per GiB."""

MAX_STRIKES = 3
"""Transfers without one landed piece after which a source is given up; the origin client has retried within each."""


@dataclass(slots=True)
class _Transfer:
    source: int
    first: int
    stop: int | None
    landed: int = 0
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Want:
    position: int
    stop: int | None
    background: bool


class IllegalTransitionError(Exception):
    """An event that cannot happen in this state: a bug of ours. Carries the story so far."""


@dataclass(slots=True)
class Download:
    """One download. `max_transfers` bounds what runs at once; for `linger_s` it goes on though nobody wants it.

    `remembers`: so many of the last events are in the story.
    """

    max_transfers: int
    linger_s: float
    remembers: int = 64
    allowed: tuple[tuple[int, int], ...] | None = None
    """The ranges of pieces that may be asked of the origin; None: all of them."""
    phase: Phase = Phase.FETCHING
    held: PieceSet | None = None
    size_bytes: int = 0
    piece_length: int = 0
    _sources: dict[int, int] = field(default_factory=dict)  # source -> strikes
    _wants: dict[int, _Want] = field(default_factory=dict)
    _transfers: dict[int, _Transfer] = field(default_factory=dict)
    _slots_asked: int = 0
    _next_transfer: int = 0
    _unwanted_since: float | None = None
    _elsewhere: int = 0
    _had_source: bool = False
    _answered: bool = True
    _story: deque[tuple[float, Event]] = field(init=False)

    def __post_init__(self) -> None:
        self._story = deque(maxlen=self.remembers)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take in one event at monotonic time `now` (seconds) and say what is to be done."""
        self._story.append((now, event))
        if self.phase is not Phase.FETCHING:
            return self._after_the_end(event)
        match event:
            case SourceAdded(source):
                self._sources.setdefault(source, 0)
                self._had_source = True
            case ReaderMoved(reader, position, stop, background):
                self._wants[reader] = _Want(position, stop, background)
            case ReaderLeft(reader):
                self._wants.pop(reader, None)
            case SlotGranted(source):
                return self._take_slot(source)
            case TransferOpened():
                self._opened(event)
            case PieceLanded(transfer, index, _):
                self._landed(transfer, index)
                return []
            case TransferEnded(transfer, outcome, _):
                self._transfer_ended(transfer, outcome)
                if outcome is Outcome.FATAL or self._hopeless():
                    return self._end(Phase.FAILED)
            case BlobVerified(ok):
                return self._end(Phase.COMPLETE if ok else Phase.FAILED)
            case Stopped():
                return self._end(Phase.ABANDONED)
        return self._end(Phase.ABANDONED) if self._forsaken(now) else self._ask_for_slots()

    def go_on(self, allowed: tuple[tuple[int, int], ...] | None, elsewhere: int) -> list[Instruction]:
        """What may be asked of the origin now, and which pieces (a set) come from elsewhere: what follows from that."""
        self.allowed, self._elsewhere = allowed, elsewhere
        return self._end(Phase.FAILED) if self._hopeless() else self._ask_for_slots()

    def is_over(self) -> bool:
        """It has ended, in one of three ways."""
        return self.phase is not Phase.FETCHING

    @property
    def has_source(self) -> bool:
        """Whether the origin can be asked at all."""
        return bool(self._sources)

    @property
    def background(self) -> bool:
        """No client waits for this blob now: it is fetched ahead, or for completeness."""
        return all(want.background for want in self._wants.values())

    def next_deadline(self) -> float | None:
        """When `Tick` is due."""
        return None if self._unwanted_since is None else self._unwanted_since + self.linger_s

    def learn_geometry(self, size_bytes: int, piece_length: int, *, hearsay: bool = False) -> None:
        """The length and pieces are known: from the store, from the first answer, or by `hearsay` before that."""
        if self.held is None:
            self._answered = not hearsay
            self.size_bytes, self.piece_length, self.held = (
                size_bytes,
                piece_length,
                PieceSet(piece_count(size_bytes, piece_length)),
            )
        elif (self.size_bytes, self.piece_length) != (size_bytes, piece_length):
            raise self._illegal(f"the blob's length changed from {self.size_bytes} to {size_bytes}")

    def spans(self) -> list[tuple[int, int | None]]:
        """The ranges of pieces that the origin is asked for now (None: to an end that is not known yet)."""
        return [(transfer.first, transfer.stop) for transfer in self._transfers.values()] if self._transfers else []

    def span_of(self, transfer: int) -> tuple[int, int | None]:
        """The range of pieces of a transfer that is under way."""
        return self._transfer(transfer).first, self._transfer(transfer).stop

    def stop_within(self, first: int, stop: int) -> list[StopTransfer]:
        """End the transfers that bring pieces of `[first, stop)`: others will. That is no fault of their source."""
        stops = []
        for number, transfer in self._transfers.items():
            if transfer.first < stop and (transfer.stop is None or first < transfer.stop):
                transfer.stopped = True
                stops.append(StopTransfer(number))
        return stops

    def urgent_ranges(self) -> list[tuple[int, int]]:
        """The pieces that clients wait for who asked for a range that ends before the blob does."""
        if self.held is None:
            return []
        return [
            (want.position // self.piece_length, -(-want.stop // self.piece_length))
            for want in self._wants.values()
            if want.stop is not None and self._is_urgent(want)
        ]

    def _need(self, want: _Want) -> tuple[bool, bool, int]:
        return want.background, not self._is_urgent(want), want.position

    def _is_urgent(self, want: _Want) -> bool:
        """Whether a client waits for a range that ends before the blob does: it has no use for what comes before."""
        return want.stop is not None and want.stop < self.size_bytes and not want.background

    def story(self) -> list[str]:
        """The last events, oldest first: what to log beside an error."""
        return [f"{now:.3f} {event}" for now, event in self._story]

    # -- transitions -----------------------------------------------------------------------------------------------

    def _opened(self, event: TransferOpened) -> None:
        self._answered = True
        self.learn_geometry(event.size_bytes, event.piece_length)
        transfer = self._transfer(event.transfer)
        transfer.first, transfer.stop = event.first, event.stop

    def _landed(self, transfer: int | None, index: int) -> None:
        if self.held is None:
            raise self._illegal("a piece landed before the geometry was known")
        self.held.add(index)
        if transfer is not None:
            current = self._transfer(transfer)
            current.landed += 1
            if current.source in self._sources:  # one that was dropped meanwhile stays dropped
                self._sources[current.source] = 0

    def _transfer_ended(self, transfer: int, outcome: Outcome) -> None:
        """Take the transfer off the books, and note what it says of its source."""
        ended = self._transfer(transfer)
        del self._transfers[transfer]
        source = ended.source
        if outcome is Outcome.BROKEN and not ended.landed and not ended.stopped and source in self._sources:
            self._sources[source] += 1
        if outcome is Outcome.REFUSED or self._sources.get(source, 0) >= MAX_STRIKES:
            self._sources.pop(source, None)

    def _hopeless(self) -> bool:
        """The origin is the only one to ask, and no way to ask it is left."""
        return self.allowed is None and self._had_source and not self._sources

    def _end(self, phase: Phase) -> list[Instruction]:
        self.phase = phase
        stops: list[Instruction] = [StopTransfer(transfer) for transfer in self._transfers]
        return [*stops, Ended(phase)]

    def _after_the_end(self, event: Event) -> list[Instruction]:
        match event:
            case SlotGranted(_):
                self._slots_asked -= 1
                return [ReturnSlot()]
            case TransferEnded(transfer, _):
                self._transfers.pop(transfer, None)
            case _:
                pass
        return []

    def _forsaken(self, now: float) -> bool:
        if self._wants:
            self._unwanted_since = None
            return False
        if self._unwanted_since is None:
            self._unwanted_since = now
        return now >= self._unwanted_since + self.linger_s

    # -- what next -------------------------------------------------------------------------------------------------

    def _ask_for_slots(self) -> list[Instruction]:
        if not self._sources or self.allowed == ():
            return []
        busy = len(self._transfers) + self._slots_asked
        if self.held is None:
            # The first answer tells the length; a second request could only guess.
            wanted = 0 if busy or not self._may_ask(0) else 1
        elif not self._answered:
            # The first answer also tells whether the origin ignores Range, and then brings everything.
            wanted = 0 if busy else min(1, self._open_spans())
        else:
            wanted = min(self.max_transfers - busy, self._open_spans() - self._slots_asked)
        self._slots_asked += max(0, wanted)
        source = min(self._sources, key=lambda known: (self._sources[known], known))
        return [WantSlot(source)] * wanted

    def _take_slot(self, source: int) -> list[Instruction]:
        if not self._slots_asked:
            raise self._illegal("a slot was granted that nobody asked for")
        self._slots_asked -= 1
        span = self._next_span() if source in self._sources else None
        if span is None:
            return [ReturnSlot(), *self._ask_for_slots()]
        first, stop = span
        transfer = self._next_transfer
        self._next_transfer += 1
        self._transfers[transfer] = _Transfer(source, first, stop)
        return [StartTransfer(transfer, source, first, stop), *self._ask_for_slots()]

    def _next_span(self) -> tuple[int, int | None] | None:
        if self.held is None:
            return None if self._transfers or not self._may_ask(0) else (0, None)
        taken = self._in_flight()
        ranges = self._ranges_by_need() if self.allowed is None else iter(self.allowed)
        for start, stop in ranges:
            stop = min(stop, self.held.count)
            for index in range(self.held.run_from(start, stop), stop):
                if index not in self.held and index not in taken:
                    return index, self._span_stop(index, taken, stop if self.allowed is not None else self.held.count)
        return None

    def _may_ask(self, index: int) -> bool:
        return self.allowed is None or any(first <= index < stop for first, stop in self.allowed)

    def _ranges_by_need(self) -> Iterator[tuple[int, int]]:
        assert self.held is not None
        for want in sorted(self._wants.values(), key=self._need):
            first = min(want.position // self.piece_length, self.held.count)
            last = self.held.count if want.stop is None else -(-want.stop // self.piece_length)
            yield first, min(last, self.held.count)
        yield 0, self.held.count

    def _span_stop(self, first: int, taken: set[int], end: int) -> int:
        assert self.held is not None
        stop = first + 1
        while stop < min(first + SPAN_PIECES, end) and stop not in self.held and stop not in taken:
            stop += 1
        return stop

    def _in_flight(self) -> set[int]:
        """The pieces that the origin is asked for, and those that come from elsewhere."""
        taken = {
            index
            for transfer in self._transfers.values()
            if transfer.stop is not None
            for index in range(transfer.first, transfer.stop)
        }
        elsewhere = self._elsewhere
        while elsewhere:
            lowest = elsewhere & -elsewhere
            taken.add(lowest.bit_length() - 1)
            elsewhere ^= lowest
        return taken

    def _open_spans(self) -> int:
        """How many more spans are worth a connection now (never an exact count, never more than is missing)."""
        assert self.held is not None
        taken = self._in_flight()
        if self.allowed is None:
            outstanding = self.held.count - self.held.held - sum(1 for index in taken if index not in self.held)
            return -(-outstanding // SPAN_PIECES)
        return sum(
            -(-sum(index not in self.held and index not in taken for index in range(first, stop)) // SPAN_PIECES)
            for first, stop in ((first, min(stop, self.held.count)) for first, stop in self.allowed)
        )

    # -- checks ----------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert 0 <= self._slots_asked <= self.max_transfers
        assert len(self._transfers) <= self.max_transfers
        seen: set[int] = set()
        for transfer in self._transfers.values():
            if transfer.stop is not None and self.held is not None:
                if transfer.stop - transfer.first == self.held.count:
                    continue  # its origin may have ignored Range
                pieces = set(range(transfer.first, transfer.stop)) - set(self.held)
                assert not pieces & seen, "a piece is asked for twice"
                seen |= pieces

    def _transfer(self, transfer: int) -> _Transfer:
        try:
            return self._transfers[transfer]
        except KeyError:
            raise self._illegal(f"transfer {transfer} is not under way") from None

    def _illegal(self, what: str) -> IllegalTransitionError:
        return IllegalTransitionError("\n  ".join([what, *self.story()]))
