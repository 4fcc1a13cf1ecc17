"""A simulated host: the machine of `peer.core.host`, a network, a clock, and a disk that can fail.

The machine decides, and here is only carried out what it says. What a liar does otherwise is here too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from p2pd.simulation.bandwidth import Line
from p2pd.simulation.blobs import Contents, false_digest, true_digest
from p2pd.simulation.costs import GATHER_S, PREPARE_S, RETRY_S
from p2pd.simulation.network import Network, PieceRequest
from p2pd.simulation.scenario import MISLEADING, Misbehaviour, Node
from peer.core import events
from peer.core.choker import FREE_SOON_S, Choker, Uplink, UploadRequest
from peer.core.events import Event, Instruction, Outcome, PeerOutcome, Phase
from peer.core.host import HostMachine, HostSettings
from peer.core.outbox import LinkOutbox
from peer.core.session import SessionState
from peer.core.uplink import SHARED_LOOK_S, SPARE_FRACTION, settle_s
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FromHost, ToHost
from scheduler.protocol.geometry import told_piece_length

UPLOAD_SLOTS: Final = 5
POLL_INTERVAL_S: Final = 0.05
"""How often a host looks whether a part of its line is unused, while others wait for that."""

LINGER_S: Final = 600.0
PATIENCE_S: Final = 3.0


class SimulatedHost:
    """One p2pd. `store` has the digest of each piece that is held, by blob; `whole` the blobs found right."""

    def __init__(
        self,
        node: Node,
        blobs: Mapping[bytes, Contents],
        network: Network,
        schedulers: tuple[str, ...],
        *,
        checks: bool,
    ) -> None:
        self.node: Final = node
        self.name: Final = node.name
        self.site: Final = node.site
        self.misbehaviour = node.misbehaviour
        self.up: Final = Line(node.up_bytes_per_s)
        self.down: Final = Line(node.down_bytes_per_s)
        self.choker: Final[Choker[PieceRequest]] = Choker(UPLOAD_SLOTS)
        settings = HostSettings(
            linger_s=LINGER_S,
            scheduler_timeout_s=PATIENCE_S,
            host=node.name,
            schedulers=schedulers,
            remembers=64 if checks else 0,  # nobody reads the story then, and it would keep millions of events
        )
        self.machine: Final = HostMachine(settings)
        self.alive = True
        self.connections: Final[dict[str, int]] = {}
        """The number of its connection to each scheduler, by URL."""
        self.refused = 0
        """The origin's status for it; 0: the origin gives."""
        self.lies = node.misbehaviour in MISLEADING
        """It believes in other bytes than the origin has."""
        self.knows_sizes = True
        self.disk_fails = False
        self.store: Final[dict[bytes, dict[int, bytes]]] = defaultdict(dict)
        self.whole: Final[set[bytes]] = set()
        self.ranges: Final[dict[int, bytes]] = {}
        """The blobs of the requests to the origin that are under way, by number."""
        self.pieces: Final[dict[int, bytes]] = {}
        """And of those to neighbours."""
        self.attempts = 0
        """Downloads that it has begun."""
        self.failures: Final[list[str]] = []
        """Why those that failed did."""
        self.got_bytes = 0
        self._blobs: Final = blobs
        self.blobs: Final[dict[bytes, Contents]] = {}
        """Those that it has divided into pieces; else they are as the origin has them."""
        self._network: Final = network
        self._checks: Final = checks
        self._event_queue: Final = network.event_queue
        self._ticks_at = math.inf
        self._news: defaultdict[tuple[str, ...], LinkOutbox] = defaultdict(LinkOutbox)
        """What neighbours have not been told of yet: one outbox for all that are told the same."""
        self._told_s = 0.0
        self._looks = False
        self._settles = 0.0

    # -- the machine -----------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Give an event to the machine, and carry out what it says."""
        if not self.alive:
            return
        machine = self.machine
        instructions = machine.handle(event, self._event_queue.now)
        if self._checks:
            machine.validate()
        for instruction in instructions:
            if self._checks:
                self._network.did(self.name, instruction)
            _CARRY_OUT[type(instruction)](self, instruction)
        due = machine.next_deadline()
        if due < self._ticks_at:
            self._ticks_at = due
            self._event_queue.at(due, self._tick, due)

    def later(self, seconds: float, event: Event) -> None:
        """Give an event to the machine in a while."""
        self._event_queue.after(seconds, self.feed, event)

    def _tick(self, due: float) -> None:
        if self._ticks_at == due:
            self._ticks_at = math.inf
            self.feed(events.Tick())

    # -- what its client does --------------------------------------------------------------------------------------

    def pull(self, blob: Contents) -> None:
        """A client asks for a blob."""
        if not self.alive or blob.digest in self.whole:
            return
        if self.misbehaviour is Misbehaviour.CLAIMS:
            self.whole.add(blob.digest)
            self.feed(events.BlobStored(blob.digest, blob.size_bytes))
            held = from_host.Holding(blob.digest, blob.size_bytes, complete=True)
            self._tell(from_host.Announce((held,)))
            return
        if blob.digest not in self.machine.downloads:
            size_bytes = blob.size_bytes if self.knows_sizes else None
            self.feed(events.SourceAdded(blob.digest, 0, "docker.io", "library/app", size_bytes))
        self.feed(events.ReaderMoved(blob.digest, 1, 0, None))

    def hold(self, blobs: Iterable[Contents]) -> None:
        """It has these already, from before."""
        for blob in blobs:
            self.store[blob.digest].update(enumerate(blob.digests))
            self.whole.add(blob.digest)
            self.got_bytes += blob.size_bytes
            self.feed(events.BlobStored(blob.digest, blob.size_bytes))

    # -- what others say -------------------------------------------------------------------------------------------

    def is_told(self, message: ToHost, scheduler: str) -> None:
        """A message from the scheduler at a URL."""
        learns = isinstance(message, to_host.PieceDigests | to_host.InlineBlob)
        if self.misbehaviour is not Misbehaviour.HOARDS or not learns:
            self.feed(events.FromScheduler(message, scheduler))

    def is_let_in(self, scheduler: str) -> bool:
        """Whether it knows that it is connected to the scheduler at a URL."""
        return self.machine.schedulers.sessions[scheduler].state is SessionState.CONNECTED

    # -- the disk --------------------------------------------------------------------------------------------------

    def take(self, digest: bytes, request: int, index: int, piece_digest: bytes, *, choked: bool = False) -> None:
        """A piece has come; with the last one, the SHA-256 is known."""
        blob, held = (self.blobs.get(digest) or self._blobs[digest]), self.store[digest]
        if self.disk_fails:
            if self.pieces.pop(request, None) is not None:
                self.feed(events.PieceFailed(digest, request, PeerOutcome.CANCELLED))
            self.feed(events.StoreFailed(digest))
            return
        self.pieces.pop(request, None)
        if index not in held:
            held[index] = piece_digest
            self.got_bytes += blob.bytes_of(index)
            self._network.received(self.name, digest, index, piece_digest)
        self.feed(events.PieceReceived(digest, request, index, piece_digest, choked))
        if len(held) == blob.count and digest in self.machine.downloads:
            self.feed(events.BlobVerified(digest, list(map(held.__getitem__, range(blob.count))) == blob.digests))

    def recover(self, instruction: events.Recover) -> None:
        digest = instruction.digest
        self.attempts += 1
        blob, held = (self.blobs.get(digest) or self._blobs[digest]), dict(self.store[digest])
        if held:
            self.later(0, events.PiecesHeld(digest, blob.size_bytes, blob.length, held))
        else:
            self.later(0, events.PiecesHeld(digest))

    def prepare(self, instruction: events.Prepare) -> None:
        failed = events.StoreFailed(instruction.digest)
        self.blobs[instruction.digest] = self._blobs[instruction.digest].divided(instruction.piece_length)
        self.later(PREPARE_S, failed if self.disk_fails else events.Prepared(instruction.digest))

    def store_inline(self, instruction: events.StoreInlineBlob) -> None:
        blob = self._blobs[instruction.digest]
        if instruction.data == blob.data:
            self._event_queue.after(0, self._take_inline, blob)

    def _take_inline(self, blob: Contents) -> None:
        if blob.digest in self.machine.downloads:
            held = self.store[blob.digest]
            held.update(enumerate(blob.digests))
            self.got_bytes += blob.size_bytes
            self.feed(events.PiecesHeld(blob.digest, blob.size_bytes, blob.length, held, verified=True))

    def read_digests(self, instruction: events.ReadDigests) -> None:
        digest = instruction.digest
        blob = self.blobs.get(digest) or self._blobs[digest]
        length = told_piece_length(blob.size_bytes, blob.length)
        self.feed(events.DigestsRead(digest, self.store[digest], blob.data, length))

    def ended(self, instruction: events.Ended) -> None:
        digest = instruction.digest
        blob = self._blobs[digest]
        if instruction.phase is Phase.COMPLETE:
            self.whole.add(digest)
            self._network.completed(self.name, digest)
            return
        if instruction.discard:
            held = self.store[digest]
            self.got_bytes -= sum(map((self.blobs.get(digest) or blob).bytes_of, held))
            held.clear()
            self.blobs.pop(digest, None)
        self.failures.append(instruction.reason or instruction.phase.value)
        again_s = 0.0 if instruction.phase is Phase.DISPROVED else RETRY_S
        self._event_queue.after(again_s, self.pull, blob)

    # -- requests --------------------------------------------------------------------------------------------------

    def request_piece(self, instruction: events.RequestPiece) -> None:
        if self._checks:
            assert instruction.index not in self.store[instruction.digest], "a piece is asked for that is held"
        self.pieces[instruction.request] = instruction.digest
        self._network.request_piece(self.name, instruction)

    def cancel_piece(self, instruction: events.CancelPiece) -> None:
        if instruction.request in self.pieces:
            self._network.cancel(self.name, instruction.request)
            self._event_queue.after(0, self.fail_piece, instruction.request, PeerOutcome.CANCELLED)

    def fail_piece(self, request: int, outcome: PeerOutcome) -> None:
        """A request to a neighbour has brought nothing."""
        digest = self.pieces.pop(request, None)
        if digest is not None:
            self.feed(events.PieceFailed(digest, request, outcome))

    def request_range(self, instruction: events.RequestRange) -> None:
        self.ranges[instruction.request] = instruction.digest
        self._network.request_range(self.name, instruction)

    def cancel_range(self, instruction: events.CancelRange) -> None:
        self.end_range(instruction.request, Outcome.BROKEN)

    def trim_range(self, instruction: events.TrimRange) -> None:
        """The request ends here: what it was to bring besides is asked for again."""
        self.end_range(instruction.request, Outcome.BROKEN)

    def end_range(self, request: int, outcome: Outcome, status: int = 0) -> None:
        """A request to the origin has ended."""
        digest = self.ranges.pop(request, None)
        if digest is not None:
            self._network.cancel(self.name, request)
            self.later(0, events.RangeEnded(digest, request, outcome, status))

    def fetch_sample(self, instruction: events.FetchSample) -> None:
        self._network.fetch_sample(self.name, instruction)

    def sampled(self, wanted: events.FetchSample, *, answered: bool) -> None:
        """The origin has answered; a piece's digest stands for its bytes."""
        data = self.origin_digest(wanted.index) if answered else None
        self.feed(events.SampleFetched(wanted.digest, wanted.request, data))

    def origin_digest(self, index: int) -> bytes:
        """The digest of a piece from the origin, as this host has it or says it."""
        if not self.lies:
            return true_digest(index)
        return false_digest(index, self.name if self.misbehaviour is Misbehaviour.MISLEADS else "")

    # -- what it says ----------------------------------------------------------------------------------------------

    def tell(self, instruction: events.Tell) -> None:
        self._tell(instruction.message, instruction.scheduler)

    def send_inline(self, instruction: events.SendInlineBlob) -> None:
        digest = instruction.digest
        self._tell(from_host.InlineBlob(digest, self._blobs[digest].data))

    def _tell(self, message: FromHost, scheduler: str = "") -> None:
        """Send a message to the scheduler at a URL, or to the one that the message's blob is at (`peer.host`)."""
        if not scheduler:
            holds = message.holdings[0] if isinstance(message, from_host.Announce) else message
            scheduler = self.machine.schedulers.of(getattr(holds, "digest", b"")).url
        self._network.tell(self.name, message, scheduler)

    def keep_schedulers(self, instruction: events.KeepSchedulers) -> None:
        self._network.keep_schedulers(self.name, instruction.urls)

    def tell_neighbours(self, instruction: events.TellNeighbours) -> None:
        """News are gathered, as links do, if others were sent just before; what is not of pieces is said at once."""
        message, hosts = instruction.message, instruction.hosts
        if isinstance(message, link.Have):
            if not self._news:
                self._event_queue.at(max(self._event_queue.now, self._told_s + GATHER_S), self._say_news)
            self._news[hosts].add(message)
            return
        if not isinstance(message, link.Bitfield) or message.complete:
            self._say_news()
        self._network.say(self.name, hosts, message)

    def _say_news(self) -> None:
        news, self._news, self._told_s = self._news, defaultdict(LinkOutbox), self._event_queue.now
        for hosts, outbox in news.items():
            for message in outbox.take():
                self._network.say(self.name, hosts, message)

    def nothing(self, instruction: Instruction) -> None:
        """Links work as soon as they are wanted here, and nobody asks for tags."""

    # -- what it sends ---------------------------------------------------------------------------------------------

    def upload_ended(self, requeue: UploadRequest | None = None) -> None:
        """A piece is out, or nobody waits for it any more."""
        self.uplink_changed()
        self.choker.end(requeue)
        self.go_on(self.uplink())

    def uplink_changed(self, round_trip_s: float = 0.0) -> None:
        """A piece begins to go out, to a host that is so far, or is out."""
        self._settles = max(self._settles, self._event_queue.now + settle_s(round_trip_s))

    def uplink(self) -> Uplink:
        """What there is on its uplink, as far as a host can tell."""
        now = self._event_queue.now
        if now >= self._settles and not self.choker.is_full and self.up.used < (1 - SPARE_FRACTION) * self.up.rate:
            return Uplink.FREE
        soon = now + FREE_SOON_S
        for flow in self.up.flows:
            if flow.due <= soon:
                return Uplink.FREE_SOON
        return Uplink.FULL

    def go_on(self, uplink: Uplink) -> None:
        """Send to whom waits, and tell others that they can come."""
        while (request := self.choker.next(uplink)) is not None:
            self._network.send(request)
            uplink = self.uplink()
        for upload_request in self.choker.unchoke(uplink):
            self._network.say(self.name, (upload_request.host,), link.Unchoke(upload_request.digest))

    def looks_on(self) -> None:
        """Somebody is not served at once: it looks from time to time whether a part of its line is unused."""
        if not self._looks:
            self._looks = True
            now = self._event_queue.now
            looks_s = SHARED_LOOK_S if self.choker.active > 1 else POLL_INTERVAL_S
            self._event_queue.at(self._settles if self._settles > now else now + looks_s, self._look)

    def _look(self) -> None:
        self._looks = False
        if not self.choker.is_wanted or not self.alive:
            return
        uplink = self.uplink()
        if uplink is Uplink.FREE:  # a piece that is nearly out has an event of its own, and needs no look
            self.go_on(uplink)
        self.looks_on()

    def serves(self, blob: Contents, index: int) -> bool:
        """Whether others may have a piece of a blob as they have divided it."""
        start = index * blob.length
        return self.misbehaviour is not Misbehaviour.CLAIMS and self.machine.may_serve(
            blob.digest, start, start + blob.bytes_of(index)
        )


