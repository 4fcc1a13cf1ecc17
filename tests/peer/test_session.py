"""The connection to a scheduler: every transition, and what is known of a search."""

from __future__ import annotations

import math

import pytest

from peer.core.session import SESSION_TRANSITIONS, STEADY_S, SchedulerSession, SessionCause, SessionState

UNUSED, SEARCHING, CONNECTED, MISSING = SessionState
OPENED, FOUND, LOST, TIMED_OUT, CLOSED = SessionCause


def move(moved: SchedulerSession, cause: SessionCause, now: float = 100.0) -> None:
    match cause:
        case SessionCause.OPENED:
            moved.open(now)
        case SessionCause.FOUND:
            moved.found(2.0, now)
        case SessionCause.LOST:
            moved.lost(now)
        case SessionCause.TIMED_OUT:
            moved.time_out()
        case SessionCause.CLOSED:
            moved.close()


@pytest.mark.parametrize(
    ("before", "cause", "after"),
    [
        (UNUSED, OPENED, SEARCHING),
        (SEARCHING, FOUND, CONNECTED),
        (SEARCHING, LOST, SEARCHING),
        (SEARCHING, TIMED_OUT, MISSING),
        (SEARCHING, CLOSED, UNUSED),
        (CONNECTED, FOUND, CONNECTED),
        (CONNECTED, LOST, SEARCHING),
        (CONNECTED, CLOSED, UNUSED),
        (MISSING, FOUND, CONNECTED),
        (MISSING, LOST, SEARCHING),
        (MISSING, CLOSED, UNUSED),
    ],
)
def test_each_transition(before: SessionState, cause: SessionCause, after: SessionState) -> None:
    moved = SchedulerSession("", before)
    move(moved, cause)
    assert moved.state is after


def test_no_other_transition_is_possible() -> None:
    possible = {(before, cause) for before, causes in SESSION_TRANSITIONS.items() for cause in causes}
    assert len(possible) == 11
    for before in SessionState:
        for cause in SessionCause:
            if (before, cause) not in possible:
                with pytest.raises(KeyError):
                    move(SchedulerSession("", before), cause)


def test_a_search_is_known_from_its_beginning_to_its_end() -> None:
    for end in (FOUND, TIMED_OUT, CLOSED):
        moved = SchedulerSession()
        begun = [moved.since]
        for cause in (OPENED, LOST, end):
            move(moved, cause)
            begun.append(moved.since)
        assert begun == [None, 100.0, 100.0, None]


def lost_after(moved: SchedulerSession, seconds: float) -> tuple[bool, bool]:
    """Whether a connection that is lost so long after it was found has grace, and whether it counts as unsteady."""
    moved.found(2.0, 100.0)
    moved.lost(100.0 + seconds)
    return moved.grace, moved.unsteady


def test_only_a_connection_that_was_there_for_a_while_may_be_back_in_a_moment() -> None:
    moved = SchedulerSession("", SEARCHING)
    assert lost_after(moved, STEADY_S) == (True, False)
    assert lost_after(moved, STEADY_S / 2) == (False, True)
    assert moved.has_failed
    assert moved.steady_at == math.inf
    moved.found(2.0, 20.0)
    assert moved.steady_at == 20.0 + STEADY_S
    assert lost_after(moved, STEADY_S) == (True, False)


def test_a_scheduler_that_stops_is_not_waited_for() -> None:
    moved = SchedulerSession("", SEARCHING)
    moved.found(2.0, 0.0)
    moved.lost(100.0, stops=True)
    assert (moved.grace, moved.has_failed) == (False, True)


def test_the_scheduler_says_how_often_it_wants_to_hear_of_progress() -> None:
    moved = SchedulerSession("", SEARCHING)
    moved.found(7.5, 0.0)
    assert moved.progress_s == 7.5
    moved.lost(0.0)
    assert moved.progress_s == 7.5, "until the next one says otherwise"
