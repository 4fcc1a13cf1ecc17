"""What a download waits for."""

from __future__ import annotations

import pytest

from peer.core.events import Phase
from peer.core.pieces import OriginRequest, PeerRequest, PieceTracker
from peer.waits import Wait, wait_of


def pieces(*, origin: bool = False, peers: bool = False, held: int = 0) -> PieceTracker:
    """Of a blob with three pieces."""
    found = PieceTracker(count=3, everything=0b111, held=held)
    if origin:
        found.origin_requests[1] = OriginRequest(0, 0, 1)
    if peers:
        found.peer_requests[2] = PeerRequest("host", 1, 0.0)
    return found


@pytest.mark.parametrize(
    ("phase", "of", "wait"),
    [
        (Phase.RECOVERING, pieces(), Wait.DISK),
        (Phase.FETCHING, pieces(), Wait.LEASE),
        (Phase.FETCHING, PieceTracker(), Wait.LEASE),
        (Phase.FETCHING, pieces(origin=True), Wait.ORIGIN),
        (Phase.FETCHING, pieces(peers=True), Wait.NEIGHBOURS),
        (Phase.FETCHING, pieces(origin=True, peers=True), Wait.BOTH),
        (Phase.FETCHING, pieces(held=0b111), Wait.DISK),
    ],
)
def test_what_it_waits_for(phase: Phase, of: PieceTracker, wait: Wait) -> None:
    assert wait_of(phase, of, for_room=False) is wait
    assert wait_of(phase, of, for_room=True) is Wait.ROOM
