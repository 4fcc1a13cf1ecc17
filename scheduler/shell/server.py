"""The scheduler's server: WebSockets and a clock around the core.

Rules:
1. The core handles one event at a time. Its instructions are written to the connections, and no write waits.
2. A host cannot harm other hosts, except by overloading the machine. Bad frames, floods, silence and slow reading each
   end the host's connection, with a code and a reason (`scheduler.protocol.connection`).
3. The core is told that a host is gone as soon as its connection begins to end, before the last byte is sent.
4. An exception from the core is a defect of the scheduler. It is logged with its story, and it ends the connection
   whose message caused it.
5. Joins wait until no other message can be read (`scheduler.core.backlog`). Between `JOINS_AT_ONCE` joins and the next
   ones, the server reads what hosts have sent meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from scheduler.core.backlog import Backlog
from scheduler.core.events import (
    Answered,
    Ask,
    Close,
    Connected,
    Disconnected,
    Event,
    Instruction,
    PreheatChanged,
    PullSeen,
    Received,
    Send,
    TagAsked,
    TagTold,
    Tick,
)
from scheduler.protocol.codec import FROM_HOST, TO_HOST, Unknown
from scheduler.protocol.connection import Closing
from scheduler.protocol.fields import MAX_REVOKED_PER_MESSAGE, ProtocolError
from scheduler.protocol.from_host import Hello, cost_of
from scheduler.protocol.to_host import Revoked
from scheduler.shell.accepting import TOLD_EVERY_S, accepting, open_files
from scheduler.shell.allowances import Allowances
from scheduler.shell.bounds import Bounds
from scheduler.shell.connection import HostConnection, framed
from scheduler.shell.crowd import Crowd
from scheduler.shell.gc_tuning import rare_full_collections
from scheduler.shell.sweep import Sweep
from scheduler.shell.unread import Unread

if TYPE_CHECKING:
    from scheduler.shell.admission import Admission
    from scheduler.shell.doorway import Doorway, Written

log = structlog.get_logger(__name__)

TRUST_EVERY_S: Final = 2.0
"""How often it is looked at what an operator has changed: tokens, hosts, certificates."""

SPARE_FILES: Final = 64
"""Files that are left for all else when hosts have used up the others."""

MAX_REFUSED: Final = 256
"""Connections beyond the maximum that are kept for long enough to be told the reason, or until others have gone."""

JOINS_AT_ONCE: Final = 16
"""They take 5 ms."""


class Core(Protocol):
    """The core that the server runs: `scheduler.core.scheduler.Scheduler`."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Handle an event, and return the instructions."""
        ...

    def next_deadline(self) -> float | None:
        """The latest time at which the next Tick is needed."""
        ...


