"""Who may be sent a piece now, who waits for its turn, who is remembered, and who is told that there is room."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peer.core.choker import (
    MAX_WAITING,
    SHARED_PIECES,
    SHARED_SLOTS,
    TOLD,
    Admission,
    Choker,
    Uplink,
    UploadRequest,
)

SLOTS = 3
REMEMBERED = 64
BLOB = bytes(32)
FIRST = 0
"""The request that has the line first."""


def host(number: int, *, far: bool = False, background: bool = False) -> UploadRequest:
    return UploadRequest(f"h{number}", BLOB, far, background)


def filled(*refused: UploadRequest) -> Choker[int]:
    """One piece fills the line, and these were refused, in this order."""
    choker: Choker[int] = Choker(SLOTS, remembers=REMEMBERED)
    assert choker.ask(FIRST, None, Uplink.FULL) is Admission.SEND
    for request, receiver in enumerate(refused, 100):
        assert choker.ask(request, receiver, Uplink.FULL) is Admission.REJECT
    return choker


def awaited(*refused: UploadRequest) -> Choker[int]:
    """The same, and request 1, of host 1, waits for that piece, which is nearly out."""
    choker = filled(*refused)
    assert choker.ask(1, host(1), Uplink.FREE_SOON) is Admission.QUEUE
    return choker


class TestWhoMayBegin:
    def test_anybody_where_nothing_goes_out(self) -> None:
        for uplink in Uplink:
            assert Choker[int](SLOTS).ask(FIRST, host(1), uplink) is Admission.SEND

    def test_one_at_a_time_where_it_fills_the_line(self) -> None:
        choker = filled()
        assert choker.ask(2, host(2), Uplink.FULL) is Admission.REJECT
        choker.end()
        assert choker.ask(3, host(2), Uplink.FULL) is Admission.SEND

    def test_as_many_as_there_are_slots_where_a_part_of_the_line_is_unused(self) -> None:
        choker: Choker[int] = Choker(SLOTS)
        turns = [choker.ask(number, host(number), Uplink.FREE) for number in range(SLOTS + 1)]
        assert turns == [Admission.SEND] * SLOTS + [Admission.REJECT]
        assert choker.active == SLOTS

    def test_the_next_pieces_share_the_line_after_one_that_left_a_part_unused(self) -> None:
        choker: Choker[int] = Choker(SHARED_SLOTS + 1)
        choker.ask(1, host(1), Uplink.FULL)
        choker.ask(2, host(2), Uplink.FREE)
        assert choker.ask(3, host(3), Uplink.FULL) is Admission.REJECT, "two at a time had a part of it"
        for _ in range(SHARED_PIECES - 1):
            choker.end()
            assert choker.ask(9, host(9), Uplink.FULL) is Admission.SEND
        choker.end()
        assert choker.ask(9, host(9), Uplink.FULL) is Admission.REJECT, "what was found is too long ago"

    def test_as_many_at_a_time_as_had_left_a_part_of_it_to_another(self) -> None:
        choker: Choker[int] = Choker(SHARED_SLOTS + 2)
        for number in range(SHARED_SLOTS):
            assert choker.ask(number, host(number), Uplink.FREE) is Admission.SEND
        for _ in range(SHARED_PIECES * (SHARED_SLOTS - 1) - 1):
            choker.end()
            assert choker.ask(9, host(9), Uplink.FULL) is Admission.SEND
        choker.end()
        assert choker.ask(9, host(9), Uplink.FULL) is Admission.REJECT, "what was found is too long ago"

    def test_never_more_than_a_few_without_a_look(self) -> None:
        choker: Choker[int] = Choker(SHARED_SLOTS + 2)
        for number in range(SHARED_SLOTS + 1):
            assert choker.ask(number, host(number), Uplink.FREE) is Admission.SEND
        choker.end()
        assert choker.ask(9, host(9), Uplink.FULL) is Admission.REJECT

    def test_two_at_a_time_again_if_one_alone_was_the_last_to_leave_a_part_of_it(self) -> None:
        choker: Choker[int] = Choker(SHARED_SLOTS)
        for number in range(SHARED_SLOTS):
            choker.ask(number, host(number), Uplink.FREE)
        for _ in range(SHARED_SLOTS - 1):
            choker.end()
        assert choker.ask(8, host(8), Uplink.FREE) is Admission.SEND
        assert choker.ask(9, host(9), Uplink.FULL) is Admission.REJECT

    def test_not_after_one_that_filled_the_line(self) -> None:
        choker = filled()
        choker.end()
        assert choker.ask(2, host(2), Uplink.FREE) is Admission.SEND
        assert choker.ask(3, host(3), Uplink.FULL) is Admission.REJECT


def test_no_host_has_all_slots() -> None:
    choker: Choker[int] = Choker(SLOTS)
    turns = [choker.ask(number, host(1), Uplink.FREE, already=number) for number in range(SLOTS)]
    assert turns == [Admission.SEND] * (SLOTS - 1) + [Admission.REJECT]
    assert choker.ask(SLOTS, host(2), Uplink.FREE) is Admission.SEND
    assert Choker[int](1).ask(FIRST, host(1), Uplink.FREE) is Admission.SEND, "where there is one slot"


class TestWhoWaits:
    def test_one_and_only_while_a_piece_is_nearly_out(self) -> None:
        choker = filled()
        assert choker.ask(1, host(1), Uplink.FULL) is Admission.REJECT
        assert [choker.ask(number, host(number), Uplink.FREE_SOON) for number in (2, 3)] == [
            Admission.QUEUE,
            Admission.REJECT,
        ]
        assert choker.active == 1

    def test_nobody_while_other_pieces_go_out_beside_it(self) -> None:
        choker: Choker[int] = Choker(2)
        choker.ask(1, host(1), Uplink.FULL)
        choker.ask(2, host(2), Uplink.FREE)
        assert choker.ask(3, host(3), Uplink.FREE_SOON) is Admission.REJECT
        assert choker.unchoke(Uplink.FREE_SOON) == []

    def test_it_begins_when_that_piece_is_out(self) -> None:
        choker = awaited()
        assert choker.next(Uplink.FREE_SOON) is None
        choker.end()
        assert choker.next(Uplink.FULL) == 1
        assert choker.active == 1
        assert choker.next(Uplink.FREE) is None, "once"
        assert not choker.is_wanted, "it has been served"

    def test_or_when_a_part_of_the_line_proves_unused(self) -> None:
        choker = awaited()
        assert choker.next(Uplink.FREE) == 1
        assert choker.active == 2

    def test_it_is_served_before_all_that_come_later(self) -> None:
        choker = awaited()
        assert choker.ask(2, host(2), Uplink.FREE) is Admission.REJECT
        choker.end()
        assert choker.ask(3, host(3), Uplink.FREE) is Admission.REJECT
        assert choker.next(Uplink.FREE) == 1

    def test_and_before_those_that_were_refused_who_hear_nothing_until_it_begins(self) -> None:
        choker = awaited(host(2))
        assert choker.unchoke(Uplink.FREE_SOON) == []
        choker.end()
        assert choker.unchoke(Uplink.FREE) == []
        assert choker.next(Uplink.FREE) == 1
        assert choker.unchoke(Uplink.FREE) == [host(2)]

    def test_one_that_takes_it_back_leaves_its_place_to_another(self) -> None:
        choker = awaited(host(3))
        choker.cancel(1)
        assert choker.unchoke(Uplink.FREE_SOON) == [host(3)]
        assert choker.ask(2, host(2), Uplink.FREE_SOON) is Admission.QUEUE
        choker.end()
        assert choker.next(Uplink.FREE) == 2
        choker.cancel(2)
        assert choker.active == 1, "what goes out is not taken back"

    def test_one_that_has_waited_in_vain_is_told_later(self) -> None:
        choker = awaited(host(2))
        choker.cancel(1, rejected=True)
        choker.end()
        assert choker.unchoke(Uplink.FULL) == [host(2), host(1)], "it comes behind who was refused before"

    def test_one_that_goes_away_while_it_waits_is_not(self) -> None:
        choker = awaited()
        choker.cancel(1)
        assert not choker.is_wanted
        assert choker.unchoke(Uplink.FREE_SOON) == []

    def test_one_that_has_begun_has_not_waited_in_vain(self) -> None:
        choker = awaited()
        choker.end()
        assert choker.next(Uplink.FULL) == 1
        choker.cancel(1, rejected=True)
        assert not choker.is_wanted

    def test_nobody_knows_who_it_is(self) -> None:
        choker = filled()
        assert choker.ask(1, None, Uplink.FULL) is Admission.REJECT
        assert not choker.is_wanted, "it cannot be told"
        assert choker.ask(2, None, Uplink.FREE_SOON) is Admission.QUEUE
        choker.end()
        assert choker.next(Uplink.FULL) == 2


class TestWhoIsTold:
    def test_nobody_while_the_line_is_full(self) -> None:
        assert filled(host(1)).unchoke(Uplink.FULL) == []

    def test_nobody_while_all_slots_are_taken(self) -> None:
        choker = filled()
        for number in range(1, SLOTS):
            choker.ask(number, host(number), Uplink.FREE)
        choker.ask(SLOTS, host(SLOTS), Uplink.FREE)
        assert choker.unchoke(Uplink.FREE) == []

    def test_when_a_piece_is_nearly_out(self) -> None:
        assert filled(host(1)).unchoke(Uplink.FREE_SOON) == [host(1)]

    def test_when_a_part_of_the_line_is_unused(self) -> None:
        assert filled(host(1)).unchoke(Uplink.FREE) == [host(1)]

    def test_those_that_were_refused_first_and_each_once(self) -> None:
        choker = filled(*map(host, range(TOLD + 1)))
        choker.end()
        assert choker.unchoke(Uplink.FULL) == [host(number) for number in range(TOLD)]
        assert choker.unchoke(Uplink.FULL) == [host(TOLD)]
        assert choker.unchoke(Uplink.FULL) == []
        assert not choker.is_wanted

    def test_one_that_is_refused_twice_keeps_its_place(self) -> None:
        choker = filled(host(1), host(2), host(3), host(1))
        choker.end()
        assert choker.unchoke(Uplink.FREE) == [host(1), host(2)]

    def test_those_of_other_sites_before_all_others(self) -> None:
        choker = filled(host(1), host(2), host(3, far=True))
        choker.end()
        assert choker.unchoke(Uplink.FREE) == [host(3, far=True)]
        assert choker.unchoke(Uplink.FREE) == [host(1), host(2)]

    def test_those_that_check_a_piece_before_all_others_and_once_served_behind_them(self) -> None:
        checker = host(3)._replace(checks=True)
        choker = filled(host(1), host(2), checker)
        assert choker.unchoke(Uplink.FREE_SOON) == [checker]
        choker.end(requeue=checker)
        assert choker.unchoke(Uplink.FREE) == [host(1), host(2)]

    def test_not_one_that_is_served_meanwhile_or_waits(self) -> None:
        choker = filled(host(1), host(2), host(3))
        choker.end()
        assert choker.ask(1, host(1), Uplink.FREE) is Admission.SEND
        assert choker.ask(2, host(2), Uplink.FREE_SOON) is Admission.QUEUE
        choker.end()
        assert choker.next(Uplink.FREE) == 2
        assert choker.unchoke(Uplink.FREE) == [host(3)]
        assert not choker.is_wanted

    def test_one_that_is_served_while_others_wait_comes_behind_them(self) -> None:
        choker = filled(*map(host, range(2, 2 + TOLD)))
        choker.end(requeue=host(1))
        assert choker.unchoke(Uplink.FREE) == [host(number) for number in range(2, 2 + TOLD)]
        assert choker.unchoke(Uplink.FREE) == [host(1)]

    def test_unless_another_request_of_its_own_was_refused_before(self) -> None:
        choker = filled(host(1), host(2), host(3))
        choker.end(requeue=host(1))
        assert choker.unchoke(Uplink.FREE) == [host(1), host(2)]
        assert choker.unchoke(Uplink.FREE) == [host(3)]

    def test_it_is_remembered_for_each_blob(self) -> None:
        other = UploadRequest("h1", b"o" * 32)
        choker = filled(host(1), other)
        choker.end()
        assert choker.unchoke(Uplink.FREE) == [host(1), other]

    def test_all_neighbours_of_thirty_images_are_remembered(self) -> None:
        """Sixteen neighbours for each of six layers of each image: who is forgotten waits for seconds."""
        asking = [UploadRequest(f"h{at}", bytes([blob]) * 32) for blob in range(30 * 6) for at in range(16)]
        choker: Choker[int] = Choker(SLOTS)
        choker.ask(FIRST, None, Uplink.FULL)
        for request, receiver in enumerate(asking, 1):
            assert choker.ask(request, receiver, Uplink.FULL) is Admission.REJECT
        told = [each for _ in asking for each in choker.unchoke(Uplink.FREE_SOON)]
        assert told == asking

    def test_of_too_many_the_oldest_without_precedence_is_forgotten(self) -> None:
        choker = filled(host(0, far=True), *map(host, range(1, REMEMBERED + 1)))
        assert choker.unchoke(Uplink.FREE_SOON) == [host(0, far=True)]
        assert choker.unchoke(Uplink.FREE_SOON)[0] == host(2)

    def test_of_too_many_the_oldest_is_forgotten(self) -> None:
        choker = filled(*map(host, range(REMEMBERED + 1)))
        assert choker.unchoke(Uplink.FREE_SOON)[0] == host(1)
        choker = filled(*map(host, range(REMEMBERED)))
        choker.end(requeue=host(REMEMBERED))
        assert choker.unchoke(Uplink.FREE)[0] == host(1)


class AnyOrder(RuleBasedStateMachine):
    """Requests, ends and looks in any order, beside lists of who goes, who waits and who is owed a word."""

    def __init__(self) -> None:
        super().__init__()
        self.choker: Choker[int] = Choker(SLOTS, remembers=REMEMBERED)
        self.requests = 0
        self.active: list[UploadRequest] = []
        self.waiting: dict[int, UploadRequest] = {}
        self.owed: list[UploadRequest] = []
        self.shared = 0
        self.shared_slots = 1

    def may_begin(self, uplink: Uplink) -> bool:
        is_shared = self.shared > 0 and len(self.active) < self.shared_slots
        return not self.active or ((uplink is Uplink.FREE or is_shared) and len(self.active) < SLOTS)

    def is_free_soon(self, uplink: Uplink) -> bool:
        return uplink is Uplink.FREE_SOON and len(self.active) == 1

    def begins(self, receiver: UploadRequest, uplink: Uplink) -> None:
        if self.active and uplink is Uplink.FREE:
            self.shared = SHARED_PIECES * len(self.active)
            self.shared_slots = min(SHARED_SLOTS, len(self.active) + 1)
        self.active.append(receiver)

    def owes(self, receiver: UploadRequest) -> None:
        if receiver not in self.owed:
            self.owed.append(receiver)
        if len(self.owed) > REMEMBERED:
            self.owed.remove(next((each for each in self.owed if not each.far), self.owed[0]))

    @rule(number=st.integers(0, 8), far=st.booleans(), uplink=st.sampled_from(Uplink))
    def asks(self, number: int, far: bool, uplink: Uplink) -> None:
        self.requests += 1
        receiver = host(number, far=far)
        turn = self.choker.ask(self.requests, receiver, uplink)
        if turn is Admission.REJECT:
            assert self.waiting or not self.may_begin(uplink), "there is room, and it is refused"
            assert not self.is_free_soon(uplink) or len(self.waiting) == MAX_WAITING, "it might wait, and is refused"
            self.owes(receiver)
            return
        if turn is Admission.SEND:
            assert self.may_begin(uplink)
            assert not self.waiting, "another one comes first"
            self.begins(receiver, uplink)
        else:
            assert self.is_free_soon(uplink), "it would wait for long"
            self.waiting[self.requests] = receiver
        self.owed = [each for each in self.owed if each != receiver]

    @rule(first=st.integers(0, 40), uplink=st.sampled_from(Uplink))
    def many_ask(self, first: int, uplink: Uplink) -> None:
        for number in range(first, first + REMEMBERED // 2):
            self.asks(number, far=False, uplink=uplink)

    @precondition(lambda self: self.waiting)
    @rule(rejected=st.booleans())
    def takes_back(self, rejected: bool) -> None:
        request = next(iter(self.waiting))
        self.choker.cancel(request, rejected=rejected)
        receiver = self.waiting.pop(request)
        if rejected:
            self.owes(receiver)

    @precondition(lambda self: self.requests)
    @rule(rejected=st.booleans())
    def takes_back_what_does_not_wait(self, rejected: bool) -> None:
        request = next(request for request in range(self.requests + 1) if request not in self.waiting)
        self.choker.cancel(request, rejected=rejected)

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, SLOTS), requeue=st.booleans())
    def ends(self, which: int, requeue: bool) -> None:
        receiver = self.active.pop(which % len(self.active))
        self.shared = max(0, self.shared - 1)
        self.choker.end(receiver if requeue else None)
        if requeue:
            self.owes(receiver)

    @rule(uplink=st.sampled_from(Uplink))
    def begins_who_waits(self, uplink: Uplink) -> None:
        request = self.choker.next(uplink)
        assert (request is not None) == (bool(self.waiting) and self.may_begin(uplink))
        if request is not None:
            assert request == next(iter(self.waiting)), "another one has waited for longer"
            self.begins(self.waiting.pop(request), uplink)

    @rule(uplink=st.sampled_from(Uplink))
    def looks(self, uplink: Uplink) -> None:
        told = self.choker.unchoke(uplink)
        can_come = not self.waiting and (self.is_free_soon(uplink) or self.may_begin(uplink))
        assert bool(told) == (can_come and bool(self.owed))
        assert len(told) <= TOLD
        assert set(told) <= set(self.owed), "one is told that was told before, or was never refused"
        first = [receiver for receiver in self.owed if receiver.far] or self.owed
        assert told == first[: len(told)], "another one was refused before, or is far"
        self.owed = [receiver for receiver in self.owed if receiver not in told]

    @invariant()
    def no_more_than_may_be_and_nobody_is_forgotten(self) -> None:
        assert self.choker.active == len(self.active) <= SLOTS
        assert len(self.waiting) <= MAX_WAITING
        assert self.choker.is_wanted == bool(self.waiting or self.owed)

    def teardown(self) -> None:
        """Once the line is idle, all that wait are served, and all others are told, in the end."""
        while self.active:
            self.ends(0, requeue=False)
        while self.waiting:
            self.begins_who_waits(Uplink.FREE)
        while self.owed:
            self.looks(Uplink.FREE)
        assert not self.choker.is_wanted


TestInAnyOrder = AnyOrder.TestCase


class TestTheBackground:
    def test_it_is_told_after_all_that_have_clients_also_from_another_site(self) -> None:
        choker = filled(host(1, background=True), host(2, far=True, background=True), host(3), host(4, far=True))
        told = [choker.unchoke(Uplink.FREE) for _ in range(4)]
        assert told == [
            [host(4, far=True)],
            [host(3)],
            [host(2, far=True, background=True)],
            [host(1, background=True)],
        ]

    def test_an_idle_line_is_not_kept_for_one_that_is_remembered(self) -> None:
        choker = filled(host(1))
        choker.end()
        assert choker.ask(2, host(2, background=True), Uplink.FREE) is Admission.SEND

    def test_it_is_refused_while_one_with_a_client_is_remembered(self) -> None:
        choker = filled(host(1))
        assert choker.ask(2, host(2, background=True), Uplink.FREE_SOON) is Admission.REJECT
        choker.end()
        assert choker.unchoke(Uplink.FREE) == [host(1)]
        assert choker.ask(1, host(1), Uplink.FREE) is Admission.SEND
        choker.end()
        assert choker.unchoke(Uplink.FREE) == [host(2, background=True)]
        assert choker.ask(2, host(2, background=True), Uplink.FREE) is Admission.SEND
