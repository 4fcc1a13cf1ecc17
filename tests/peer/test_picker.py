"""What is asked of neighbours first, what they are told, and who is done without."""

from __future__ import annotations

import itertools

import pytest

from peer.core.events import CancelPiece, KeepLink, PeerOutcome, ReleaseLink, RequestPiece, Tell, TellNeighbours
from peer.core.link_book import LinkBook
from peer.core.neighbours import BUSY_S, FULL_AFTER_S
from peer.core.peer_requests import HEDGE_LEAST_S, SLOW_LEAST_S, STREAMING_LOOKAHEAD
from peer.core.picker import PiecePicker
from peer.core.pieces import PieceTracker
from scheduler.protocol import link, to_host
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Corrupt, Fault, NeighbourFailed

D = b"d" * DIGEST_BYTES
COUNT = 40
GAP = 3
NEW = 30
"""A piece that only one neighbour holds: it is the rarest."""


def digest(index: int) -> bytes:
    return bytes([index]) * DIGEST_BYTES


ALL = (1 << COUNT) - 1


def exchange(count: int, *held: int) -> PiecePicker:
    """A blob of so many pieces whose map is known, of which these are held; without neighbours."""
    pieces = PieceTracker()
    pieces.learn_geometry(count * 100, 100)
    pieces.set_expected(0, b"".join(map(digest, range(count))))
    for index in held:
        pieces.receive(index, digest(index), from_origin=False)
    picker = PiecePicker(D, pieces, LinkBook(), itertools.count())
    picker.neighbours.begin_generation(1)
    return picker


def hears(picker: PiecePicker, host: str, pieces: int) -> None:
    """A neighbour says what it holds."""
    picker.neighbours.on_message(host, link.Bitfield(D, 1, complete=False, have=pieces.to_bytes(5, "little")))


def with_neighbours(**held: int) -> PiecePicker:
    """Neighbours that hold these pieces of a blob of four, of which piece 3 is held here."""
    picker = exchange(4, 3)
    picker.add(tuple(to_host.Neighbour(host, f"{host}:1", 0) for host in held))
    for host, pieces in held.items():
        hears(picker, host, pieces)
    return picker


def wants(picker: PiecePicker, now: float = 0.0) -> list[tuple[str, int]]:
    """Whom it asks for which pieces now, and nothing else is to be done."""
    out = picker.go_on(0, now)
    picker.requests.validate()
    assert all(isinstance(each, RequestPiece) for each in out)
    return [(each.host, each.index) for each in out if isinstance(each, RequestPiece)]


def asked_for(*held: int, urgent: int = 0) -> list[int]:
    """The pieces that are asked for first by a host that holds these, in a swarm where all but one lack `NEW`."""
    picker = exchange(COUNT, *held)
    for host in ("a", "b"):
        picker.neighbours.add(host, 0)
        hears(picker, host, ALL & ~((host == "b") << NEW))
    out = picker.go_on(urgent, 0.0)
    return [each.index for each in out if isinstance(each, RequestPiece)]


BEHIND = tuple(range(GAP + 1, GAP + 1 + STREAMING_LOOKAHEAD))


def test_the_rarest_piece_as_long_as_little_is_held_behind_the_first_gap() -> None:
    assert asked_for(0, 1, 2, *BEHIND[:-1])[0] == NEW


def test_the_first_gap_once_many_pieces_are_held_behind_it_and_beside_it_the_rarest() -> None:
    assert asked_for(0, 1, 2, *BEHIND)[:2] == [GAP, NEW]


def test_what_is_held_before_the_gap_does_not_count() -> None:
    assert asked_for(*(index for index in range(COUNT - 2) if index != NEW))[0] == NEW
    assert asked_for(*range(NEW - 1))[0] == NEW


def test_what_a_client_waits_for_comes_before_both() -> None:
    assert asked_for(0, 1, 2, *BEHIND, urgent=1 << 35)[0] == 35


@pytest.mark.parametrize("held", [(), tuple(range(COUNT))])
def test_nothing_or_all_has_no_gap(held: tuple[int, ...]) -> None:
    assert asked_for(*held)[:1] == ([NEW] if not held else [])


