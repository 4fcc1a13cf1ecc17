"""The small parts that the core is made of."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.deadlines import Deadlines
from scheduler.core.inline_blobs import InlineBlobCache
from scheduler.core.members import Topology, distance
from scheduler.core.piece_counts import PieceCounts
from scheduler.core.rng import Rng


def test_random_numbers_are_even_and_repeat() -> None:
    drawn = [Rng(1).randbelow(7) for _ in range(3)]
    assert drawn == drawn[:1] * 3
    rng = Rng(1)
    counts = Counter(rng.randbelow(7) for _ in range(7000))
    assert all(850 < counts[number] < 1150 for number in range(7))
    assert Rng(1).randbelow(1 << 40) != Rng(2).randbelow(1 << 40)


@given(st.lists(st.integers(), unique=True, max_size=20), st.integers(1, 12))
def test_sample_gives_all_of_few_and_some_of_many(items: list[int], most: int) -> None:
    drawn = Rng(5).sample(items, most)
    assert set(drawn) <= set(items)
    assert len(drawn) == min(len(items), most)
    if len(items) <= most:
        assert sorted(drawn) == sorted(items)


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


def test_piece_counts_count_copies() -> None:
    piece_counts = PieceCounts()
    piece_counts.change(0, 0b0111)
    piece_counts.change(0, 0b0001)
    piece_counts.change(0b0111, 0b0101)
    assert [piece_counts.copies(piece) for piece in range(4)] == [2, 0, 1, 0]
    assert piece_counts.without_copy(0b1111) == 0b1010
    piece_counts.complete = 1
    assert piece_counts.without_copy(0b1111) == 0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, (1 << 10) - 1))))
def test_piece_counts_are_of_the_last_reports(reports: list[tuple[int, int]]) -> None:
    piece_counts = PieceCounts()
    have = dict.fromkeys(range(9), 0)
    for member, pieces in reports:
        piece_counts.change(have[member], pieces)
        have[member] = pieces
    copies = [sum(pieces >> piece & 1 for pieces in have.values()) for piece in range(10)]
    assert [piece_counts.copies(piece) for piece in range(10)] == copies
    assert piece_counts.without_copy((1 << 10) - 1) == sum(
        1 << piece for piece, count in enumerate(copies) if not count
    )


def test_the_cache_drops_the_least_recently_used_blob() -> None:
    inline_blobs = InlineBlobCache(10)
    inline_blobs.put(b"a", b"1234")
    inline_blobs.put(b"b", b"1234")
    assert inline_blobs.get(b"a") == b"1234"
    inline_blobs.put(b"c", b"1234")
    assert [inline_blobs.get(key) for key in (b"a", b"b", b"c")] == [b"1234", None, b"1234"]
    assert inline_blobs.size_bytes == 8
    assert inline_blobs.size_of(b"b") is None


@pytest.mark.parametrize(
    ("topology", "expected"),
    [(("s", "z", "r"), 0), (("s", "z", "q"), 1), (("s", "y", "r"), 2), (("t", "z", "r"), 3)],
)
def test_distance(topology: tuple[str, str, str], expected: int) -> None:
    assert distance(Topology("s", "z", "r"), Topology(*topology)) == expected
