"""What is held, known, vouched for and offered: each piece in the right sets, whatever comes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peer.core.piece_book import PieceBook
from tests.peer.member_playbook import digest

WRONG = b"x" * 32


def test_a_piece_is_offered_once_it_is_held_and_matches_the_map() -> None:
    book = PieceBook()
    assert book.land(0, digest(0), from_origin=False) == 0
    assert book.learn(0, digest(0) + digest(1)) == 0b01
    assert book.land(1, digest(1), from_origin=False) == 0b10
    assert book.offered == 0b11
    assert book.agrees()


def test_what_is_offered_already_is_no_news() -> None:
    book = PieceBook()
    book.learn(0, digest(0))
    assert book.land(0, digest(0), from_origin=True) == 1
    assert book.learn(0, digest(0)) == 0
    assert book.publish(1) == 0


def test_what_came_first_is_what_is_in_the_store() -> None:
    book = PieceBook()
    book.land(0, digest(0), from_origin=False)
    book.land(0, WRONG, from_origin=True)
    assert book.own[0] == digest(0)
    assert not book.vouched


def test_a_piece_of_an_earlier_run_whose_digest_nobody_noted() -> None:
    book = PieceBook()
    book.land(0, b"", from_origin=False)
    assert book.learn(0, digest(0)) == 0
    assert not book.contradicts()
    assert not book.agrees()
    assert book.digests() == {0: digest(0)}


def test_a_map_that_changes_its_word() -> None:
    book = PieceBook()
    book.learn(0, digest(0))
    book.land(0, digest(0), from_origin=True)
    book.learn(0, WRONG)
    assert book.offered == 0
    assert book.contradicts()
    assert book.digests() == {0: digest(0)}, "our own bytes are what we can speak for"


def test_what_is_published_against_the_map_is_not_offered() -> None:
    book = PieceBook()
    book.learn(0, WRONG)
    book.land(0, digest(0), from_origin=True)
    assert book.publish(0b1) == 0
    assert book.expected[0] == WRONG


steps = st.lists(st.tuples(st.sampled_from(("land", "origin", "learn", "forget")), st.integers(0, 5), st.booleans()))


@given(steps)
def test_in_any_order(taken: list[tuple[str, int, bool]]) -> None:
    book = PieceBook()
    for what, index, right in taken:
        word = digest(index) if right else WRONG
        before = book.offered
        match what:
            case "learn":
                fresh = book.learn(index, word)
            case "forget":
                book.forget_map()
                fresh = 0
                before = 0
            case _:
                fresh = book.land(index, word, from_origin=what == "origin")
        book.validate()
        assert fresh == book.offered & ~before
