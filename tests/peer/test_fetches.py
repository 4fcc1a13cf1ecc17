"""Requests to neighbours: how many, how long, and a second one for what takes long."""

from __future__ import annotations

import math

import pytest

from peer.core.fetches import (
    BESIDE_ORIGIN,
    BUSY_COSTS,
    HEDGE_AFTER,
    HEDGE_LEAST_S,
    MAX_FETCHES,
    MOST_FETCHES,
    SLOW_AFTER,
    SLOW_LEAST_S,
    SLOW_MOST_S,
    Fetches,
)
from peer.core.neighbours import BUSY_S, PER_NEIGHBOUR
from peer.core.swarm_events import FetchEnded, FetchOutcome, StopFetch
from tests.peer.test_neighbours import neighbours

EXPECTED = {index: bytes([index]) * 32 for index in range(20)}


def fetches(**held: int) -> Fetches:
    """No requests yet, to neighbours that hold these pieces."""
    return Fetches(neighbours(**held))


def hosts_of(running: Fetches, wanted: int, now: float = 0.0, *, from_origin: int = 0) -> list[tuple[str, int]]:
    """Whom it asks for which pieces now."""
    started = running.start(wanted, 0, EXPECTED, from_origin, now)
    running.validate()
    return [(fetch.host, fetch.index) for fetch in started]


def hedged(running: Fetches, now: float) -> list[tuple[str, int]]:
    """Whom it asks for which pieces as well now."""
    started = running.hedge(EXPECTED, now)
    running.validate()
    return [(fetch.host, fetch.index) for fetch in started]


class TestHowMany:
    def test_two_at_a_time_of_the_only_neighbour(self) -> None:
        running = fetches(a=0b1111)
        assert hosts_of(running, 0b1111) == [("a", index) for index in range(PER_NEIGHBOUR)]
        assert not running.is_full(0)

    def test_one_at_a_time_of_each_where_there_are_more(self) -> None:
        assert hosts_of(fetches(a=0b1111, b=0b1111), 0b1111) == [("a", 0), ("b", 1)]

    def test_a_few_at_a_time_of_all_together(self) -> None:
        running = fetches(**{f"h{number}": (1 << 20) - 1 for number in range(MAX_FETCHES + 1)})
        assert len(hosts_of(running, (1 << 20) - 1)) == MAX_FETCHES
        assert running.is_full(0)

    def test_more_where_pieces_come_and_nobody_is_busy(self) -> None:
        running, held = fetches(**{f"h{number}": (1 << 20) - 1 for number in range(MOST_FETCHES + 1)}), 0
        for landed in range(1, MOST_FETCHES + 3):
            hosts_of(running, (1 << 20) - 1 & ~held & ~running.pieces)
            number, held = next(iter(running._running)), held | running.pieces & -running.pieces
            running.ended(FetchEnded(number, FetchOutcome.LANDED), 1.0)
            hosts_of(running, (1 << 20) - 1 & ~held & ~running.pieces)
            assert len(running) == max(MAX_FETCHES, min(landed, MOST_FETCHES))

    @pytest.mark.parametrize("refused", [True, False], ids=["refused", "others come first"])
    def test_no_more_once_somebody_is(self, refused: bool) -> None:
        running = fetches(**{f"h{number}": (1 << 20) - 1 for number in range(MOST_FETCHES + 1)})
        running._free = MAX_FETCHES + BUSY_COSTS
        for _ in range(2):
            hosts_of(running, (1 << 20) - 1)
            outcome = FetchOutcome.BUSY if refused else FetchOutcome.LANDED
            host, *_ = running.ended(FetchEnded(next(iter(running._running)), outcome, not refused), 0.0)
            if refused:
                running.neighbours.refused(host, 0.0)
        assert running._free == MAX_FETCHES - BUSY_COSTS
        assert running.is_full(0), "as many go on as there were"
        while len(running) > MAX_FETCHES:
            running.ended(FetchEnded(next(iter(running._running)), FetchOutcome.GONE), 0.0)
        assert running.is_full(0)

    def test_fewer_while_the_origin_sends_to_this_host(self) -> None:
        running = fetches(a=0b0111, b=0b0111)
        assert len(hosts_of(running, 0b0111, from_origin=0b1000)) == BESIDE_ORIGIN
        assert running.is_full(0b1000)
        assert not running.is_full(0)
        assert hosts_of(running, 0b0110) == [("b", 1)]

    def test_each_piece_once_and_with_its_digest(self) -> None:
        running = fetches(a=0b1, b=0b1)
        (fetch,) = running.start(0b1, 0, EXPECTED, 0, 0.0)
        assert fetch.expected == EXPECTED[0]
        assert running.pieces == 0b1

    def test_the_next_when_one_has_landed(self) -> None:
        running = fetches(a=0b1111)
        hosts_of(running, 0b1111)
        running.ended(FetchEnded(0, FetchOutcome.LANDED), 1.0)
        assert hosts_of(running, 0b1100) == [("a", 2)]

    def test_not_of_one_that_said_with_its_piece_that_others_come_first(self) -> None:
        running = fetches(a=0b1111, b=0b1000)
        hosts_of(running, 0b0011)
        running.ended(FetchEnded(0, FetchOutcome.LANDED, busy=True), 1.0)
        running.ended(FetchEnded(1, FetchOutcome.LANDED, busy=True), 2.0)
        assert hosts_of(running, 0b1100, 3.0) == [("b", 3)]
        assert hosts_of(running, 0b0100, 2.0 + BUSY_S - 0.1) == []
        assert hosts_of(running, 0b0100, 2.0 + BUSY_S) == [("a", 2)]


