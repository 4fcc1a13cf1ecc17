"""A client's credential may expire within a download: one GET is for all that is left, while this host is alone."""

from __future__ import annotations

from msgspec import structs

from peer.core.events import PiecesHeld, Prepare, Prepared, ReaderMoved, Recover, TrimRange
from scheduler.protocol import to_host
from scheduler.protocol.from_host import LeasePieces
from tests.peer.host_playbook import (
    JOIN,
    PIECE,
    D,
    Playbook,
    asked_origin,
    digest,
    gained,
    joined,
    lease,
    met,
    neighbour,
    opened,
    received,
    source,
)

COUNT = 12
SIZE = COUNT * PIECE


def alone() -> Playbook:
    """Piece 0 is leased, and the origin is asked for everything."""
    playbook = Playbook() >> structs.replace(source(size_bytes=SIZE), perishable=True) << Recover(D)
    playbook = playbook >> ReaderMoved(D, 1, 0, None)
    playbook = playbook >> PiecesHeld(D) << Prepare(D, SIZE) << structs.replace(JOIN, size_bytes=SIZE) >> Prepared(D)
    playbook = playbook >> joined(size_bytes=SIZE) >> lease(7, 0, 1) << asked_origin(0, 0, COUNT)
    playbook = playbook >> opened(0, 0, COUNT, size_bytes=SIZE)
    return playbook >> received(0, 0) << LeasePieces(7, D, 0, digest(0))


def test_what_comes_without_a_lease_is_told_under_the_next() -> None:
    playbook = alone() >> received(0, 1)
    assert playbook >> lease(8, 1, 3) << LeasePieces(8, D, 1, digest(1))


def test_the_rest_is_left_to_others_once_there_are_some() -> None:
    playbook = alone() >> lease(8, 1, 3)
    playbook = playbook >> to_host.Neighbours(D, (neighbour("b"),), ()) << met("b", 0) << TrimRange(D, 0, 3)
    playbook = playbook >> received(0, 1) << LeasePieces(8, D, 1, digest(1)) << gained(("b",), 1, 2)
    assert playbook >> lease(9, 3, 4) << asked_origin(1, 3, 4)


def test_with_other_hosts_from_the_start_it_is_for_what_is_leased() -> None:
    playbook = Playbook() >> structs.replace(source(size_bytes=SIZE), perishable=True) << Recover(D)
    playbook = playbook >> ReaderMoved(D, 1, 0, None)
    playbook = playbook >> PiecesHeld(D) << Prepare(D, SIZE) << structs.replace(JOIN, size_bytes=SIZE) >> Prepared(D)
    playbook = playbook >> joined("b", size_bytes=SIZE) << met("b")
    assert playbook >> lease(7, 0, 1) << asked_origin(0, 0, 1)
