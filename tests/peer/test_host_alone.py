"""What a host without a scheduler asks origins for, and how its downloads end: rule by rule."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from msgspec.structs import replace

from peer.core.download import IllegalTransitionError
from peer.core.events import (
    BlobVerified,
    CancelRange,
    Ended,
    Event,
    FromScheduler,
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
from peer.core.origin_lanes import OriginLanes
from peer.core.origin_requests import GIVE_UP_S, MAX_PAUSE_S, MAX_STRIKES, SLOW_ANSWER_S
from scheduler.protocol import link
from scheduler.protocol.from_host import Leave, Sealed
from scheduler.protocol.geometry import MAX_PIECE_BYTES, MIN_PIECE_BYTES
from scheduler.protocol.to_host import Sized
from tests.peer.lanes import Narrow, Wide

D = b"d" * 32
E = b"e" * 32
UP = "reg.test"

LENGTH = 100
"""Bytes of a piece, in these tests."""

LINGER_S = 30.0


def digest(index: int) -> bytes:
    """The BLAKE3 of a piece."""
    return bytes([index + 1]) * 32


def added(source: int = 0, upstream: str = UP, blob: bytes = D, size_bytes: int | None = None) -> SourceAdded:
    return SourceAdded(blob, source, upstream, "app", size_bytes)


def moved(
    reader: int, position: int, stop: int | None = None, blob: bytes = D, *, background: bool = False
) -> ReaderMoved:
    return ReaderMoved(blob, reader, position, stop, background)


def held(*indices: int, count: int = 20, blob: bytes = D) -> PiecesHeld:
    """The store has a place for the blob, and has these pieces of it."""
    return PiecesHeld(blob, count * LENGTH, LENGTH, {index: digest(index) for index in indices})


def opened(request: int, first: int, stop: int, count: int = 20, blob: bytes = D) -> RangeOpened:
    return RangeOpened(blob, request, count * LENGTH, LENGTH, first, stop)


def received(request: int, index: int, blob: bytes = D) -> PieceReceived:
    return PieceReceived(blob, request, index, digest(index))


def ended(request: int, outcome: Outcome, blob: bytes = D, *, status: int = 0) -> RangeEnded:
    return RangeEnded(blob, request, outcome, status)


def failed(phase: Phase = Phase.FAILED, *, discard: bool = True, blob: bytes = D) -> list[Instruction]:
    """A download is over that has not become whole; `discard` as long as nothing of it has come."""
    return [Tell(Leave(blob)), Ended(blob, phase, discard=discard)]


class Alone:
    """A host without a scheduler. `says` is what the last event gave; requests that are under way are in `asked`."""

    def __init__(
        self,
        *,
        max_ranges: int = 4,
        max_per_origin: int = 12,
        linger_s: float = LINGER_S,
        lanes: type[OriginLanes] = Wide,
    ) -> None:
        self.machine = HostMachine(
            HostSettings(
                has_scheduler=False,
                max_ranges_per_origin=max_per_origin,
                max_ranges_per_blob=max_ranges,
                linger_s=linger_s,
            )
        )
        self.machine.lanes = lanes(self.machine.slots.used())

    def handle(self, *events: Event, now: float = 0.0) -> list[Instruction]:
        """What the last of these events gives, all at one time."""
        out: list[Instruction] = []
        for event in events:
            out = self.machine.handle(event, now)
            self.machine.validate()
        return out

    def spans(self, *events: Event, now: float = 0.0) -> list[tuple[int, int | None]]:
        """The pieces that the last of these events has requested, and nothing else."""
        out = self.handle(*events, now=now)
        assert all(isinstance(each, RequestRange) for each in out), out
        return [(each.first, each.stop) for each in out if isinstance(each, RequestRange)]


def alone(*events: Event, **limits: Any) -> Alone:
    """A host to which all of this has happened at time 0."""
    host = Alone(**limits)
    host.handle(*events)
    return host


def known(*indices: int, count: int = 20, **limits: Any) -> tuple[Alone, list[tuple[int, int | None]]]:
    """A download with source 0 and reader 1, of a blob of which some pieces are held; and what it requests at first."""
    host = alone(added(), moved(1, 0), **limits)
    return host, host.spans(held(*indices, count=count))


class TestWhatIsAskedFor:
    def test_nothing_before_there_is_a_source_and_the_store_has_said_what_it_has(self) -> None:
        host = Alone()
        assert host.handle(moved(1, 0)) == []
        assert host.handle(added()) == [Recover(D)]
        assert host.handle(moved(1, 0)) == []
        assert host.handle(added(1)) == []
        assert host.spans(PiecesHeld(D)) == [(0, None)]

    def test_one_request_until_the_geometry_is_known(self) -> None:
        host = alone(added(), moved(1, 0))
        assert host.handle(PiecesHeld(D)) == [RequestRange(D, 0, 0, 0, None)]
        assert host.handle(moved(1, 5000)) == []
        assert host.handle(added(1)) == []
        assert host.spans(opened(0, 0, 4)) == [(4, 8), (8, 12), (12, 16)]

    def test_one_request_until_the_origin_has_answered_though_a_manifest_says_the_length(self) -> None:
        """The first answer tells whether the origin ignores Range, and then brings everything."""
        size_bytes = 20 * MIN_PIECE_BYTES
        host = alone(added(size_bytes=size_bytes), moved(1, 0))
        assert host.handle(PiecesHeld(D)) == [Prepare(D, size_bytes)], "and nothing before it has its place"
        assert host.spans(Prepared(D)) == [(0, 4)]
        answer = RangeOpened(D, 0, size_bytes, MIN_PIECE_BYTES, 0, 4)
        assert host.spans(answer) == [(4, 8), (8, 12), (12, 16)]

    def test_only_what_is_missing(self) -> None:
        _, spans = known(0, 1, 3, 8, 9, 10, 11)
        assert spans == [(2, 3), (4, 8), (12, 16), (16, 20)]

    def test_no_more_requests_than_one_blob_may_have(self) -> None:
        host, spans = known(max_ranges=2)
        assert spans == [(0, 4), (4, 8)]
        assert host.spans(added(1)) == []
        assert host.spans(ended(0, Outcome.DONE)) == [(0, 4)]

    def test_no_more_requests_than_the_missing_pieces_need(self) -> None:
        assert known(count=5)[1] == [(0, 4), (4, 5)]

    def test_no_request_for_a_blob_that_is_all_there(self) -> None:
        host, spans = known(*range(5), count=5)
        assert spans == []
        assert host.spans(added(1)) == []

    def test_an_origin_that_ignores_range_is_asked_once(self) -> None:
        host = alone(added(), moved(1, 0), PiecesHeld(D))
        assert host.handle(opened(0, 0, 20)) == []

    def test_an_origin_that_ignores_the_range_of_a_later_request_is_asked_for_nothing_more(self) -> None:
        host, spans = known(0, max_ranges=2)
        assert spans == [(1, 5), (5, 9)]
        host.handle(opened(0, 0, 20))
        assert host.handle(ended(1, Outcome.BROKEN)) == []

    def test_what_a_broken_request_did_not_bring_is_asked_for_again(self) -> None:
        host, spans = known(*range(16))
        assert spans == [(16, 20)]
        host.handle(opened(0, 16, 20), received(0, 16))
        assert host.spans(ended(0, Outcome.BROKEN)) == [(17, 20)]

    def test_each_request_has_a_number_of_its_own(self) -> None:
        host = Alone(max_ranges=2)
        out = host.handle(added(), held()) + host.handle(added(blob=E), held(blob=E))
        assert [each.request for each in out if isinstance(each, RequestRange)] == [0, 1, 2, 3]

    def test_an_origin_whose_answer_has_another_length_than_the_store_has(self) -> None:
        """`peer.origin_range` checks this: it can only happen where the store's blob was not known to the request."""
        host, _ = known(max_ranges=1)
        out = host.handle(RangeOpened(D, 0, 1999, LENGTH, 0, 4))
        assert out[0] == CancelRange(D, 0)
        assert isinstance(out[1], Ended)
        assert (out[1].phase, out[1].discard) == (Phase.DISPROVED, True)
        assert out[2:] == [Recover(D)]

    def test_a_download_that_begins_anew_has_all_sources_again_also_those_that_were_given_up(self) -> None:
        host, _ = known(max_ranges=1)
        host.handle(added(1, "other.test"), ended(0, Outcome.REFUSED))
        out = host.handle(RangeOpened(D, 1, 1999, LENGTH, 0, 4), ended(1, Outcome.BROKEN), PiecesHeld(D), Prepared(D))
        assert [each.source for each in out if isinstance(each, RequestRange)] == [0]
        assert host.handle(ended(2, Outcome.REFUSED)) == [RequestRange(D, 3, 1, 0, 1)]

    def test_a_piece_length_does_not_change(self) -> None:
        host, _ = known()
        with pytest.raises(IllegalTransitionError, match="the blob's length changed"):
            host.handle(RangeOpened(D, 0, 2000, 2 * LENGTH, 0, 4))


