"""News that hosts gather before they say them."""

from __future__ import annotations

from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.scenario import Shape, blob_of, flash_crowd
from peer.core.events import TellNeighbours
from scheduler.protocol import link, to_host


def test_what_is_gathered_for_some_and_for_others_reaches_each() -> None:
    cluster = SimulatedCluster(flash_crowd(Shape(3, (blob_of(4),))))
    [blob] = cluster.blobs.values()
    teller, *listeners = cluster.hosts.values()
    for index, listener in enumerate(listeners):
        listener.pull(blob)
        neighbour = to_host.Neighbour(teller.name, f"{teller.name}:1", 0)
        joined = to_host.Joined(blob.digest, 1, blob.size_bytes, sealed=False, neighbours=(neighbour,))
        listener.is_told(joined, cluster.schedulers.all[0].url)
        have = link.Have(blob.digest, 1, (link.Span(index, index + 1),))
        teller.tell_neighbours(TellNeighbours((listener.name,), have))
    cluster.event_queue.play(1.0)
    held = [each.machine.downloads[blob.digest].picker.neighbours.held_by_any() for each in listeners]
    assert held == [0b01, 0b10]
