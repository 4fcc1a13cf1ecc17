"""A small simulation: the real scheduler core and real members, in virtual time, with links, transfers and faults.

No I/O and no clock: events wait in a heap and are taken in order of time, then of when they were put there. All chance
comes from one seeded generator. What the cores say goes through the codecs, so what is not allowed on the wire fails.
A piece's bytes are stood for by their digest; an upload runs at full speed, as many at a time as the host has slots.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from peer.core import download as origin_side
from peer.core import swarm_events as swarming
from peer.core.download import SPAN_PIECES, Outcome
from peer.core.swarm_events import FetchOutcome
from scheduler.core import events as scheduling
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import Settings
from scheduler.protocol import from_host
from scheduler.protocol.codec import FROM_HOST, LINK, TO_HOST, FromHost, OnLink, ToHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.geometry import MIN_PIECE_BYTES, piece_count, piece_length
from scheduler.protocol.to_host import Quarantined, Welcome
from tests.peer.swarm_host import BLOB, PATIENCE_S, TINY, Host, right, wrong

HOP_S = 0.001
PIECE_S = 0.05
"""One piece, from a neighbour or from the origin."""

NOTICED_S = 1.0
"""How long until others know that a host has vanished."""


def size_bytes_of(pieces: int) -> int:
    """A length that makes so many pieces: a tiny blob of none but a part of one."""
    if not pieces:
        return len(TINY)
    sizes = (pieces * (MIN_PIECE_BYTES << shift) for shift in range(5))
    return next(size for size in sizes if piece_count(size, piece_length(size)) == pieces)


class Model:
    """Hosts that pull one blob of `pieces` pieces (0: a tiny one). They come within some hundredths of a second."""

    def __init__(self, hosts: Sequence[Host], pieces: int, *, seed: int = 0, **settings: Any) -> None:
        self.count = max(1, pieces)
        self.size_bytes = size_bytes_of(pieces)
        self.settings = replace(Settings(seed=seed, settle_s=0.5), **settings)
        self.hosts = {host.name: host for host in hosts}
        self.now = 100.0
        self.scheduler: Scheduler | None = Scheduler(self.settings)
        self.origin_up = True
        self.origin_gave: Counter[int] = Counter()
        """How often each piece left the origin."""
        self.closed: dict[str, Closing] = {}
        self.told: list[tuple[str, FromHost]] = []
        """All that the scheduler was told, by whom."""
        self.instructions: list[str] = []
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._put = 0
        self._connections: dict[int, Host] = {}
        self._scheduler_due: float | None = None
        for host in hosts:
            host.enter(self)
            self.after(self._random.uniform(0, 0.02), partial(self.connect, host))
            self.after(host.late_s + self._random.uniform(0, 0.05), host.pull)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done later."""
        self._put += 1
        heapq.heappush(self._heap, (self.now + max(0.0, seconds), self._put, action))

    def run(self, until: Callable[[], bool] | None = None, *, within_s: float = 60.0) -> None:
        """Play until `until` holds; without it, until all that live and are not refused have the blob.

        Raises AssertionError, with how far everybody is, if that takes too long.
        """
        until = until or (lambda: all(host.whole for host in self.hosts.values() if host.alive and not host.refused))
        end = self.now + within_s
        while not until():
            assert self._heap, f"nothing happens any more\n{self.report()}"
            self.now, _, action = heapq.heappop(self._heap)
            assert self.now < end, f"not done within {within_s} s\n{self.report()}"
            action()

    def report(self) -> str:
        """How far everybody is: for an assertion."""
        lines = [f"at {self.now:.3f} the origin had given {self.origin_gave.total()} of {self.count}"]
        for host in self.hosts.values():
            lines.append(f"{host.name}: {len(host.contents)} pieces, whole: {host.whole}. {host.outcome}")
            if host.member is not None:
                lines += [f"    {line}" for line in host.member.story()[-12:]]
        return "\n".join([*lines, *(self.scheduler.story(BLOB)[-20:] if self.scheduler else ())])

    def note(self, host: Host, instruction: swarming.Instruction) -> None:
        self.instructions.append(f"{self.now!r} {host.name} {instruction}")

    def vanish(self, host: Host) -> None:
        """A host is gone from one moment to the next; others notice later."""
        host.alive = False
        self.after(NOTICED_S, partial(self._to_scheduler, scheduling.Disconnected(host.connection)))
        for other in self.hosts.values():
            if host.name in other.met:
                self.after(NOTICED_S, partial(other.feed, swarming.NeighbourLost(host.name)))

    # -- the origin ------------------------------------------------------------------------------------------------

    def open_transfer(self, host: Host, number: int, first: int, stop: int | None) -> None:
        """A host asks the origin for pieces."""
        self.after(2 * HOP_S, host.within(partial(self._opened, host, number, first, stop)))

    def _opened(self, host: Host, number: int, first: int, stop: int | None) -> None:
        if number not in host.transfers:
            return
        if host.refused or not self.origin_up:
            host.end_transfer(number, Outcome.REFUSED, host.refused)
            return
        stop = min(self.count, SPAN_PIECES if stop is None else stop)
        length = piece_length(self.size_bytes)
        host.feed(origin_side.TransferOpened(number, self.size_bytes, length, first, stop))
        self.after(PIECE_S, host.within(partial(self._origin_sends, host, number, first, stop)))

    def _origin_sends(self, host: Host, number: int, index: int, stop: int) -> None:
        if number not in host.transfers or not host.alive:
            return
        if not self.origin_up:
            host.end_transfer(number, Outcome.BROKEN)
            return
        self.origin_gave[index] += 1
        host.has_landed(number, index, wrong(index) if host.lies else right(index))
        if index + 1 == stop:
            host.end_transfer(number, Outcome.DONE)
        else:
            self.after(PIECE_S, host.within(partial(self._origin_sends, host, number, index + 1, stop)))

    # -- neighbours ------------------------------------------------------------------------------------------------

    def say(self, host: Host, name: str, message: OnLink) -> None:
        """A host sends a message to a neighbour."""
        assert LINK.decode(LINK.encode(message)) == message
        self.after(HOP_S, partial(self.hosts[name].hears, host.name, message))

    def ask(self, host: Host, fetch: swarming.Fetch) -> None:
        """A host asks a neighbour for a piece."""
        self.after(HOP_S, host.within(partial(self._asked, host, fetch)))

    def _asked(self, host: Host, fetch: swarming.Fetch) -> None:
        other = self.hosts[fetch.host]

        def answer(seconds: float, outcome: FetchOutcome) -> None:
            self.after(seconds, host.within(partial(host.end_fetch, fetch.fetch, outcome)))

        if not other.alive:
            answer(NOTICED_S, FetchOutcome.GONE)
        elif other.uploads >= other.upload_slots:
            answer(HOP_S, FetchOutcome.BUSY)
        elif not other.serves(fetch.index):
            answer(HOP_S, FetchOutcome.GONE)
        else:
            other.uploads += 1
            digest = wrong(fetch.index) if other.corrupts else other.contents[fetch.index]
            took_s = PIECE_S * other.slow * self._random.uniform(0.9, 1.1)
            self.after(took_s, partial(self._sent, other, host.within(partial(self._came, other, host, fetch, digest))))

    def _sent(self, other: Host, came: Callable[[], None]) -> None:
        other.uploads -= 1
        came()

    def _came(self, other: Host, host: Host, fetch: swarming.Fetch, digest: bytes) -> None:
        if not other.alive:
            self.after(NOTICED_S, host.within(partial(host.end_fetch, fetch.fetch, FetchOutcome.GONE)))
        elif digest != fetch.expected:
            host.end_fetch(fetch.fetch, FetchOutcome.CORRUPT)
        elif fetch.fetch in host.fetches:
            host.landed[host.pulls, fetch.index] += 1
            host.has_landed(None, fetch.index, digest)
            host.end_fetch(fetch.fetch, FetchOutcome.LANDED)

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def connect(self, host: Host) -> None:
        """A host connects, says what it holds, and joins anew what it wants."""
        if self.scheduler is None or not host.alive or host.connection:
            return
        host.connection = len(self._connections) + 1
        self._connections[host.connection] = host
        self._to_scheduler(scheduling.Connected(host.connection, from_host.Hello(host.name, 1, 1, f"{host.name}:1")))
        holding = host.holding()
        if holding is not None:
            self.tell(host, from_host.Announce((holding,)))
        host.feed(swarming.SchedulerFound())

    def stop_scheduler(self) -> None:
        """It is gone, with all that it knew."""
        self.scheduler = None
        for host in self.hosts.values():
            self._disconnect(host)

    def start_scheduler(self) -> None:
        """A new one, to which everybody connects within a moment."""
        self.scheduler, self._scheduler_due = Scheduler(self.settings), None
        for host in self.hosts.values():
            self.after(self._random.uniform(0, 0.3), partial(self.connect, host))

    def tell(self, host: Host, message: FromHost) -> None:
        """A host sends a message to the scheduler, if there is one."""
        if host.connection:
            assert FROM_HOST.decode(FROM_HOST.encode(message)) == message
            self.told.append((host.name, message))
            self.after(HOP_S, partial(self._to_scheduler, scheduling.Received(host.connection, message)))

    def _disconnect(self, host: Host) -> None:
        host.connection = 0
        self.after(PATIENCE_S, lambda: None if host.connection else host.feed(swarming.OriginOpened()))

    def _to_scheduler(self, event: scheduling.Event) -> None:
        if self.scheduler is None:
            return
        for instruction in self.scheduler.handle(event, self.now):
            if isinstance(instruction, scheduling.Close):
                host = self._connections[instruction.connection]
                self.closed[host.name] = instruction.closing
                self._disconnect(host)
                continue
            assert TO_HOST.decode(TO_HOST.encode(instruction.message)) == instruction.message
            for connection in instruction.connections:
                self.after(HOP_S, partial(self._from_scheduler, connection, instruction.message))
        due = self.scheduler.next_deadline()
        if due is not None and (self._scheduler_due is None or due < self._scheduler_due):
            self._scheduler_due = due
            self.after(due - self.now, partial(self._scheduler_ticks, self.scheduler, due))

    def _scheduler_ticks(self, scheduler: Scheduler, due: float) -> None:
        if scheduler is self.scheduler and due == self._scheduler_due:
            self._scheduler_due = None
            self._to_scheduler(scheduling.Tick())

    def _from_scheduler(self, connection: int, message: ToHost) -> None:
        host = self._connections[connection]
        if host.connection == connection and not isinstance(message, Welcome | Quarantined):
            host.is_told(message)
