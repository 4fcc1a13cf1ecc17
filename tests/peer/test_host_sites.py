"""A host whose swarm is in several sites: what it asks of neighbours in others, as the scheduler has it."""

from __future__ import annotations

from peer.core.events import BlobVerified, PeerOutcome, PieceFailed, PiecesHeld, SchedulerLost, Tell
from peer.core.piece_sets import pieces_of
from peer.core.pieces import PieceTracker
from scheduler.protocol import to_host
from scheduler.protocol.from_host import Sealed
from scheduler.protocol.geometry import ALL_SHARES, MAX_PIECES, SHARES
from scheduler.protocol.link import DontHave
from tests.peer.host_playbook import (
    PIECE,
    SCHEDULER_TIMEOUT_S,
    SIZE,
    D,
    Passes,
    Playbook,
    asked,
    beginning,
    digest,
    digests,
    greeted,
    holds,
    lease,
    met,
    neighbour,
    opened,
    progress,
    received,
)


def with_far(shares: int | None) -> Playbook:
    """A neighbour in this site, and one in another, hold nothing yet; `shares` None: not told of any."""
    joined = to_host.Joined(D, 1, SIZE, sealed=False, neighbours=(neighbour("near"), neighbour("far", 3)))
    playbook = greeted(beginning() >> joined << met("near") << met("far"), "near", "far")
    return playbook if shares is None else playbook >> to_host.Gateway(D, shares)


def test_pieces_of_shares_are_every_eighth() -> None:
    assert pieces_of(0) == 0
    assert pieces_of(ALL_SHARES) == -1
    assert pieces_of(0b101) == sum(1 << i for i in range(MAX_PIECES) if i % SHARES in (0, 2))


def test_who_is_told_nothing_asks_anybody() -> None:
    playbook = with_far(None) >> digests(0, 1) >> ("far", holds(0, 1))
    assert playbook << asked(0, "far", 0) << asked(1, "far", 1)


def test_who_is_in_another_site() -> None:
    playbook = with_far(None)
    assert playbook
    assert playbook.machine.links.is_far("far")
    assert not playbook.machine.links.is_far("near")
    assert not playbook.machine.links.is_far("nobody")


def test_a_gateway_asks_other_sites_for_its_pieces() -> None:
    assert with_far(0b10) >> digests(0, 1) >> ("far", holds(0, 1)) << asked(0, "far", 1)


def test_who_is_no_gateway_waits_for_its_own_site_and_tells_that_it_starves() -> None:
    waits = with_far(0) >> digests(0, 1) >> ("far", holds(0, 1)) >> Passes(1.5) << progress(starving=True)
    assert waits >> ("near", holds(1)) << asked(0, "near", 1)


def test_who_becomes_a_gateway_asks_at_once() -> None:
    waits = with_far(0) >> digests(0, 1) >> ("far", holds(0, 1))
    assert waits >> to_host.Gateway(D, ALL_SHARES) << asked(0, "far", 0) << asked(1, "far", 1)


def test_a_new_scheduler_may_have_no_gateways() -> None:
    again = to_host.Joined(D, 1, SIZE, sealed=False, neighbours=(neighbour("far", 3),))
    waits = with_far(0) >> digests(0) >> ("far", holds(0))
    playbook = waits >> again
    assert playbook.download.picker.neighbours.open_far == -1


def test_without_a_scheduler_all_neighbours_are_asked() -> None:
    playbook = with_far(0) >> digests(0, 1) >> ("far", holds(0, 1)) >> SchedulerLost() >> Passes(SCHEDULER_TIMEOUT_S)
    assert playbook.download.picker.neighbours.open_far == -1
    assert playbook.download.pieces.asked_of_peers == 0b11


def test_another_site_is_asked_once_nobody_in_this_one_holds_it_any_more() -> None:
    waits = with_far(None) >> ("near", holds(0)) >> ("far", holds(0)) >> digests(0) << asked(0, "near", 0)
    waits = waits >> PieceFailed(D, 0, PeerOutcome.CHOKED) >> Passes(0.1)
    assert waits >> ("near", DontHave(D)) << asked(1, "far", 0)


def test_the_scheduler_hears_how_much_came_from_other_sites_and_from_the_origin() -> None:
    """Once, with the end of the blob. The last piece was here before."""
    host = with_far(None) >> PiecesHeld(D, SIZE, PIECE, {3: digest(3)})
    host = host >> digests(0, 1) >> ("far", holds(0)) >> ("near", holds(1)) >> received(0, 0) >> received(1, 1)
    host = host >> lease(7, 2, 3) >> opened(2, 2, 3) >> received(2, 2)
    told = host.machine.handle(BlobVerified(D, ok=True), host.now)
    assert Tell(Sealed(D, 1, PIECE, PIECE)) in told


def test_the_last_piece_counts_as_long_as_it_is() -> None:
    pieces = PieceTracker()
    pieces.learn_geometry(2 * PIECE + 5, PIECE)
    assert [pieces.bytes_of(each) for each in (0, 0b001, 0b100, 0b111)] == [0, PIECE, 5, 2 * PIECE + 5]
