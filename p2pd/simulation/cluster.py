"""A cluster in virtual time: the real cores of schedulers and hosts over simulated lines.

What goes between hosts takes the latency of the way, and the bytes the time that the lines between have for them; what
the machines themselves take is in `costs`. All chance comes from the scenario's seed: the same scenario gives the same
events. With `checks`, every message goes through its codec, every core is validated after every event, and what the
members say is noted.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

from p2pd.simulation.bandwidth import Flow, Line, Lines
from p2pd.simulation.blobs import Contents, contents, false_digest, true_digest
from p2pd.simulation.costs import ANSWER_S, SILENT_S, VERIFY_BYTES_PER_S
from p2pd.simulation.event_queue import EventQueue
from p2pd.simulation.host import SimulatedHost
from p2pd.simulation.network import Network, PieceRequest
from p2pd.simulation.origin import SimulatedOrigin
from p2pd.simulation.scenario import Misbehaviour, Scenario
from p2pd.simulation.schedulers import SimulatedSchedulers, schedulers_of, settings_of
from peer.core.choker import FREE_SOON_S, Admission, Uplink
from peer.core.events import (
    FetchSample,
    FromNeighbour,
    Instruction,
    LinkLost,
    PeerOutcome,
    RequestPiece,
    RequestRange,
)
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import LINK, FromHost
from scheduler.protocol.link import LinkMessage


class SimulatedCluster(Network):
    """All hosts, the schedulers, the origin, and the ways between them."""

    def __init__(self, scenario: Scenario, settings: SchedulerSettings | None = None, *, checks: bool = False) -> None:
        super().__init__(EventQueue())
        self.scenario: Final = scenario
        self.checks: Final = checks
        self.lines: Final = Lines(self.event_queue)
        self.chance: Final = random.Random(scenario.seed)
        self.blobs: Final = {blob.digest: blob for blob in map(contents, range(len(scenario.blobs)), scenario.blobs)}
        urls = schedulers_of(scenario)
        self.hosts: Final = {
            node.name: SimulatedHost(node, self.blobs, self, urls, checks=checks) for node in scenario.nodes
        }
        self.sites_in: Final[dict[str, Line]] = {}
        self.sites_out: Final[dict[str, Line]] = {}
        for node in scenario.nodes:
            if scenario.site_bytes_per_s is not None:
                self.sites_in.setdefault(node.site, Line(scenario.site_bytes_per_s))
                self.sites_out.setdefault(node.site, Line(scenario.site_bytes_per_s))
        self.origin_bytes = 0.0
        self.origin: Final = SimulatedOrigin(
            scenario, self.event_queue, self.lines, self.sites_in, self.reaches_outside, self._came_from_origin
        )
        self.schedulers: Final = SimulatedSchedulers(
            scenario,
            settings_of(scenario, settings),
            self.hosts,
            self.event_queue,
            self.chance,
            self.reaches_outside,
            self._hold,
            self.vanish,
            first_blob=next(iter(self.blobs)),
            checks=checks,
        )
        self.instructions: Final[list[str]] = []
        self.fetched: Final[Counter[tuple[str, int, int]]] = Counter()
        """How often each host, in its how-manieth download, got each piece from a neighbour; only with `checks`."""
        self.wrong_pieces = 0
        """Pieces with other bytes than the origin's that an honest host marked as held."""
        self.link_messages = 0
        self.site_bytes: Final[dict[str, float]] = defaultdict(float)
        self.on_completed: Callable[[SimulatedHost, Contents], None] = lambda _, __: None
        self._cut_rack = ""
        self._cut_s = 0.0
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        """What was said into the cut: it arrives if that is mended before the connection is given up."""
        self._requests: dict[tuple[str, int], PieceRequest] = {}

    # -- ways ------------------------------------------------------------------------------------------------------

    def reaches(self, one: SimulatedHost, other: SimulatedHost) -> bool:
        """Whether packets get from one to the other."""
        return not self._cut_rack or (one.node.rack == self._cut_rack) == (other.node.rack == self._cut_rack)

    def reaches_outside(self, host: SimulatedHost) -> bool:
        """Whether packets get to the schedulers and to the origin."""
        return host.node.rack != self._cut_rack or not self._cut_rack

    def latency_s(self, one: SimulatedHost, other: SimulatedHost) -> float:
        scenario = self.scenario
        return scenario.latency_s if one.site == other.site else scenario.far_latency_s

    def way(self, sender: SimulatedHost, receiver: SimulatedHost) -> tuple[Line, ...]:
        """The lines that a piece goes through."""
        if sender.site == receiver.site or not self.sites_in:
            return (sender.up, receiver.down)
        return (sender.up, self.sites_out[sender.site], self.sites_in[receiver.site], receiver.down)

    # -- what becomes of hosts -------------------------------------------------------------------------------------

    def did(self, name: str, instruction: Instruction) -> None:
        self.instructions.append(f"{self.event_queue.now!r} {name} {instruction}")

    def received(self, name: str, digest: bytes, index: int, piece_digest: bytes) -> None:
        host = self.hosts[name]
        true = (host.blobs.get(digest) or self.blobs[digest]).digests[index]
        if host.misbehaviour is None and piece_digest != true:
            self.wrong_pieces += 1

    def completed(self, name: str, digest: bytes) -> None:
        self.schedulers.completed(name, digest)
        self.on_completed(self.hosts[name], self.blobs[digest])

    def _came_from_origin(self, host: SimulatedHost, size: float) -> None:
        self.origin_bytes += size
        self.site_bytes[host.site] += size

    # -- between hosts ---------------------------------------------------------------------------------------------

    def say(self, name: str, names: Iterable[str], message: LinkMessage) -> None:
        if self.checks:
            assert LINK.decode(LINK.encode(message)) == message
        host = self.hosts[name]
        near: list[SimulatedHost] = []
        far: list[SimulatedHost] = []
        event = FromNeighbour(name, message)
        site = host.site
        for each in names:
            other = self.hosts[each]
            if self._cut_rack and not self.reaches(host, other):
                self._hold(_hear, ([other], event))
            elif other.site == site:
                near.append(other)
            else:
                far.append(other)
        self.link_messages += len(near) + len(far)
        if near:
            self.event_queue.after(self.scenario.latency_s, _hear, near, event)
        if far:
            self.event_queue.after(self.scenario.far_latency_s, _hear, far, event)

    def request_piece(self, name: str, wanted: RequestPiece) -> None:
        receiver, sender = self.hosts[name], self.hosts[wanted.host]
        request = PieceRequest(
            name,
            wanted,
            size_bytes=(receiver.blobs.get(wanted.digest) or self.blobs[wanted.digest]).bytes_of(wanted.index),
            latency_s=self.latency_s(receiver, sender),
            lines=self.way(sender, receiver),
            far=sender.site != receiver.site,
        )
        self._requests[name, wanted.request] = request
        self.event_queue.after(request.latency_s + ANSWER_S, self._requested, request)

    def request_range(self, name: str, wanted: RequestRange) -> None:
        host = self.hosts[name]
        blob = host.blobs.get(wanted.digest) or self.blobs[wanted.digest]
        self.origin.open(host, wanted.request, blob, wanted.first, wanted.stop)

    def fetch_sample(self, name: str, wanted: FetchSample) -> None:
        self.origin.sample(self.hosts[name], wanted)

    def cancel(self, name: str, request: int) -> None:
        asked = self._requests.pop((name, request), None)
        if asked is not None:
            self._end(asked)
        else:
            self.origin.close(self.hosts[name], request)

    def _requested(self, request: PieceRequest) -> None:
        if not request.waits:
            return
        sender, receiver = self.hosts[request.sender], self.hosts[request.receiver]
        if not sender.alive or not self.reaches(sender, receiver):
            self._answer(request, SILENT_S, PeerOutcome.GONE)
        elif not sender.serves(
            receiver.blobs.get(request.wanted.digest) or self.blobs[request.wanted.digest], request.wanted.index
        ):
            self._answer(request, request.latency_s, PeerOutcome.GONE)
        else:
            download = sender.machine.downloads.get(request.wanted.digest)
            if download is not None and download.pieces.untold >> request.wanted.index & 1:
                request.upload_request = request.upload_request._replace(checks=True)
            turn = sender.choker.ask(request, request.upload_request, sender.uplink())
            if turn is Admission.SEND:
                self.send(request)
                return
            sender.looks_on()
            if turn is Admission.REJECT:
                self._answered(request, PeerOutcome.CHOKED)  # the way back is in `ANSWER_S`

    def send(self, request: PieceRequest) -> None:
        sender = self.hosts[request.sender]
        request.requeue = sender.choker.is_wanted
        flow = request.flow = self.lines.send(request.size_bytes, request.lines, self._sent, request)
        sender.uplink_changed(2 * request.latency_s)
        self.event_queue.at(max(self.event_queue.now, flow.due - FREE_SOON_S), self._soon_sent, request, flow)

    def _soon_sent(self, request: PieceRequest, flow: Flow) -> None:
        if request.flow is flow:
            self.hosts[request.sender].go_on(Uplink.FREE_SOON)

    def _sent(self, request: PieceRequest) -> None:
        """The last byte has left the sender."""
        request.flow = None
        self.hosts[request.sender].upload_ended(request.upload_request if request.requeue else None)
        if request.upload_request.far:
            self.site_bytes[self.hosts[request.receiver].site] += request.size_bytes
        self.event_queue.after(request.latency_s + request.size_bytes / VERIFY_BYTES_PER_S, self._came, request)

    def _came(self, request: PieceRequest) -> None:
        if not request.waits:
            return
        wanted, sender, receiver = request.wanted, self.hosts[request.sender], self.hosts[request.receiver]
        digest = sender.store[wanted.digest].get(wanted.index) or true_digest(wanted.index)
        if sender.misbehaviour is Misbehaviour.CORRUPTS:
            digest = false_digest(wanted.index)
        if digest != wanted.expected:
            self._answer(request, 0, PeerOutcome.CORRUPT)
            return
        if wanted.sample is not None and digest != wanted.sample.data:
            self._answer(request, 0, PeerOutcome.DIFFERS)
            return
        request.waits = False
        del self._requests[request.receiver, wanted.request]
        if self.checks:
            self.fetched[receiver.name, receiver.attempts, wanted.index] += 1
        receiver.take(wanted.digest, wanted.request, wanted.index, digest, choked=request.requeue)

    def _answer(self, request: PieceRequest, seconds: float, outcome: PeerOutcome) -> None:
        """The request ends without a piece, after so long."""
        self.event_queue.after(seconds, self._answered, request, outcome)

    def _answered(self, request: PieceRequest, outcome: PeerOutcome) -> None:
        if request.waits:
            request.waits = False
            self._requests.pop((request.receiver, request.wanted.request), None)
            self.hosts[request.receiver].fail_piece(request.wanted.request, outcome)

    def _end(self, request: PieceRequest) -> None:
        """Nobody waits for this piece any more: what it takes of the sender is for others."""
        request.waits = False
        passed = self._stop_sending(request)
        if request.upload_request.far:
            self.site_bytes[self.hosts[request.receiver].site] += passed

    def _stop_sending(self, request: PieceRequest) -> float:
        """Whether it goes out, or waits to. Returns the bytes that have passed."""
        sender = self.hosts[request.sender]
        if request.flow is None:
            sender.choker.cancel(request)
            return 0.0
        passed = self.lines.stop(request.flow)
        request.flow = None
        sender.upload_ended()
        return passed

    # -- the schedulers --------------------------------------------------------------------------------------------

    def connect(self, host: SimulatedHost) -> None:
        """A host connects to the schedulers that it needs."""
        self.schedulers.connect(host)

    def keep_schedulers(self, name: str, urls: tuple[str, ...]) -> None:
        self.schedulers.keep(self.hosts[name], urls)

    def tell(self, name: str, message: FromHost, url: str) -> None:
        self.schedulers.tell(self.hosts[name], message, url)

    # -- what breaks -----------------------------------------------------------------------------------------------

    def vanish(self, host: SimulatedHost) -> None:
        """A host is gone from one moment to the next; others notice later."""
        host.alive = False
        self.schedulers.vanish(host)
        for request in list(self._requests.values()):
            if request.sender == host.name:
                self._fall_silent(request)
            elif request.receiver == host.name:
                self.cancel(host.name, request.wanted.request)
        for number in host.ranges:
            self.origin.close(host, number)
        for name in host.machine.links.hosts():
            self.hosts[name].later(SILENT_S, LinkLost(host.name))

    def cut(self, rack: str) -> None:
        """The hosts of a rack reach nothing outside of it from now on."""
        self._cut_rack, self._cut_s = rack, self.event_queue.now
        inside = [host for host in self.hosts.values() if host.node.rack == rack and host.alive]
        for request in list(self._requests.values()):
            if not self.reaches(self.hosts[request.sender], self.hosts[request.receiver]):
                self._fall_silent(request)
        for host in inside:
            self.schedulers.cut(host)
            for number in list(host.ranges):
                self.origin.fall_silent(host, number)
            for name in host.machine.links.hosts():
                if not self.reaches(host, self.hosts[name]):
                    host.later(SILENT_S, LinkLost(name))
                    self.hosts[name].later(SILENT_S, LinkLost(host.name))

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

    def _hold(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._held.append((action, args))

    def _fall_silent(self, request: PieceRequest) -> None:
        """Nothing of this piece comes any more, and who waits for it does not know that yet."""
        self._stop_sending(request)
        self._answer(request, SILENT_S, PeerOutcome.GONE)


def _hear(hosts: list[SimulatedHost], event: FromNeighbour) -> None:
    for host in hosts:
        host.feed(event)
