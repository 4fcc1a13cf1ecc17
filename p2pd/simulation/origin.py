"""The simulated origin: pieces of a blob one after the other on each connection, over one line."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from p2pd.simulation.bandwidth import Flow, Line
from p2pd.simulation.costs import ANSWER_S, SILENT_S, VERIFY_BYTES_PER_S
from p2pd.simulation.pull import false_digest, true_digest
from p2pd.simulation.scenario import Misbehaviour
from peer.core import origin_events
from peer.core.download import SPAN_PIECES
from peer.core.origin_events import Outcome

if TYPE_CHECKING:
    from p2pd.simulation.cluster import SimulatedCluster
    from p2pd.simulation.pull import Pull


class SimulatedOrigin:
    """`gave` counts how often each piece of each blob has left it."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.up = True
        self.gave: Final[Counter[tuple[bytes, int]]] = Counter()
        self.sent_bytes = 0.0
        self._cluster: Final = cluster
        self._line: Final = Line(cluster.scenario.origin_bytes_per_s)
        self._free = cluster.scenario.origin_connections
        self._open: Final[dict[tuple[Pull, int], Flow | None]] = {}
        """Transfers that have a connection, and what flows of each."""
        self._queue: Final[deque[tuple[Pull, int, int, int | None]]] = deque()

    def open(self, pull: Pull, number: int, first: int, stop: int | None) -> None:
        """A host asks for pieces of a blob; it waits where all connections are taken."""
        self._queue.append((pull, number, first, stop))
        self._accept()

    def close(self, pull: Pull, number: int) -> None:
        """A transfer has ended, or its host has gone."""
        if (pull, number) not in self._open:
            return
        flow = self._open.pop((pull, number))
        if flow is not None:
            self._count(pull, self._cluster.lines.stop(flow))
        self._free += 1
        self._accept()

    def fall_silent(self, pull: Pull, number: int) -> None:
        """Nothing comes from the origin any more, and the host does not know that yet."""
        self.close(pull, number)
        self._cluster.event_queue.after(SILENT_S, pull.end_transfer, number, Outcome.BROKEN)

    def _accept(self) -> None:
        while self._free and self._queue:
            pull, number, first, stop = self._queue.popleft()
            if pull.over or number not in pull.transfers:
                continue
            self._free -= 1
            self._open[pull, number] = None
            if pull.host.misbehaviour is not Misbehaviour.HOARDS:
                rtt_s = 2 * self._cluster.scenario.far_latency_s
                self._cluster.event_queue.after(rtt_s + ANSWER_S, self._answer, pull, number, first, stop)

    def _answer(self, pull: Pull, number: int, first: int, stop: int | None) -> None:
        if (pull, number) not in self._open:
            return
        host, blob = pull.host, pull.blob
        if host.refused or not self.up or not self._cluster.reaches_outside(host):
            pull.end_transfer(number, Outcome.REFUSED, host.refused)
            return
        stop = min(blob.count, first + SPAN_PIECES if stop is None else stop)
        pull.feed(origin_events.TransferOpened(number, blob.size_bytes, blob.length, first, stop))
        self._send(pull, number, first, stop)

    def _send(self, pull: Pull, number: int, index: int, stop: int) -> None:
        if (pull, number) not in self._open:
            return
        cluster, host = self._cluster, pull.host
        site = cluster.sites_in.get(host.node.site)
        way = (self._line, host.down) if site is None else (self._line, site, host.down)
        size = pull.blob.bytes_of(index)
        self._open[pull, number] = cluster.lines.send(size, way, self._sent, pull, number, index, stop)

    def _sent(self, pull: Pull, number: int, index: int, stop: int) -> None:
        size = pull.blob.bytes_of(index)
        self._open[pull, number] = None
        self._count(pull, size)
        self.gave[pull.blob.digest, index] += 1
        took_s = self._cluster.scenario.far_latency_s + size / VERIFY_BYTES_PER_S
        self._cluster.event_queue.after(took_s, self._came, pull, number, index, index + 1 == stop)
        if not self.up:
            pull.end_transfer(number, Outcome.BROKEN)
        elif index + 1 < stop:
            self._send(pull, number, index + 1, stop)

    def _came(self, pull: Pull, number: int, index: int, last: bool) -> None:
        if pull.over or number not in pull.transfers:
            return
        pull.has_landed(number, index, false_digest(index, pull.host.name) if pull.host.lies else true_digest(index))
        if last:
            pull.end_transfer(number, Outcome.DONE)

    def _count(self, pull: Pull, size: float) -> None:
        self.sent_bytes += size
        self._cluster.site_bytes[pull.host.node.site] += size
