"""A cluster in virtual time: the real scheduler core and real member cores over simulated lines.

What goes between hosts takes the latency of the way, and the bytes the time that the lines between have for them; what
the machines themselves take is in `costs`. All chance comes from the scenario's seed: the same scenario gives the same
events. With `checks`, every message goes through its codec, every core is validated after every event, and what the
members say is noted.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from p2pd.simulation.bandwidth import Flow, Line, Lines
from p2pd.simulation.costs import (
    ANSWER_S,
    SCHEDULER_OTHER_S,
    SCHEDULER_S,
    SCHEDULER_SEND_S,
    SILENT_S,
    VERIFY_BYTES_PER_S,
)
from p2pd.simulation.event_queue import EventQueue
from p2pd.simulation.host import SimulatedHost
from p2pd.simulation.origin import SimulatedOrigin
from p2pd.simulation.pull import PATIENCE_S, Contents, PieceRequest, Pull, contents, false_digest, true_digest
from p2pd.simulation.scenario import Misbehaviour, Scenario
from peer.core import swarm_events
from peer.core.choker import FREE_SOON_S, Admission, Uplink
from peer.core.swarm_events import FetchOutcome
from scheduler.core import events as scheduling
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol import from_host
from scheduler.protocol.codec import FROM_HOST, LINK, TO_HOST, FromHost, OnLink, ToHost
from scheduler.protocol.connection import Closing


class SimulatedCluster:
    """All hosts, the scheduler, the origin, and the ways between them."""

    def __init__(self, scenario: Scenario, settings: SchedulerSettings | None = None, *, checks: bool = False) -> None:
        self.scenario: Final = scenario
        self.settings: Final = replace(settings or SchedulerSettings(), seed=scenario.seed)
        self.checks: Final = checks
        self.event_queue: Final = EventQueue()
        self.lines: Final = Lines(self.event_queue)
        self.chance: Final = random.Random(scenario.seed)
        self.blobs: Final = {blob.digest: blob for blob in map(contents, range(len(scenario.blobs)), scenario.blobs)}
        self.hosts: Final = {node.name: SimulatedHost(node, self) for node in scenario.nodes}
        self.sites_in: Final[dict[str, Line]] = {}
        self.sites_out: Final[dict[str, Line]] = {}
        for node in scenario.nodes:
            if scenario.site_bytes_per_s is not None:
                self.sites_in.setdefault(node.site, Line(scenario.site_bytes_per_s))
                self.sites_out.setdefault(node.site, Line(scenario.site_bytes_per_s))
        self.origin: Final = SimulatedOrigin(self)
        self.scheduler: Scheduler | None = Scheduler(self.settings)
        self.closed: Final[dict[str, Closing]] = {}
        self.instructions: Final[list[str]] = []
        self.told: Final[list[tuple[str, FromHost]]] = []
        self.fetched: Final[Counter[tuple[str, int, int]]] = Counter()
        """How often each download of each host, by number, got each piece from a neighbour; only with `checks`."""
        self.wrong_pieces = 0
        """Pieces with other bytes than the origin's that an honest host marked as held."""
        self.link_messages = 0
        self.scheduler_messages = 0
        self.site_bytes: Final[dict[str, float]] = defaultdict(float)
        self.on_completed: Callable[[SimulatedHost, Contents], None] = lambda _, __: None
        self._cut_rack = ""
        self._cut_s = 0.0
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        """What was said into the cut: it arrives if that is mended before the connection is given up."""
        self._connections: dict[int, SimulatedHost] = {}
        self._requests: dict[tuple[Pull, int], PieceRequest] = {}
        self._scheduler_due: float | None = None
        self._scheduler_free_s = 0.0

    # -- ways ------------------------------------------------------------------------------------------------------

    def reaches(self, one: SimulatedHost, other: SimulatedHost) -> bool:
        """Whether packets get from one to the other."""
        return not self._cut_rack or (one.node.rack == self._cut_rack) == (other.node.rack == self._cut_rack)

    def reaches_outside(self, host: SimulatedHost) -> bool:
        """Whether packets get to the scheduler and to the origin."""
        return host.node.rack != self._cut_rack or not self._cut_rack

    def latency_s(self, one: SimulatedHost, other: SimulatedHost) -> float:
        scenario = self.scenario
        return scenario.latency_s if one.node.site == other.node.site else scenario.far_latency_s

    def way(self, sender: SimulatedHost, receiver: SimulatedHost) -> tuple[Line, ...]:
        """The lines that a piece goes through."""
        if sender.node.site == receiver.node.site or not self.sites_in:
            return (sender.up, receiver.down)
        return (sender.up, self.sites_out[sender.node.site], self.sites_in[receiver.node.site], receiver.down)

    def note(self, name: str, instruction: swarm_events.Instruction) -> None:
        self.instructions.append(f"{self.event_queue.now!r} {name} {instruction}")

    def landed(self, host: SimulatedHost, blob: Contents, index: int) -> None:
        """A host has marked a piece as held."""
        if host.misbehaviour is None and host.store[blob.digest][index] != blob.digests[index]:
            self.wrong_pieces += 1

    def completed(self, host: SimulatedHost, blob: Contents) -> None:
        """A host has a blob, verified."""
        self.on_completed(host, blob)

    # -- between hosts ---------------------------------------------------------------------------------------------

    def say(self, host: SimulatedHost, names: Iterable[str], message: OnLink) -> None:
        """A host sends a message to neighbours."""
        if self.checks:
            assert LINK.decode(LINK.encode(message)) == message
        near: list[SimulatedHost] = []
        far: list[SimulatedHost] = []
        for name in names:
            other = self.hosts[name]
            if self.reaches(host, other):
                (near if other.node.site == host.node.site else far).append(other)
            else:
                self._held.append((_on_message, ([other], swarm_events.FromNeighbour(host.name, message))))
        self.link_messages += len(near) + len(far)
        event = swarm_events.FromNeighbour(host.name, message)
        if near:
            self.event_queue.after(self.scenario.latency_s, _on_message, near, event)
        if far:
            self.event_queue.after(self.scenario.far_latency_s, _on_message, far, event)

    def ask(self, pull: Pull, fetch: swarm_events.Fetch) -> None:
        """A host asks a neighbour for a piece."""
        sender = self.hosts[fetch.host]
        request = PieceRequest(pull, fetch, sender)
        self._requests[pull, fetch.fetch] = request
        self.event_queue.after(self.latency_s(pull.host, sender) + ANSWER_S, self._requested, request)

    def cancel(self, pull: Pull, number: int) -> None:
        """A host does not want a piece any more that it has asked for."""
        request = self._requests.pop((pull, number), None)
        if request is not None:
            self._end(request)

    def _requested(self, request: PieceRequest) -> None:
        sender, pull = request.sender, request.pull
        if not request.waits:
            return
        if not sender.alive or not self.reaches(sender, pull.host):
            self._answer(request, SILENT_S, FetchOutcome.GONE)
        elif not sender.serves(pull.blob, request.wanted.index):
            self._answer(request, self.latency_s(sender, pull.host), FetchOutcome.GONE)
        else:
            turn = sender.choker.ask(request, request.receiver, sender.uplink())
            if turn is Admission.SEND:
                self.send(request)
                return
            sender.looks_on()
            if turn is Admission.REJECT:
                self._answered(request, FetchOutcome.BUSY)  # the way back is in `ANSWER_S`

    def send(self, request: PieceRequest) -> None:
        """Its turn has come."""
        sender, pull = request.sender, request.pull
        request.requeue = sender.choker.is_wanted
        size = pull.blob.bytes_of(request.wanted.index)
        flow = request.flow = self.lines.send(size, self.way(sender, pull.host), self._sent, request)
        sender.uplink_changed(2 * self.latency_s(sender, pull.host))
        self.event_queue.at(max(self.event_queue.now, flow.due - FREE_SOON_S), self._soon_sent, request, flow)

    def _soon_sent(self, request: PieceRequest, flow: Flow) -> None:
        if request.flow is flow:
            request.sender.go_on(Uplink.FREE_SOON)

    def _sent(self, request: PieceRequest) -> None:
        """The last byte has left the sender."""
        request.flow = None
        sender, pull = request.sender, request.pull
        sender.upload_ended(request.receiver if request.requeue else None)
        size = pull.blob.bytes_of(request.wanted.index)
        if sender.node.site != pull.host.node.site:
            self.site_bytes[pull.host.node.site] += size
        took_s = self.latency_s(sender, pull.host) + size / VERIFY_BYTES_PER_S
        self.event_queue.after(took_s, self._came, request)

    def _came(self, request: PieceRequest) -> None:
        pull, wanted = request.pull, request.wanted
        if not request.waits:
            return
        held = request.sender.store[pull.blob.digest].get(wanted.index, true_digest(wanted.index))
        digest = false_digest(wanted.index) if request.sender.misbehaviour is Misbehaviour.CORRUPTS else held
        if digest != wanted.expected:
            self._answer(request, 0, FetchOutcome.CORRUPT)
            return
        request.waits = False
        del self._requests[pull, wanted.fetch]
        if self.checks:
            self.fetched[pull.host.name, pull.number, wanted.index] += 1
        pull.fetched(wanted.fetch, wanted.index, digest, busy=request.requeue)

    def _answer(self, request: PieceRequest, seconds: float, outcome: FetchOutcome) -> None:
        """The request ends without a piece, after so long."""
        self.event_queue.after(seconds, self._answered, request, outcome)

    def _answered(self, request: PieceRequest, outcome: FetchOutcome) -> None:
        if request.waits:
            request.waits = False
            self._requests.pop((request.pull, request.wanted.fetch), None)
            request.pull.end_fetch(request.wanted.fetch, outcome)

    def _end(self, request: PieceRequest) -> None:
        """Nobody waits for this piece any more: what it takes of the sender is for others."""
        request.waits = False
        passed = self._stop_sending(request)
        if request.sender.node.site != request.pull.host.node.site:
            self.site_bytes[request.pull.host.node.site] += passed

    def _stop_sending(self, request: PieceRequest) -> float:
        """Whether it goes out, or waits to. Returns the bytes that have passed."""
        if request.flow is None:
            request.sender.choker.cancel(request)
            return 0.0
        passed = self.lines.stop(request.flow)
        request.flow = None
        request.sender.upload_ended()
        return passed

    # -- the scheduler ---------------------------------------------------------------------------------------------

    def connect(self, host: SimulatedHost) -> None:
        """A host connects to the scheduler, if there is one."""
        if self.scheduler is None or not host.alive or host.connection or not self.reaches_outside(host):
            return
        host.connection = len(self._connections) + 1
        self._connections[host.connection] = host
        hello = from_host.Hello(host.name, 1, 1, f"{host.name}:1", host.node.site, "", host.node.rack)
        self._to_scheduler(scheduling.Connected(host.connection, hello), SCHEDULER_S[from_host.Hello])
        host.connected()

    def tell(self, host: SimulatedHost, message: FromHost) -> None:
        """A host sends a message to the scheduler, if there is one."""
        if not host.connection:
            return
        if not self.reaches_outside(host):
            self._held.append((self.tell, (host, message)))
            return
        if self.checks:
            assert FROM_HOST.decode(FROM_HOST.encode(message)) == message
            self.told.append((host.name, message))
        self.scheduler_messages += 1
        cost_s = SCHEDULER_S.get(type(message), SCHEDULER_OTHER_S)
        self._to_scheduler(scheduling.Received(host.connection, message), cost_s)

    def disconnect(self, host: SimulatedHost) -> None:
        """A host has no connection to a scheduler any more."""
        if host.connection:
            host.connection = 0
            self.event_queue.after(PATIENCE_S, host.alone)

    def _to_scheduler(self, event: scheduling.Event, cost_s: float) -> None:
        """The scheduler takes one message after the other, each in the time that it costs."""
        arrives = self.event_queue.now + self.scenario.scheduler_latency_s
        self._scheduler_free_s = max(self._scheduler_free_s, arrives) + cost_s
        self.event_queue.at(self._scheduler_free_s, self._schedule, self.scheduler, event)

    def _schedule(self, scheduler: Scheduler | None, event: scheduling.Event) -> None:
        if scheduler is None or scheduler is not self.scheduler:
            return
        now = self.event_queue.now
        instructions = scheduler.handle(event, now)
        if self.checks:
            scheduler.validate()
        for instruction in instructions:
            if isinstance(instruction, scheduling.Close):
                host = self._connections[instruction.connection]
                self.closed[host.name] = instruction.closing
                if host.connection == instruction.connection:
                    self.disconnect(host)
                if host.misbehaviour is not None:  # it has been found out, and has no client that wants the image
                    self.vanish(host)
                continue
            if self.checks:
                assert TO_HOST.decode(TO_HOST.encode(instruction.message)) == instruction.message
            self.scheduler_messages += len(instruction.connections)
            self._scheduler_free_s = max(self._scheduler_free_s, now) + SCHEDULER_SEND_S * len(instruction.connections)
            self.event_queue.after(self.scenario.scheduler_latency_s, self._from_scheduler, instruction)
        due = scheduler.next_deadline()
        if due is not None and (self._scheduler_due is None or due < self._scheduler_due):
            self._scheduler_due = due
            self.event_queue.at(due, self._scheduler_ticks, scheduler, due)

    def _scheduler_ticks(self, scheduler: Scheduler, due: float) -> None:
        if due == self._scheduler_due:
            self._scheduler_due = None
            self._schedule(scheduler, scheduling.Tick())

    def _from_scheduler(self, send: scheduling.Send) -> None:
        for connection in send.connections:
            self._is_told(self._connections[connection], connection, send.message)

    def _is_told(self, host: SimulatedHost, connection: int, message: ToHost) -> None:
        if host.connection != connection:
            return
        if self.reaches_outside(host):
            host.is_told(message)
        else:
            self._held.append((self._is_told, (host, connection, message)))

    # -- what breaks -----------------------------------------------------------------------------------------------

    def vanish(self, host: SimulatedHost) -> None:
        """A host is gone from one moment to the next; others notice later."""
        host.alive = False
        self.event_queue.after(SILENT_S, self._schedule, self.scheduler, scheduling.Disconnected(host.connection))
        for request in list(self._requests.values()):
            if request.sender is host:
                self._fall_silent(request)
            elif request.pull.host is host:
                self.cancel(request.pull, request.wanted.fetch)
        for pull in host.pulls.values():
            for number in pull.transfers:
                self.origin.close(pull, number)
        for name in self._linked_to(host):
            self.event_queue.after(SILENT_S, self.hosts[name].neighbour_lost, host.name)

    def cut(self, rack: str) -> None:
        """The hosts of a rack reach nothing outside of it from now on."""
        self._cut_rack, self._cut_s = rack, self.event_queue.now
        inside = [host for host in self.hosts.values() if host.node.rack == rack and host.alive]
        for request in list(self._requests.values()):
            if not self.reaches(request.sender, request.pull.host):
                self._fall_silent(request)
        for host in inside:
            self.event_queue.after(SILENT_S, self._lose_touch, host, host.connection)
            for pull in host.pulls.values():
                for number in list(pull.transfers):
                    self.origin.fall_silent(pull, number)
            for name in self._linked_to(host):
                if not self.reaches(host, self.hosts[name]):
                    self.event_queue.after(SILENT_S, host.neighbour_lost, name)
                    self.event_queue.after(SILENT_S, self.hosts[name].neighbour_lost, host.name)

    def mend(self) -> None:
        """Everybody reaches everybody again."""
        rack, self._cut_rack = self._cut_rack, ""
        held, self._held = self._held, []
        if self.event_queue.now < self._cut_s + SILENT_S:
            for action, args in held:
                self.event_queue.after(0, action, *args)
        for host in self.hosts.values():
            if host.node.rack == rack:
                self.event_queue.after(self.chance.uniform(0, 1.0), self.connect, host)

    def stop_scheduler(self) -> None:
        """It is gone, with all that it knew."""
        self.scheduler = None
        for host in self.hosts.values():
            self.disconnect(host)

    def start_scheduler(self) -> None:
        """A new one, to which everybody connects within a moment."""
        self.scheduler, self._scheduler_due = Scheduler(self.settings), None
        for host in self.hosts.values():
            self.event_queue.after(self.chance.uniform(0, 1.0), self.connect, host)

    def _lose_touch(self, host: SimulatedHost, connection: int) -> None:
        if host.connection == connection and not self.reaches_outside(host):
            self._schedule(self.scheduler, scheduling.Disconnected(connection))
            self.disconnect(host)

    def _fall_silent(self, request: PieceRequest) -> None:
        """Nothing of this piece comes any more, and who waits for it does not know that yet."""
        self._stop_sending(request)
        self._answer(request, SILENT_S, FetchOutcome.GONE)

    def _linked_to(self, host: SimulatedHost) -> list[str]:
        return list({name: None for met in host.met.values() for name in met if host.name != name})


def _on_message(hosts: list[SimulatedHost], event: swarm_events.FromNeighbour) -> None:
    for host in hosts:
        host.on_message(event)
