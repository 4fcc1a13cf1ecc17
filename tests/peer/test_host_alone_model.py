"""A host without a scheduler in any order of legal events, against a model of the runner that carries it out.

Two blobs at two origins, which are a source of both: their requests share the origins' slots.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.core.events import (
    BlobVerified,
    CancelRange,
    Ended,
    Event,
    Instruction,
    Outcome,
    Phase,
    PieceReceived,
    PiecesHeld,
    Prepare,
    Prepared,
    RangeEnded,
    RangeOpened,
    ReaderLeft,
    ReaderMoved,
    Recover,
    RequestRange,
    SourceAdded,
    Stopped,
    StoreFailed,
    Tell,
    TellNeighbours,
    Tick,
    TrimRange,
)
from peer.core.host import HostMachine, HostSettings
from peer.core.origin_requests import GIVE_UP_S, MAX_PAUSE_S, MAX_STRIKES, SPAN_PIECES, pause_s
from scheduler.protocol.from_host import Leave, Sealed
from scheduler.protocol.geometry import MIN_PIECE_BYTES, piece_length
from tests.peer.lanes import Wide

LENGTH = MIN_PIECE_BYTES
COUNT = 11
SIZE = COUNT * LENGTH
BLOBS = (b"d" * 32, b"e" * 32)
UPSTREAMS = ("one.test", "other.test")
LINGER_S = 30.0
SETTINGS = HostSettings(has_scheduler=False, max_ranges_per_origin=4, max_ranges_per_blob=3, linger_s=LINGER_S)

assert piece_length(SIZE) == LENGTH

often = st.integers(0, 20)
RARE = 13
"""A value of `often` that Hypothesis does not like more than others."""


def digest(index: int) -> bytes:
    """The BLAKE3 of a piece."""
    return bytes([index + 1]) * 32


def upstream_of(source: int) -> str:
    return UPSTREAMS[source % 2]


@dataclass(slots=True)
class _Range:
    """What the model knows of a request that is under way. `download` counts the downloads of its blob."""

    digest: bytes
    download: int
    source: int
    first: int
    stop: int | None
    opened: bool = False
    cancelled: bool = False
    received: set[int] = field(default_factory=set)

    def pieces(self) -> set[int]:
        return set() if self.stop is None else set(range(self.first, self.stop))


@dataclass(slots=True)
class _Blob:
    """What the model knows of a blob and of its download, if it has one."""

    stored: set[int] = field(default_factory=set)
    """What the store has, from whatever download."""
    files: int = 0
    """How often the store has discarded it: what came before lands in a file that is gone."""
    downloads: int = 0
    active: bool = False
    recovering: bool = False
    preparing: bool = False
    known: bool = False
    answered: bool = False
    held: set[int] = field(default_factory=set)
    sources: dict[int, int] = field(default_factory=dict)
    """How many strikes each has."""
    ready: dict[int, float] = field(default_factory=dict)
    """When each may be asked again."""
    pauses: Counter[int] = field(default_factory=Counter)
    progress_at: float | None = None
    wants: dict[int, ReaderMoved] = field(default_factory=dict)
    unwanted_since: float | None = None
    ended: list[Ended] = field(default_factory=list)


class AnyOrder(RuleBasedStateMachine):
    """Plays the runner: does what it is told in any order, and breaks, refuses and leaves as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = HostMachine(SETTINGS)
        self.machine.lanes = Wide(self.machine.slots.used())
        self.now = 0.0
        self.log: list[tuple[Event, float, list[Instruction]]] = []
        self.blobs = {digest: _Blob() for digest in BLOBS}
        self.ranges: dict[int, _Range] = {}
        self.numbers = set[int]()
        self.most_needed = 0

    # -- the runner ------------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> list[Instruction]:
        instructions = self.machine.handle(event, self.now)
        self.log.append((event, self.now, instructions))
        self.machine.validate()
        for instruction in instructions:
            self.carry_out(instruction)
        for blob in self.blobs.values():
            if blob.active and blob.wants:
                blob.unwanted_since = None
            elif blob.active and blob.unwanted_since is None:
                blob.unwanted_since = self.now
        return instructions

    def carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case RequestRange():
                self.start(instruction)
            case CancelRange(digest, request):
                assert self.ranges[request].digest == digest
                assert not self.ranges[request].cancelled, "it is cancelled twice"
                self.ranges[request].cancelled = True
            case TrimRange(digest, request, stop):
                running = self.ranges[request]
                assert running.digest == digest
                assert running.stop is not None
                assert running.first + len(running.received) < stop < running.stop, "no piece that has come, and some"
                running.stop = stop
            case Recover(digest):
                assert self.blobs[digest].active
                self.blobs[digest].recovering = True
            case Prepare(digest, size_bytes):
                assert size_bytes == SIZE
                assert not self.blobs[digest].stored
                self.blobs[digest].preparing = True
            case Ended():
                self.end(instruction)
            case Tell(Leave() | Sealed()):
                pass
            case TellNeighbours(()):
                pass
            case _:
                raise AssertionError(f"a host that is alone says {instruction}")

    def start(self, wanted: RequestRange) -> None:
        blob = self.blobs[wanted.digest]
        assert blob.active
        assert not blob.recovering, "the store has not said yet what it has"
        assert not blob.preparing, "a piece has no place yet"
        assert wanted.request not in self.numbers, "a number is given twice"
        assert blob.ready.get(wanted.source, 0.0) <= self.now, "it is asked in its pause"
        ready = [blob.sources[each] for each in self.ready(blob)]
        assert blob.sources[wanted.source] == min(ready), "a better source is there"
        if wanted.stop is None:
            assert not blob.known
        else:
            asked = set(range(wanted.first, wanted.stop))
            slow = self.machine.downloads[wanted.digest].origin.is_slow
            assert 0 < len(asked) <= (COUNT if slow else SPAN_PIECES)
            assert asked <= set(range(COUNT))
            assert not asked & blob.held, "a held piece is asked for"
            assert not asked & self.in_flight(wanted.digest), "a piece is asked for twice at the same time"
            assert wanted.first == self.first_that_is_waited_for(wanted.digest)
        assert blob.answered or not self.own(wanted.digest), "the first answer tells whether Range is honoured"
        self.numbers.add(wanted.request)
        self.ranges[wanted.request] = _Range(wanted.digest, blob.downloads, wanted.source, wanted.first, wanted.stop)
        assert len(self.own(wanted.digest)) <= SETTINGS.max_ranges_per_blob
        assert self.used()[upstream_of(wanted.source)] <= SETTINGS.max_ranges_per_origin

    def end(self, ended: Ended) -> None:
        blob = self.blobs[ended.digest]
        assert blob.active, "it ended twice"
        assert not ended.reason
        if ended.discard:
            blob.stored, blob.files = set(), blob.files + 1
        elif not blob.recovering and ended.phase is not Phase.COMPLETE:
            assert blob.held, "an empty place is given up"
        for running in self.own(ended.digest).values():
            assert running.cancelled, "a request goes on for nobody"
        blob.ended.append(ended)
        blob.active = blob.recovering = blob.preparing = blob.known = blob.answered = False
        blob.held, blob.sources, blob.wants, blob.unwanted_since = set(), {}, {}, None
        blob.ready, blob.pauses, blob.progress_at = {}, Counter(), None

    # -- what the model derives ------------------------------------------------------------------------------------

    def own(self, digest: bytes) -> dict[int, _Range]:
        """The requests of a blob's present download."""
        blob = self.blobs[digest]
        return {
            number: each
            for number, each in self.ranges.items()
            if each.digest == digest and each.download == blob.downloads
        }

    def ready(self, blob: _Blob) -> list[int]:
        return [source for source in blob.sources if blob.ready.get(source, 0.0) <= self.now]

    def is_of_now(self, running: _Range) -> bool:
        blob = self.blobs[running.digest]
        return blob.active and running.download == blob.downloads

    def used(self) -> Counter[str]:
        """How many requests are under way at each origin, whoever's they are."""
        return Counter(upstream_of(each.source) for each in self.ranges.values())

    def in_flight(self, digest: bytes) -> set[int]:
        return {index for each in self.own(digest).values() for index in each.pieces()}

    def first_that_is_waited_for(self, digest: bytes) -> int:
        """The first open piece of the client that comes first: who waits for a range, then who stands first."""
        blob = self.blobs[digest]
        taken = blob.held | self.in_flight(digest)

        def place(want: ReaderMoved) -> tuple[bool, bool, int]:
            to_the_end = want.stop is None or want.stop >= SIZE
            return want.background, to_the_end or want.background, want.position

        for want in sorted(blob.wants.values(), key=place):
            last = SIZE if want.stop is None else min(want.stop, SIZE)
            for index in range(want.position // LENGTH, -(-last // LENGTH)):
                if index not in taken:
                    return index
        return min(set(range(COUNT)) - taken)

    # -- what can happen: clients ----------------------------------------------------------------------------------

    blobs_ = st.sampled_from(BLOBS)

    @initialize(stored=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1), recovers=st.booleans())
    def it_begins(self, stored: set[int], recovers: bool) -> None:
        self.blobs[BLOBS[0]].stored = stored
        for digest in BLOBS:
            for source in range(3):
                self.a_client_brings_a_source(digest, source, digest == BLOBS[1])
            self.a_reader_moves(digest, 0, 0, None, background=False)
            if recovers:
                self.the_store_says_what_it_has_of(digest)

    @rule(digest=blobs_, source=st.integers(0, 4), sized=st.booleans())
    def a_client_brings_a_source(self, digest: bytes, source: int, sized: bool) -> None:
        blob = self.blobs[digest]
        if not blob.active:
            blob.active, blob.downloads = True, blob.downloads + 1
        if source not in blob.sources:  # one that was given up begins anew
            blob.sources[source] = blob.pauses[source] = 0
            blob.ready.pop(source, None)
        self.feed(SourceAdded(digest, source, upstream_of(source), "app", SIZE if sized else None))
        assert blob.active

    @rule(
        digest=blobs_,
        reader=st.integers(0, 3),
        position=st.integers(0, SIZE),
        length=st.none() | st.integers(1, 5 * LENGTH),
        background=st.booleans(),
    )
    def a_reader_moves(self, digest: bytes, reader: int, position: int, length: int | None, background: bool) -> None:
        event = ReaderMoved(digest, reader, position, None if length is None else position + length, background)
        if self.blobs[digest].active:
            self.blobs[digest].wants[reader] = event
        self.feed(event)

    @rule(digest=blobs_, reader=st.integers(0, 3))
    def a_reader_leaves(self, digest: bytes, reader: int) -> None:
        self.blobs[digest].wants.pop(reader, None)
        self.feed(ReaderLeft(digest, reader))

    # -- the store -------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(blob.recovering for blob in self.blobs.values()))
    @rule(data=st.data())
    def the_store_answers(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from([digest for digest, blob in self.blobs.items() if blob.recovering]))
        self.the_store_says_what_it_has_of(digest)

    def the_store_says_what_it_has_of(self, digest_: bytes) -> None:
        blob = self.blobs[digest_]
        blob.recovering = False
        if not blob.stored:
            self.feed(PiecesHeld(digest_))
            blob.known = blob.known or blob.preparing
            return
        blob.held, blob.known, blob.answered = set(blob.stored), True, True
        whole = True if len(blob.held) == COUNT else None
        self.feed(PiecesHeld(digest_, SIZE, LENGTH, {index: digest(index) for index in sorted(blob.stored)}, whole))
        assert not whole or blob.ended[-1].phase is Phase.COMPLETE

    @precondition(lambda self: any(blob.preparing for blob in self.blobs.values()))
    @rule(data=st.data())
    def the_blob_has_its_place(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from([digest for digest, blob in self.blobs.items() if blob.preparing]))
        self.blobs[digest].preparing = False
        self.feed(Prepared(digest))

    @precondition(lambda self: any(blob.active for blob in self.blobs.values()))
    @rule(digest=blobs_, broken=st.booleans(), rarely=often)
    def the_store_fails(self, digest: bytes, broken: bool, rarely: int) -> None:
        blob = self.blobs[digest]
        if rarely != RARE or not blob.active:
            return
        was_empty = not blob.held and not blob.recovering
        self.feed(StoreFailed(digest, broken))
        assert blob.ended[-1] == Ended(digest, Phase.FAILED, discard=broken or was_empty)

    @precondition(lambda self: any(len(blob.held) == COUNT for blob in self.blobs.values()))
    @rule(data=st.data(), ok=st.booleans())
    def the_sha256_is_known(self, data: st.DataObject, ok: bool) -> None:
        digest = data.draw(st.sampled_from([digest for digest, blob in self.blobs.items() if len(blob.held) == COUNT]))
        self.feed(BlobVerified(digest, ok))
        assert self.blobs[digest].ended[-1].phase is (Phase.COMPLETE if ok else Phase.FAILED)
        assert self.blobs[digest].ended[-1].discard is not ok

    # -- the origins -----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(not each.opened for each in self.ranges.values()))
    @rule(data=st.data(), ignores_range=st.booleans())
    def an_origin_answers(self, data: st.DataObject, ignores_range: bool) -> None:
        number = data.draw(st.sampled_from([key for key, each in self.ranges.items() if not each.opened]))
        self.open(number, ignores_range=ignores_range)

    def open(self, number: int, *, ignores_range: bool = False) -> None:
        running = self.ranges[number]
        running.opened = True
        if ignores_range:
            running.first, running.stop = 0, COUNT
        elif running.stop is None:
            running.stop = SPAN_PIECES
        if self.is_of_now(running):
            self.blobs[running.digest].known = self.blobs[running.digest].answered = True
        self.feed(RangeOpened(running.digest, number, SIZE, LENGTH, running.first, running.stop))

    @precondition(lambda self: any(each.opened and each.pieces() - each.received for each in self.ranges.values()))
    @rule(data=st.data())
    def a_piece_is_received(self, data: st.DataObject) -> None:
        number = data.draw(
            st.sampled_from([key for key, each in self.ranges.items() if each.opened and each.pieces() - each.received])
        )
        self.receive(number, min(self.ranges[number].pieces() - self.ranges[number].received))

    def receive(self, number: int, index: int) -> None:
        """A request of an earlier download brings its piece to this one, if it has the same file of the blob."""
        running = self.ranges[number]
        running.received.add(index)
        blob = self.blobs[running.digest]
        if self.is_of_now(running):
            blob.progress_at = self.now
            if running.source in blob.sources:
                blob.sources[running.source] = blob.pauses[running.source] = 0
        elif not (blob.active and blob.known and not blob.preparing and not blob.recovering):
            return
        blob.stored.add(index)
        blob.held.add(index)
        self.feed(PieceReceived(running.digest, number, index, digest(index)))

    @precondition(lambda self: self.ranges)
    @rule(data=st.data())
    def an_origin_sends_all(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.ranges)))
        self.send_all(number)

    def send_all(self, number: int) -> None:
        running = self.ranges[number]
        if not running.opened:
            self.open(number)
        for index in sorted(running.pieces() - running.received):
            self.receive(number, index)
        self.finish_range(number, Outcome.DONE)

    @precondition(lambda self: self.ranges)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.DONE, Outcome.BROKEN, Outcome.REFUSED, Outcome.UNUSABLE]))
    def a_request_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        self.finish_range(data.draw(st.sampled_from(sorted(self.ranges))), outcome)

    @precondition(lambda self: self.ranges)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.FATAL, Outcome.CORRUPT]), rarely=often)
    def a_request_ends_it_all(self, data: st.DataObject, outcome: Outcome, rarely: int) -> None:
        if rarely == RARE:
            self.finish_range(data.draw(st.sampled_from(sorted(self.ranges))), outcome)

    def finish_range(self, number: int, outcome: Outcome) -> None:
        running = self.ranges.pop(number)
        if outcome is Outcome.DONE and not (running.opened and running.pieces() == running.received):
            outcome = Outcome.BROKEN
        blob, is_of_now = self.blobs[running.digest], self.is_of_now(running)
        downloads, held, sources = len(blob.ended), bool(blob.held), blob.sources
        if is_of_now:
            self.blame(running, outcome)
        self.feed(RangeEnded(running.digest, number, outcome))
        over = blob.ended[downloads:]
        match outcome:
            case Outcome.FATAL | Outcome.CORRUPT if is_of_now:
                discard = outcome is Outcome.CORRUPT or not held
                assert over == [Ended(running.digest, Phase.FAILED, discard=discard)]
            case _ if is_of_now and not sources:
                assert over == [Ended(running.digest, Phase.FAILED, discard=not held)], "with no source left it fails"
            case _:
                assert not over or over[0].phase is Phase.ABANDONED

    def blame(self, running: _Range, outcome: Outcome) -> None:
        """Before anything has come, a source that fails is given up soon; after that it is asked again."""
        blob = self.blobs[running.digest]
        sources, source = blob.sources, running.source
        if source not in sources or running.cancelled:
            return
        blob.progress_at = self.now if blob.progress_at is None else blob.progress_at
        may_pass = outcome is Outcome.REFUSED or (outcome is Outcome.BROKEN and not running.received)
        if may_pass and blob.held and self.now - blob.progress_at < GIVE_UP_S:
            blob.ready[source] = self.now + pause_s(blob.pauses[source])
            blob.pauses[source] += 1
            return
        if running.source in sources and outcome is Outcome.BROKEN and not running.received:
            sources[running.source] += 1
        if outcome in (Outcome.REFUSED, Outcome.UNUSABLE) or sources.get(running.source) == MAX_STRIKES:
            sources.pop(running.source, None)

    # -- time ------------------------------------------------------------------------------------------------------

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        since = {digest: blob.unwanted_since for digest, blob in self.blobs.items() if blob.active}
        self.feed(Tick())
        for digest, unwanted_since in since.items():
            is_over = unwanted_since is not None and self.now >= unwanted_since + LINGER_S
            assert self.blobs[digest].active is not is_over
            assert not is_over or self.blobs[digest].ended[-1].phase is Phase.ABANDONED

    @rule(rarely=often)
    def p2pd_stops(self, rarely: int) -> None:
        if rarely == RARE:
            stopped = [blob for blob in self.blobs.values() if blob.active]
            self.feed(Stopped())
            assert all(not blob.active and blob.ended[-1].phase is Phase.ABANDONED for blob in stopped)

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        assert set(self.machine.downloads) == {digest for digest, blob in self.blobs.items() if blob.active}
        assert +Counter(self.machine.slots.used()) == self.used()
        for digest, blob in self.blobs.items():
            if not blob.active:
                continue
            download = self.machine.downloads[digest]
            assert set(download.pieces.origin_requests) == set(self.own(digest))
            assert {number: each.strikes for number, each in download.origin.sources.items()} == blob.sources
            assert download.pieces.held == sum(1 << index for index in blob.held)
            assert download.readers.background == all(want.background for want in blob.wants.values())

    @invariant()
    def time_runs_only_where_nobody_reads(self) -> None:
        due = [blob.unwanted_since + LINGER_S for blob in self.blobs.values() if blob.unwanted_since is not None]
        for blob in self.blobs.values():
            due += [blob.ready[source] for source in blob.sources if blob.ready.get(source, 0.0) > self.now]
        assert self.machine.next_deadline() == min(due, default=float("inf"))

    @invariant()
    def it_never_stands_still(self) -> None:
        for digest, blob in self.blobs.items():
            open_ = set(range(COUNT)) - blob.held - self.in_flight(digest)
            ready = self.ready(blob)
            waits = blob.recovering or blob.preparing or not blob.active or not ready
            if waits or not open_ or len(self.own(digest)) >= (SETTINGS.max_ranges_per_blob if blob.answered else 1):
                continue
            best = min(ready, key=lambda source: (blob.sources[source], source))
            full = self.used()[upstream_of(best)] >= SETTINGS.max_ranges_per_origin
            assert full, "a request could be made, and is not"

    def teardown(self) -> None:
        self.replay()
        for digest in BLOBS:
            self.finish(digest)

    def replay(self) -> None:
        again = HostMachine(SETTINGS)
        again.lanes = Wide(again.slots.used())
        for event, now, instructions in self.log:
            assert again.handle(event, now) == instructions, "the same events give the same instructions"

    def finish(self, digest: bytes) -> None:
        """Whatever has happened: from here on all goes well, and a download that can end well does."""
        blob = self.blobs[digest]
        if not blob.sources:
            return  # it has none, too, when it is over
        self.a_reader_moves(digest, 0, 0, None, background=False)
        for _ in range(1000):
            if blob.recovering:
                self.the_store_says_what_it_has_of(digest)
            if blob.preparing:
                blob.preparing = False
                self.feed(Prepared(digest))
            if not blob.active or len(blob.held) == COUNT:
                break
            for number in list(self.ranges):
                self.send_all(number)
            if not self.ranges:
                self.time_passes(MAX_PAUSE_S)
        if blob.active:
            assert len(blob.held) == COUNT
            self.feed(BlobVerified(digest, True))
        assert blob.ended[-1].phase is Phase.COMPLETE


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase
