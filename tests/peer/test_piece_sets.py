"""Sets of pieces as integers: the same as sets of numbers, whatever the pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from peer.core.piece_sets import bitfield, digest_runs, gap, indices, mask, spans
from scheduler.protocol.fields import DIGEST_BYTES, MAX_DIGESTS_PER_MESSAGE

pieces = st.sets(st.integers(0, 300))


def as_bits(numbers: set[int]) -> int:
    return sum(1 << number for number in numbers)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_mask_has_the_pieces_of_a_range(first: int, stop: int) -> None:
    assert mask(first, stop) == as_bits(set(range(first, stop)))


@given(pieces)
def test_indices_are_the_pieces_in_order(numbers: set[int]) -> None:
    assert list(indices(as_bits(numbers))) == sorted(numbers)


@given(pieces)
def test_spans_are_as_long_as_they_can_be(numbers: set[int]) -> None:
    found = list(spans(as_bits(numbers)))
    assert {number for first, stop in found for number in range(first, stop)} == numbers
    assert all(before[1] < after[0] for before, after in pairwise(found))


@given(pieces)
def test_a_bitfield_is_read_as_the_protocol_says(numbers: set[int]) -> None:
    field = bitfield(as_bits(numbers))
    assert {number for number in range(8 * len(field)) if field[number // 8] >> number % 8 & 1} == numbers
    assert not field or field[-1]


@given(st.dictionaries(st.integers(0, 300), st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)))
def test_digest_runs_have_every_digest_at_its_piece(digests: dict[int, bytes]) -> None:
    found = {
        first + at // DIGEST_BYTES: run[at : at + DIGEST_BYTES]
        for first, run in digest_runs(digests)
        for at in range(0, len(run), DIGEST_BYTES)
    }
    assert found == digests


@given(pieces, st.integers(1, 20))
def test_the_gap_is_the_first_piece_that_is_missing_if_enough_come_after(numbers: set[int], behind: int) -> None:
    first = next(number for number in range(302) if number not in numbers)
    enough = sum(number > first for number in numbers) >= behind
    assert gap(as_bits(numbers), behind) == (as_bits({first}) if enough else 0)


def test_a_run_fits_into_one_message() -> None:
    digests = dict.fromkeys(range(MAX_DIGESTS_PER_MESSAGE + 3), b"d" * DIGEST_BYTES)
    runs = [(first, len(run) // DIGEST_BYTES) for first, run in digest_runs(digests)]
    assert runs == [(0, MAX_DIGESTS_PER_MESSAGE), (MAX_DIGESTS_PER_MESSAGE, 3)]


def test_nothing_makes_nothing() -> None:
    assert list(spans(0)) == []
    assert list(digest_runs({})) == []
    assert bitfield(0) == b""
