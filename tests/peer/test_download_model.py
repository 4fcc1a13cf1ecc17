"""The download's decisions in any order of legal events, against a model of the shell that carries them out."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.core.download import MAX_STRIKES, SPAN_PIECES, Download
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
    StopTransfer,
    Tick,
    TransferEnded,
    TransferOpened,
    WantSlot,
)

LENGTH = 100
"""Bytes of a piece, in these tests."""

LINGER_S = 30.0


@dataclass(slots=True)
class _Transfer:
    """What the model knows of a transfer that is under way."""

    source: int
    first: int
    stop: int | None
    opened: bool = False
    landed: set[int] = field(default_factory=set)

    def pieces(self) -> set[int]:
        return set() if self.stop is None else set(range(self.first, self.stop))


class AnyOrder(RuleBasedStateMachine):
    """Plays the shell: does what it is told in any order, and breaks, refuses and leaves as it likes."""

    MAX_TRANSFERS = 3
    COUNT = 11

    def __init__(self) -> None:
        super().__init__()
        self.download = Download(self.MAX_TRANSFERS, LINGER_S)
        self.now = 0.0
        self.log: list[tuple[Event, float, list[Instruction]]] = []
        self.sources: dict[int, int] = {}  # how many strikes each has
        self.wants: dict[int, ReaderMoved] = {}
        self.unwanted_since: float | None = None
        self.slots: list[int] = []
        self.transfers: dict[int, _Transfer] = {}
        self.held: set[int] = set()
        self.known = self.began_known = False
        self.ended: Phase | None = None

    def feed(self, event: Event) -> list[Instruction]:
        instructions = self.download.handle(event, self.now)
        self.log.append((event, self.now, instructions))
        self.download.validate()
        for instruction in instructions:
            match instruction:
                case WantSlot(source):
                    assert self.ended is None
                    assert source in self.sources
                    self.slots.append(source)
                case StartTransfer(number, source, first, stop):
                    self.start(number, source, first, stop)
                case StopTransfer(number):
                    assert number in self.transfers
                case Ended(phase):
                    assert self.ended is None, "it ended twice"
                    self.ended = phase
                case ReturnSlot():
                    assert isinstance(event, SlotGranted)
        return instructions

    def start(self, number: int, source: int, first: int, stop: int | None) -> None:
        assert self.ended is None
        assert number not in self.transfers
        if stop is None:
            assert not self.known
            assert not self.transfers
        else:
            asked = set(range(first, stop))
            assert 0 < len(asked) <= SPAN_PIECES
            assert asked <= set(range(self.COUNT))
            assert not asked & self.held, "a held piece is asked for"
            assert not asked & self.in_flight(), "a piece is asked for twice at the same time"
        self.transfers[number] = _Transfer(source, first, stop)

    def in_flight(self) -> set[int]:
        return {index for transfer in self.transfers.values() for index in transfer.pieces()}

    def wanted(self) -> None:
        if self.wants:
            self.unwanted_since = None
        elif self.unwanted_since is None:
            self.unwanted_since = self.now

    # -- what can happen -------------------------------------------------------------------------------------------

    @initialize(known=st.booleans())
    def it_begins(self, known: bool) -> None:
        if known:
            self.known = self.began_known = True
            self.download.learn_geometry(self.COUNT * LENGTH, LENGTH)
        self.a_reader_moves(0, 0, None, background=False)
        for source in range(3):
            self.a_client_brings_a_source(source)

    @rule(source=st.integers(0, 4))
    def a_client_brings_a_source(self, source: int) -> None:
        if self.ended is None:
            self.sources.setdefault(source, 0)
        self.feed(SourceAdded(source))
        self.wanted()

    @rule(
        reader=st.integers(0, 3),
        position=st.integers(0, COUNT * LENGTH),
        length=st.none() | st.integers(1, 500),
        background=st.booleans(),
    )
    def a_reader_moves(self, reader: int, position: int, length: int | None, background: bool) -> None:
        event = ReaderMoved(reader, position, None if length is None else position + length, background)
        self.wants[reader] = event
        self.wanted()
        self.feed(event)

    @rule(reader=st.integers(0, 3))
    def a_reader_leaves(self, reader: int) -> None:
        self.wants.pop(reader, None)
        self.wanted()
        self.feed(ReaderLeft(reader))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def a_slot_is_granted(self, data: st.DataObject) -> None:
        source = self.slots.pop(data.draw(st.integers(0, len(self.slots) - 1)))
        missing_first = self.first_that_is_waited_for()
        answers = [one for one in self.feed(SlotGranted(source)) if isinstance(one, ReturnSlot | StartTransfer)]
        assert len(answers) == 1, "a slot is used or given back, once"
        if isinstance(answers[0], StartTransfer) and self.known and missing_first is not None:
            assert answers[0].first == missing_first

    def first_that_is_waited_for(self) -> int | None:
        """The first open piece of the client that comes first: who waits for a range, then who stands first."""
        taken = self.held | self.in_flight()

        def place(want: ReaderMoved) -> tuple[bool, bool, int]:
            to_the_end = want.stop is None or want.stop >= self.COUNT * LENGTH
            return want.background, to_the_end or want.background, want.position

        for want in sorted(self.wants.values(), key=place):
            last = self.COUNT * LENGTH if want.stop is None else min(want.stop, self.COUNT * LENGTH)
            for index in range(want.position // LENGTH, -(-last // LENGTH)):
                if index not in taken:
                    return index
        return None

    @precondition(lambda self: any(not transfer.opened for transfer in self.transfers.values()))
    @rule(data=st.data(), ignores_range=st.booleans())
    def a_transfer_opens(self, data: st.DataObject, ignores_range: bool) -> None:
        number = data.draw(st.sampled_from([key for key, one in self.transfers.items() if not one.opened]))
        transfer = self.transfers[number]
        transfer.opened = True
        if ignores_range:
            transfer.first, transfer.stop = 0, self.COUNT
        elif transfer.stop is None:
            transfer.stop = SPAN_PIECES
        self.known = self.known or self.ended is None
        assert transfer.stop is not None
        self.feed(TransferOpened(number, self.COUNT * LENGTH, LENGTH, transfer.first, transfer.stop))
        self.wanted()

    @precondition(lambda self: any(one.opened and one.pieces() - one.landed for one in self.transfers.values()))
    @rule(data=st.data())
    def a_piece_lands(self, data: st.DataObject) -> None:
        number, index = data.draw(
            st.sampled_from(
                [
                    (number, min(one.pieces() - one.landed))
                    for number, one in self.transfers.items()
                    if one.opened and one.pieces() - one.landed
                ]
            )
        )
        self.transfers[number].landed.add(index)
        if self.transfers[number].source in self.sources:
            self.sources[self.transfers[number].source] = 0
        self.held.add(index)
        assert self.feed(PieceLanded(number, index)) == []

    @precondition(lambda self: self.known and self.ended is None)
    @rule(index=st.integers(0, COUNT - 1))
    def a_piece_turns_out_to_be_there(self, index: int) -> None:
        self.held.add(index)
        self.feed(PieceLanded(None, index))

    @precondition(lambda self: self.transfers)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.DONE, Outcome.BROKEN, Outcome.REFUSED]))
    def a_transfer_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        number = data.draw(st.sampled_from(sorted(self.transfers)))
        transfer = self.transfers.pop(number)
        if outcome is Outcome.DONE and not (transfer.opened and transfer.pieces() == transfer.landed):
            outcome = Outcome.BROKEN
        if self.ended is None:
            self.blame(transfer, outcome)
        self.feed(TransferEnded(number, outcome))
        self.wanted()
        assert self.sources or self.ended is not None, "with no source left it has failed"

    def blame(self, transfer: _Transfer, outcome: Outcome) -> None:
        if transfer.source in self.sources and outcome is Outcome.BROKEN and not transfer.landed:
            self.sources[transfer.source] += 1
        if outcome is Outcome.REFUSED or self.sources.get(transfer.source) == MAX_STRIKES:
            self.sources.pop(transfer.source, None)

    @precondition(lambda self: self.ended is None and len(self.held) == self.COUNT)
    @rule(ok=st.booleans())
    def the_digest_is_known(self, ok: bool) -> None:
        self.feed(BlobVerified(ok))
        assert self.ended is (Phase.COMPLETE if ok else Phase.FAILED)

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        before = self.ended
        self.feed(Tick())
        self.wanted()
        if before is None and self.ended is Phase.ABANDONED:
            assert self.unwanted_since is not None
            assert self.now >= self.unwanted_since + LINGER_S

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        assert len(self.slots) + len(self.transfers) <= self.MAX_TRANSFERS
        if self.ended is None:
            assert self.download._slots_asked == len(self.slots)
            assert set(self.download._transfers) == set(self.transfers)
            assert self.download._sources == self.sources
            assert set(self.download.held or ()) == self.held
            assert self.download.background == all(want.background for want in self.wants.values())
            deadline = self.download.next_deadline()
            assert deadline is None or not self.wants

    @invariant()
    def it_never_stands_still(self) -> None:
        if self.ended is None and self.sources and len(self.held) < self.COUNT:
            assert self.slots or self.transfers

    def teardown(self) -> None:
        self.replay()
        self.finish()

    def replay(self) -> None:
        again = Download(self.MAX_TRANSFERS, LINGER_S)
        if self.began_known:
            again.learn_geometry(self.COUNT * LENGTH, LENGTH)
        for event, now, instructions in self.log:
            assert again.handle(event, now) == instructions, "the same events give the same instructions"

    def finish(self) -> None:
        """Whatever has happened: from here on all goes well, and a download that can end well does."""
        if self.ended is not None or not self.sources:
            return
        self.a_reader_moves(0, 0, None, background=False)
        for _ in range(1000):
            if len(self.held) == self.COUNT:
                break
            for number, transfer in list(self.transfers.items()):
                if not transfer.opened:
                    transfer.opened = True
                    transfer.stop = SPAN_PIECES if transfer.stop is None else transfer.stop
                    self.known = True
                    self.feed(TransferOpened(number, self.COUNT * LENGTH, LENGTH, transfer.first, transfer.stop))
                for index in sorted(transfer.pieces() - transfer.landed):
                    self.held.add(index)
                    self.feed(PieceLanded(number, index))
                del self.transfers[number]
                self.feed(TransferEnded(number, Outcome.DONE))
            for source in self.slots[:]:
                self.slots.remove(source)
                self.feed(SlotGranted(source))
        assert len(self.held) == self.COUNT
        self.feed(BlobVerified(True))
        assert self.ended is Phase.COMPLETE


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAnyOrder = AnyOrder.TestCase
