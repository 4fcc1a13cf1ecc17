"""The simulated origin: pieces of a blob one after the other on each connection, over one line."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Final

from p2pd.simulation.bandwidth import Flow, Line, Lines
from p2pd.simulation.blobs import Contents
from p2pd.simulation.costs import ANSWER_S, SILENT_S, VERIFY_BYTES_PER_S
from p2pd.simulation.event_queue import EventQueue
from p2pd.simulation.host import SimulatedHost
from p2pd.simulation.scenario import Misbehaviour, Scenario
from peer.core.events import FetchSample, Outcome, RangeOpened
from peer.core.origin_requests import SPAN_PIECES

_Range = tuple[SimulatedHost, int]
"""A request, by its host and its number there."""


class SimulatedOrigin:
    """`gave` counts how often each piece of each blob has left it. `sites_in`: the lines into the sites, if limited.

    `reaches` says whether packets get from a host to the origin; `passed` is told of the bytes that a host has got.
    """

    def __init__(
        self,
        scenario: Scenario,
        event_queue: EventQueue,
        lines: Lines,
        sites_in: dict[str, Line],
        reaches: Callable[[SimulatedHost], bool],
        passed: Callable[[SimulatedHost, float], None],
    ) -> None:
        self.up = True
        self.gave: Final[Counter[tuple[bytes, int]]] = Counter()
        self._latency_s: Final = scenario.far_latency_s
        self._event_queue: Final = event_queue
        self._lines: Final = lines
        self._sites_in: Final = sites_in
        self._reaches: Final = reaches
        self._passed: Final = passed
        self._line: Final = Line(scenario.origin_bytes_per_s)
        self._free = scenario.origin_connections
        self._open: Final[dict[_Range, Flow | None]] = {}
        """Requests that have a connection, and what flows of each."""
        self._queue: Final[deque[tuple[_Range, Contents, int, int | None]]] = deque()

    def open(self, host: SimulatedHost, request: int, blob: Contents, first: int, stop: int | None) -> None:
        """A host asks for pieces of a blob; it waits where all connections are taken."""
        self._queue.append(((host, request), blob, first, stop))
        self._accept()

    def close(self, host: SimulatedHost, request: int) -> None:
        """A request has ended, or its host has gone."""
        if (host, request) not in self._open:
            return
        flow = self._open.pop((host, request))
        if flow is not None:
            self._passed(host, self._lines.stop(flow))
        self._free += 1
        self._accept()

    def sample(self, host: SimulatedHost, wanted: FetchSample) -> None:
        """A host asks for a few bytes. They are a request of their own, on a connection that is there."""
        self._event_queue.after(2 * self._latency_s + ANSWER_S, self._give_few, host, wanted)

    def _give_few(self, host: SimulatedHost, wanted: FetchSample) -> None:
        if host.refused or not self.up or not self._reaches(host):
            host.sampled(wanted, answered=False)
            return
        site = self._sites_in.get(host.site)
        way = (self._line, host.down) if site is None else (self._line, site, host.down)
        self._lines.send(wanted.stop - wanted.start, way, self._gave_few, host, wanted)

    def _gave_few(self, host: SimulatedHost, wanted: FetchSample) -> None:
        self._passed(host, wanted.stop - wanted.start)
        self._event_queue.after(self._latency_s, partial(host.sampled, wanted, answered=True))

    def fall_silent(self, host: SimulatedHost, request: int) -> None:
        """Nothing comes from the origin any more, and the host does not know that yet."""
        self.close(host, request)
        self._event_queue.after(SILENT_S, host.end_range, request, Outcome.BROKEN)

    def _accept(self) -> None:
        while self._free and self._queue:
            key, blob, first, stop = self._queue.popleft()
            host, request = key
            if request not in host.ranges:
                continue
            self._free -= 1
            self._open[key] = None
            if host.misbehaviour is not Misbehaviour.HOARDS:
                self._event_queue.after(2 * self._latency_s + ANSWER_S, self._answer, key, blob, first, stop)

    def _answer(self, key: _Range, blob: Contents, first: int, stop: int | None) -> None:
        if key not in self._open:
            return
        host, request = key
        if host.refused or not self.up or not self._reaches(host):
            host.end_range(request, Outcome.REFUSED, host.refused)
            return
        stop = min(blob.count, first + SPAN_PIECES if stop is None else stop)
        host.feed(RangeOpened(blob.digest, request, blob.size_bytes, blob.length, first, stop))
        self._send(key, blob, first, stop)

    def _send(self, key: _Range, blob: Contents, index: int, stop: int) -> None:
        if key not in self._open:
            return
        host = key[0]
        site = self._sites_in.get(host.site)
        way = (self._line, host.down) if site is None else (self._line, site, host.down)
        self._open[key] = self._lines.send(blob.bytes_of(index), way, self._sent, key, blob, index, stop)

    def _sent(self, key: _Range, blob: Contents, index: int, stop: int) -> None:
        host, request = key
        size = blob.bytes_of(index)
        self._open[key] = None
        self._passed(host, size)
        self.gave[blob.digest, index] += 1
        took_s = self._latency_s + size / VERIFY_BYTES_PER_S
        self._event_queue.after(took_s, self._came, key, blob, index, index + 1 == stop)
        if not self.up:
            host.end_range(request, Outcome.BROKEN)
        elif index + 1 < stop:
            self._send(key, blob, index + 1, stop)

    def _came(self, key: _Range, blob: Contents, index: int, last: bool) -> None:
        host, request = key
        if request not in host.ranges:
            return
        host.take(blob.digest, request, index, host.origin_digest(index))
        if last:
            host.end_range(request, Outcome.DONE)