class TestOneRequestIsEnough:
    """Of an origin where one request fills the line."""

    def test_all_that_is_missing_in_a_row(self) -> None:
        assert known(lanes=Narrow)[1] == [(0, 20)]
        assert known(0, 1, 7, lanes=Narrow)[1] == [(2, 7)]

    def test_the_next_begins_with_the_last_piece_and_not_before(self) -> None:
        host, _ = known(0, 5, lanes=Narrow)
        assert host.spans(opened(0, 1, 5), received(0, 1), received(0, 2)) == []
        assert host.spans(received(0, 3)) == [(6, 20)]

    def test_short_ones_one_by_one_until_it_is_known(self) -> None:
        host = alone(added(), moved(1, 0), lanes=OriginLanes)
        out = host.spans(PiecesHeld(D, 20 * MAX_PIECE_BYTES, MAX_PIECE_BYTES))
        assert out == [(0, 4)]
        host.handle(RangeOpened(D, 0, 20 * MAX_PIECE_BYTES, MAX_PIECE_BYTES, 0, 4))
        assert host.spans(*(received(0, index) for index in range(3))) == []
        assert host.spans(received(0, 3)) == [(4, 8)]

    def test_a_client_that_waits_for_pieces_far_ahead_has_a_request_of_its_own(self) -> None:
        host, _ = known(lanes=Narrow)
        host.handle(opened(0, 0, 20), received(0, 0))
        assert host.handle(moved(2, 1000, 1200)) == [TrimRange(D, 0, 10), RequestRange(D, 1, 0, 10, 14)]

    def test_but_not_one_that_waits_for_what_comes_next(self) -> None:
        host, _ = known(lanes=Narrow)
        host.handle(opened(0, 0, 20), received(0, 0))
        assert host.handle(moved(2, 200, 400)) == []

    def test_other_downloads_have_their_turn(self) -> None:
        host, spans = known(lanes=Narrow, max_per_origin=1)
        assert spans == [(0, 20)]
        host.handle(opened(0, 0, 20), received(0, 0), added(blob=E), moved(9, 0, blob=E))
        assert host.handle(held(blob=E)) == [TrimRange(D, 0, 5)]
        host.handle(*(received(0, index) for index in range(1, 5)))
        assert host.spans(ended(0, Outcome.DONE)) == [(0, 4)], "E's, and short, because D waits again"
        assert host.spans(ended(1, Outcome.BROKEN, E)) == [(5, 9)]

    def test_one_that_brings_all_though_a_range_was_asked_for_is_not_ended_early(self) -> None:
        host, _ = known(0, lanes=Narrow)
        host.handle(opened(0, 0, 20))
        assert host.handle(moved(2, 1000, 1200)) == []


