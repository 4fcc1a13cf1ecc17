"""Who may be sent a piece now, who is remembered, and who is told that there is room."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peer.core.uploads import MAX_REFUSED, TOLD, Refused, Uploads

SLOTS = 3
BLOB = bytes(32)


def host(number: int, *, far: bool = False) -> Refused:
    return Refused(f"h{number}", BLOB, far)


def filled(*refused: Refused) -> Uploads:
    """One piece fills the line, and these were refused, in this order."""
    uploads = Uploads(SLOTS)
    assert uploads.begin(None, room=False)
    for asking in refused:
        assert not uploads.begin(asking, room=False)
    return uploads


class TestWhoMayBegin:
    def test_one_at_a_time_where_it_fills_the_line(self) -> None:
        uploads = Uploads(SLOTS)
        assert uploads.begin(host(1), room=False)
        assert not uploads.begin(host(2), room=False)
        uploads.end()
        assert uploads.begin(host(2), room=False)

    def test_as_many_as_there_are_slots_where_there_is_room(self) -> None:
        uploads = Uploads(SLOTS)
        assert [uploads.begin(host(number), room=True) for number in range(SLOTS + 1)] == [True] * SLOTS + [False]


class TestWhoIsTold:
    def test_nobody_while_the_line_is_full(self) -> None:
        assert filled(host(1)).tell(room=False) == []

    def test_those_that_were_refused_first_and_each_once(self) -> None:
        uploads = filled(*map(host, range(TOLD + 1)))
        uploads.end()
        assert uploads.tell(room=False) == [host(number) for number in range(TOLD)]
        assert uploads.tell(room=False) == [host(TOLD)]
        assert uploads.tell(room=False) == []
        assert not uploads.waited_for

    def test_one_that_is_refused_twice_keeps_its_place(self) -> None:
        uploads = filled(host(1), host(2), host(3), host(1))
        uploads.end()
        assert uploads.tell(room=False) == [host(1), host(2)]

    def test_those_of_other_sites_before_all_others(self) -> None:
        uploads = filled(host(1), host(2), host(3, far=True))
        uploads.end()
        assert uploads.tell(room=False) == [host(3, far=True)]
        assert uploads.tell(room=False) == [host(1), host(2)]

    def test_not_one_that_has_been_served_meanwhile(self) -> None:
        uploads = filled(host(1), host(2))
        assert uploads.begin(host(1), room=True)
        assert uploads.tell(room=True) == [host(2)]

    def test_it_is_remembered_for_each_blob(self) -> None:
        other = Refused("h1", b"o" * 32)
        uploads = filled(host(1), other)
        uploads.end()
        assert uploads.tell(room=False) == [host(1), other]

    def test_of_too_many_the_oldest_is_forgotten(self) -> None:
        uploads = filled(*map(host, range(MAX_REFUSED + 1)))
        uploads.end()
        assert uploads.tell(room=False)[0] == host(1)


class AnyOrder(RuleBasedStateMachine):
    """Requests, ends and looks in any order, beside a list of who is owed a word."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads = Uploads(SLOTS)
        self.owed: list[Refused] = []
        self.going = 0

    @rule(number=st.integers(0, MAX_REFUSED + 8), far=st.booleans(), room=st.booleans())
    def asks(self, number: int, far: bool, room: bool) -> None:
        asking = host(number, far=far)
        may_begin = self.uploads.begin(asking, room=room)
        assert may_begin == (self.going == 0 or (room and self.going < SLOTS))
        self.going += may_begin
        if may_begin and asking in self.owed:
            self.owed.remove(asking)
        elif not may_begin and asking not in self.owed:
            self.owed = [*self.owed, asking][-MAX_REFUSED:]

    @precondition(lambda self: self.going)
    @rule()
    def ends(self) -> None:
        self.uploads.end()
        self.going -= 1

    @rule(room=st.booleans())
    def looks(self, room: bool) -> None:
        told = self.uploads.tell(room=room)
        assert len(told) <= TOLD
        assert not told or self.going == 0 or (room and self.going < SLOTS)
        assert set(told) <= set(self.owed), "one is told that was told before, or was never refused"
        if self.going == 0 and self.owed:
            assert told, "there is room, and nobody is told"
        self.owed = [asking for asking in self.owed if asking not in told]

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert 0 <= self.uploads.going == self.going <= SLOTS
        assert self.uploads.waited_for == bool(self.owed)

    def teardown(self) -> None:
        """Once the line is idle, all are told, in the end."""
        while self.going:
            self.ends()
        while self.owed:
            self.looks(room=False)


TestInAnyOrder = AnyOrder.TestCase
