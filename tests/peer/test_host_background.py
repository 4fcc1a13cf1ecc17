"""A download that only preheats want, as the scheduler hears of it; and what follows when clients of others come."""

from __future__ import annotations

from msgspec.structs import replace

from peer.core.events import (
    CancelRange,
    Outcome,
    PiecesHeld,
    Prepare,
    Prepared,
    ReaderLeft,
    ReaderMoved,
    Recover,
    SchedulerFound,
)
from scheduler.protocol.from_host import Priority
from scheduler.protocol.to_host import LeaseRevoked
from tests.peer.host_playbook import (
    JOIN,
    SIZE,
    D,
    Passes,
    Playbook,
    asked_origin,
    joined,
    lease,
    opened,
    range_ended,
    source,
)

AHEAD = ReaderMoved(D, 1, 0, None, background=True, preheats=True)


def preheating() -> Playbook:
    """Pieces 0 to 2 are leased, and the origin sends them."""
    playbook = Playbook() >> source() << Recover(D) >> AHEAD >> PiecesHeld(D) << Prepare(D, SIZE)
    playbook = playbook << replace(JOIN, background=True) >> Prepared(D) >> joined()
    return playbook >> lease(7, 0, 2) << asked_origin(0, 0, 2) >> opened(0, 0, 2)


def test_the_scheduler_is_told_when_a_client_comes_and_when_it_leaves() -> None:
    playbook = preheating() >> ReaderMoved(D, 2, 0, None) << Priority(D, background=False)
    playbook = playbook >> ReaderMoved(D, 3, 0, None) >> ReaderLeft(D, 2)
    assert playbook >> ReaderLeft(D, 3) << Priority(D, background=True)


def test_what_is_fetched_ahead_of_a_client_is_a_clients() -> None:
    playbook = Playbook() >> source() << Recover(D) >> ReaderMoved(D, 1, 0, None, background=True) >> PiecesHeld(D)
    assert playbook << Prepare(D, SIZE) << JOIN


def test_a_client_that_has_left_counts_while_the_download_lingers() -> None:
    playbook = Playbook() >> source() << Recover(D) >> ReaderMoved(D, 1, 0, None) >> PiecesHeld(D) << Prepare(D, SIZE)
    assert playbook << JOIN >> Prepared(D) >> joined() >> ReaderLeft(D, 1) >> Passes(0.5)


def test_a_client_that_comes_before_the_answer_is_told_of_after_it() -> None:
    playbook = Playbook() >> source() << Recover(D) >> AHEAD >> PiecesHeld(D) << Prepare(D, SIZE)
    playbook = playbook << replace(JOIN, background=True) >> Prepared(D) >> ReaderMoved(D, 2, 0, None)
    assert playbook >> joined() << Priority(D, background=False)


def test_a_scheduler_that_has_restarted_is_told_anew() -> None:
    playbook = preheating() >> ReaderMoved(D, 2, 0, None) << Priority(D, background=False)
    assert playbook >> SchedulerFound() << JOIN


def test_a_request_ends_at_once_when_the_line_is_for_clients() -> None:
    playbook = preheating() >> LeaseRevoked(7, D, at_once=True) << CancelRange(D, 0)
    assert playbook >> range_ended(0, Outcome.BROKEN) >> Passes(0.5)


def test_and_goes_on_when_the_lease_is_only_anothers() -> None:
    assert preheating() >> LeaseRevoked(7, D) >> Passes(0.5)


def test_a_lease_of_the_same_pieces_that_comes_meanwhile_is_not_given_up() -> None:
    playbook = preheating() >> LeaseRevoked(7, D, at_once=True) << CancelRange(D, 0) >> lease(8, 0, 2)
    assert playbook >> range_ended(0, Outcome.BROKEN) << asked_origin(1, 0, 2)