class TestSlots:
    """The origin has one slot, and another blob's request has it."""

    def busy(self, *events: Event) -> Alone:
        host = alone(added(blob=E), moved(9, 0, blob=E), max_per_origin=1)
        assert host.spans(held(count=4, blob=E)) == [(0, 4)]
        host.handle(added(), moved(1, 0))
        assert host.spans(held()) == []
        host.handle(*events)
        return host

    def frees(self, host: Alone) -> list[tuple[int, int | None]]:
        return host.spans(*(received(0, index, E) for index in range(4)), ended(0, Outcome.DONE, E))

    def test_the_slot_is_the_next_ones_at_once(self) -> None:
        host = self.busy()
        assert self.frees(host) == [(0, 4)]
        assert host.machine.slots.used() == {UP: 1}

    def test_what_for_is_decided_when_the_slot_is_free_and_not_when_it_was_asked_for(self) -> None:
        host = self.busy(moved(2, 1900), moved(1, 1000))
        assert self.frees(host) == [(10, 14)]
        assert host.spans(ended(1, Outcome.BROKEN)) == [(10, 14)]
        host.handle(opened(2, 10, 14), *(received(2, index) for index in range(10, 14)))
        assert host.spans(ended(2, Outcome.DONE)) == [(14, 18)]

    def test_a_slot_that_is_not_needed_any_more_is_not_used(self) -> None:
        host = self.busy(*(received(-1, index) for index in range(20)))
        assert self.frees(host) == []
        assert host.machine.slots.used() == {UP: 0}

    def test_but_is_the_next_ones_who_needs_it(self) -> None:
        other = b"f" * 32
        host = self.busy(added(blob=other), moved(8, 0, blob=other), held(count=3, blob=other))
        host.handle(*(received(-1, index) for index in range(20)))
        assert self.frees(host) == [(0, 3)]

    def test_a_download_whose_source_there_was_dropped_does_not_use_it(self) -> None:
        host = alone(added(blob=E), moved(8, 0, blob=E), held(count=4, blob=E), max_per_origin=2)
        host.handle(added(0), added(1, "other.test"), moved(1, 0))
        assert host.spans(held(count=8)) == [(0, 4)]
        assert host.spans(ended(1, Outcome.REFUSED)) == [(0, 4), (4, 8)], "both are asked of the other source"
        assert host.spans(ended(0, Outcome.BROKEN, E)) == [(0, 4)], "the other blob's own"
        assert host.machine.slots.used() == {UP: 1, "other.test": 2}

    def test_a_source_that_was_dropped_while_the_download_waited_for_its_slot(self) -> None:
        host = alone(added(blob=E), held(count=4, blob=E), max_per_origin=1)
        host.handle(added(), moved(1, 0), held(count=4))
        host.handle(added(1, "other.test"))
        host.machine.downloads[D].origin.sources[0].strikes = 1
        assert host.spans(*(received(0, index, E) for index in range(4)), ended(0, Outcome.DONE, E)) == []
        assert host.handle(moved(1, 0)) == [RequestRange(D, 1, 1, 0, 4)]

    def test_a_client_comes_before_what_is_fetched_ahead(self) -> None:
        client = b"f" * 32
        host = self.busy(moved(1, 0, background=True))
        host.handle(added(blob=client), moved(8, 0, blob=client), held(count=3, blob=client))
        assert self.frees(host) == [(0, 3)]
        host.handle(*(received(1, index, client) for index in range(3)))
        assert host.spans(ended(1, Outcome.DONE, client)) == [(0, 4)]

    def test_downloads_take_turns(self) -> None:
        host = self.busy(added(1), added(2))
        host.handle(added(1, blob=E), added(2, blob=E))
        running, turns = E, list[bytes]()
        for request in range(5):
            (out,) = host.handle(ended(request, Outcome.BROKEN, running))
            assert isinstance(out, RequestRange)
            turns.append(running := out.digest)
        assert turns == [D, E, D, E, D]

    def test_a_request_of_a_download_that_is_over_has_its_slot_until_it_ends(self) -> None:
        host = self.busy()
        assert host.handle(StoreFailed(E)) == [CancelRange(E, 0), *failed(blob=E)]
        assert host.handle(moved(1, 100)) == []
        assert host.spans(ended(0, Outcome.BROKEN, E)) == [(1, 5)]

    def test_each_origin_has_slots_of_its_own(self) -> None:
        host = self.busy()
        other = b"f" * 32
        assert host.spans(added(upstream="other.test", blob=other), held(count=3, blob=other)) == [(0, 3)]


