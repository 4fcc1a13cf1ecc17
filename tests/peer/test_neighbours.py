"""Which piece to ask of whom next, and who is left alone for a while."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.core.neighbours import BUSY_LIMIT, BUSY_MOST_S, PER_NEIGHBOUR, Neighbours

ALL = 0b1111_1111


def neighbours(**held: int) -> Neighbours:
    """Neighbours that hold these pieces, all at the same distance."""
    known = Neighbours(generation=1)
    for host, pieces in held.items():
        known.add(host, 0)
        known.holds(host, pieces, 1)
    return known


class TestChoice:
    def test_the_rarest_piece_goes_first(self) -> None:
        known = neighbours(a=0b111, b=0b101, c=0b001)
        assert known.choose(0b111, 0, 0.0) == ("a", 1)

    def test_the_lowest_of_equally_rare_ones(self) -> None:
        assert neighbours(a=0b110, b=0b110).choose(ALL, 0, 0.0) == ("a", 1)

    def test_what_is_urgent_before_what_is_rare(self) -> None:
        known = neighbours(a=0b111, b=0b110)
        assert known.choose(0b111, 0b110, 0.0) == ("a", 1)

    def test_what_is_urgent_and_not_to_be_had_holds_nothing_up(self) -> None:
        assert neighbours(a=0b001).choose(0b011, 0b010, 0.0) == ("a", 0)

    def test_nobody_holds_what_is_wanted(self) -> None:
        assert neighbours(a=0b100).choose(0b011, 0, 0.0) is None
        assert Neighbours().choose(ALL, 0, 0.0) is None

    @given(st.lists(st.integers(0, ALL), min_size=1, max_size=9), st.integers(1, ALL))
    def test_counting_in_columns_is_counting(self, held: list[int], wanted: int) -> None:
        known = neighbours(**{f"h{number}": pieces for number, pieces in enumerate(held)})
        copies = Counter(piece for pieces in held for piece in range(8) if pieces & wanted & 1 << piece)
        choice = known.choose(wanted, 0, 0.0)
        if choice is None:
            assert not copies
        else:
            assert choice[1] == min(copies, key=lambda piece: (copies[piece], piece))


class TestOfTheHolders:
    def test_the_one_with_the_fewest_requests(self) -> None:
        known = neighbours(a=1, b=1)
        known.asked("a")
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_then_the_nearest(self) -> None:
        known = neighbours(a=1, b=1)
        known.add("a", 3)
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_then_the_fastest(self) -> None:
        known = neighbours(a=1, b=1)
        for host, seconds in (("a", 0.5), ("b", 0.1)):
            known.asked(host)
            known.answered(host, seconds)
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_none_that_has_as_many_as_it_may(self) -> None:
        known = neighbours(a=1)
        for _ in range(PER_NEIGHBOUR):
            known.asked("a")
        assert known.choose(1, 0, 0.0) is None
        known.let_go("a")
        assert known.choose(1, 0, 0.0) == ("a", 0)

    def test_requests_from_when_it_was_a_neighbour_before_count(self) -> None:
        known = neighbours(a=1)
        known.remove("a")
        known.add("a", 0, asked=PER_NEIGHBOUR)
        known.holds("a", 1, 1)
        assert known.choose(1, 0, 0.0) is None

    def test_not_the_one_that_was_asked_already(self) -> None:
        assert neighbours(a=1, b=1).choose(1, 0, 0.0, besides="a") == ("b", 0)
        assert neighbours(a=1).choose(1, 0, 0.0, besides="a") is None


class TestBusy:
    def refuse(self, known: Neighbours, now: float) -> bool:
        known.asked("a")
        return known.refused("a", now)

    def test_it_is_left_alone_for_longer_each_time(self) -> None:
        known = neighbours(a=1)
        waits = []
        for _ in range(BUSY_LIMIT + 3):
            self.refuse(known, 100.0)
            waits.append(next(known.busy_until(1)) - 100.0)
        assert waits == sorted(waits)
        assert waits[1] == pytest.approx(2 * waits[0])
        assert waits[-1] == pytest.approx(BUSY_MOST_S)

    def test_it_is_asked_again_when_the_time_has_come(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 0.0)
        (until,) = known.busy_until(1)
        assert known.choose(1, 0, until - 0.001) is None
        assert known.choose(1, 0, until) == ("a", 0)

    def test_others_are_asked_meanwhile(self) -> None:
        known = neighbours(a=1, b=1)
        self.refuse(known, 0.0)
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_a_piece_that_it_sends_makes_it_as_good_as_new(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 0.0)
        known.asked("a")
        known.answered("a", 0.1)
        assert list(known.busy_until(1)) == []

    def test_in_the_end_it_counts_as_full(self) -> None:
        known = neighbours(a=1)
        assert [self.refuse(known, 0.0) for _ in range(BUSY_LIMIT)] == [False] * (BUSY_LIMIT - 1) + [True]

    def test_nobody_waits_for_one_that_has_nothing_of_use(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 0.0)
        assert list(known.busy_until(0b10)) == []

    def test_one_that_never_stops_refusing_is_counted_without_end(self) -> None:
        known = neighbours(a=1)
        for _ in range(5000):
            self.refuse(known, 0.0)
        assert next(known.busy_until(1)) == BUSY_MOST_S


class TestNews:
    def test_of_a_host_that_is_no_neighbour(self) -> None:
        known = Neighbours(generation=1)
        known.holds("a", 1, 1)
        known.gains("a", 1, 1)
        known.holds_all("a")
        known.holds_nothing("a")
        known.asked("a")
        known.answered("a", 1.0)
        known.let_go("a")
        assert known.refused("a", 0.0) is False
        assert "a" not in known
        assert known.held_by_any() == 0

    def test_what_it_gains_is_added_and_what_it_holds_replaces(self) -> None:
        known = neighbours(a=0b001)
        known.gains("a", 0b010, 1)
        assert known.held_by_any() == 0b011
        known.holds("a", 0b100, 1)
        assert known.held_by_any() == 0b100

    def test_of_a_generation_that_we_have_not_heard_of_yet(self) -> None:
        known = neighbours(a=0b001)
        known.holds("a", 0b010, 2)
        known.gains("a", 0b100, 2)
        assert known.held_by_any() == 0b001
        known.begin_generation(2)
        assert known.held_by_any() == 0b110

    def test_of_a_generation_that_is_over(self) -> None:
        known = neighbours(a=0b001)
        known.begin_generation(2)
        known.gains("a", 0b010, 1)
        known.begin_generation(3)
        assert known.held_by_any() == 0

    def test_who_holds_the_whole_blob_does_so_in_every_generation(self) -> None:
        known = neighbours(a=0)
        known.holds_all("a")
        known.begin_generation(2)
        assert known.choose(0b100, 0, 0.0) == ("a", 2)
        known.holds_nothing("a")
        assert known.held_by_any() == 0

    def test_what_only_one_of_them_holds(self) -> None:
        known = neighbours(a=0b011, b=0b010)
        assert known.held_by_none_but("a") == 0b001
        assert known.held_by_none_but("b") == 0
        assert known.held_by_none_but("c") == 0
