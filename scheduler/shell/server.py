"""The scheduler's server: WebSockets and the clock on one side, the core on the other.

Rules:
1. One event at a time goes through the core; what comes out is written to the hosts' connections, and nothing waits.
2. What one host does, short of overloading the machine, harms no other: bad frames, floods, silence and slowness each
   end that host's connection, with a code and a text that say why (`scheduler.protocol.connection`).
3. The core hears that a host is gone as soon as its connection is ending, and not when the last byte has gone out.
4. An exception that comes out of the core is a mistake of ours: it is logged with its story, and ends the connection
   whose message brought it about.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from scheduler.core.events import Close, Connected, Disconnected, Event, Instruction, Received, Tick
from scheduler.protocol.codec import FROM_HOST, TO_HOST, Unknown
from scheduler.protocol.connection import Closing
from scheduler.protocol.fields import ProtocolError
from scheduler.protocol.from_host import Announce, Hello
from scheduler.shell.connection import HostConnection, framed
from scheduler.shell.gc_tuning import rare_full_collections

log = structlog.get_logger(__name__)

SWEPT_AT_ONCE: Final = 256
"""Connections that are looked at in one go, and perhaps pinged: that takes 4 ms."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a connection may cost. Durations are in seconds."""

    connections: int = 20_000
    """Twice the 10,000 hosts that one scheduler is made for."""
    hello_s: float = 5.0
    """How long a connection may take to say Hello."""
    heartbeat_s: float = 4.0
    """After so long a silence a host is pinged; after half as long again without an answer it is gone."""
    waiting_bytes: int = 4 * 1024 * 1024
    """What may wait for one host to read it: the piece map of the largest blob, twice."""
    messages_per_s: float = 200.0
    """What a host may send in the long run. One that pulls 20 blobs at 1 Gbit/s sends about 60."""
    burst: int = 16_384
    """What it may send at once: it announces 8,192 blobs, each of which counts as a message, and joins some."""
    close_s: float = 2.0
    """How long a host may take to hang up once it was told to."""


class Core(Protocol):
    """What is run: `scheduler.core.scheduler.Scheduler`."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take an event; gives what is to be done."""
        ...

    def next_deadline(self) -> float | None:
        """When a Tick is needed at the latest."""
        ...