class TestWhoGoesFirst:
    def test_what_a_client_waits_for(self) -> None:
        host = alone(added(), moved(1, 1250, 1330), max_ranges=2)
        assert host.spans(held()) == [(12, 16), (0, 4)]

    def test_as_the_clients_stand_when_there_is_room_for_a_request(self) -> None:
        host, spans = known(max_ranges=1)
        assert spans == [(0, 4)]
        host.handle(moved(2, 1900), moved(1, 1000), opened(0, 0, 4), *(received(0, index) for index in range(4)))
        assert host.spans(ended(0, Outcome.DONE)) == [(10, 14)]
        host.handle(opened(1, 10, 14), *(received(1, index) for index in range(10, 14)))
        assert host.spans(ended(1, Outcome.DONE)) == [(14, 18)]

    def test_a_client_before_what_is_fetched_ahead(self) -> None:
        host = alone(added(), max_ranges=1)
        readers = host.machine.downloads[D].readers
        seen = list[bool]()
        for event in (moved(1, 0, background=True), moved(2, 800)):
            host.handle(event)
            seen.append(readers.background)
        assert host.spans(held()) == [(8, 12)]
        host.handle(ReaderLeft(D, 2))
        assert [*seen, readers.background] == [True, False, True]
        assert host.spans(ended(0, Outcome.BROKEN)) == [(0, 4)]

    def test_a_range_beyond_the_end_is_nobodys_need(self) -> None:
        host = alone(added(), moved(1, 99_999), max_ranges=1)
        assert host.spans(held()) == [(0, 4)]