class TestWhoIsDoneWithout:
    def test_one_that_is_gone_at_once(self) -> None:
        picker = with_neighbours(b=0b1)
        assert wants(picker) == [("b", 0)]
        out = picker.failed(0, PeerOutcome.GONE, 1.0)
        assert out == [ReleaseLink("b"), Tell(NeighbourFailed(D, "b", Fault.GONE))]
        assert "b" not in picker.neighbours

    def test_one_that_lies_and_the_scheduler_is_told_of_which_piece(self) -> None:
        picker = with_neighbours(b=0b10)
        assert wants(picker) == [("b", 1)]
        assert picker.failed(0, PeerOutcome.CORRUPT, 1.0) == [Tell(Corrupt(D, 1, 1, "b")), ReleaseLink("b")]

    def test_what_else_it_was_asked_for_is_cancelled(self) -> None:
        picker = with_neighbours(b=0b11)
        assert wants(picker) == [("b", 0), ("b", 1)]
        out = picker.failed(0, PeerOutcome.GONE, 1.0)
        assert out == [CancelPiece(D, 1), ReleaseLink("b"), Tell(NeighbourFailed(D, "b", Fault.GONE))]
        assert picker.failed(1, PeerOutcome.CANCELLED, 1.0) == []

    def test_not_one_that_chokes_this_host_until_it_is_full(self) -> None:
        picker = with_neighbours(b=0b1, c=0b1)
        ((host, _),) = wants(picker)
        other = "c" if host == "b" else "b"
        assert picker.failed(0, PeerOutcome.CHOKED, 0.0) == []
        assert wants(picker) == [(other, 0)]
        assert picker.failed(1, PeerOutcome.CHOKED, 0.1) == []
        assert wants(picker, 0.2) == []
        assert wants(picker, BUSY_S) == [(host, 0)]
        out = picker.failed(2, PeerOutcome.CHOKED, FULL_AFTER_S)
        assert out == [ReleaseLink(host), Tell(NeighbourFailed(D, host, Fault.FULL))]

    def test_not_a_full_one_that_holds_what_no_other_does(self) -> None:
        picker = with_neighbours(b=0b1)
        assert wants(picker) == [("b", 0)]
        picker.failed(0, PeerOutcome.CHOKED, 0.0)
        assert wants(picker, FULL_AFTER_S) == [("b", 0)]
        assert picker.failed(1, PeerOutcome.CHOKED, FULL_AFTER_S) == []
        assert "b" in picker.neighbours

    def test_one_that_is_slow_and_another_is_asked(self) -> None:
        picker = with_neighbours(b=0b1, c=0b1)
        ((host, _),) = wants(picker)
        other = "c" if host == "b" else "b"
        assert wants(picker, HEDGE_LEAST_S) == [(other, 0)], "nothing else is left to ask for"
        picker.failed(1, PeerOutcome.CANCELLED, 1.0)
        out = picker.go_on(0, SLOW_LEAST_S)
        assert out[:3] == [CancelPiece(D, 0), ReleaseLink(host), Tell(NeighbourFailed(D, host, Fault.SLOW))]
        assert host not in picker.neighbours

    def test_one_that_the_scheduler_takes_away_without_a_word(self) -> None:
        picker = with_neighbours(b=0b1)
        wants(picker)
        assert picker.remove(["b", "unknown"]) == [CancelPiece(D, 0), ReleaseLink("b")]


class TestASecondNeighbour:
    def test_not_while_something_else_is_left_to_ask_for(self) -> None:
        picker = with_neighbours(b=0b111, c=0b111, e=0)
        picker.pieces.request_range(99, 0, 3, 4)  # beside the origin two pieces at a time are asked for
        assert wants(picker) == [("b", 0), ("c", 1)]
        assert wants(picker, HEDGE_LEAST_S) == [], "piece 2 is left to ask for"
        for host in ("b", "c", "e"):
            hears(picker, host, 0b11)
        assert wants(picker, HEDGE_LEAST_S) == [("e", 0)]


class TestWhatTheyAreTold:
    def test_a_new_one_what_is_held_here(self) -> None:
        picker = exchange(4, 3)
        told = TellNeighbours(("b",), link.Bitfield(D, 1, complete=False, have=b"\x08"))
        assert picker.add((to_host.Neighbour("b", "b:1", 0),)) == [KeepLink("b", "b:1"), told]

    def test_a_piece_to_all_that_lack_it(self) -> None:
        picker = with_neighbours(b=0b111, c=0b010, e=0b000)
        gained = link.Have(D, 1, (link.Span(1, 3),))
        assert picker.advertise(0b110) == [TellNeighbours(("c", "e"), gained)]

    def test_nothing_where_all_hold_it(self) -> None:
        picker = with_neighbours(b=0b111)
        assert picker.advertise(0b110) == []
        assert picker.advertise(0) == []

    def test_that_all_is_right(self) -> None:
        picker = with_neighbours(b=0b111, c=0)
        assert picker.advertise_all() == [TellNeighbours(("b", "c"), link.Bitfield(D, 1, complete=True))]


class TestNewsThatChangeNothing:
    @staticmethod
    def changes_nothing(picker: PiecePicker, host: str, fresh: int, now: float) -> bool:
        picker.settle(now)
        return picker.is_indifferent(host, fresh, now)

    def test_of_one_that_may_not_be_asked(self) -> None:
        picker = with_neighbours(b=0b1)
        assert self.changes_nothing(picker, "unknown", 0b111, 0.0)
        wants(picker)
        picker.failed(0, PeerOutcome.CHOKED, 0.0)
        assert self.changes_nothing(picker, "b", 0b111, 0.1)
        assert not self.changes_nothing(picker, "b", 0b111, BUSY_S)

    def test_of_pieces_that_nobody_is_to_be_asked_for(self) -> None:
        picker = with_neighbours(b=0)
        assert self.changes_nothing(picker, "b", 0b1000, 0.0)
        assert not self.changes_nothing(picker, "b", 0b0001, 0.0)

    def test_while_as_much_is_requested_as_may_be_unless_a_piece_is_late(self) -> None:
        picker = with_neighbours(b=0b1, c=0b10, e=0)
        picker.pieces.request_range(99, 0, 3, 4)
        assert wants(picker) == [("b", 0), ("c", 1)]
        assert self.changes_nothing(picker, "e", 0b100, HEDGE_LEAST_S / 2)
        assert not self.changes_nothing(picker, "e", 0b100, HEDGE_LEAST_S)