_CARRY_OUT: Final[dict[type, Callable[[SimulatedHost, Any], None]]] = {
    events.Recover: SimulatedHost.recover,
    events.Prepare: SimulatedHost.prepare,
    events.StoreInlineBlob: SimulatedHost.store_inline,
    events.ReadDigests: SimulatedHost.read_digests,
    events.Ended: SimulatedHost.ended,
    events.RequestPiece: SimulatedHost.request_piece,
    events.CancelPiece: SimulatedHost.cancel_piece,
    events.RequestRange: SimulatedHost.request_range,
    events.CancelRange: SimulatedHost.cancel_range,
    events.FetchSample: SimulatedHost.fetch_sample,
    events.TrimRange: SimulatedHost.trim_range,
    events.Tell: SimulatedHost.tell,
    events.SendInlineBlob: SimulatedHost.send_inline,
    events.TellNeighbours: SimulatedHost.tell_neighbours,
    events.KeepSchedulers: SimulatedHost.keep_schedulers,
    events.KeepLink: SimulatedHost.nothing,
    events.ReleaseLink: SimulatedHost.nothing,
    events.AnswerTag: SimulatedHost.nothing,
    events.ReportQuarantine: SimulatedHost.nothing,
    events.RefuseHosts: SimulatedHost.nothing,
    events.ReportUnreachable: SimulatedHost.nothing,
    events.ReportUntold: SimulatedHost.nothing,
}