class TestSources:
    def test_the_one_with_the_fewest_strikes_is_asked(self) -> None:
        host = alone(added(0), added(1), moved(1, 0), PiecesHeld(D))
        assert host.handle(ended(0, Outcome.BROKEN)) == [RequestRange(D, 1, 1, 0, None)]
        assert host.handle(ended(1, Outcome.BROKEN)) == [RequestRange(D, 2, 0, 0, None)]

    def test_one_that_refuses_is_dropped_and_another_goes_on(self) -> None:
        host = alone(added(0), added(1), moved(1, 0), PiecesHeld(D))
        assert host.handle(ended(0, Outcome.REFUSED)) == [RequestRange(D, 1, 1, 0, None)]
        assert host.handle(ended(1, Outcome.BROKEN)) == [RequestRange(D, 2, 1, 0, None)]

    def test_the_download_fails_when_the_last_one_refuses(self) -> None:
        host, spans = known(max_ranges=2)
        assert len(spans) == 2
        assert host.handle(ended(0, Outcome.REFUSED)) == [CancelRange(D, 1), *failed()]

    def test_one_that_was_dropped_stays_dropped_though_its_last_pieces_land(self) -> None:
        host, _ = known(max_ranges=2)
        host.handle(added(1), ended(0, Outcome.REFUSED), opened(1, 4, 8), received(1, 4))
        assert host.handle(ended(1, Outcome.BROKEN)) == [RequestRange(D, 3, 1, 5, 9)]

    def test_one_is_given_up_after_so_many_requests_that_brought_nothing(self) -> None:
        host = alone(added(), moved(1, 0), PiecesHeld(D))
        for number in range(MAX_STRIKES - 1):
            assert host.handle(ended(number, Outcome.BROKEN)) == [RequestRange(D, number + 1, 0, 0, None)]
        assert host.handle(ended(MAX_STRIKES - 1, Outcome.BROKEN)) == failed()

    def test_a_piece_that_lands_wipes_the_strikes_off(self) -> None:
        host, spans = known(max_ranges=1)
        for number in range(3 * MAX_STRIKES):
            ((first, stop),) = spans
            assert stop is not None
            host.handle(opened(number, first, stop))
            if number % MAX_STRIKES == MAX_STRIKES - 1:
                host.handle(received(number, first))
            spans = host.spans(ended(number, Outcome.BROKEN)) or host.spans(Tick(), now=100.0)

    @pytest.mark.parametrize(("outcome", "status"), [(Outcome.REFUSED, 0), (Outcome.REFUSED, 429), (Outcome.BROKEN, 0)])
    def test_after_something_has_come_an_origin_that_is_gone_is_asked_again(
        self, outcome: Outcome, status: int
    ) -> None:
        """At once, then after pauses, and no more once nothing has come for too long."""
        host, spans = known(0, max_ranges=1)
        now, asked = 0.0, [0.0]
        for number in itertools.count():
            if not spans:
                due = host.machine.next_deadline()
                if due == math.inf:
                    break
                now = due
                spans = host.spans(Tick(), now=now)
            asked.append(now)
            out = host.handle(ended(number, outcome, status=status), now=now)
            if out == failed(discard=False):
                break
            spans = [(each.first, each.stop) for each in out if isinstance(each, RequestRange)]
        assert asked[:6] == [0.0, 0.0, 0.0, 1.0, 4.0, 11.0]
        assert GIVE_UP_S <= now <= GIVE_UP_S + MAX_PAUSE_S

    def test_a_reserve_goes_on_when_a_credential_is_refused(self) -> None:
        reserve = replace(added(1), reserve=True)
        host = alone(added(0), reserve, moved(1, 0), max_ranges=1)
        assert host.spans(held(0)) == [(1, 5)]
        assert host.handle(ended(0, Outcome.REFUSED, status=401)) == [RequestRange(D, 1, 1, 1, 5)]
        assert host.handle(ended(1, Outcome.REFUSED, status=401)) == failed(discard=False)

    def test_a_reserve_is_not_for_a_blob_that_is_not_there(self) -> None:
        host = alone(added(0), replace(added(1), reserve=True), moved(1, 0), PiecesHeld(D))
        assert host.handle(ended(0, Outcome.REFUSED, status=404)) == failed()

    def test_one_request_is_for_all_that_is_left_if_its_credential_may_expire(self) -> None:
        host = alone(replace(added(), perishable=True), moved(1, 0))
        assert host.spans(held(0, 3)) == [(1, 3), (4, 20)]

    def test_one_request_is_for_all_that_is_left_if_the_origin_is_slow_to_answer(self) -> None:
        host = alone(added(), moved(1, 0), PiecesHeld(D), max_ranges=2)
        assert host.spans(opened(0, 0, 4), now=SLOW_ANSWER_S) == [(4, 20)]

    def test_a_fatal_end_is_the_end_whatever_sources_there_are(self) -> None:
        host = alone(added(0), added(1), moved(1, 0), PiecesHeld(D))
        assert host.handle(ended(0, Outcome.FATAL)) == failed()

    def test_and_so_are_wrong_bytes(self) -> None:
        host, _ = known(0, max_ranges=1)
        host.handle(added(1))
        assert host.handle(ended(0, Outcome.CORRUPT)) == failed(discard=True)

    def test_one_that_is_added_again_has_its_strikes(self) -> None:
        host = alone(added(), moved(1, 0), PiecesHeld(D))
        for number in range(MAX_STRIKES - 1):
            host.handle(added(), ended(number, Outcome.BROKEN))
        assert host.handle(added(), ended(MAX_STRIKES - 1, Outcome.BROKEN)) == failed()


