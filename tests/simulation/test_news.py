"""News that hosts gather before they say them."""

from __future__ import annotations

from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.pull import Pull
from p2pd.simulation.scenario import Shape, blob_of, flash_crowd
from peer.core.swarm_events import TellNeighbours
from scheduler.protocol import link


def test_what_is_gathered_for_some_and_for_others_reaches_each() -> None:
    cluster = SimulatedCluster(flash_crowd(Shape(3, (blob_of(4),))))
    [blob] = cluster.blobs.values()
    pulls = [host.pulls.setdefault(blob.digest, Pull(host, blob)) for host in cluster.hosts.values()]
    teller, *listeners = pulls
    for index, listener in enumerate(listeners):
        listener.member.exchange.neighbours.begin_generation(1)
        listener.member.exchange.neighbours.add(teller.host.name, 0)
        gained = link.Have(blob.digest, 1, (link.Span(index, index + 1),))
        teller.tell_neighbours(TellNeighbours((listener.host.name,), gained))
    cluster.event_queue.play(1.0)
    assert [listener.member.exchange.neighbours.held_by_any() for listener in listeners] == [0b01, 0b10]
