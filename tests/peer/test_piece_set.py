"""The set of held pieces: checked against a plain set, and its runs against counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.store.piece_set import PieceSet

COUNTS = st.integers(0, 70)
INDICES = st.lists(st.integers(0, 69))


def _piece_set(count: int, indices: list[int]) -> tuple[PieceSet, set[int]]:
    pieces, model = PieceSet(count), set[int]()
    for index in indices:
        if index < count:
            assert pieces.add(index) == (index not in model)
            model.add(index)
    return pieces, model


@given(COUNTS, INDICES)
def test_it_is_a_set_that_knows_its_prefix(count: int, indices: list[int]) -> None:
    pieces, model = _piece_set(count, indices)
    assert list(pieces) == sorted(model)
    assert len(pieces) == pieces.held == len(model)
    assert pieces.complete == (len(model) == count)
    assert pieces.prefix == next(index for index in range(count + 1) if index not in model)
    assert all((index in pieces) == (index in model) for index in range(-9, count + 9))


@given(COUNTS, INDICES, st.integers(0, 80), st.integers(0, 80))
def test_runs_are_what_counting_gives(count: int, indices: list[int], start: int, stop: int) -> None:
    pieces, model = _piece_set(count, indices)
    end = start
    while end < min(stop, count) and end in model:
        end += 1
    assert pieces.run_from(start, stop) == end


@given(COUNTS, INDICES, st.integers(0, 80))
def test_a_run_without_a_stop_goes_to_the_end(count: int, indices: list[int], start: int) -> None:
    pieces, _ = _piece_set(count, indices)
    assert pieces.run_from(start) == pieces.run_from(start, count)


@pytest.mark.parametrize("index", [-1, 3, 8])
def test_what_is_outside_of_the_blob_is_an_error_and_changes_nothing(index: int) -> None:
    pieces = PieceSet(3)
    with pytest.raises(IndexError, match="of 3"):
        pieces.add(index)
    assert list(pieces) == []


def test_no_blob_has_fewer_than_no_pieces() -> None:
    assert PieceSet(0).complete
    with pytest.raises(ValueError, match="no -1 pieces"):
        PieceSet(-1)
