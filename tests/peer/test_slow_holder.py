"""A neighbour that sends a byte a second and is the only one that holds a piece is waited for, but not for ever."""

from __future__ import annotations

from peer.core.events import CancelPiece, Ended, PeerOutcome, Phase, ReleaseLink
from peer.core.peer_requests import SLOW_LEAST_S, SLOW_MOST_S
from peer.core.reports import STARVING_AFTER_S
from scheduler.protocol.from_host import Fault, NeighbourFailed
from scheduler.protocol.link import DontHave, Have, Span
from scheduler.protocol.to_host import Failed, Neighbours
from tests.peer.host_playbook import (
    D,
    Passes,
    Playbook,
    asked,
    asked_origin,
    digests,
    failed,
    holds,
    lease,
    left,
    met,
    neighbour,
    progress,
    told,
    with_neighbours,
)


def given_up() -> Playbook:
    """Piece 0 was asked of the only one that holds it, and did not come in time."""
    return (
        with_neighbours("b")
        >> ("b", holds(0))
        >> digests(0)
        << asked(0, "b", 0)
        >> Passes(SLOW_MOST_S - 0.1)
        >> Passes(0.1)
        << CancelPiece(D, 0)
        << ReleaseLink("b")
        << NeighbourFailed(D, "b", Fault.SLOW)
        >> failed(0, PeerOutcome.CANCELLED)
        >> Passes(STARVING_AFTER_S)
        << progress(starving=True)
    )


def test_with_the_origin_up_the_piece_is_leased_again() -> None:
    assert given_up() >> lease(7, 0, 1) << asked_origin(1, 0, 1)


def test_with_the_origin_down_the_client_is_told() -> None:
    reason = "5 hosts in a row got nothing from the origin"
    playbook = given_up() >> Failed(D, 503, reason)
    assert playbook << left() << Ended(D, Phase.FAILED, reason, 503, discard=True)


def test_another_that_holds_it_is_asked_at_once() -> None:
    playbook = given_up() >> Neighbours(D, (neighbour("c"),), ()) << met("c")
    assert playbook >> ("c", holds(0)) << asked(1, "c", 0) << told("c")


def test_one_that_holds_it_no_more_is_not_waited_for() -> None:
    playbook = with_neighbours("b") >> ("b", holds(0)) >> digests(0) << asked(0, "b", 0) >> Passes(SLOW_LEAST_S)
    playbook = playbook >> ("b", DontHave(D)) << CancelPiece(D, 0) << ReleaseLink("b")
    assert playbook << NeighbourFailed(D, "b", Fault.SLOW)


def test_nor_once_another_holds_it_that_cannot_be_asked_yet() -> None:
    playbook = with_neighbours("b", "c") >> ("b", holds(0)) >> ("c", holds(1)) >> digests(0, 1)
    playbook = playbook << asked(0, "b", 0) << asked(1, "c", 1) >> Passes(SLOW_LEAST_S)
    playbook = playbook >> ("c", Have(D, 1, (Span(0, 1),))) << CancelPiece(D, 0)
    playbook = playbook << ReleaseLink("b")
    assert playbook << NeighbourFailed(D, "b", Fault.SLOW)
