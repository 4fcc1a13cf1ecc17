"""A pull in the simulated world, step by step: for tests that look in between, and break things at the right moment.

The world checks itself (`checks=True`): what is said goes through the codecs, and the cores are validated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.host import SimulatedHost
from p2pd.simulation.scenario import Node, Scenario, blob_of
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.geometry import piece_length

PIECE_S = 0.05
"""What a piece takes on the line of a host, each way, and of the origin."""

TINY_BYTES = 4


class Playing:
    """Hosts h00, h01, … pull one blob of `pieces` pieces (0: a tiny one), each within some hundredths of a second.

    `late_s` says by how much some, by their numbers, come later. Everything else that is to be different with a host
    is set before `run`.
    """

    def __init__(
        self, hosts: int, pieces: int, *, seed: int = 0, late_s: Mapping[int, float] | None = None, **settings: Any
    ) -> None:
        size_bytes = blob_of(pieces) if pieces else TINY_BYTES
        rate = piece_length(size_bytes) / PIECE_S
        scenario = Scenario(
            name="test",
            nodes=tuple(Node(f"h{number:02}", rate, rate) for number in range(hosts)),
            blobs=(size_bytes,),
            origin_bytes_per_s=rate,
            seed=seed,
        )
        self.cluster = cluster = SimulatedCluster(scenario, SchedulerSettings(settle_s=0.5, **settings), checks=True)
        (self.blob,) = cluster.blobs.values()
        self.hosts = list(cluster.hosts.values())
        for number, host in enumerate(self.hosts):
            cluster.event_queue.after(cluster.chance.uniform(0, 0.02), cluster.connect, host)
            comes_s = (late_s or {}).get(number, 0.0) + cluster.chance.uniform(0, 0.05)
            cluster.event_queue.after(comes_s, host.pull, self.blob)

    def run(self, until: Callable[[], bool] | None = None, *, within_s: float = 60.0) -> None:
        """Play until `until` holds; without it, until all that live and are not refused have the blob.

        Raises AssertionError, with how far everybody is, if that takes too long.
        """
        until = until or (lambda: all(map(self.is_whole, (h for h in self.hosts if h.alive and not h.refused))))
        event_queue = self.cluster.event_queue
        end = event_queue.now + within_s
        while not until():
            due = event_queue.next()
            assert due is not None, f"nothing happens any more\n{self.report()}"
            assert due < end, f"not done within {within_s} s\n{self.report()}"
            event_queue.step()

    def is_whole(self, host: SimulatedHost) -> bool:
        return self.blob.digest in host.whole

    def left_the_origin(self) -> Counter[int]:
        """How often each piece did."""
        return Counter({index: count for (_, index), count in self.cluster.origin.gave.items()})

    def came_from_neighbours(self, host: SimulatedHost) -> Counter[tuple[int, int]]:
        """How often each of its downloads, by number, got each piece from a neighbour."""
        return Counter(
            {
                (number, index): count
                for (name, number, index), count in self.cluster.fetched.items()
                if name == host.name
            }
        )

    def is_right(self, *hosts: SimulatedHost) -> None:
        """Each of these has all of the blob, and no other bytes."""
        for host in hosts:
            assert self.is_whole(host), self.report()
            assert host.store[self.blob.digest] == dict(enumerate(self.blob.digests))

    def holds(self, host: SimulatedHost, first: int, stop: int) -> None:
        """A host has these pieces from before."""
        host.store[self.blob.digest].update({index: self.blob.digests[index] for index in range(first, stop)})

    def report(self) -> str:
        """How far everybody is: for an assertion."""
        cluster, digest = self.cluster, self.blob.digest
        lines = [
            f"at {cluster.event_queue.now:.3f} the origin had given {cluster.origin.gave.total()} of {self.blob.count}"
        ]
        for host in self.hosts:
            lines.append(
                f"{host.name}: {len(host.store[digest])} pieces, whole: {self.is_whole(host)}. {host.failures}"
            )
            if digest in host.machine.downloads:
                lines += [f"    {line}" for line in host.machine.downloads[digest].story()[-12:]]
        return "\n".join([*lines, *(line for each in cluster.schedulers.cores() for line in each.story(digest)[-20:])])