class TestEnds:
    def test_complete_only_when_the_digest_is_right(self) -> None:
        host, _ = known(*range(20))
        everything = TellNeighbours((), link.Bitfield(D, 1, complete=True))
        assert host.handle(BlobVerified(D, True)) == [Tell(Sealed(D, 1)), everything, Ended(D, Phase.COMPLETE)]
        assert host.machine.seeds == {D: 2000}
        host, _ = known(*range(20))
        assert host.handle(BlobVerified(D, False)) == failed()
        assert host.machine.seeds == {}

    def test_complete_at_once_when_the_store_has_it_whole(self) -> None:
        host = alone(added(), moved(1, 0))
        whole = PiecesHeld(D, 2000, LENGTH, {index: digest(index) for index in range(20)}, verified=True)
        assert host.handle(whole)[-1] == Ended(D, Phase.COMPLETE)

    def test_a_request_that_is_not_needed_any_more_is_cancelled(self) -> None:
        host, _ = known(*range(19))
        host.handle(received(-1, 19))
        assert CancelRange(D, 0) in host.handle(BlobVerified(D, True))

    def test_abandoned_only_after_nobody_wanted_it_for_long_enough(self) -> None:
        host, _ = known(max_ranges=1)
        host.handle(ReaderLeft(D, 1), now=10.0)
        assert host.machine.next_deadline() == 10.0 + LINGER_S
        assert host.handle(Tick(), now=9.9 + LINGER_S) == []
        assert host.handle(Tick(), now=10.0 + LINGER_S) == [CancelRange(D, 0), *failed(Phase.ABANDONED)]
        assert host.machine.next_deadline() == math.inf

    def test_a_reader_that_comes_in_time_stops_the_clock(self) -> None:
        host, _ = known()
        host.handle(ReaderLeft(D, 1), now=10.0)
        host.handle(moved(2, 0), now=11.0)
        assert host.machine.next_deadline() == math.inf
        assert host.handle(Tick(), now=1000.0) == []
        host.handle(ReaderLeft(D, 2), now=1001.0)
        assert host.machine.next_deadline() == 1001.0 + LINGER_S

    def test_what_landed_is_kept_unless_it_may_be_wrong(self) -> None:
        host, _ = known(0, max_ranges=1)
        assert host.handle(Stopped()) == [CancelRange(D, 0), *failed(Phase.ABANDONED, discard=False)]
        for discard in (False, True):
            host, _ = known(0, max_ranges=1)
            assert host.handle(StoreFailed(D, discard)) == [CancelRange(D, 0), *failed(discard=discard)]
        host, _ = known(0, max_ranges=1)
        assert host.handle(ended(0, Outcome.REFUSED, status=404)) == failed(discard=False)

    def test_a_stop_ends_all_downloads_at_once(self) -> None:
        host, _ = known(max_ranges=1)
        host.handle(added(blob=E))
        out = host.handle(Stopped())
        assert out == [CancelRange(D, 0), *failed(Phase.ABANDONED), *failed(Phase.ABANDONED, discard=False, blob=E)]
        assert host.machine.downloads == {}

    def test_what_comes_after_the_end_is_put_away(self) -> None:
        host, _ = known(max_ranges=1)
        host.handle(Stopped())
        late: list[Event] = [
            opened(0, 0, 4),
            received(0, 0),
            ended(0, Outcome.BROKEN),
            moved(2, 0),
            ReaderLeft(D, 1),
            BlobVerified(D, False),
            PiecesHeld(D),
            Prepared(D),
            StoreFailed(D, True),
            FromScheduler(Sized(D, 1, 2000)),
            Tick(),
            Stopped(),
        ]
        assert [host.handle(event, now=1.0) for event in late] == [[]] * len(late)
        assert host.machine.slots.used() == {UP: 0}

    def test_a_source_that_comes_after_the_end_begins_it_anew(self) -> None:
        host, _ = known(0, max_ranges=1)
        host.handle(Stopped())
        assert host.handle(added(), now=1.0) == [Recover(D)]
        assert host.handle(ended(0, Outcome.BROKEN)) == [], "that was a request of the download before"
        host.handle(moved(1, 0), now=1.0)
        assert host.handle(held(0), now=1.0) == [RequestRange(D, 1, 0, 1, 5)]
        assert host.handle(received(0, 7), now=1.0) == [], "it was late, and it is in the store"
        host.handle(opened(1, 1, 5), *(received(1, index) for index in range(1, 5)), now=1.0)
        assert host.handle(ended(1, Outcome.DONE), now=1.0) == [RequestRange(D, 2, 0, 5, 7)]


