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
    piece_count,
    piece_length,
    piece_span,
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


@pytest.mark.parametrize("size_bytes", [-1, MAX_BLOB_BYTES + 1])
def test_a_size_that_no_blob_has_is_an_error(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        piece_length(size_bytes)