class SchedulerServer:
    """Runs a core for the hosts that connect."""

    def __init__(self, core: Core, bounds: Bounds | None = None) -> None:
        self._core: Final = core
        self._bounds: Final = bounds or Bounds()
        self._connections: Final[dict[int, HostConnection]] = {}
        self._numbers: Final = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._swept_at = 0.0
        self._unswept: list[HostConnection] = []
        """Those that a sweep has still to look at before it begins anew."""
        self._blames_from = 0.0
        self._empty = asyncio.Event()

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled."""
        async with self.serving(host, port):
            await asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[int]:
        """Serve while the context lasts. Gives the port, which the system has chosen if `port` is 0."""
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(self._connect, host, port)
        self._swept_at = self._loop.time()
        self._sweep()
        try:
            with rare_full_collections():
                yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await self._stop()
            await server.wait_closed()

    async def _stop(self) -> None:
        """Tell every host that the scheduler stops, and let them hang up."""
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._loop = None
        for connection in list(self._connections.values()):
            connection.close(Closing.STOPPING, "the scheduler stops")
        if self._connections:
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.close_s):
                    await self._empty.wait()
        for connection in list(self._connections.values()):
            connection.abort()

    # What a connection tells: see `scheduler.shell.connection.ConnectionOwner`

    def now(self) -> float:
        """The time in seconds, by the loop's clock."""
        return asyncio.get_running_loop().time()

    def opened(self, connection: HostConnection) -> None:
        """Somebody has connected."""
        self._connections[connection.number] = connection
        if self._loop is None or len(self._connections) > self._bounds.connections:
            connection.abort()

    def received(self, connection: HostConnection, frame: bytes) -> None:
        """A host has sent a message."""
        try:
            message = FROM_HOST.decode(frame)
        except ProtocolError as error:
            self.failed(connection, Closing.MALFORMED, str(error))
            return
        cost = 1 + len(message.holdings) if isinstance(message, Announce) else 1
        if not self._may_send(connection, cost):
            self.failed(connection, Closing.FLOODING, f"more than {self._bounds.messages_per_s:g} messages a second")
        elif isinstance(message, Hello) and not connection.greeted:
            connection.greeted = True
            self._tell(Connected(connection.number, message), connection)
        elif not connection.greeted:
            self.failed(connection, Closing.MALFORMED, "the first message is not a Hello")
        elif not isinstance(message, Unknown):
            self._tell(Received(connection.number, message), connection)

    def failed(self, connection: HostConnection, closing: Closing, reason: str) -> None:
        """A host's connection must end."""
        if connection.ended_at is not None:
            return
        log.info("host_closed", address=connection.address, why=closing.name, text=reason)
        connection.close(closing, reason)
        if connection.greeted:
            self._tell(Disconnected(connection.number), None)

    def lost(self, connection: HostConnection) -> None:
        """A connection has ended."""
        self._connections.pop(connection.number, None)
        if not self._connections:
            self._empty.set()
        if connection.greeted and connection.ended_at is None:
            self._tell(Disconnected(connection.number), None)

    # What the core says

    def _tell(self, event: Event, cause: HostConnection | None) -> None:
        """Give the core an event and do what it says."""
        if self._loop is None:
            return
        try:
            instructions = self._core.handle(event, self._loop.time())
        except Exception:
            log.exception("scheduler_broken", scheduler_event=type(event).__name__)
            if cause is not None:
                self.failed(cause, Closing.BROKEN, "a mistake of the scheduler's own; its log has more")
            return
        fanout_queue: dict[HostConnection, None] = {}
        for instruction in instructions:
            if isinstance(instruction, Close):
                connection = self._connections.get(instruction.connection)
                if connection is not None:
                    self.failed(connection, instruction.closing, instruction.reason)
                continue
            message = framed(TO_HOST.encode(instruction.message))
            for number in instruction.connections:
                connection = self._connections.get(number)
                if connection is not None and connection.ended_at is None:
                    connection.send(message)
                    if connection.waiting_bytes > self._bounds.waiting_bytes:
                        fanout_queue[connection] = None
        for connection in fanout_queue:
            self.failed(connection, Closing.SLOW, "too much waits that the host does not read")
            connection.abort()
        self._set_timer(self._loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the core told when something is due; at times it is told too early, which does no harm."""
        due = self._core.next_deadline()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        self._tell(Tick(), None)

    # Connections

    def _connect(self) -> HostConnection:
        return HostConnection(self, next(self._numbers), self._bounds.burst)

    def _may_send(self, connection: HostConnection, cost: int) -> bool:
        """Count what a host has sent against what it may send."""
        now = self.now()
        earned = (now - connection.counted_at) * self._bounds.messages_per_s
        connection.allowance = min(self._bounds.burst, connection.allowance + earned) - cost
        connection.counted_at = now
        return connection.allowance >= 0

    def _sweep(self) -> None:
        """See to some of those that are silent, or do not hang up: to each connection once in `interval_s`.

        One timer for all costs less than one for each, and to ping all of them at once would keep everybody waiting.
        A sweep that comes late finds everybody silent, for we have not been reading: until each of them had its turn
        again, nobody is blamed.
        """
        if self._loop is None:
            return
        now, bounds = self._loop.time(), self._bounds
        interval_s = min(bounds.heartbeat_s, bounds.hello_s, bounds.close_s) / 4
        if now - self._swept_at > 2 * interval_s:
            self._blames_from = now + interval_s
        self._swept_at = now
        if not self._unswept:
            self._unswept = list(self._connections.values())
        for connection in self._unswept[-SWEPT_AT_ONCE:]:
            if connection.number in self._connections:
                self._look_at(connection, now)
        del self._unswept[-SWEPT_AT_ONCE:]
        turns = -(-len(self._connections) // SWEPT_AT_ONCE)
        self._sweeper = self._loop.call_later(interval_s / max(turns, 1), self._sweep)

    def _look_at(self, connection: HostConnection, now: float) -> None:
        bounds = self._bounds
        silent_s = now - connection.heard_at
        if connection.ended_at is not None:
            if now - connection.ended_at > bounds.close_s:
                connection.abort()
        elif not connection.greeted:
            if now - connection.opened_at > bounds.hello_s:
                self.failed(connection, Closing.LATE_HELLO, f"no Hello within {bounds.hello_s:g} s")
        elif silent_s > 1.5 * bounds.heartbeat_s and connection.pinged and now >= self._blames_from:
            self.failed(connection, Closing.SILENT, f"nothing was heard for {silent_s:.1f} s")
        elif silent_s > bounds.heartbeat_s and not connection.pinged:
            connection.ping()
