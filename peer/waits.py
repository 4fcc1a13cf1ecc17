"""What a download waits for, as seen from outside at one moment: for the metrics."""

from __future__ import annotations

from enum import StrEnum

from peer.core.events import Phase
from peer.core.pieces import PieceTracker


class Wait(StrEnum):
    """What a download waits for."""

    DISK = "disk"
    """The store says what it has of the blob, or hashes what has come."""
    ROOM = "room"
    """Others are about to be done with the room that the blob needs."""
    ORIGIN = "origin"
    NEIGHBOURS = "neighbours"
    BOTH = "origin and neighbours"
    LEASE = "lease"
    """Nothing is asked for: the scheduler has given no lease, and no neighbour has a piece that is missing here."""


def wait_of(phase: Phase, pieces: PieceTracker, *, for_room: bool) -> Wait:
    """What a download with these pieces waits for. `for_room`: it has none in the store yet, and tries again."""
    if for_room:
        return Wait.ROOM
    if phase is not Phase.FETCHING or (pieces.count and pieces.held == pieces.everything):
        return Wait.DISK
    if pieces.origin_requests:
        return Wait.BOTH if pieces.peer_requests else Wait.ORIGIN
    return Wait.NEIGHBOURS if pieces.peer_requests else Wait.LEASE
