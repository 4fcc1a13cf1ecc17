"""Pieces that only hosts hold which a starving member avoids: they are leased again, and not too soon."""

from __future__ import annotations

from scheduler.protocol.from_host import Fault, NeighbourFailed, Progress
from tests.scheduler.messages_for_pull import D, all_landed
from tests.scheduler.playbook import Passes, Playbook

OWN = 0b1010
"""The pieces that b has from the origin; a has the others."""


def starving(have: int) -> Progress:
    return Progress(D, 1, bytes([have]), starving=True)


def leases_given(play: Playbook) -> int:
    return play.scheduler._state.leases.given


def test_a_piece_is_leased_again_if_it_is_still_out_of_reach_when_the_member_starves_again() -> None:
    play = all_landed()
    before = leases_given(play)
    _ = play >> ("b", NeighbourFailed(D, "a", Fault.SLOW)) >> ("b", starving(OWN))
    assert leases_given(play) == before, "others may have it from a, and be asked for it"
    _ = play >> Passes(2) >> ("b", starving(OWN))
    assert leases_given(play) == before + 2


def test_a_member_that_has_gained_a_piece_waits_again() -> None:
    play = all_landed()
    before = leases_given(play)
    _ = play >> ("b", NeighbourFailed(D, "a", Fault.SLOW)) >> ("b", starving(OWN))
    gained = OWN | 0b1
    _ = play >> ("b", Progress(D, 1, bytes([gained]))) >> Passes(2) >> ("b", starving(gained))
    assert leases_given(play) == before
    _ = play >> Passes(2) >> ("b", starving(gained))
    assert leases_given(play) == before + 1


def test_a_neighbour_that_was_full_is_linked_again_and_its_pieces_are_not_leased() -> None:
    play = all_landed()
    before = leases_given(play)
    swarm = play.scheduler._state.swarms[D]
    b, a = (play.scheduler._state.hosts_by_id[host].members[D] for host in "ba")
    _ = play >> ("b", NeighbourFailed(D, "a", Fault.FULL))
    assert a not in b.links
    _ = play >> ("b", starving(OWN))
    assert a in b.links
    _ = play >> Passes(2) >> ("b", starving(OWN)) >> Passes(2) >> ("b", starving(OWN))
    assert leases_given(play) == before
    swarm.validate()
