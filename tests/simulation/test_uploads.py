"""What a simulated host sends, and what it does not send after all."""

from __future__ import annotations

import pytest

from p2pd.simulation.blobs import true_digest
from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.scenario import Shape, blob_of, flash_crowd
from peer.core.events import RequestPiece

RATE = 1e6


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_request_that_waits_is_served_unless_it_is_taken_back(taken_back: bool) -> None:
    cluster = SimulatedCluster(flash_crowd(Shape(3, (blob_of(4),), RATE, down_bytes_per_s=10 * RATE)))
    [blob] = cluster.blobs.values()
    sender, *others = cluster.hosts.values()
    sender.hold([blob])
    goes, waits = (host.name for host in others)
    piece_s = blob.length / RATE
    cluster.request_piece(goes, RequestPiece(blob.digest, 0, sender.name, 0, true_digest(0)))
    cluster.event_queue.play(piece_s - 0.02)
    cluster.request_piece(waits, RequestPiece(blob.digest, 0, sender.name, 1, true_digest(1)))
    cluster.event_queue.play(piece_s - 0.01)
    assert sender.choker.is_wanted
    if taken_back:
        cluster.cancel(waits, 0)
    cluster.event_queue.play(3 * piece_s)
    assert sender.up.carried == pytest.approx(blob.length * (1 if taken_back else 2))
    assert not sender.choker.active