class SchedulerServer:
    """Runs a core for the hosts that connect."""

    def __init__(
        self, core: Core, bounds: Bounds | None = None, admission: Admission | None = None, *, plain: bool = True
    ) -> None:
        """With `admission` hosts have certificates; `plain` says whether hosts without TLS are served too."""
        assert plain or admission is not None
        self._admission: Final = admission
        self._plain: Final = plain
        self.on_preheat: Callable[[PreheatChanged], None] = lambda _: None
        """Called when a preheat has changed. It must not block."""
        self.on_pull: Callable[[PullSeen], None] = lambda _: None
        """Called when a host tells of a pull. It must not block."""
        self.on_tag: Callable[[TagAsked | TagTold], None] = lambda _: None
        """Called with what the other schedulers are to hear of a tag. It must not block."""
        self._written: Written | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._core: Final = core
        self._bounds: Final = bounds or Bounds()
        self._connections: Final[dict[int, HostConnection]] = {}
        self._crowd: Final = Crowd()
        self._allowances: Final = Allowances(self._bounds)
        self._sweep: Final = Sweep(self._bounds, self._connections)
        self._unread: Final = Unread(self._bounds, self._connections)
        most = self._most()
        self._room: Final = min(self._bounds.connections, most - min(MAX_REFUSED, most // 8))
        """The connections beyond which one has to go for each that comes."""
        self._numbers: Final = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Callable[[], float] = lambda: 0.0
        """The loop's, once there is one: also while the server stops."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._told_full_at = -TOLD_EVERY_S
        self._begun_bytes = 0
        self._empty = asyncio.Event()
        self._backlog: Final = Backlog()

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled."""
        async with self.serving(host, port):
            await asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[int]:
        """Serve while the context lasts. Gives the port, which the system chooses if `port` is 0."""
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        accepted = accepting(host, port, self._connect, open_count=lambda: len(self._connections), most=self._most())
        self._sweep.begin(self._loop.time())
        self._sweep_on()
        self._watch_trust()
        try:
            async with accepted as (_, taken_port):
                with rare_full_collections():
                    yield taken_port
        finally:
            await self._stop()

    def _most(self) -> int:
        """The most connections: some files are left for the admin port and the log."""
        files = open_files()
        return min(self._bounds.connections + MAX_REFUSED, max(files - SPARE_FILES, files // 2))

    async def _stop(self) -> None:
        """Tell every host that the scheduler stops, and let the hosts hang up."""
        for timer in (self._timer, self._sweeper, self._watcher):
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

    # From a connection: `scheduler.shell.connection.ConnectionOwner`

    def now(self) -> float:
        """The time in seconds, by the loop's clock."""
        return self._clock()

    def opened(self, connection: HostConnection) -> None:
        """Register a connection that has opened."""
        self._connections[connection.number] = connection
        self._crowd.add(connection)
        if self._loop is None:
            connection.abort()
        elif len(self._connections) > self._room:
            self._make_room(connection)

    def _make_room(self, newest: HostConnection) -> None:
        """End a connection so that a newer one may stay. Where there is none, `received` tells the newer one so."""
        if self.now() - self._told_full_at >= TOLD_EVERY_S:
            self._told_full_at = self.now()
            log.warning("the scheduler has its maximum of connections; some have to go", most=self._room)
        leaving = self._crowd.least_welcome(newest)
        if leaving is not None:
            self.failed(leaving, Closing.FULL, f"this scheduler has its {self._room} hosts")
            leaving.abort()

    def partly_received(self, connection: HostConnection, grown_bytes: int) -> None:
        """Count the beginnings of messages. Beyond the bound, the connection whose message began first has to end."""
        self._begun_bytes += grown_bytes
        if grown_bytes > 0 and self._begun_bytes > self._bounds.begun_bytes:
            begun = [each for each in self._connections.values() if each.begun_bytes and each.ended_at is None]
            oldest = min(begun, key=lambda each: each.begun_at or 0.0, default=connection)
            self.failed(oldest, Closing.SLOW, "the messages that hosts have begun and not ended are too many")
            oldest.abort()

    def received(self, connection: HostConnection, frame: bytes) -> None:
        """Decode a host's message, and give it to the core."""
        try:
            message = FROM_HOST.decode(frame)
        except ProtocolError as error:
            self.failed(connection, Closing.MALFORMED, str(error))
            return
        if not self.may_send(connection, cost_of(message)):
            self._end_flood(connection)
        elif not connection.greeted and len(self._connections) > self._room and connection.peer is None:
            self.failed(connection, Closing.FULL, f"this scheduler has its {self._room} hosts")
        elif isinstance(message, Hello) and not connection.greeted:
            self._greet(connection, message)
        elif not connection.greeted:
            self.failed(connection, Closing.MALFORMED, "the first message is not a Hello")
        elif not isinstance(message, Unknown):
            if not connection.has_spoken:
                connection.has_spoken = True
                self._crowd.stepped(connection)
            self._tell_in_turn(Received(connection.number, message), connection, len(frame))

    def _end_flood(self, connection: HostConnection) -> None:
        self.failed(connection, Closing.FLOODING, f"more than {self._bounds.messages_per_s:g} messages a second")

    def answered(self, connection: HostConnection, number: int) -> None:
        """Tell the core that a host has answered an `Ask`."""
        if connection.greeted:
            self._tell_in_turn(Answered(connection.number, number), connection, 0)

    def _greet(self, connection: HostConnection, hello: Hello) -> None:
        """Let a host in, if it is the one that its certificate says."""
        admission = self._admission
        if admission is not None and not admission.may_be(connection.peer, hello.host):
            self.failed(connection, Closing.NOT_THIS_HOST, f"the certificate is not that of host {hello.host}")
            return
        if admission is not None and hello.host in admission.revoked:
            self.failed(connection, Closing.REVOKED, f"host {hello.host} was revoked")
            return
        connection.greeted, connection.host_id = True, hello.host
        certified = connection.peer is not None
        if certified:
            self._crowd.discard(connection)
            self._allowances.take_over(connection, self.now())
        else:
            self._crowd.stepped(connection)
        burst = max(1, int(connection.allowance))
        self._tell(Connected(connection.number, hello, connection.host, certified, burst), connection)
        if admission is not None:
            for frame in _revocations(admission.revoked):
                connection.send(frame)

    def failed(self, connection: HostConnection, closing: Closing, reason: str) -> None:
        """End a host's connection with a reason."""
        if connection.ended_at is not None:
            return
        self._allowances.keep(connection)
        is_host = connection.greeted and closing is not Closing.FULL  # neither a scanner nor one of a flood
        tell = log.info if is_host else log.debug
        tell("host_closed", address=connection.address, why=closing.name, text=reason)
        connection.close(closing, reason)
        if connection.greeted:
            self._tell(Disconnected(connection.number), None)

    def lost(self, connection: HostConnection) -> None:
        """Forget a connection that has ended."""
        self._connections.pop(connection.number, None)
        self._crowd.discard(connection)
        if not self._connections:
            self._empty.set()
        if connection.greeted and connection.ended_at is None:
            self._allowances.keep(connection)
            self._tell(Disconnected(connection.number), None)

    # To and from the core

    def tell(self, event: Event) -> None:
        """Give the core an event that comes from no host. It is dropped while the server does not serve."""
        self._tell(event, None)

    def _tell_in_turn(self, event: Event, connection: HostConnection, size_bytes: int) -> None:
        """Give the core what a host has said, at once or later."""
        backlog = self._backlog
        if not backlog.has_to_wait(event):
            self._tell(event, connection)
            return
        if not backlog and self._loop is not None:
            self._loop.call_soon(self._catch_up)
        backlog.put(event, size_bytes)
        while backlog.is_full(event.connection):
            self._take_one()

    def _catch_up(self) -> None:
        """Give the core some of the backlog, and the rest after what can be read now."""
        for _ in range(min(JOINS_AT_ONCE, len(self._backlog))):
            self._take_one()
        if self._backlog and self._loop is not None:
            self._loop.call_soon(self._catch_up)

    def _take_one(self) -> None:
        event = self._backlog.take()
        connection = self._connections.get(event.connection)
        if connection is None or connection.ended_at is not None:
            return
        if self.may_send(connection, 0):  # answers count too
            self._tell(event, connection)
        else:
            self._end_flood(connection)

    def _tell(self, event: Event, cause: HostConnection | None) -> None:
        """Give the core an event, and carry out its instructions."""
        if self._loop is None:
            return
        try:
            instructions = self._core.handle(event, self._loop.time())
        except Exception:
            log.exception("scheduler_broken", scheduler_event=type(event).__name__)
            if cause is not None:
                self.failed(cause, Closing.BROKEN, "a mistake of the scheduler's own; its log has more")
            return
        self._carry_out(instructions, cause)
        self._end_slow()
        self._set_timer(self._loop)

    def _carry_out(self, instructions: list[Instruction], cause: HostConnection | None) -> None:
        """Messages that follow each other and go to the same connections are written at once: a write costs 8 us."""
        to: tuple[int, ...] = ()
        messages = b""
        for instruction in instructions:
            if isinstance(instruction, Send):
                message = framed(TO_HOST.encode(instruction.message))
                if cause is not None and instruction.connections == (cause.number,):
                    self._allowances.count_answer(cause, len(message))
                if instruction.connections == to:
                    messages += message
                    continue
                self._write(to, messages)
                to, messages = instruction.connections, message
                continue
            self._write(to, messages)
            to = ()
            if isinstance(instruction, PreheatChanged):
                self.on_preheat(instruction)
            elif isinstance(instruction, PullSeen):
                self.on_pull(instruction)
            elif isinstance(instruction, TagAsked | TagTold):
                self.on_tag(instruction)
            elif (connection := self._connections.get(instruction.connection)) is not None:
                if isinstance(instruction, Close):
                    self.failed(connection, instruction.closing, instruction.reason)
                elif connection.ended_at is not None:
                    continue
                elif isinstance(instruction, Ask):
                    connection.ask(instruction.lease)
                else:
                    connection.probe()
        self._write(to, messages)

    def _write(self, to: tuple[int, ...], messages: bytes) -> None:
        """Write messages to these connections."""
        for number in to:
            connection = self._connections.get(number)
            if connection is not None and connection.ended_at is None:
                connection.send(messages)
                self._unread.sent(connection, len(messages))

    def _end_slow(self) -> None:
        """End the connections of hosts for which too much waits."""
        for connection, reason in self._unread.too_slow():
            self.failed(connection, Closing.SLOW, reason)
            connection.abort()

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer to the core's next deadline. An early Tick does no harm."""
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

    def _connect(self) -> HostConnection | Doorway:
        connection = HostConnection(self, next(self._numbers), self._bounds.burst)
        if self._admission is None:
            return connection
        # Imported here: `cryptography` has 10 MiB, which a node without trust does not need.
        from scheduler.shell.doorway import Doorway, Written

        self._written = self._written or Written()
        return Doorway(connection, self._admission, self._written, plain=self._plain)

    def _watch_trust(self) -> None:
        """Look now and then at what an operator has changed (`scheduler.shell.admission`)."""
        if self._loop is not None and self._admission is not None:
            self._watcher = self._loop.call_later(TRUST_EVERY_S, self._refresh_trust, self._loop, self._admission)

    def _refresh_trust(self, loop: asyncio.AbstractEventLoop, admission: Admission) -> None:
        before = admission.revoked
        refreshing = loop.run_in_executor(None, admission.refresh)
        refreshing.add_done_callback(lambda _: self._cut_off(before, admission))

    def _cut_off(self, before: frozenset[str], admission: Admission) -> None:
        """End the sessions of hosts that are not trusted any more, and tell all others of those that were revoked."""
        revoked = admission.revoked
        frames = _revocations(revoked - before)
        for connection in list(self._connections.values()):
            peer = connection.peer
            if peer is not None and admission.is_over(peer, connection.context):
                text = f"the certificate of {peer} has expired, or its CA is not trusted any more"
                self.failed(connection, Closing.CERTIFICATE_OVER, text)
            elif frames and connection.greeted and connection.host_id in revoked:
                self.failed(connection, Closing.REVOKED, f"host {connection.host_id} was revoked")
            elif frames and connection.greeted:
                for frame in frames:
                    connection.send(frame)
        self._watch_trust()

    def may_send(self, connection: HostConnection, cost: int) -> bool:
        """Count a message, or a frame that ends none, against the messages that the host may send."""
        return self._allowances.may_send(connection, cost, self.now())

    def _sweep_on(self) -> None:
        """Look at some connections, and end those of hosts that are silent or slow."""
        if self._loop is None:
            return
        now = self._loop.time()
        for connection in self._sweep.next(now):
            fault = self._sweep.fault_of(connection, now)
            if fault is not None:
                self.failed(connection, *fault)
                if fault[0] is Closing.SLOW:
                    connection.abort()
        self._sweeper = self._loop.call_later(self._sweep.pause_s, self._sweep_on)


def _revocations(hosts: frozenset[str]) -> list[bytes]:
    """The frames that tell of revoked hosts."""
    names = sorted(hosts)
    parts = [names[at : at + MAX_REVOKED_PER_MESSAGE] for at in range(0, len(names), MAX_REVOKED_PER_MESSAGE)]
    return [framed(TO_HOST.encode(Revoked(tuple(part)))) for part in parts]
