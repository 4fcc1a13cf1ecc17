"""Requests to neighbours: how many, how long, and a second one for what takes long."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from peer.core.events import CancelPiece, PeerOutcome, RequestPiece
from peer.core.neighbours import BUSY_S, PER_NEIGHBOUR
from peer.core.peer_requests import (
    BESIDE_ORIGIN,
    FIRST_EACH_S,
    HEDGE_AFTER,
    HEDGE_LEAST_S,
    MAX_REQUESTS,
    MIN_REQUESTS,
    SLOW_AFTER,
    SLOW_LEAST_S,
    SLOW_MOST_S,
    WARM_REQUESTS,
    PeerRequests,
)
from peer.core.piece_sets import indices
from peer.core.pieces import PeerRequest, PieceTracker
from scheduler.protocol import link
from tests.peer.test_neighbours import neighbours

D = b"d" * 32
EXPECTED = {index: bytes([index]) * 32 for index in range(100)}
COUNT = len(EXPECTED)
ALL = (1 << COUNT) - 1
ORIGIN = 99
"""The number of the request to the origin that is under way while it sends."""


def requests(**held: int) -> PeerRequests:
    """No requests yet, to neighbours that hold these pieces."""
    pieces = PieceTracker()
    pieces.learn_geometry(COUNT * 100, 100)
    return PeerRequests(D, pieces, neighbours(**held), itertools.count())


def want(running: PeerRequests, wanted: int) -> None:
    """The digests of these pieces are known, and those of what is requested already."""
    pieces = running.pieces
    pieces.known = wanted | pieces.asked_of_peers
    pieces.expected = {index: EXPECTED[index] for index in indices(pieces.known)}


def origin_sends(running: PeerRequests, first: int, stop: int) -> None:
    running.pieces.request_range(ORIGIN, 0, first, stop)


def hosts_of(running: PeerRequests, wanted: int, now: float = 0.0) -> list[tuple[str, int]]:
    """Whom it asks for which pieces now."""
    want(running, wanted)
    started = running.start(0, now)
    running.validate()
    return [(request.host, request.index) for request in started]


def hedged(running: PeerRequests, now: float) -> list[tuple[str, int]]:
    """Whom it asks for which pieces as well now."""
    started = running.hedge(now)
    running.validate()
    return [(request.host, request.index) for request in started]


def slow(running: PeerRequests, wanted: int, now: float) -> list[str]:
    """The neighbours that have taken too long, while these pieces are wanted."""
    want(running, wanted)
    return running.slow_hosts(now)


def receive(running: PeerRequests, number: int, now: float, *, choked: bool = False) -> list[CancelPiece]:
    """A request brings its piece."""
    index = running.pieces.peer_requests[number].index
    running.pieces.receive(index, EXPECTED[index], from_origin=False)
    return running.received(number, now, choked=choked)


def in_a_round(running: PeerRequests, now: float, took_s: Callable[[int], float]) -> int:
    """All that may be asked for is asked for, and comes at once after `took_s` for so many. Returns how many."""
    count = len(hosts_of(running, ALL & ~running.pieces.held, now))
    for number in list(running.pieces.peer_requests):
        receive(running, number, now + took_s(count))
    return count


def first_of(running: PeerRequests) -> int:
    """The request that has been under way for the longest."""
    return next(iter(running.pieces.peer_requests))


class TestHowMany:
    def test_two_at_a_time_of_the_only_neighbour(self) -> None:
        running = requests(a=0b1111)
        assert hosts_of(running, 0b1111) == [("a", index) for index in range(PER_NEIGHBOUR)]
        assert not running.is_full()

    def test_one_at_a_time_of_each_where_there_are_more(self) -> None:
        assert hosts_of(requests(a=0b1111, b=0b1111), 0b1111) == [("a", 0), ("b", 1)]

    def test_a_few_at_a_time_of_all_together(self) -> None:
        running = requests(**{f"h{number}": ALL for number in range(MIN_REQUESTS + 1)})
        assert len(hosts_of(running, ALL)) == MIN_REQUESTS
        assert running.is_full()

    @pytest.mark.parametrize("seeders", [MIN_REQUESTS, WARM_REQUESTS - 1, WARM_REQUESTS + 1])
    def test_more_at_first_where_neighbours_hold_everything(self, seeders: int) -> None:
        running = requests(**{f"h{number}": ALL for number in range(MAX_REQUESTS)})
        for number in range(seeders):
            running.neighbours.on_message(f"h{number}", link.Bitfield(D, 1, complete=True))
        assert len(hosts_of(running, ALL)) == min(seeders, WARM_REQUESTS)
        assert running.is_full()

    def test_more_with_each_round_where_none_is_slower_for_it(self) -> None:
        running = requests(**{f"h{number}": ALL for number in range(MAX_REQUESTS + 1)})
        counts = [in_a_round(running, at, took_s=lambda _: 1.0) for at in range(4)]
        assert counts[0] == MIN_REQUESTS
        assert all(more > count for count, more in itertools.pairwise(counts)), counts
        assert counts[-1] == MAX_REQUESTS

    def test_no_more_than_fill_the_line(self) -> None:
        """Each more makes all others slower: as many pieces come in a second as before."""
        running = requests(**{f"h{number}": ALL for number in range(MAX_REQUESTS + 1)})
        now, counts = 0.0, list[int]()
        for _ in range(10):
            counts.append(in_a_round(running, now, took_s=lambda count: count / 4))
            now += counts[-1] / 4
        assert max(counts) <= MAX_REQUESTS * 0.7, "as many as fill the line, the headroom, and what comes by chance"

    def test_few_again_once_less_comes(self) -> None:
        running = requests(**{f"h{number}": ALL for number in range(MAX_REQUESTS + 1)})
        for at in range(4):
            in_a_round(running, at, took_s=lambda _: 1.0)
        assert len(hosts_of(running, ALL, 4.0)) > MIN_REQUESTS
        for at in range(4):
            receive(running, first_of(running), 8.0 + 4 * at, choked=True)
        while len(running.pieces.peer_requests) > MIN_REQUESTS:
            assert running.is_full()
            running.failed(first_of(running), PeerOutcome.GONE)
        assert running.is_full()

    def test_fewer_while_the_origin_sends_to_this_host(self) -> None:
        running = requests(a=0b0111, b=0b0111, c=0b0111)
        origin_sends(running, 3, 4)
        assert len(hosts_of(running, 0b0111)) == BESIDE_ORIGIN
        assert running.is_full()
        running.pieces.end_range(ORIGIN)
        assert not running.is_full()
        assert hosts_of(running, 0b0100) == [("c", 2)]

    def test_each_piece_once_and_with_its_digest(self) -> None:
        running = requests(a=0b1, b=0b1)
        want(running, 0b1)
        assert running.start(0, 0.0) == [RequestPiece(D, 0, "a", 0, EXPECTED[0])]
        assert running.pieces.asked_of_peers == 0b1
        assert running.start(0, 0.0) == []

    def test_what_is_to_come_first_does(self) -> None:
        running = requests(a=0b111, b=0b110)
        want(running, 0b111)
        assert [(each.host, each.index) for each in running.start(0b110, 0.0)] == [("a", 1), ("b", 2)]

    def test_neither_what_is_held_nor_what_the_origin_sends(self) -> None:
        running = requests(a=0b111)
        running.pieces.receive(0, EXPECTED[0], from_origin=False)
        origin_sends(running, 1, 2)
        assert hosts_of(running, 0b111) == [("a", 2)]

    def test_only_of_which_the_digest_is_known(self) -> None:
        assert hosts_of(requests(a=0b111), 0b100) == [("a", 2)]

    def test_the_next_when_one_has_landed(self) -> None:
        running = requests(a=0b1111)
        hosts_of(running, 0b1111)
        receive(running, 0, 1.0)
        assert hosts_of(running, 0b1100) == [("a", 2)]

    def test_not_of_one_that_said_with_its_piece_that_others_come_first(self) -> None:
        running = requests(a=0b1111, b=0b1000)
        hosts_of(running, 0b0011)
        receive(running, 0, 1.0, choked=True)
        receive(running, 1, 2.0, choked=True)
        assert hosts_of(running, 0b1100, 3.0) == [("b", 3)]
        assert hosts_of(running, 0b0100, 2.0 + BUSY_S - 0.1) == []
        assert hosts_of(running, 0b0100, 2.0 + BUSY_S) == [("a", 2)]


class TestHedging:
    def test_a_piece_that_takes_long_is_asked_of_another(self) -> None:
        running = requests(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        assert hedged(running, HEDGE_LEAST_S - 0.001) == []
        assert hedged(running, HEDGE_LEAST_S) == [("b", 0)]

    def test_of_one_other_only(self) -> None:
        running = requests(a=0b1, b=0b1, c=0b1)
        hosts_of(running, 0b1)
        hedged(running, 1.0)
        assert hedged(running, 4.0) == []

    def test_and_of_yet_another_when_that_one_failed(self) -> None:
        running = requests(a=0b1, b=0b1, c=0b1)
        hosts_of(running, 0b1)
        hedged(running, 1.0)
        running.failed(1, PeerOutcome.GONE)
        running.neighbours.remove("b")
        assert hedged(running, 1.1) == [("c", 0)]

    def test_the_first_answer_stops_the_other(self) -> None:
        running = requests(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        hedged(running, 1.0)
        assert receive(running, 1, 1.1) == [CancelPiece(D, 0)]
        assert running.failed(0, PeerOutcome.CANCELLED) == PeerRequest("a", 0, 0.0, hedged=True, cancelled=True)
        assert len(running.pieces.peer_requests) == 0

    def test_long_is_by_what_pieces_take_here(self) -> None:
        running = requests(a=0b111, b=0b111)
        hosts_of(running, 0b1)
        receive(running, 0, 2.0)
        hosts_of(running, 0b10, now=2.0)
        late = 2.0 + HEDGE_AFTER * 2.0
        assert hedged(running, late - 0.1) == []
        assert len(hedged(running, late)) == 1

    def test_nobody_else_has_it(self) -> None:
        running = requests(a=0b1)
        hosts_of(running, 0b1)
        assert hedged(running, 4.0) == []

    def test_it_is_late_from_then_on_and_not_if_it_is_stopped(self) -> None:
        running = requests(a=0b11, b=0b10)
        hosts_of(running, 0b01)
        hosts_of(running, 0b10, now=HEDGE_LEAST_S / 2)
        assert running.late_at() == HEDGE_LEAST_S
        running.cancel_host("a")
        assert running.late_at() == 1.5 * HEDGE_LEAST_S, "the other has some time left"

    def test_what_is_due_next(self) -> None:
        running = requests(a=0b11, b=0b10)
        assert running.next_due(0.0) == math.inf
        hosts_of(running, 0b01)
        hosts_of(running, 0b10, now=0.1)
        due = [0.1]
        while due[-1] < math.inf:
            due.append(running.next_due(due[-1]))
        hedges = [HEDGE_LEAST_S, 0.1 + HEDGE_LEAST_S]
        too_slow = [SLOW_LEAST_S, 0.1 + SLOW_LEAST_S, SLOW_MOST_S, 0.1 + SLOW_MOST_S]
        assert due[1:-1] == [*hedges, *too_slow]

    def test_a_second_neighbour_only_within_the_limit(self) -> None:
        running = requests(**{f"h{number}": ALL for number in range(MAX_REQUESTS + 2)})
        running._most = MAX_REQUESTS
        assert len(hosts_of(running, ALL)) == MAX_REQUESTS
        assert hedged(running, 1.0) == []
        running.failed(first_of(running), PeerOutcome.GONE)
        assert len(hedged(running, 1.0)) == 1

    def test_both_requests_are_for_one_piece(self) -> None:
        running = requests(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        want(running, 0b1)
        assert running.hedge(1.0) == [RequestPiece(D, 1, "b", 0, EXPECTED[0])]
        assert [each.hedged for each in running.pieces.peer_requests.values()] == [True, True]
        assert (running.asked_of("a"), running.asked_of("b")) == (1, 1)


class TestSlowness:
    def test_a_neighbour_that_takes_much_too_long(self) -> None:
        running = requests(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        assert slow(running, 0b1, SLOW_LEAST_S - 0.1) == []
        assert slow(running, 0b1, SLOW_LEAST_S) == ["a"]

    def test_the_first_pieces_have_the_time_of_all_that_share_the_line(self) -> None:
        running = requests(**{f"h{number}": ALL for number in range(WARM_REQUESTS)})
        for host in running.neighbours:
            running.neighbours.on_message(host, link.Bitfield(D, 1, complete=True))
        assert len(hosts_of(running, ALL)) == WARM_REQUESTS
        assert slow(running, ALL, WARM_REQUESTS * FIRST_EACH_S - 0.1) == []
        receive(running, first_of(running), SLOW_LEAST_S / 100)
        assert len(slow(running, ALL, SLOW_LEAST_S)) == WARM_REQUESTS - 1

    def test_what_is_stopped_is_not_judged_and_not_stopped_again(self) -> None:
        running = requests(a=0b11, b=0b11)
        hosts_of(running, 0b1)
        assert running.cancel_host("a") == [CancelPiece(D, 0)]
        assert running.cancel_host("a") == []
        assert slow(running, 0b1, 1000.0) == []
        assert running.next_due(0.0) == math.inf

    def test_the_only_one_that_has_what_is_wanted_gets_more_time(self) -> None:
        running = requests(a=0b11, b=0b1)
        hosts_of(running, 0b1)
        assert slow(running, 0b11, SLOW_MOST_S - 0.1) == []
        assert slow(running, 0b01, SLOW_MOST_S - 0.1) == ["a"]
        assert slow(running, 0b11, SLOW_MOST_S) == ["a"]

    def test_by_what_pieces_take_here(self) -> None:
        running = requests(a=0b11, b=0b11)
        hosts_of(running, 0b1)
        receive(running, 0, 1.0)
        hosts_of(running, 0b10, now=1.0)
        assert slow(running, 0b10, 1.0 + SLOW_AFTER - 0.1) == []
        assert len(slow(running, 0b10, 1.0 + SLOW_AFTER)) == 1

    def test_a_host_on_a_slow_link_gets_its_piece_in_the_end(self) -> None:
        """Each piece takes 12 s here, whoever sends it: that is no reason to give them all up, one after the other."""
        running = requests(**dict.fromkeys("abcdef", 0b1))
        now, given_up = 0.0, 0
        while True:
            ((host, _),) = hosts_of(running, 0b1, now)
            number = first_of(running)
            due = running.next_due(running.next_due(now))
            if due - now >= 12.0:
                break
            now, given_up = due, given_up + 1
            assert slow(running, 0b1, now) == [host]
            running.cancel_host(host)
            running.failed(number, PeerOutcome.CANCELLED)
            running.neighbours.remove(host)
        assert given_up == 2
        receive(running, number, now + 12.0)
        assert running._slow_least_s == SLOW_LEAST_S


def test_all_requests_are_cancelled_once_at_the_end() -> None:
    running = requests(a=0b11, b=0b11)
    hosts_of(running, 0b11)
    running.cancel_host("a")
    assert running.cancel_all() == [CancelPiece(D, 1)]
    assert running.cancel_all() == []


def test_the_end_of_a_request_that_never_was() -> None:
    with pytest.raises(KeyError):
        requests(a=0b1).failed(0, PeerOutcome.GONE)
    with pytest.raises(KeyError):
        requests(a=0b1).received(0, 0.0, choked=False)