class TestHedging:
    def test_a_piece_that_takes_long_is_asked_of_another(self) -> None:
        running = fetches(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        assert hedged(running, HEDGE_LEAST_S - 0.001) == []
        assert hedged(running, HEDGE_LEAST_S) == [("b", 0)]

    def test_of_one_other_only(self) -> None:
        running = fetches(a=0b1, b=0b1, c=0b1)
        hosts_of(running, 0b1)
        hedged(running, 1.0)
        assert hedged(running, 4.0) == []

    def test_and_of_yet_another_when_that_one_failed(self) -> None:
        running = fetches(a=0b1, b=0b1, c=0b1)
        hosts_of(running, 0b1)
        hedged(running, 1.0)
        running.ended(FetchEnded(1, FetchOutcome.GONE), 1.1)
        running.neighbours.remove("b")
        assert hedged(running, 1.1) == [("c", 0)]

    def test_the_first_answer_stops_the_other(self) -> None:
        running = fetches(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        hedged(running, 1.0)
        assert running.ended(FetchEnded(1, FetchOutcome.LANDED), 1.1) == ("b", 0, [StopFetch(0)])
        assert running.ended(FetchEnded(0, FetchOutcome.STOPPED), 1.2) == ("a", 0, [])
        assert len(running) == 0

    def test_long_is_by_what_pieces_take_here(self) -> None:
        running = fetches(a=0b111, b=0b111)
        hosts_of(running, 0b1)
        running.ended(FetchEnded(0, FetchOutcome.LANDED), 2.0)
        hosts_of(running, 0b10, now=2.0)
        late = 2.0 + HEDGE_AFTER * 2.0
        assert hedged(running, late - 0.1) == []
        assert len(hedged(running, late)) == 1

    def test_nobody_else_has_it(self) -> None:
        running = fetches(a=0b1)
        hosts_of(running, 0b1)
        assert hedged(running, 4.0) == []

    def test_it_is_late_from_then_on_and_not_if_it_is_stopped(self) -> None:
        running = fetches(a=0b11, b=0b10)
        hosts_of(running, 0b01)
        hosts_of(running, 0b10, now=HEDGE_LEAST_S / 2)
        assert not running.is_late(HEDGE_LEAST_S - 0.001)
        assert running.is_late(HEDGE_LEAST_S)
        running.stop("a")
        assert not running.is_late(HEDGE_LEAST_S), "the other has some time left"
        assert running.is_late(1.5 * HEDGE_LEAST_S)

    def test_what_is_due_next(self) -> None:
        running = fetches(a=0b11, b=0b10)
        assert running.next_due(0.0) == math.inf
        hosts_of(running, 0b01)
        hosts_of(running, 0b10, now=0.1)
        due = [0.1]
        while due[-1] < math.inf:
            due.append(running.next_due(due[-1]))
        hedges = [HEDGE_LEAST_S, 0.1 + HEDGE_LEAST_S]
        slow = [SLOW_LEAST_S, 0.1 + SLOW_LEAST_S, SLOW_MOST_S, 0.1 + SLOW_MOST_S]
        assert due[1:-1] == [*hedges, *slow]


class TestSlowness:
    def test_a_neighbour_that_takes_much_too_long(self) -> None:
        running = fetches(a=0b1, b=0b1)
        hosts_of(running, 0b1)
        assert running.slow_hosts(0b1, SLOW_LEAST_S - 0.1) == []
        assert running.slow_hosts(0b1, SLOW_LEAST_S) == ["a"]

    def test_what_is_stopped_is_not_judged_and_not_stopped_again(self) -> None:
        running = fetches(a=0b11, b=0b11)
        hosts_of(running, 0b1)
        assert running.stop("a") == [StopFetch(0)]
        assert running.stop("a") == []
        assert running.slow_hosts(0b1, 1000.0) == []
        assert running.next_due(0.0) == math.inf

    def test_the_only_one_that_has_what_is_wanted_gets_more_time(self) -> None:
        running = fetches(a=0b11, b=0b1)
        hosts_of(running, 0b1)
        assert running.slow_hosts(0b11, SLOW_MOST_S - 0.1) == []
        assert running.slow_hosts(0b01, SLOW_MOST_S - 0.1) == ["a"]
        assert running.slow_hosts(0b11, SLOW_MOST_S) == ["a"]

    def test_by_what_pieces_take_here(self) -> None:
        running = fetches(a=0b11, b=0b11)
        hosts_of(running, 0b1)
        running.ended(FetchEnded(0, FetchOutcome.LANDED), 1.0)
        hosts_of(running, 0b10, now=1.0)
        assert running.slow_hosts(0b10, 1.0 + SLOW_AFTER - 0.1) == []
        assert len(running.slow_hosts(0b10, 1.0 + SLOW_AFTER)) == 1

    def test_a_host_on_a_slow_link_gets_its_piece_in_the_end(self) -> None:
        """Each piece takes 12 s here, whoever sends it: that is no reason to give them all up, one after the other."""
        running = fetches(**dict.fromkeys("abcdef", 0b1))
        now, given_up = 0.0, 0
        while True:
            ((host, _),) = hosts_of(running, 0b1, now)
            number = running._next - 1
            due = running.next_due(running.next_due(now))
            if due - now >= 12.0:
                break
            now, given_up = due, given_up + 1
            assert running.slow_hosts(0b1, now) == [host]
            running.stop(host)
            running.ended(FetchEnded(number, FetchOutcome.STOPPED), now)
            running.neighbours.remove(host)
        assert given_up == 2
        running.ended(FetchEnded(number, FetchOutcome.LANDED), now + 12.0)
        assert running._slow_least_s == SLOW_LEAST_S


def test_the_end_of_a_request_that_never_was() -> None:
    with pytest.raises(KeyError):
        fetches(a=0b1).ended(FetchEnded(0, FetchOutcome.GONE), 0.0)
