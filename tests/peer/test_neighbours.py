"""Which piece to ask of whom next, and who is left alone for a while."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from peer.core.neighbours import BUSY_S, EVERYTHING, FAR, FULL_AFTER_S, IN_ORDER, PER_NEIGHBOUR, Neighbours
from peer.core.piece_sets import bitfield, spans
from scheduler.protocol import link

ALL = 0b1111_1111
D = bytes(32)


def holding(pieces: int, generation: int) -> link.Bitfield:
    """All that a neighbour holds."""
    return link.Bitfield(D, generation, complete=False, have=bitfield(pieces))


def gaining(pieces: int, generation: int) -> link.Have:
    """What a neighbour holds too."""
    return link.Have(D, generation, tuple(link.Span(first, stop) for first, stop in spans(pieces)))


def neighbours(**held: int) -> Neighbours:
    """Neighbours that hold these pieces, all at the same distance."""
    known = Neighbours(generation=1)
    for host, pieces in held.items():
        known.add(host, 0)
        known.on_message(host, holding(pieces, 1))
    return known


class TestChoice:
    def test_the_rarest_piece_goes_first(self) -> None:
        known = neighbours(a=0b111, b=0b101, c=0b001)
        assert known.choose(0b111, 0, 0.0) == ("a", 1)

    def test_the_lowest_of_equally_rare_ones(self) -> None:
        assert neighbours(a=0b110, b=0b110).choose(ALL, 0, 0.0) == ("a", 1)

    def test_beyond_some_that_are_in_order_from_the_hosts_own_place_on(self) -> None:
        places = set()
        for host in ("x", "y", "z"):
            known = neighbours(**{f"n{number}": ALL for number in range(IN_ORDER + 1)})
            known.host = host
            wanted = ALL
            for index in range(IN_ORDER):
                choice = known.choose(wanted, 0, 0.0)
                assert choice == (f"n{index}", index)
                known.asked(choice[0])
                wanted &= ~(1 << index)
            last = known.choose(wanted, 0, 0.0)
            assert last is not None
            places.add(last[1])
            assert known.choose(wanted & 0b1000, 0, 0.0) == (last[0], 3), "or what there is"
        assert len(places) > 1

    def test_what_is_urgent_before_what_is_rare(self) -> None:
        known = neighbours(a=0b111, b=0b110)
        assert known.choose(0b111, 0b110, 0.0) == ("a", 1)

    def test_what_is_urgent_and_not_to_be_had_holds_nothing_up(self) -> None:
        assert neighbours(a=0b001).choose(0b011, 0b010, 0.0) == ("a", 0)

    def test_nobody_holds_what_is_wanted(self) -> None:
        assert neighbours(a=0b100).choose(0b011, 0, 0.0) is None
        assert Neighbours().choose(ALL, 0, 0.0) is None

    @given(st.lists(st.integers(0, ALL), min_size=1, max_size=9), st.integers(1, ALL))
    def test_counting_in_columns_is_counting(self, held: list[int], wanted: int) -> None:
        known = neighbours(**{f"h{number}": pieces for number, pieces in enumerate(held)})
        copies = Counter(piece for pieces in held for piece in range(8) if pieces & wanted & 1 << piece)
        choice = known.choose(wanted, 0, 0.0)
        if choice is None:
            assert not copies
        else:
            assert choice[1] == min(copies, key=lambda piece: (copies[piece], piece))


class TestOfTheHolders:
    def test_the_one_with_the_fewest_requests(self) -> None:
        known = neighbours(a=1, b=1)
        known.asked("a")
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_then_the_nearest(self) -> None:
        known = neighbours(a=1, b=1)
        known.add("a", 3)
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_then_the_fastest(self) -> None:
        known = neighbours(a=1, b=1)
        for host, seconds in (("a", 0.5), ("b", 0.1)):
            known.asked(host)
            known.answered(host, seconds)
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_none_that_has_as_many_as_it_may(self) -> None:
        known = neighbours(a=1)
        for _ in range(PER_NEIGHBOUR):
            known.asked("a")
        assert known.choose(1, 0, 0.0) is None
        known.let_go("a")
        assert known.choose(1, 0, 0.0) == ("a", 0)

    def test_one_request_of_each_as_soon_as_two_are_asked(self) -> None:
        known = neighbours(a=0b111, b=0b010)
        known.asked("a")
        assert known.choose(0b101, 0, 0.0) == ("a", 0), "while it is the only one"
        known.asked("b")
        assert known.choose(0b101, 0, 0.0) is None
        known.let_go("b")
        assert known.choose(0b101, 0, 0.0) == ("a", 0)

    def test_another_is_asked_before_the_only_one_that_is_asked_gets_a_second_request(self) -> None:
        known = neighbours(a=0b11, b=0b11)
        known.add("b", 1)
        known.asked("a")
        assert known.choose(0b11, 0, 0.0) == ("b", 0)

    @given(st.lists(st.integers(0, ALL), min_size=1, max_size=5), st.integers(1, ALL))
    def test_never_more_than_that_of_any(self, held: list[int], wanted: int) -> None:
        known = neighbours(**{f"h{number}": pieces for number, pieces in enumerate(held)})
        while (choice := known.choose(wanted, 0, 0.0)) is not None:
            known.asked(choice[0])
            wanted &= ~(1 << choice[1])
        asked = [known.asked_of(host) for host in known if known.asked_of(host)]
        assert max(asked, default=0) <= PER_NEIGHBOUR
        assert sum(count > 1 for count in asked) <= 1, "but for one that was the only one at its time"

    def test_requests_from_when_it_was_a_neighbour_before_count(self) -> None:
        known = neighbours(a=1)
        known.remove("a")
        known.add("a", 0, asked=PER_NEIGHBOUR)
        known.on_message("a", holding(1, 1))
        assert known.choose(1, 0, 0.0) is None

    def test_not_the_one_that_was_asked_already(self) -> None:
        assert neighbours(a=1, b=1).choose(1, 0, 0.0, besides="a") == ("b", 0)
        assert neighbours(a=1).choose(1, 0, 0.0, besides="a") is None


class TestBusy:
    def refuse(self, known: Neighbours, now: float) -> bool:
        known.asked("a")
        return known.refused("a", now)

    def test_it_is_left_alone_for_a_while_from_its_last_refusal(self) -> None:
        known = neighbours(a=1)
        for at in (100.0, 100.5, 107.0):
            self.refuse(known, at)
            assert known.next_free(at) == at + BUSY_S

    def test_one_that_says_that_it_has_room_is_asked_at_once(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 100.0)
        assert known.choose(1, 0, 100.1) is None
        assert known.on_message("a", link.Unchoke(D)), "somebody may be asked for what is missing"
        assert known.choose(1, 0, 100.1) == ("a", 0)

    def test_room_is_not_an_answer(self) -> None:
        """One that says that it has room, and refuses each time, is full in the end."""
        known = neighbours(a=1)
        now = 100.0
        while not self.refuse(known, now):
            known.on_message("a", link.Unchoke(D))
            now += 0.1
            assert now < 100.0 + 2 * FULL_AFTER_S
        assert now >= 100.0 + FULL_AFTER_S

    def test_it_is_asked_again_when_the_time_has_come(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 0.0)
        until = known.next_free(0.0)
        assert known.choose(1, 0, until - 0.001) is None
        assert known.choose(1, 0, until) == ("a", 0)

    def test_others_are_asked_meanwhile(self) -> None:
        known = neighbours(a=1, b=1)
        self.refuse(known, 0.0)
        assert known.choose(1, 0, 0.0) == ("b", 0)

    def test_a_piece_that_it_sends_makes_it_as_good_as_new(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 0.0)
        known.asked("a")
        known.answered("a", 0.1)
        assert not known.refused("a", FULL_AFTER_S), "it has not been busy all the time"

    def test_in_the_end_it_counts_as_full(self) -> None:
        known = neighbours(a=1)
        times = (0.0, FULL_AFTER_S / 2, FULL_AFTER_S - 0.1, FULL_AFTER_S)
        assert [self.refuse(known, at) for at in times] == [False, False, False, True]

    def test_it_is_full_only_by_refusals_in_a_row(self) -> None:
        known = neighbours(a=1)
        self.refuse(known, 0.0)
        known.asked("a")
        known.answered("a", 0.1)
        assert not self.refuse(known, FULL_AFTER_S)
        assert self.refuse(known, 2 * FULL_AFTER_S)

    def test_the_next_to_be_free_is_waited_for(self) -> None:
        known = neighbours(a=1, b=1, c=1)
        assert known.next_free(0.0) == math.inf
        for host, at in (("a", 0.0), ("b", 0.5)):
            known.asked(host)
            known.refused(host, at)
        assert [known.next_free(at) for at in (0.5, BUSY_S)] == [BUSY_S, 0.5 + BUSY_S]
        assert known.next_free(0.5 + BUSY_S) == math.inf
        assert not known.may_be_asked("b", BUSY_S)
        assert known.may_be_asked("a", BUSY_S)
        assert known.may_be_asked("c", 0.0)
        assert not known.may_be_asked("nobody", 0.0)

    def served(self, known: Neighbours, now: float) -> None:
        """It sends a piece, and says with it that others come first now."""
        known.asked("a")
        known.answered("a", 0.1)
        known.leave_alone("a", now)

    def test_one_that_says_so_with_a_piece_is_left_alone_until_it_has_room(self) -> None:
        known = neighbours(a=1)
        self.served(known, 100.0)
        assert known.choose(1, 0, 100.1) is None
        known.on_message("a", link.Unchoke(D))
        assert known.choose(1, 0, 100.1) == ("a", 0)

    def test_or_for_a_while_if_it_never_says_that(self) -> None:
        known = neighbours(a=1)
        self.served(known, 100.0)
        assert known.next_free(100.0) == 100.0 + BUSY_S
        assert known.choose(1, 0, 100.0 + BUSY_S - 0.001) is None
        assert known.choose(1, 0, 100.0 + BUSY_S) == ("a", 0)

    def test_it_has_not_refused(self) -> None:
        known = neighbours(a=1)
        self.served(known, 0.0)
        assert not self.refuse(known, FULL_AFTER_S), "that is the first time"

    def test_room_may_overtake_a_refusal(self) -> None:
        known = neighbours(a=1)
        known.asked("a")
        known.on_message("a", link.Unchoke(D))
        known.refused("a", 100.0)
        assert known.choose(1, 0, 100.0) == ("a", 0)

    def test_room_may_overtake_a_piece(self) -> None:
        known = neighbours(a=1)
        known.asked("a")
        known.on_message("a", link.Unchoke(D))
        known.answered("a", 0.1)
        known.leave_alone("a", 100.0)
        assert known.choose(1, 0, 100.0) == ("a", 0)

    def two_requests(self, *, room: bool) -> Neighbours:
        """Two are under way, and the first lands, with word that others come first; `room`: it came between them."""
        known = neighbours(a=1)
        known.asked("a")
        if room:
            known.on_message("a", link.Unchoke(D))
        known.asked("a")
        known.answered("a", 0.1)
        known.leave_alone("a", 100.0)
        return known

    def test_room_that_came_before_a_second_request_holds_for_the_answer_to_the_first(self) -> None:
        assert self.two_requests(room=True).may_be_asked("a", 100.0)
        assert not self.two_requests(room=False).may_be_asked("a", 100.0)

    def test_room_holds_for_one_answer(self) -> None:
        known = self.two_requests(room=True)
        known.answered("a", 0.1)
        known.leave_alone("a", 100.1)
        assert known.next_free(100.1) == 100.1 + BUSY_S
        known.on_message("a", link.Unchoke(D))
        assert known.may_be_asked("a", 100.1)

    def test_room_of_before_a_request_says_nothing_of_its_answer(self) -> None:
        known = neighbours(a=1)
        known.on_message("a", link.Unchoke(D))
        self.refuse(known, 100.0)
        assert known.choose(1, 0, 100.0) is None
        known.on_message("a", link.Unchoke(D))
        self.served(known, 100.1)
        assert known.choose(1, 0, 100.1) is None

    def test_room_that_came_with_an_earlier_request_says_nothing_of_the_next(self) -> None:
        known = neighbours(a=1)
        known.asked("a")
        known.on_message("a", link.Unchoke(D))
        known.answered("a", 0.1)
        self.refuse(known, 100.0)
        assert known.choose(1, 0, 100.0) is None

    def test_nobody_is_left_alone_that_is_no_neighbour(self) -> None:
        known = Neighbours()
        known.leave_alone("a", 0.0)
        known.on_message("a", link.Unchoke(D))
        assert known.next_free(0.0) == math.inf


class TestNews:
    def test_of_a_host_that_is_no_neighbour(self) -> None:
        known = Neighbours(generation=1)
        known.on_message("a", holding(1, 1))
        known.on_message("a", gaining(1, 1))
        known.on_message("a", link.Bitfield(D, 1, complete=True))
        known.on_message("a", link.DontHave(D))
        known.asked("a")
        known.answered("a", 1.0)
        known.let_go("a")
        assert known.refused("a", 0.0) is False
        assert "a" not in known
        assert known.held_by_any() == 0

    def test_what_it_gains_is_added_and_what_it_holds_replaces(self) -> None:
        known = neighbours(a=0b001)
        known.on_message("a", gaining(0b010, 1))
        assert known.held_by_any() == 0b011
        known.on_message("a", holding(0b100, 1))
        assert known.held_by_any() == 0b100

    def test_of_a_generation_that_we_have_not_heard_of_yet(self) -> None:
        known = neighbours(a=0b001)
        known.on_message("a", holding(0b010, 2))
        known.on_message("a", gaining(0b100, 2))
        assert known.held_by_any() == 0b001
        known.begin_generation(2)
        assert known.held_by_any() == 0b110

    def test_of_a_generation_that_is_over(self) -> None:
        known = neighbours(a=0b001)
        known.begin_generation(2)
        known.on_message("a", gaining(0b010, 1))
        known.begin_generation(3)
        assert known.held_by_any() == 0

    def test_who_holds_the_whole_blob_does_so_in_every_generation(self) -> None:
        known = neighbours(a=0)
        known.on_message("a", link.Bitfield(D, 1, complete=True))
        known.begin_generation(2)
        assert known.choose(0b100, 0, 0.0) == ("a", 2)
        known.on_message("a", link.DontHave(D))
        assert known.held_by_any() == 0

    def test_what_they_may_hold_that_they_did_not(self) -> None:
        known = neighbours(a=0b001)
        assert known.on_message("a", link.Have(D, 1, (link.Span(1, 3),))) == 0b110
        assert known.on_message("a", link.Bitfield(D, 1, complete=False, have=b"\x08")) is None
        assert known.held_by_any() == 0b1000
        assert known.on_message("a", link.Bitfield(D, 1, complete=True)) is None
        assert known.on_message("a", link.DontHave(D)) is None
        assert known.held_by_any() == 0

    def test_who_does_not_hold_all_of_some_pieces(self) -> None:
        known = neighbours(a=0b011, b=0b010, c=0)
        assert known.without(0b010) == ("c",)
        assert known.without(0b011) == ("b", "c")
        known.on_message("c", link.Bitfield(D, 1, complete=True))
        assert known.without(0b111) == ("a", "b")

    def test_what_only_one_of_them_holds(self) -> None:
        known = neighbours(a=0b011, b=0b010)
        assert known.held_by_none_but("a") == 0b001
        assert known.held_by_none_but("b") == 0
        assert known.held_by_none_but("c") == 0


class TestOtherSites:
    def known(self, near: int, far: int, open_far: int = EVERYTHING) -> Neighbours:
        known = neighbours(near=near)
        known.open_far = open_far
        known.add("far", FAR)
        known.on_message("far", holding(far, 1))
        return known

    def test_only_what_is_open_is_asked_of_them(self) -> None:
        known = self.known(0, 0b111, open_far=0b010)
        assert known.choose(0b111, 0, 0.0) == ("far", 1)
        assert known.choose(0b101, 0b101, 0.0) is None
        assert known.held_by_any() == known.held_by_none_but("far") == 0b010

    def test_what_a_neighbour_in_this_site_holds_is_not_asked_of_them_even_if_that_one_is_busy(self) -> None:
        known = self.known(0b01, 0b11)
        known.asked("near")
        known.refused("near", 0.0)
        assert known.choose(0b01, 0, 0.0) is None
        assert known.choose(0b11, 0, 0.0) == ("far", 1)

    def test_what_this_site_lacks_goes_first_and_what_is_urgent_before_that(self) -> None:
        known = self.known(0b01, 0b10)
        assert known.choose(0b11, 0, 0.0) == ("far", 1)
        assert known.choose(0b11, 0b01, 0.0) == ("near", 0)

    def test_news_of_pieces_that_are_not_open_are_none(self) -> None:
        known = self.known(0, 0, open_far=0b10)
        gained = link.Have(b"d" * 32, 1, (link.Span(0, 2),))
        assert known.on_message("far", gained) == 0b10
        assert known.on_message("near", gained) == 0b11
