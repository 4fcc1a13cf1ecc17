"""A neighbour that sends a byte a second and is the only one that holds a piece is waited for, but not for ever."""

from __future__ import annotations

from peer.core.fetches import SLOW_MOST_S
from peer.core.origin_events import Ended, Phase, Stopped, WantSlot
from peer.core.reports import STARVING_AFTER_S
from peer.core.swarm_events import AddNeighbour, Fetch, FetchEnded, FetchOutcome, GiveUp, RemoveNeighbour, StopFetch
from scheduler.protocol.from_host import Fault, NeighbourFailed
from scheduler.protocol.to_host import Failed, Neighbours
from tests.peer.member_playbook import (
    D,
    Passes,
    Playbook,
    digest,
    digests,
    holds,
    lease,
    neighbour,
    progress,
    with_neighbours,
)


def given_up() -> Playbook:
    """Piece 0 was asked of the only one that holds it, and did not come in time."""
    return (
        with_neighbours("b")
        >> ("b", holds(0))
        >> digests(0)
        << Fetch(0, "b", 0, digest(0))
        >> Passes(SLOW_MOST_S - 0.1)
        >> Passes(0.1)
        << StopFetch(0)
        << RemoveNeighbour("b")
        << NeighbourFailed(D, "b", Fault.SLOW)
        >> FetchEnded(0, FetchOutcome.STOPPED)
        >> Passes(STARVING_AFTER_S)
        << progress(starving=True)
    )


def test_with_the_origin_up_the_piece_is_leased_again() -> None:
    assert given_up() >> lease(7, 0, 1) << WantSlot(0)


def test_with_the_origin_down_the_client_is_told() -> None:
    playbook = given_up() >> Failed(D, 503, "5 hosts in a row got nothing from the origin")
    playbook = playbook << GiveUp("5 hosts in a row got nothing from the origin", 503)
    assert playbook >> Stopped() << Ended(Phase.ABANDONED)


def test_another_that_holds_it_is_asked_at_once() -> None:
    playbook = given_up() >> Neighbours(D, (neighbour("c"),), ()) << AddNeighbour(neighbour("c"))
    assert playbook >> ("c", holds(0)) << Fetch(1, "c", 0, digest(0))
