"""Where a download stands with the scheduler: every transition, what the origin may be asked, how long it waits."""

from __future__ import annotations

import math

import pytest

from peer.core.membership import (
    ANSWER_FACTOR,
    MEMBERSHIP_TRANSITIONS,
    Membership,
    MembershipCause,
    MembershipState,
)

TIMEOUT_S = 3.0

JOINING, JOINED, STANDALONE, ORIGIN_ONLY = MembershipState
FOUND, ACCEPTED, TIMED_OUT, REFUSED = MembershipCause


def membership(state: MembershipState = JOINING) -> Membership:
    return Membership(TIMEOUT_S, state)


def move(moved: Membership, cause: MembershipCause) -> None:
    match cause:
        case MembershipCause.SCHEDULER_FOUND:
            moved.wait(100.0, asked=True)
        case MembershipCause.ACCEPTED:
            moved.accept()
        case MembershipCause.TIMED_OUT:
            moved.open_origin(refused=False)
        case MembershipCause.REFUSED:
            moved.open_origin(refused=True)


@pytest.mark.parametrize(
    ("before", "cause", "after"),
    [
        (JOINING, FOUND, JOINING),
        (JOINING, ACCEPTED, JOINED),
        (JOINING, TIMED_OUT, STANDALONE),
        (JOINING, REFUSED, ORIGIN_ONLY),
        (JOINED, FOUND, JOINING),
        (JOINED, ACCEPTED, JOINED),
        (JOINED, TIMED_OUT, STANDALONE),
        (JOINED, REFUSED, ORIGIN_ONLY),
        (STANDALONE, FOUND, JOINING),
        (STANDALONE, ACCEPTED, JOINED),
        (STANDALONE, TIMED_OUT, STANDALONE),
        (STANDALONE, REFUSED, ORIGIN_ONLY),
        (ORIGIN_ONLY, ACCEPTED, ORIGIN_ONLY),
        (ORIGIN_ONLY, TIMED_OUT, ORIGIN_ONLY),
        (ORIGIN_ONLY, REFUSED, ORIGIN_ONLY),
    ],
)
def test_each_transition(before: MembershipState, cause: MembershipCause, after: MembershipState) -> None:
    moved = membership(before)
    move(moved, cause)
    assert moved.state is after
    moved.validate()


def test_a_download_that_the_origin_alone_may_serve_joins_no_scheduler_again() -> None:
    possible = {(before, cause) for before, causes in MEMBERSHIP_TRANSITIONS.items() for cause in causes}
    impossible = {(before, cause) for before in MembershipState for cause in MembershipCause} - possible
    assert impossible == {(ORIGIN_ONLY, FOUND)}
    with pytest.raises(KeyError):
        move(membership(ORIGIN_ONLY), FOUND)


def test_what_the_origin_may_be_asked_for() -> None:
    assert [state for state in MembershipState if membership(state).origin_is_open] == [STANDALONE, ORIGIN_ONLY]
    assert [state for state in MembershipState if membership(state).joined] == [JOINED]


class TestAnswers:
    def test_a_scheduler_has_so_long_to_come(self) -> None:
        waiting = membership()
        waiting.wait(100.0, asked=False)
        assert waiting.state is JOINING
        assert waiting.answer_due == 100.0 + TIMEOUT_S

    def test_and_longer_to_answer_once_it_is_there(self) -> None:
        waiting = membership()
        waiting.wait(100.0, asked=True)
        assert waiting.answer_due == 100.0 + ANSWER_FACTOR * TIMEOUT_S
        assert waiting.answer_due == 100.0 + ANSWER_FACTOR * TIMEOUT_S

    def test_one_that_comes_and_goes_and_never_answers_gains_no_time(self) -> None:
        waiting = membership()
        waiting.wait(100.0, asked=False)
        for now in (101.0, 102.0, 103.0):
            waiting.wait(now, asked=True)
            assert waiting.answer_due == 100.0 + ANSWER_FACTOR * TIMEOUT_S

    @pytest.mark.parametrize("cause", [ACCEPTED, TIMED_OUT, REFUSED])
    def test_no_answer_is_due_once_it_has_come_or_is_not_waited_for(self, cause: MembershipCause) -> None:
        waiting = membership()
        waiting.wait(100.0, asked=True)
        move(waiting, cause)
        assert waiting.answer_due == math.inf
        waiting.validate()

    def test_the_next_scheduler_has_all_of_the_time(self) -> None:
        waiting = membership()
        waiting.wait(100.0, asked=True)
        waiting.accept()
        waiting.wait(200.0, asked=True)
        assert waiting.answer_due == 200.0 + ANSWER_FACTOR * TIMEOUT_S

    def test_an_answer_is_due_from_nobody(self) -> None:
        waiting = membership(JOINED)
        waiting.answer_due = 1.0
        with pytest.raises(AssertionError):
            waiting.validate()
