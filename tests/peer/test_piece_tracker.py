"""The state of each piece: exactly one at any time; and what is held, known and advertised, whatever comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.core.pieces import PieceState, PieceTracker

PIECE = 100
COUNT = 6
WRONG = b"x" * 32


def digest(index: int) -> bytes:
    return bytes([index + 1]) * 32


def tracker(count: int = COUNT) -> PieceTracker:
    """A blob of so many pieces, of which nothing else is known."""
    pieces = PieceTracker()
    assert pieces.learn_geometry(count * PIECE, PIECE)
    return pieces


def states(pieces: PieceTracker) -> str:
    """The state of each piece: Missing, requested from the Origin or from a Peer, Held."""
    letters = {
        PieceState.MISSING: "M",
        PieceState.REQUESTED_FROM_ORIGIN: "O",
        PieceState.REQUESTED_FROM_PEER: "P",
        PieceState.HELD: "H",
    }
    pieces.validate()
    return "".join(letters[pieces.state_of(index)] for index in range(pieces.count))


class TestWhatIsAdvertised:
    def test_a_piece_once_it_is_held_and_matches_the_map(self) -> None:
        pieces = PieceTracker()
        assert pieces.receive(0, digest(0), from_origin=False) == 0
        assert pieces.set_expected(0, digest(0) + digest(1)) == 0b01
        assert pieces.receive(1, digest(1), from_origin=False) == 0b10
        assert pieces.advertised == 0b11
        assert pieces.agrees()

    def test_digests_beyond_the_length_are_of_another_map(self) -> None:
        """Or neighbours would be asked for pieces that the blob does not have."""
        early = PieceTracker()
        early.set_expected(0, digest(0) + digest(1))
        early.learn_geometry(PIECE, PIECE)
        late = tracker(1)
        late.set_expected(0, digest(0) + digest(1))
        late.set_expected(3, digest(3))
        for pieces in (early, late):
            pieces.validate()
            assert (pieces.known, pieces.requestable) == (1, 1)

    def test_what_is_advertised_already_is_no_news(self) -> None:
        pieces = PieceTracker()
        pieces.set_expected(0, digest(0))
        assert pieces.receive(0, digest(0), from_origin=True) == 1
        assert pieces.set_expected(0, digest(0)) == 0
        assert pieces.publish(1) == 0

    def test_what_came_first_is_what_is_in_the_store(self) -> None:
        pieces = PieceTracker()
        pieces.receive(0, digest(0), from_origin=False)
        pieces.receive(0, WRONG, from_origin=True)
        assert pieces.own[0] == digest(0)
        assert not pieces.from_origin

    def test_a_piece_of_an_earlier_run_whose_digest_nobody_noted(self) -> None:
        pieces = PieceTracker()
        pieces.receive(0, b"", from_origin=False)
        assert pieces.set_expected(0, digest(0)) == 0
        assert not pieces.contradicts()
        assert not pieces.agrees()
        assert pieces.digests() == {0: digest(0)}

    def test_a_map_that_changes_its_word(self) -> None:
        pieces = PieceTracker()
        pieces.set_expected(0, digest(0))
        pieces.receive(0, digest(0), from_origin=True)
        pieces.set_expected(0, WRONG)
        assert pieces.advertised == 0
        assert pieces.contradicts()
        assert pieces.digests() == {0: digest(0)}, "our own bytes are what we can speak for"

    def test_what_is_published_against_the_map_is_not_advertised(self) -> None:
        pieces = PieceTracker()
        pieces.set_expected(0, WRONG)
        pieces.receive(0, digest(0), from_origin=True)
        assert pieces.publish(0b1) == 0
        assert pieces.expected[0] == WRONG

    def test_what_is_published_is_in_the_map(self) -> None:
        pieces = PieceTracker()
        for index in (0, 2):
            pieces.receive(index, digest(index), from_origin=True)
        assert pieces.publish(0b101) == 0b101
        assert pieces.expected == {0: digest(0), 2: digest(2)}
        assert (pieces.known, pieces.from_origin) == (0b101, 0b101)

    def test_a_new_map_says_nothing(self) -> None:
        pieces = PieceTracker()
        pieces.set_expected(0, digest(0) + digest(1))
        pieces.receive(0, digest(0), from_origin=False)
        pieces.forget_map()
        assert (pieces.expected, pieces.known, pieces.advertised) == ({}, 0, 0)
        assert (pieces.held, pieces.own) == (1, {0: digest(0)}), "the bytes stay"


class TestGeometry:
    def test_before_it_is_known(self) -> None:
        pieces = PieceTracker()
        assert (pieces.count, pieces.everything) == (0, 0)

    def test_the_last_piece_may_be_shorter(self) -> None:
        pieces = PieceTracker()
        assert pieces.learn_geometry(201, 100)
        assert (pieces.count, pieces.everything) == (3, 0b111)

    @pytest.mark.parametrize("other", [(599, 100), (600, 200)])
    def test_it_does_not_change(self, other: tuple[int, int]) -> None:
        pieces = tracker()
        assert not pieces.learn_geometry(*other)
        assert pieces.learn_geometry(600, 100)
        assert (pieces.size_bytes, pieces.piece_length, pieces.count) == (600, 100, 6)

    def test_a_range_to_the_end_is_all_pieces_once_their_number_is_known(self) -> None:
        pieces = PieceTracker()
        pieces.request_range(7, 0, 0, None)
        assert (pieces.asked_of_origin, pieces.state_of(0)) == (0, PieceState.MISSING)
        pieces.learn_geometry(600, 100)
        assert states(pieces) == "OOOOOO"

    def test_whole_when_every_piece_is_held(self) -> None:
        pieces = tracker(2)
        pieces.receive(0, digest(0), from_origin=False)
        assert pieces.held != pieces.everything
        pieces.receive(1, b"", from_origin=False)
        assert pieces.held == pieces.everything


class TestStates:
    def test_all_are_missing_at_first(self) -> None:
        assert states(tracker()) == "MMMMMM"

    def test_a_range_is_requested_and_comes_piece_by_piece(self) -> None:
        pieces = tracker()
        pieces.request_range(1, 0, 1, 4)
        assert states(pieces) == "MOOOMM"
        pieces.receive(1, digest(1), from_origin=True)
        assert states(pieces) == "MHOOMM"
        ended = pieces.end_range(1)
        assert (ended.source, ended.first, ended.stop) == (0, 1, 4)
        assert states(pieces) == "MHMMMM"

    def test_the_origin_sends_more_or_less_than_it_was_asked_for(self) -> None:
        pieces = tracker()
        pieces.request_range(1, 0, 0, None)
        pieces.narrow_range(1, 0, 2)
        assert states(pieces) == "OOMMMM"
        pieces.narrow_range(1, 0, 6)
        assert states(pieces) == "OOOOOO"

    def test_a_piece_of_an_earlier_run_is_held_though_nobody_noted_its_digest(self) -> None:
        pieces = tracker()
        pieces.receive(1, b"", from_origin=False)
        assert states(pieces) == "MHMMMM"

    def test_one_range_ends_and_another_goes_on(self) -> None:
        pieces = tracker()
        pieces.request_range(1, 0, 0, 2)
        pieces.request_range(2, 1, 3, 5)
        assert pieces.end_range(1).source == 0
        assert states(pieces) == "MMMOOM"

    def test_a_piece_is_requested_of_a_peer_and_fails(self) -> None:
        pieces = tracker()
        pieces.set_expected(2, digest(2))
        pieces.request_piece(5, "b", 2, 1.5)
        assert states(pieces) == "MMPMMM"
        ended = pieces.end_piece(5)
        assert (ended.host, ended.index, ended.started) == ("b", 2, 1.5)
        assert states(pieces) == "MMMMMM"

    def test_a_piece_that_two_peers_are_asked_for_is_requested_until_both_have_failed(self) -> None:
        pieces = tracker()
        pieces.set_expected(2, digest(2))
        pieces.request_piece(5, "b", 2, 0.0)
        pieces.request_piece(6, "c", 2, 1.0)
        pieces.end_piece(5)
        assert states(pieces) == "MMPMMM"
        pieces.end_piece(6)
        assert states(pieces) == "MMMMMM"

    def test_a_piece_that_one_of_two_peers_has_sent_is_held_while_the_other_is_still_asked(self) -> None:
        pieces = tracker()
        pieces.set_expected(2, digest(2))
        pieces.request_piece(5, "b", 2, 0.0)
        pieces.request_piece(6, "c", 2, 1.0)
        pieces.receive(2, digest(2), from_origin=False)
        pieces.end_piece(5)
        assert states(pieces) == "MMHMMM"
        pieces.end_piece(6)
        assert states(pieces) == "MMHMMM"

    def test_what_is_wanted_and_what_may_be_requested(self) -> None:
        pieces = tracker()
        pieces.set_expected(0, b"".join(map(digest, range(4))))
        pieces.receive(0, digest(0), from_origin=False)
        pieces.request_piece(5, "b", 1, 0.0)
        pieces.request_range(6, 0, 2, 3)
        assert pieces.wanted == 0b1110
        assert pieces.requestable == 0b1000

    @pytest.mark.parametrize("request_", [0, 7])
    def test_the_end_of_a_request_that_never_was(self, request_: int) -> None:
        with pytest.raises(KeyError):
            tracker().end_range(request_)
        with pytest.raises(KeyError):
            tracker().end_piece(request_)


class TestValidate:
    def test_a_piece_that_the_origin_is_asked_for_twice(self) -> None:
        pieces = tracker()
        pieces.request_range(1, 0, 0, 3)
        pieces.request_range(2, 0, 2, 4)
        with pytest.raises(AssertionError, match="asked for a piece twice"):
            pieces.validate()

    def test_a_piece_that_came_already_may_be_on_its_way_again(self) -> None:
        pieces = tracker()
        pieces.request_range(1, 0, 0, 3)
        pieces.receive(2, digest(2), from_origin=True)
        pieces.request_range(2, 0, 2, 4)
        pieces.validate()

    def test_a_range_that_the_origin_ignored_brings_all(self) -> None:
        pieces = tracker()
        pieces.request_range(1, 0, 0, 3)
        pieces.request_range(2, 0, 3, 6)
        pieces.narrow_range(1, 0, 6)
        pieces.validate()

    def test_a_piece_whose_digest_nobody_knows_is_asked_of_a_peer(self) -> None:
        pieces = tracker()
        pieces.request_piece(1, "b", 0, 0.0)
        with pytest.raises(AssertionError, match="digest is not known"):
            pieces.validate()

    def test_a_piece_is_advertised_that_differs_from_the_map(self) -> None:
        pieces = tracker()
        pieces.set_expected(0, WRONG)
        pieces.receive(0, digest(0), from_origin=True)
        pieces.advertised = 1
        with pytest.raises(AssertionError, match="others are offered"):
            pieces.validate()


steps = st.lists(st.tuples(st.sampled_from(("land", "origin", "learn", "forget")), st.integers(0, 5), st.booleans()))


@given(steps)
def test_in_any_order(taken: list[tuple[str, int, bool]]) -> None:
    pieces = PieceTracker()
    for what, index, right in taken:
        word = digest(index) if right else WRONG
        before = pieces.advertised
        match what:
            case "learn":
                fresh = pieces.set_expected(index, word)
            case "forget":
                pieces.forget_map()
                fresh = 0
                before = 0
            case _:
                fresh = pieces.receive(index, word, from_origin=what == "origin")
        pieces.validate()
        assert fresh == pieces.advertised & ~before


requests = st.lists(
    st.tuples(
        st.sampled_from(("range", "end", "peer", "gone", "receive")), st.integers(0, COUNT - 1), st.integers(1, 3)
    )
)


@given(requests)
def test_each_piece_is_in_one_state_whatever_is_requested(taken: list[tuple[str, int, int]]) -> None:
    pieces, held = tracker(), set[int]()
    pieces.set_expected(0, b"".join(map(digest, range(COUNT))))
    ranges: dict[int, set[int]] = {}
    peers: dict[int, int] = {}
    for number, (what, index, length) in enumerate(taken):
        match what:
            case "range":
                asked = set(range(index, min(COUNT, index + length)))
                if not asked & set().union(*ranges.values(), held, peers.values()):
                    ranges[number] = asked
                    pieces.request_range(number, 0, min(asked), max(asked) + 1)
            case "end" if ranges:
                pieces.end_range(chosen := sorted(ranges)[index % len(ranges)])
                del ranges[chosen]
            case "peer" if not index & 1 and index not in held:
                peers[number] = index
                pieces.request_piece(number, f"h{length}", index, 0.0)
            case "gone" if peers:
                pieces.end_piece(chosen := sorted(peers)[index % len(peers)])
                del peers[chosen]
            case "receive":
                held.add(index)
                pieces.receive(index, digest(index), from_origin=length == 1)
        pieces.validate()
        for each in range(COUNT):
            is_in = {
                PieceState.HELD: each in held,
                PieceState.REQUESTED_FROM_ORIGIN: any(each in asked for asked in ranges.values()),
                PieceState.REQUESTED_FROM_PEER: each in peers.values(),
                PieceState.MISSING: True,
            }
            assert pieces.state_of(each) is next(state for state, so in is_in.items() if so)
