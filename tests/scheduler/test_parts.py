"""The small parts that the core is made of."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.deadlines import Deadlines
from scheduler.core.inline_blobs import Contents
from scheduler.core.members import Place, distance
from scheduler.core.piece_counts import Holdings
from scheduler.core.rng import Chance


def test_chance_is_even_and_repeats() -> None:
    drawn = [Chance(1).below(7) for _ in range(3)]
    assert drawn == drawn[:1] * 3
    chance = Chance(1)
    counts = Counter(chance.below(7) for _ in range(7000))
    assert all(850 < counts[number] < 1150 for number in range(7))
    assert Chance(1).below(1 << 40) != Chance(2).below(1 << 40)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(), unique=True, max_size=20), st.integers(1, 12))
def test_some_of_gives_all_of_few_and_some_of_many(items: list[int], most: int) -> None:
    drawn = Chance(5).some_of(items, most)
    assert set(drawn) <= set(items)
    assert len(drawn) == min(len(items), most)
    if len(items) <= most:
        assert sorted(drawn) == sorted(items)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.floats(0, 100))))
def test_deadlines_come_out_in_order_each_once(steps: list[tuple[int, float | None]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    expected: dict[int, float] = {}
    for key, when in steps:
        if when is None:
            deadlines.cancel(key)
            expected.pop(key, None)
        else:
            deadlines.set(key, when)
            expected[key] = when
    assert len(deadlines) == len(expected)
    assert deadlines.next() == min(expected.values(), default=None)
    due = []
    while (key_due := deadlines.pop_due(100)) is not None:
        due.append(key_due)
    assert sorted(due) == sorted(expected)
    assert [expected[key] for key in due] == sorted(expected.values())


def test_deadlines_do_not_come_early_and_old_ones_are_let_go() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for number in range(1000):
        deadlines.set("a", 1000 - number)
    assert deadlines.pop_due(0.5) is None
    assert deadlines.pop_due(1) == "a"
    assert deadlines.next() is None


def test_holdings_count_copies() -> None:
    holdings = Holdings()
    holdings.change(0, 0b0111)
    holdings.change(0, 0b0001)
    holdings.change(0b0111, 0b0101)
    assert [holdings.copies(piece) for piece in range(4)] == [2, 0, 1, 0]
    assert holdings.without_copy(0b1111) == 0b1010
    holdings.complete = 1
    assert holdings.without_copy(0b1111) == 0


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, (1 << 10) - 1))))
def test_holdings_are_what_members_said_last(reports: list[tuple[int, int]]) -> None:
    holdings = Holdings()
    have = dict.fromkeys(range(9), 0)
    for member, pieces in reports:
        holdings.change(have[member], pieces)
        have[member] = pieces
    copies = [sum(pieces >> piece & 1 for pieces in have.values()) for piece in range(10)]
    assert [holdings.copies(piece) for piece in range(10)] == copies
    assert holdings.without_copy((1 << 10) - 1) == sum(1 << piece for piece, count in enumerate(copies) if not count)


def test_contents_let_the_least_recently_used_go() -> None:
    contents = Contents(10)
    contents.put(b"a", b"1234")
    contents.put(b"b", b"1234")
    assert contents.get(b"a") == b"1234"
    contents.put(b"c", b"1234")
    assert [contents.get(key) for key in (b"a", b"b", b"c")] == [b"1234", None, b"1234"]
    assert contents.size_bytes == 8
    assert contents.size_of(b"b") is None


@pytest.mark.parametrize(
    ("place", "expected"),
    [(("s", "z", "r"), 0), (("s", "z", "q"), 1), (("s", "y", "r"), 2), (("t", "z", "r"), 3)],
)
def test_distance(place: tuple[str, str, str], expected: int) -> None:
    assert distance(Place("s", "z", "r"), Place(*place)) == expected
