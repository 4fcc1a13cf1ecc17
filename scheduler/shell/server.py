"""The scheduler's server: WebSockets and a clock around the core.

Rules:
1. The core handles one event at a time. Its instructions are written to the connections, and no write waits.
2. A host cannot harm other hosts, except by overloading the machine. Bad frames, floods, silence and slow reading each
   end the host's connection, with a code and a reason (`scheduler.protocol.connection`).
3. The core is told that a host is gone as soon as its connection begins to end, before the last byte is sent.
4. An exception from the core is a defect of the scheduler. It is logged with its story, and it ends the connection
   whose message caused it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

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
from scheduler.protocol.to_host import MAX_BURST, MAX_MESSAGES_PER_S, Revoked
from scheduler.shell.accepting import TOLD_EVERY_S, accepting, open_files
from scheduler.shell.connection import HostConnection, framed
from scheduler.shell.crowd import Crowd
from scheduler.shell.gc_tuning import rare_full_collections

if TYPE_CHECKING:
    from scheduler.shell.admission import Admission
    from scheduler.shell.doorway import Doorway, Written

log = structlog.get_logger(__name__)

TRUST_EVERY_S: Final = 2.0
"""How often it is looked at what an operator has changed: tokens, hosts, certificates."""

SWEPT_AT_ONCE: Final = 256
"""Connections that are examined, and perhaps pinged, at once. That takes 4 ms."""


SPARE_FILES: Final = 64
"""Files that are left for all else when hosts have used up the others."""

MAX_ALLOWANCES: Final = 4096
"""The one that was kept first is dropped first. It is whole again after `burst / messages_per_s`, 82 s."""

ANSWER_BYTES: Final = 4096
"""So much of what a host's message has the scheduler answer counts as one more message of the host: by a few bytes, a
Join, a host is told a piece map of up to 2 MiB."""

MAX_REFUSED: Final = 256
"""Connections beyond the maximum that are kept for long enough to be told the reason, or until others have gone."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a connection's cost. Durations are in seconds."""

    connections: int = 50_000
    """The hosts of each of two schedulers if there are 100,000, which three share until one of them is gone. With
    `claimed_bytes` they take most of the memory that docker/kubernetes.yaml gives a scheduler."""
    hello_s: float = 5.0
    """How long a connection may take to send Hello."""
    heartbeat_s: float = 4.0
    """A host that was silent for this long is pinged. Half of this time later, without an answer, the host is gone."""
    probe_s: float = 2.0
    """How long a host whose id another host has said may take to answer a ping."""
    waiting_bytes: int = 4 * 1024 * 1024
    """The most unread bytes of one host: twice the piece map of the largest blob."""
    waiting_bytes_in_all: int = 256 * 1024 * 1024
    """The most unread bytes of all hosts together. Beyond it, the hosts that read least have to go."""
    read_s: float = 10.0
    """How long a host may read nothing of what waits for it."""
    begun_bytes: int = 32 * 1024 * 1024
    """The most bytes of messages that all hosts have begun and not ended."""
    message_s: float = 5.0
    """How long a message may take from its first byte to its last. The longest has 256 KiB."""
    messages_per_s: float = MAX_MESSAGES_PER_S
    burst: int = MAX_BURST
    close_s: float = 2.0
    """How long a host may take to hang up after it was told to."""


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
        self._swept_at = 0.0
        self._unswept: list[HostConnection] = []
        """The connections that the current sweep has not examined yet."""
        self._allowances: Final[dict[str, tuple[float, float]]] = {}
        """Those of hosts with a certificate whose connections have ended, and when they were counted."""
        self._blames_from = 0.0
        self._told_full_at = -TOLD_EVERY_S
        self._begun_bytes = 0
        self._waiting_bytes = 0
        """At most so many bytes are unread: what was found when it was last counted, and what was sent since."""
        self._too_slow: list[HostConnection] = []
        """Connections that are to be ended once all instructions are carried out."""
        self._empty = asyncio.Event()

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
        self._swept_at = self._loop.time()
        self._sweep()
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
            self.failed(connection, Closing.FLOODING, f"more than {self._bounds.messages_per_s:g} messages a second")
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
            self._tell(Received(connection.number, message), connection)

    def answered(self, connection: HostConnection, number: int) -> None:
        """Tell the core that a host has answered an `Ask`."""
        if connection.greeted:
            self._tell(Answered(connection.number, number), connection)

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
            self._take_over_allowance(connection)
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
        self._keep_allowance(connection)
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
            self._keep_allowance(connection)
            self._tell(Disconnected(connection.number), None)

    # To and from the core

    def tell(self, event: Event) -> None:
        """Give the core an event that comes from no host. It is dropped while the server does not serve."""
        self._tell(event, None)

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
                    cause.allowance -= len(message) // ANSWER_BYTES
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
                self._waiting_bytes += len(messages)
                if connection.waiting_bytes > self._bounds.waiting_bytes:
                    self._too_slow.append(connection)

    def _end_slow(self) -> None:
        """End the connections of hosts for which too much waits."""
        while self._too_slow:
            connection = self._too_slow.pop()
            self.failed(connection, Closing.SLOW, "too much waits that the host does not read")
            connection.abort()
        if self._waiting_bytes > self._bounds.waiting_bytes_in_all:
            self._end_slowest()

    def _end_slowest(self) -> None:
        """Count the unread bytes, and end the connections with the most of them until there are half as many."""
        waiting = {each: each.waiting_bytes for each in self._connections.values()}
        self._waiting_bytes = sum(waiting.values())
        if self._waiting_bytes <= self._bounds.waiting_bytes_in_all:
            return
        for connection in sorted(waiting, key=waiting.__getitem__, reverse=True):
            if self._waiting_bytes <= self._bounds.waiting_bytes_in_all // 2:
                return
            self._waiting_bytes -= waiting[connection]
            self.failed(connection, Closing.SLOW, "too much waits for all hosts, and most of it for this one")
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
        now = self.now()
        earned = (now - connection.counted_at) * self._bounds.messages_per_s
        connection.allowance = min(self._bounds.burst, connection.allowance + earned) - cost
        connection.counted_at = now
        return connection.allowance >= 0

    def _keep_allowance(self, connection: HostConnection) -> None:
        """The connection of a host with a certificate ends: the host has its allowance when it connects again."""
        if connection.greeted and connection.peer is not None:
            self._allowances.pop(connection.host_id, None)
            self._allowances[connection.host_id] = (connection.allowance, connection.counted_at)
            while len(self._allowances) > MAX_ALLOWANCES:
                del self._allowances[next(iter(self._allowances))]

    def _take_over_allowance(self, connection: HostConnection) -> None:
        used = self._bounds.burst - connection.allowance
        connection.allowance, connection.counted_at = self._allowances.pop(
            connection.host_id, (self._bounds.burst, connection.counted_at)
        )
        self.may_send(connection, 0)  # what it has earned since
        connection.allowance -= used

    def _sweep(self) -> None:
        """Examine some connections for silence and for hosts that do not hang up: each connection once in `interval_s`.

        One timer for all connections costs less than a timer for each, and pinging all hosts at once would delay every
        event. A late sweep finds every host silent, because the server has not been reading. No host is blamed until
        each connection has been examined once again.
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
        elif self._reads_nothing(connection, now):
            self.failed(connection, Closing.SLOW, f"nothing was read for {bounds.read_s:g} s")
            connection.abort()
        elif connection.begun_at is not None and now - connection.begun_at > bounds.message_s:
            self.failed(connection, Closing.SLOW, f"a message was not ended within {bounds.message_s:g} s")
            connection.abort()
        elif connection.probed_at is not None and now - connection.probed_at > bounds.probe_s:
            self.failed(connection, Closing.SILENT, f"its id is wanted, and nothing was heard for {silent_s:.1f} s")
        elif silent_s > 1.5 * bounds.heartbeat_s and connection.pinged and now >= self._blames_from:
            self.failed(connection, Closing.SILENT, f"nothing was heard for {silent_s:.1f} s")
        elif silent_s > bounds.heartbeat_s and not connection.pinged:
            connection.ping()

    def _reads_nothing(self, connection: HostConnection, now: float) -> bool:
        """Whether bytes wait for a host that has read none of them for too long."""
        waiting = connection.waiting_bytes
        if not waiting or waiting < connection.unread_bytes or not connection.unread_bytes:
            connection.unread_since = now
        connection.unread_bytes = waiting
        return now - connection.unread_since > self._bounds.read_s and now >= self._blames_from


def _revocations(hosts: frozenset[str]) -> list[bytes]:
    """The frames that tell of revoked hosts."""
    names = sorted(hosts)
    parts = [names[at : at + MAX_REVOKED_PER_MESSAGE] for at in range(0, len(names), MAX_REVOKED_PER_MESSAGE)]
    return [framed(TO_HOST.encode(Revoked(tuple(part)))) for part in parts]
