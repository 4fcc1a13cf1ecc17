"""The connection to the scheduler: every transition, and for how long a host looks for one before it stands alone."""

from __future__ import annotations

import math

import pytest

from peer.core.session import SESSION_TRANSITIONS, SchedulerSession, SessionCause, SessionState

TIMEOUT_S = 3.0

SEARCHING, CONNECTED, STANDALONE = SessionState
FOUND, LOST, TIMED_OUT = SessionCause


def session(state: SessionState = SEARCHING) -> SchedulerSession:
    return SchedulerSession(TIMEOUT_S, state)


def move(moved: SchedulerSession, cause: SessionCause) -> None:
    match cause:
        case SessionCause.FOUND:
            moved.found(2.0)
        case SessionCause.LOST:
            moved.lost(100.0)
        case SessionCause.TIMED_OUT:
            moved.time_out()


@pytest.mark.parametrize(
    ("before", "cause", "after"),
    [
        (SEARCHING, FOUND, CONNECTED),
        (SEARCHING, LOST, SEARCHING),
        (SEARCHING, TIMED_OUT, STANDALONE),
        (CONNECTED, FOUND, CONNECTED),
        (CONNECTED, LOST, SEARCHING),
        (STANDALONE, FOUND, CONNECTED),
        (STANDALONE, LOST, SEARCHING),
    ],
)
def test_each_transition(before: SessionState, cause: SessionCause, after: SessionState) -> None:
    moved = session(before)
    move(moved, cause)
    assert moved.state is after


def test_no_other_transition_is_possible() -> None:
    possible = {(before, cause) for before, causes in SESSION_TRANSITIONS.items() for cause in causes}
    assert len(possible) == 7
    for before in SessionState:
        for cause in SessionCause:
            if (before, cause) not in possible:
                with pytest.raises(KeyError):
                    move(session(before), cause)


def test_a_host_that_does_not_search_has_no_deadline() -> None:
    assert session().due == math.inf, "the search begins with `lost`"
    moved = session()
    moved.lost(100.0)
    moved.found(2.0)
    assert moved.due == math.inf
    moved.lost(100.0)
    moved.time_out()
    assert moved.due == math.inf


def test_a_host_searches_for_so_long_from_when_it_last_lost_one() -> None:
    moved = session()
    moved.lost(100.0)
    assert moved.due == 100.0 + TIMEOUT_S
    moved.lost(101.0)
    assert moved.due == 101.0 + TIMEOUT_S


def test_the_scheduler_says_how_often_it_wants_to_hear_of_progress() -> None:
    moved = session()
    moved.found(7.5)
    assert moved.progress_s == 7.5
    moved.lost(0.0)
    assert moved.progress_s == 7.5, "until the next one says otherwise"