class TestBeforeTheStoreHasAnswered:
    def test_nothing_that_it_may_hold_is_discarded(self) -> None:
        """What an earlier download left is not known to this one yet."""
        kept = failed(discard=False)
        assert alone(added()).handle(StoreFailed(D)) == kept
        assert alone(added()).handle(Stopped()) == failed(Phase.ABANDONED, discard=False)
        host = alone(added(), moved(1, 0), ReaderLeft(D, 1))
        assert host.handle(Tick(), now=LINGER_S) == failed(Phase.ABANDONED, discard=False)
        assert alone(added()).handle(StoreFailed(D, True)) == failed(discard=True)

    def test_who_brings_a_source_reads_next_even_where_nothing_lingers(self) -> None:
        host = Alone(linger_s=0.0)
        assert host.handle(added()) == [Recover(D)]
        assert host.handle(moved(1, 0)) == []
        assert host.handle(ReaderLeft(D, 1)) == failed(Phase.ABANDONED, discard=False)

    def test_and_is_gone_if_it_does_not(self) -> None:
        host = Alone(linger_s=0.0)
        host.handle(added())
        assert host.handle(PiecesHeld(D))[-1] == Ended(D, Phase.ABANDONED, discard=True)


class TestDefects:
    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (received(7, 0), "before the geometry was known"),
            (BlobVerified(D, False), "CORRUPT cannot happen while RECOVERING"),
        ],
    )
    def test_an_event_that_cannot_be_tells_the_story(self, event: Event, text: str) -> None:
        host = alone(added(), moved(1, 0))
        with pytest.raises(IllegalTransitionError, match=text) as error:
            host.handle(event, now=1.5)
        assert "0.000 ReaderMoved(digest=" in str(error.value)
        assert f"1.500 {event}" in str(error.value)

    @pytest.mark.parametrize("event", [ended(7, Outcome.REFUSED), opened(7, 0, 1)])
    def test_a_request_that_is_not_under_way_changes_nothing(self, event: Event) -> None:
        """It was one of a download before this one."""
        host, _ = known(max_ranges=1)
        assert host.handle(event) == []
        assert host.handle(ended(0, Outcome.BROKEN)) == [RequestRange(D, 1, 0, 0, 4)]

    def test_a_piece_that_the_blob_does_not_have(self) -> None:
        host, _ = known(count=3)
        with pytest.raises(IllegalTransitionError, match="piece 3 landed of a blob of 3"):
            host.handle(received(0, 3))

    def test_the_story_is_bounded(self) -> None:
        host = alone(added())
        for reader in range(1000):
            host.handle(moved(reader, 0))
        assert len(host.machine.downloads[D].story()) == 64
