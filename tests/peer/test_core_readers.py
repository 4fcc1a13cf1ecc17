"""Who reads a blob on its way: what each needs first, what is urgent, and for how long it goes on with nobody."""

from __future__ import annotations

import math

import pytest

from peer.core.events import ReaderMoved
from peer.core.pieces import PieceTracker
from peer.core.readers import Readers

D = b"d" * 32
PIECE = 100
COUNT = 20
LINGER_S = 30.0


def readers(*moves: tuple[int, int, int | None] | tuple[int, int, int | None, bool], count: int = COUNT) -> Readers:
    """Readers at these places: number, position, stop, and whether in the background."""
    pieces = PieceTracker()
    if count:
        pieces.learn_geometry(count * PIECE, PIECE)
    all_readers = Readers(pieces, LINGER_S)
    for move in moves:
        all_readers.move(ReaderMoved(D, *move))
    return all_readers


class TestNeed:
    def test_the_whole_blob_is_last_and_also_with_nobody(self) -> None:
        assert list(readers().ranges_by_need()) == [(0, 20)]
        assert list(readers((1, 350, None)).ranges_by_need()) == [(3, 20), (0, 20)]

    def test_each_from_the_piece_where_it_stands_and_who_stands_first_first(self) -> None:
        ranges = readers((1, 1900, None), (2, 1050, None), (3, 500, 99_999)).ranges_by_need()
        assert list(ranges) == [(5, 20), (10, 20), (19, 20), (0, 20)]

    def test_who_waits_for_a_range_comes_before_who_reads_to_the_end(self) -> None:
        assert list(readers((1, 0, None), (2, 1250, 1330)).ranges_by_need()) == [(12, 14), (0, 20), (0, 20)]

    def test_a_range_that_ends_with_the_blob_is_no_range(self) -> None:
        assert next(readers((1, 0, None), (2, 1250, 2000)).ranges_by_need()) == (0, 20)
        assert next(readers((1, 0, None), (2, 1250, 1999)).ranges_by_need()) == (12, 20)

    def test_clients_before_what_is_fetched_ahead(self) -> None:
        ranges = readers((1, 0, 100, True), (2, 0, None, True), (3, 800, None)).ranges_by_need()
        assert list(ranges) == [(8, 20), (0, 1), (0, 20), (0, 20)]

    def test_beyond_the_end_is_nobodys_need(self) -> None:
        assert list(readers((1, 99_999, None)).ranges_by_need()) == [(20, 20), (0, 20)]

    def test_a_reader_that_moves_is_one_reader(self) -> None:
        assert list(readers((1, 0, None), (1, 500, None)).ranges_by_need()) == [(5, 20), (0, 20)]

    def test_a_reader_that_is_gone_needs_nothing(self) -> None:
        some = readers((1, 0, None), (2, 500, None))
        some.leave(1, 0.0)
        assert list(some.ranges_by_need()) == [(5, 20), (0, 20)]


class TestUrgency:
    def test_the_pieces_of_each_range_that_a_client_waits_for(self) -> None:
        assert readers((1, 150, 201), (2, 500, 600)).urgent() == 0b10_0110

    @pytest.mark.parametrize(
        "move", [(1, 150, None), (1, 150, 2000), (1, 150, 201, True)], ids=["no end", "to the end", "ahead"]
    )
    def test_nothing_else(self, move: tuple[int, int, int | None]) -> None:
        assert readers(move).urgent() == 0

    def test_nothing_before_the_length_is_known(self) -> None:
        assert readers((1, 150, 201), count=0).urgent() == 0

    def test_only_pieces_that_the_blob_has(self) -> None:
        assert readers((1, 1950, 1999)).urgent() == 1 << 19


class TestBackground:
    def test_only_when_no_client_waits(self) -> None:
        some = readers((1, 0, None, True))
        seen = [some.background]
        some.move(ReaderMoved(D, 2, 0, None))
        seen.append(some.background)
        for reader in (2, 1):
            some.leave(reader, 0.0)
            seen.append(some.background)
        assert seen == [True, False, True, True]


class TestLinger:
    def test_no_time_runs_while_somebody_reads(self) -> None:
        some = readers((1, 0, None))
        some.begin(5.0)
        assert some.gone_at == math.inf

    def test_it_runs_from_when_the_last_one_left(self) -> None:
        some = readers((1, 0, None), (2, 0, None))
        some.leave(1, 10.0)
        assert some.gone_at == math.inf
        some.leave(2, 11.0)
        assert some.gone_at == 11.0 + LINGER_S

    def test_who_was_never_there_may_leave_and_gains_no_time(self) -> None:
        some = readers((1, 0, None))
        some.leave(1, 10.0)
        some.leave(7, 20.0)
        some.begin(20.0)
        assert some.gone_at == 10.0 + LINGER_S

    def test_a_reader_that_comes_in_time_stops_it(self) -> None:
        some = readers((1, 0, None))
        some.leave(1, 10.0)
        some.move(ReaderMoved(D, 2, 0, None))
        assert some.gone_at == math.inf
        some.leave(2, 1000.0)
        assert some.gone_at == 1000.0 + LINGER_S

    def test_it_runs_from_the_beginning_if_nobody_comes(self) -> None:
        some = readers()
        assert some.gone_at == math.inf
        some.begin(3.0)
        assert some.gone_at == 3.0 + LINGER_S
