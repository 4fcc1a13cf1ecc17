"""Who may be sent a piece now, who waits for its turn, who is remembered, and who is told that there is room."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peer.core.choker import MAX_REFUSED, MAX_WAITING, TOLD, Asking, Space, Turn, Uploads

SLOTS = 3
BLOB = bytes(32)
FIRST = 0
"""The request that has the line first."""


def host(number: int, *, far: bool = False) -> Asking:
    return Asking(f"h{number}", BLOB, far)


def filled(*refused: Asking) -> Uploads[int]:
    """One piece fills the line, and these were refused, in this order."""
    uploads: Uploads[int] = Uploads(SLOTS)
    assert uploads.ask(FIRST, None, Space.NONE) is Turn.NOW
    for request, asking in enumerate(refused, 100):
        assert uploads.ask(request, asking, Space.NONE) is Turn.NEVER
    return uploads


def awaited(*refused: Asking) -> Uploads[int]:
    """The same, and request 1, of host 1, waits for that piece, which is nearly out."""
    uploads = filled(*refused)
    assert uploads.ask(1, host(1), Space.SOON) is Turn.LATER
    return uploads


class TestWhoMayBegin:
    def test_anybody_where_nothing_goes_out(self) -> None:
        for space in Space:
            assert Uploads[int](SLOTS).ask(FIRST, host(1), space) is Turn.NOW

    def test_one_at_a_time_where_it_fills_the_line(self) -> None:
        uploads = filled()
        assert uploads.ask(2, host(2), Space.NONE) is Turn.NEVER
        uploads.end()
        assert uploads.ask(3, host(2), Space.NONE) is Turn.NOW

    def test_as_many_as_there_are_slots_where_a_part_of_the_line_is_unused(self) -> None:
        uploads: Uploads[int] = Uploads(SLOTS)
        turns = [uploads.ask(number, host(number), Space.NOW) for number in range(SLOTS + 1)]
        assert turns == [Turn.NOW] * SLOTS + [Turn.NEVER]
        assert uploads.going == SLOTS


class TestWhoWaits:
    def test_one_and_only_while_a_piece_is_nearly_out(self) -> None:
        uploads = filled()
        assert uploads.ask(1, host(1), Space.NONE) is Turn.NEVER
        assert [uploads.ask(number, host(number), Space.SOON) for number in (2, 3)] == [Turn.LATER, Turn.NEVER]
        assert uploads.going == 1

    def test_it_begins_when_that_piece_is_out(self) -> None:
        uploads = awaited()
        assert uploads.next(Space.SOON) is None
        uploads.end()
        assert uploads.next(Space.NONE) == 1
        assert uploads.going == 1
        assert uploads.next(Space.NOW) is None, "once"
        assert not uploads.is_wanted, "it has been served"

    def test_or_when_a_part_of_the_line_proves_unused(self) -> None:
        uploads = awaited()
        assert uploads.next(Space.NOW) == 1
        assert uploads.going == 2

    def test_it_is_served_before_all_that_come_later(self) -> None:
        uploads = awaited()
        assert uploads.ask(2, host(2), Space.NOW) is Turn.NEVER
        uploads.end()
        assert uploads.ask(3, host(3), Space.NOW) is Turn.NEVER
        assert uploads.next(Space.NOW) == 1

    def test_and_before_those_that_were_refused_who_hear_nothing_until_it_begins(self) -> None:
        uploads = awaited(host(2))
        assert uploads.tell(Space.SOON) == []
        uploads.end()
        assert uploads.tell(Space.NOW) == []
        assert uploads.next(Space.NOW) == 1
        assert uploads.tell(Space.NOW) == [host(2)]

    def test_one_that_takes_it_back_leaves_its_place_to_another(self) -> None:
        uploads = awaited(host(3))
        uploads.take_back(1)
        assert uploads.tell(Space.SOON) == [host(3)]
        assert uploads.ask(2, host(2), Space.SOON) is Turn.LATER
        uploads.end()
        assert uploads.next(Space.NOW) == 2
        uploads.take_back(2)
        assert uploads.going == 1, "what goes out is not taken back"

    def test_one_that_has_waited_in_vain_is_told_later(self) -> None:
        uploads = awaited(host(2))
        uploads.take_back(1, in_vain=True)
        uploads.end()
        assert uploads.tell(Space.NONE) == [host(2), host(1)], "it comes behind who was refused before"

    def test_one_that_goes_away_while_it_waits_is_not(self) -> None:
        uploads = awaited()
        uploads.take_back(1)
        assert not uploads.is_wanted
        assert uploads.tell(Space.SOON) == []

    def test_one_that_has_begun_has_not_waited_in_vain(self) -> None:
        uploads = awaited()
        uploads.end()
        assert uploads.next(Space.NONE) == 1
        uploads.take_back(1, in_vain=True)
        assert not uploads.is_wanted

    def test_nobody_knows_who_it_is(self) -> None:
        uploads = filled()
        assert uploads.ask(1, None, Space.NONE) is Turn.NEVER
        assert not uploads.is_wanted, "it cannot be told"
        assert uploads.ask(2, None, Space.SOON) is Turn.LATER
        uploads.end()
        assert uploads.next(Space.NONE) == 2


class TestWhoIsTold:
    def test_nobody_while_the_line_is_full(self) -> None:
        assert filled(host(1)).tell(Space.NONE) == []

    def test_nobody_while_all_slots_are_taken(self) -> None:
        uploads = filled()
        for number in range(1, SLOTS):
            uploads.ask(number, host(number), Space.NOW)
        uploads.ask(SLOTS, host(SLOTS), Space.NOW)
        assert uploads.tell(Space.NOW) == []

    def test_when_a_piece_is_nearly_out(self) -> None:
        assert filled(host(1)).tell(Space.SOON) == [host(1)]

    def test_when_a_part_of_the_line_is_unused(self) -> None:
        assert filled(host(1)).tell(Space.NOW) == [host(1)]

    def test_those_that_were_refused_first_and_each_once(self) -> None:
        uploads = filled(*map(host, range(TOLD + 1)))
        uploads.end()
        assert uploads.tell(Space.NONE) == [host(number) for number in range(TOLD)]
        assert uploads.tell(Space.NONE) == [host(TOLD)]
        assert uploads.tell(Space.NONE) == []
        assert not uploads.is_wanted

    def test_one_that_is_refused_twice_keeps_its_place(self) -> None:
        uploads = filled(host(1), host(2), host(3), host(1))
        uploads.end()
        assert uploads.tell(Space.NOW) == [host(1), host(2)]

    def test_those_of_other_sites_before_all_others(self) -> None:
        uploads = filled(host(1), host(2), host(3, far=True))
        uploads.end()
        assert uploads.tell(Space.NOW) == [host(3, far=True)]
        assert uploads.tell(Space.NOW) == [host(1), host(2)]

    def test_not_one_that_is_served_meanwhile_or_waits(self) -> None:
        uploads = filled(host(1), host(2), host(3))
        assert uploads.ask(1, host(1), Space.NOW) is Turn.NOW
        assert uploads.ask(2, host(2), Space.SOON) is Turn.LATER
        uploads.end()
        assert uploads.next(Space.NOW) == 2
        assert uploads.tell(Space.NOW) == [host(3)]
        assert not uploads.is_wanted

    def test_one_that_is_served_while_others_wait_comes_behind_them(self) -> None:
        uploads = filled(*map(host, range(2, 2 + TOLD)))
        uploads.end(again=host(1))
        assert uploads.tell(Space.NOW) == [host(number) for number in range(2, 2 + TOLD)]
        assert uploads.tell(Space.NOW) == [host(1)]

    def test_unless_another_request_of_its_own_was_refused_before(self) -> None:
        uploads = filled(host(1), host(2), host(3))
        uploads.end(again=host(1))
        assert uploads.tell(Space.NOW) == [host(1), host(2)]
        assert uploads.tell(Space.NOW) == [host(3)]

    def test_it_is_remembered_for_each_blob(self) -> None:
        other = Asking("h1", b"o" * 32)
        uploads = filled(host(1), other)
        uploads.end()
        assert uploads.tell(Space.NOW) == [host(1), other]

    def test_of_too_many_the_oldest_is_forgotten(self) -> None:
        uploads = filled(*map(host, range(MAX_REFUSED + 1)))
        assert uploads.tell(Space.SOON)[0] == host(1)
        uploads = filled(*map(host, range(MAX_REFUSED)))
        uploads.end(again=host(MAX_REFUSED))
        assert uploads.tell(Space.NOW)[0] == host(1)


class AnyOrder(RuleBasedStateMachine):
    """Requests, ends and looks in any order, beside lists of who goes, who waits and who is owed a word."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: Uploads[int] = Uploads(SLOTS)
        self.requests = 0
        self.going: list[Asking] = []
        self.waiting: dict[int, Asking] = {}
        self.owed: list[Asking] = []

    def may_begin(self, space: Space) -> bool:
        return not self.going or (space is Space.NOW and len(self.going) < SLOTS)

    def owes(self, asking: Asking) -> None:
        if asking not in self.owed:
            self.owed = [*self.owed, asking][-MAX_REFUSED:]

    @rule(number=st.integers(0, 8), far=st.booleans(), space=st.sampled_from(Space))
    def asks(self, number: int, far: bool, space: Space) -> None:
        self.requests += 1
        asking = host(number, far=far)
        turn = self.uploads.ask(self.requests, asking, space)
        if turn is Turn.NEVER:
            assert self.waiting or not self.may_begin(space), "there is room, and it is refused"
            assert space is not Space.SOON or len(self.waiting) == MAX_WAITING, "it might wait, and is refused"
            self.owes(asking)
            return
        if turn is Turn.NOW:
            assert self.may_begin(space)
            assert not self.waiting, "another one comes first"
            self.going.append(asking)
        else:
            assert space is Space.SOON, "it would wait for long"
            self.waiting[self.requests] = asking
        self.owed = [each for each in self.owed if each != asking]

    @rule(first=st.integers(0, 40), space=st.sampled_from(Space))
    def many_ask(self, first: int, space: Space) -> None:
        for number in range(first, first + MAX_REFUSED // 2):
            self.asks(number, far=False, space=space)

    @precondition(lambda self: self.waiting)
    @rule(in_vain=st.booleans())
    def takes_back(self, in_vain: bool) -> None:
        request = next(iter(self.waiting))
        self.uploads.take_back(request, in_vain=in_vain)
        asking = self.waiting.pop(request)
        if in_vain:
            self.owes(asking)

    @precondition(lambda self: self.requests)
    @rule(in_vain=st.booleans())
    def takes_back_what_does_not_wait(self, in_vain: bool) -> None:
        request = next(request for request in range(self.requests + 1) if request not in self.waiting)
        self.uploads.take_back(request, in_vain=in_vain)

    @precondition(lambda self: self.going)
    @rule(which=st.integers(0, SLOTS), again=st.booleans())
    def ends(self, which: int, again: bool) -> None:
        asking = self.going.pop(which % len(self.going))
        self.uploads.end(asking if again else None)
        if again:
            self.owes(asking)

    @rule(space=st.sampled_from(Space))
    def begins_who_waits(self, space: Space) -> None:
        request = self.uploads.next(space)
        assert (request is not None) == (bool(self.waiting) and self.may_begin(space))
        if request is not None:
            assert request == next(iter(self.waiting)), "another one has waited for longer"
            self.going.append(self.waiting.pop(request))

    @rule(space=st.sampled_from(Space))
    def looks(self, space: Space) -> None:
        told = self.uploads.tell(space)
        can_come = not self.waiting and (space is Space.SOON or self.may_begin(space))
        assert bool(told) == (can_come and bool(self.owed))
        assert len(told) <= TOLD
        assert set(told) <= set(self.owed), "one is told that was told before, or was never refused"
        first = [asking for asking in self.owed if asking.far] or self.owed
        assert told == first[: len(told)], "another one was refused before, or is far"
        self.owed = [asking for asking in self.owed if asking not in told]

    @invariant()
    def no_more_than_may_be_and_nobody_is_forgotten(self) -> None:
        assert self.uploads.going == len(self.going) <= SLOTS
        assert len(self.waiting) <= MAX_WAITING
        assert self.uploads.is_wanted == bool(self.waiting or self.owed)

    def teardown(self) -> None:
        """Once the line is idle, all that wait are served, and all others are told, in the end."""
        while self.going:
            self.ends(0, again=False)
        while self.waiting:
            self.begins_who_waits(Space.NOW)
        while self.owed:
            self.looks(Space.NOW)
        assert not self.uploads.is_wanted


TestInAnyOrder = AnyOrder.TestCase
