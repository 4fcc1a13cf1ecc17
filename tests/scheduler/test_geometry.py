"""Every host must cut a blob in the same way."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.protocol.geometry import (
    MAX_BLOB_BYTES,
    MAX_PIECE_BYTES,
    MAX_PIECES,
    MIN_PIECE_BYTES,
    MIN_SWARM_PIECE_BYTES,
    is_divisible,
    longest_piece_length,
    piece_count,
    piece_length,
    piece_span,
    said_piece_length,
    told_piece_length,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
sizes = st.integers(0, MAX_BLOB_BYTES)


@pytest.mark.parametrize(
    ("size_bytes", "length", "count"),
    [
        (0, 256 * KIB, 0),
        (1, 256 * KIB, 1),
        (256 * KIB, 256 * KIB, 1),
        (256 * KIB + 1, 256 * KIB, 2),
        (10 * MIB, 512 * KIB, 20),
        (100 * MIB, 2 * MIB, 50),
        (GIB, 4 * MIB, 256),
        (MAX_BLOB_BYTES, 4 * MIB, MAX_PIECES),
    ],
)
def test_pieces_of_a_blob(size_bytes: int, length: int, count: int) -> None:
    assert piece_length(size_bytes) == length
    assert piece_count(size_bytes, length) == count


@given(sizes.filter(bool))
def test_length_is_the_nearest_power_of_two_within_bounds(size_bytes: int) -> None:
    exact = math.log2(25_000 * size_bytes) / 2
    nearest = min(max(2.0 ** round(exact), MIN_PIECE_BYTES), MAX_PIECE_BYTES)
    length = piece_length(size_bytes)
    assert length == nearest or abs(exact - math.floor(exact) - 0.5) < 1e-9  # at a tie, floats may round either way


@given(st.integers(1, 64 * MIB), st.data())
def test_spans_cover_the_blob_without_overlap(size_bytes: int, data: st.DataObject) -> None:
    length = piece_length(size_bytes)
    count = piece_count(size_bytes, length)
    spans = [piece_span(index, size_bytes, length) for index in range(count)]
    assert spans[0][0] == 0
    assert spans[-1][1] == size_bytes
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    outside = data.draw(st.integers(max_value=-1) | st.integers(min_value=count))
    with pytest.raises(IndexError):
        piece_span(outside, size_bytes, length)


@pytest.mark.parametrize(
    ("size_bytes", "usual", "longest"),
    [
        (4 * MIB - 1, 256 * KIB, 256 * KIB),
        (4 * MIB, 256 * KIB, 512 * KIB),
        (8 * MIB, 512 * KIB, MIB),
        (20 * MIB, 512 * KIB, MIB),
        (24 * MIB, MIB, MIB),
        (GIB, 4 * MIB, 4 * MIB),
    ],
)
def test_only_short_blobs_may_have_longer_pieces_and_not_the_shortest(
    size_bytes: int, usual: int, longest: int
) -> None:
    assert (piece_length(size_bytes), longest_piece_length(size_bytes)) == (usual, longest)


@given(sizes, st.integers(0, 2**13).map(lambda number: number << 10) | st.integers(0, 2 * MAX_PIECE_BYTES))
def test_other_lengths_than_those_that_a_swarm_may_choose_are_refused(size_bytes: int, said: int) -> None:
    usual, longest = piece_length(size_bytes), longest_piece_length(size_bytes)
    shorter = {usual >> halved for halved in range(1, 5) if usual >> halved >= MIN_SWARM_PIECE_BYTES}
    allowed = {0, usual, longest} | {each for each in shorter if piece_count(size_bytes, each) <= MAX_PIECES}
    assert is_divisible(size_bytes) == (len(allowed - {0}) > 1 or bool(shorter))
    if said not in allowed:
        with pytest.raises(ValueError, match="divided"):
            said_piece_length(size_bytes, said)
    for length in allowed - {0}:
        assert said_piece_length(size_bytes, told_piece_length(size_bytes, length)) == length
        assert length <= MAX_PIECE_BYTES


@pytest.mark.parametrize("size_bytes", [-1, MAX_BLOB_BYTES + 1])
def test_a_size_that_no_blob_has_is_an_error(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        piece_length(size_bytes)
