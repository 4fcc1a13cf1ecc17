"""One blob on its way to a simulated host: its member core, and what a shell keeps for it.

It carries out what the member says, as `peer.downloads` and `peer.swarm` do. A piece's bytes are stood for by their
digest, which is the piece's index for the true ones.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from p2pd.simulation.bandwidth import Flow
from p2pd.simulation.costs import GATHER_S, RETRY_S
from peer.core import origin_events, swarm_events
from peer.core.choker import UploadRequest
from peer.core.download import Download
from peer.core.member import DISPROVED, Member
from peer.core.origin_events import Outcome, Phase
from peer.core.piece_sets import spans, union
from peer.core.swarm_events import FetchEnded, FetchOutcome
from scheduler.protocol import link
from scheduler.protocol.codec import OnLink
from scheduler.protocol.fields import DIGEST_BYTES, MAX_INLINE_BYTES
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.protocol.inline_blob import InlineBlob

if TYPE_CHECKING:
    from p2pd.simulation.cluster import SimulatedCluster
    from p2pd.simulation.host import SimulatedHost

TRANSFERS_PER_BLOB: Final = 4
LINGER_S: Final = 600.0
PATIENCE_S: Final = 3.0


class Contents:
    """A blob as the origin has it. `data` is there for one so small that it travels in messages."""

    __slots__ = ("count", "data", "digest", "digests", "length", "size_bytes")

    def __init__(self, digest: bytes, size_bytes: int, data: bytes = b"") -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.length = piece_length(size_bytes)
        self.count = piece_count(size_bytes, self.length)
        self.data = data
        self.digests = [true_digest(index) for index in range(self.count)]

    def bytes_of(self, index: int) -> int:
        """The length of a piece."""
        return min(self.length, self.size_bytes - index * self.length)


def true_digest(index: int) -> bytes:
    """The digest of the true bytes of a piece, which stands for them."""
    return index.to_bytes(DIGEST_BYTES, "big")


def contents(number: int, size_bytes: int) -> Contents:
    """The image's layer of this number."""
    data = random.Random(number).randbytes(size_bytes) if size_bytes <= MAX_INLINE_BYTES else b""
    return Contents(hashlib.sha256(data or b"%d" % number).digest(), size_bytes, data)


def false_digest(index: int, by: str = "") -> bytes:
    """The digest of other bytes, which are those of the host `by`."""
    return hashlib.blake2s(b"wrong %d %s" % (index, by.encode()), digest_size=DIGEST_BYTES).digest()


class PieceRequest:
    """A piece that was asked of a neighbour, from the request to its end."""

    __slots__ = ("flow", "pull", "receiver", "requeue", "sender", "waits", "wanted")

    def __init__(self, pull: Pull, wanted: swarm_events.Fetch, sender: SimulatedHost) -> None:
        self.pull = pull
        self.wanted = wanted
        self.sender = sender
        self.flow: Flow | None = None
        self.receiver = UploadRequest(pull.host.name, pull.blob.digest, sender.node.site != pull.host.node.site)
        self.requeue = False
        """The sender has others to serve then, and tells who asks when it can come again."""
        self.waits = True
        """It has not been answered, and nobody has taken it back."""


class Pull:
    """One download of one blob by one host, from its beginning to its end."""

    def __init__(self, host: SimulatedHost, blob: Contents) -> None:
        self.host: Final = host
        self.blob: Final = blob
        download = Download(TRANSFERS_PER_BLOB, LINGER_S)
        if not host.cluster.checks:  # nobody reads the story then, and it would keep millions of events in memory
            download = Download(TRANSFERS_PER_BLOB, LINGER_S, remembers=0)
        self.member: Final = Member(download, blob.digest, "docker.io", "library/app", patience_s=PATIENCE_S)
        self.number: Final = host.attempts
        self.over = False
        self._given_up_for = ""
        self.fetches: dict[int, Flow | None] = {}
        self.transfers: dict[int, Flow | None] = {}
        self._cluster: Final[SimulatedCluster] = host.cluster
        self._ticks_at: float | None = None
        self._news: dict[tuple[str, ...], int] = {}
        """What has not been said yet, and to whom."""
        self._told_s = 0.0

    def begin(self, *, connected: bool, knows_size: bool = True) -> None:
        """A client asks for the blob; what is held of it already is taken in first."""
        self.feed(origin_events.SourceAdded(0))
        self.feed(origin_events.ReaderMoved(1, 0, None))
        held = self.host.store[self.blob.digest]
        if held:
            self.member.download.learn_geometry(self.blob.size_bytes, self.blob.length)
            for index, digest in held.items():
                self.feed(origin_events.PieceLanded(None, index, digest))
            self.feed(swarm_events.Prepared())
        self.feed(swarm_events.Begun(connected, self.blob.size_bytes if knows_size else None))

    def feed(self, event: swarm_events.Event) -> None:
        """Give an event to the member, and carry out what it says."""
        if self.over or not self.host.alive:
            return
        member, cluster = self.member, self._cluster
        instructions = member.handle(event, cluster.event_queue.now)
        if cluster.checks:
            member.validate()
        for instruction in instructions:
            if cluster.checks:
                cluster.note(self.host.name, instruction)
            self._carry_out(instruction)
        due = None if member.is_over() else member.next_deadline()
        if due is not None and (self._ticks_at is None or due < self._ticks_at):
            self._ticks_at = due
            cluster.event_queue.at(due, self._tick, due)

    def later(self, seconds: float, event: swarm_events.Event) -> None:
        """Give an event to the member in a while."""
        self._cluster.event_queue.after(seconds, self.feed, event)

    def _tick(self, due: float) -> None:
        if self._ticks_at == due:
            self._ticks_at = None
            self.feed(origin_events.Tick())

    def _carry_out(self, instruction: swarm_events.Instruction) -> None:
        _CARRY_OUT[type(instruction)](self, instruction)

    # -- neighbours ------------------------------------------------------------------------------------------------

    def fetch(self, instruction: swarm_events.Fetch) -> None:
        if self._cluster.checks:
            assert instruction.index not in self.host.store[self.blob.digest], "a piece is asked for that is held"
        self.fetches[instruction.fetch] = None
        self._cluster.ask(self, instruction)

    def stop_fetch(self, instruction: swarm_events.StopFetch) -> None:
        if instruction.fetch in self.fetches:
            self._cluster.cancel(self, instruction.fetch)
            self._cluster.event_queue.after(0, self.end_fetch, instruction.fetch, FetchOutcome.STOPPED)

    def end_fetch(self, number: int, outcome: FetchOutcome, *, busy: bool = False) -> None:
        """A request to a neighbour has ended."""
        if not self.over and number in self.fetches:
            del self.fetches[number]
            self.feed(FetchEnded(number, outcome, busy))

    def fetched(self, number: int, index: int, digest: bytes, *, busy: bool) -> None:
        """A piece has come from a neighbour, with the digest that was expected."""
        if not self.over and number in self.fetches:
            self.has_landed(None, index, digest)
            self.end_fetch(number, FetchOutcome.LANDED, busy=busy)

    def tell_neighbours(self, instruction: swarm_events.TellNeighbours) -> None:
        """News are gathered, as links do, if others were sent just before; what is not of pieces is said at once."""
        message = instruction.message
        if isinstance(message, link.Have):
            if not self._news:
                self._cluster.event_queue.at(
                    max(self._cluster.event_queue.now, self._told_s + GATHER_S), self._say_news
                )
            pieces = union((span.first, span.stop) for span in message.spans)
            self._news[instruction.hosts] = self._news.get(instruction.hosts, 0) | pieces
        else:
            self._say_news()
            self._cluster.say(self.host, instruction.hosts, message)

    def _say_news(self) -> None:
        news, self._news, self._told_s = self._news, {}, self._cluster.event_queue.now
        if self.over:
            return
        for hosts, pieces in news.items():
            gained = tuple(link.Span(first, stop) for first, stop in spans(pieces))
            self._cluster.say(self.host, hosts, link.Have(self.blob.digest, max(1, self.member.generation), gained))

    def holds(self) -> OnLink:
        """What to tell a neighbour that was just met."""
        return self.member.holds()

    # -- the origin ------------------------------------------------------------------------------------------------

    def want_slot(self, instruction: origin_events.WantSlot) -> None:
        self.later(0, origin_events.SlotGranted(instruction.source))

    def start_transfer(self, instruction: origin_events.StartTransfer) -> None:
        self.transfers[instruction.transfer] = None
        self._cluster.origin.open(self, instruction.transfer, instruction.first, instruction.stop)

    def stop_transfer(self, instruction: origin_events.StopTransfer) -> None:
        self.end_transfer(instruction.transfer, Outcome.BROKEN)

    def end_transfer(self, number: int, outcome: Outcome, status: int = 0) -> None:
        """A transfer from the origin has ended."""
        if number in self.transfers:
            self._cluster.origin.close(self, number)
            del self.transfers[number]
            self.later(0, origin_events.TransferEnded(number, outcome, status))

    # -- pieces ----------------------------------------------------------------------------------------------------

    def has_landed(self, transfer: int | None, index: int, digest: bytes) -> None:
        """A piece is in the store; with the last one, the SHA-256 is known."""
        held = self.host.store[self.blob.digest]
        if index not in held:
            held[index] = digest
            self.host.got(self.blob, index)
        self.feed(origin_events.PieceLanded(transfer, index, digest))
        if len(held) == self.blob.count and not self.over:
            ok = list(map(held.__getitem__, range(self.blob.count))) == self.blob.digests
            if not ok:
                self.host.lost(self.blob)
            self.feed(origin_events.BlobVerified(ok))

    def store_inline_blob(self, instruction: swarm_events.StoreInlineBlob) -> None:
        if instruction.data == self.blob.data:
            self._cluster.event_queue.after(0, self.has_landed, None, 0, true_digest(0))

    def prepare(self, _: swarm_events.Prepare) -> None:
        self.later(0.001, swarm_events.Prepared())

    # -- words -----------------------------------------------------------------------------------------------------

    def tell(self, instruction: swarm_events.Tell) -> None:
        self._cluster.tell(self.host, instruction.message)

    def send_inline_blob(self, _: swarm_events.SendInlineBlob) -> None:
        self._cluster.tell(self.host, InlineBlob(self.blob.digest, self.blob.data))

    def add_neighbour(self, instruction: swarm_events.AddNeighbour) -> None:
        self.host.add_neighbour(self.blob.digest, instruction.neighbour.host)

    def remove_neighbour(self, instruction: swarm_events.RemoveNeighbour) -> None:
        self.host.remove_neighbour(self.blob.digest, instruction.host)

    # -- the end ---------------------------------------------------------------------------------------------------

    def give_up(self, instruction: swarm_events.GiveUp) -> None:
        self._given_up_for = instruction.reason
        if instruction.tainted:
            self.host.lost(self.blob)
        self.feed(origin_events.Stopped())

    def ended(self, instruction: origin_events.Ended) -> None:
        self.over = True
        for number in list(self.fetches):
            self._cluster.cancel(self, number)
        for number in list(self.transfers):
            self._cluster.origin.close(self, number)
        self.fetches.clear()
        self.transfers.clear()
        if instruction.phase is Phase.COMPLETE:
            self.host.completed(self.blob)
            return
        reason = self._given_up_for or instruction.phase.value
        stays = reason == DISPROVED and not self.host.store[self.blob.digest]
        self.host.failed(self.blob, reason, stays=stays, again_s=0.0 if stays else RETRY_S)


_CARRY_OUT: Final[dict[type, Callable[[Pull, Any], None]]] = {
    origin_events.WantSlot: Pull.want_slot,
    origin_events.ReturnSlot: lambda _, __: None,
    origin_events.StartTransfer: Pull.start_transfer,
    origin_events.StopTransfer: Pull.stop_transfer,
    origin_events.Ended: Pull.ended,
    swarm_events.Prepare: Pull.prepare,
    swarm_events.Fetch: Pull.fetch,
    swarm_events.StopFetch: Pull.stop_fetch,
    swarm_events.Tell: Pull.tell,
    swarm_events.SendInlineBlob: Pull.send_inline_blob,
    swarm_events.TellNeighbours: Pull.tell_neighbours,
    swarm_events.AddNeighbour: Pull.add_neighbour,
    swarm_events.RemoveNeighbour: Pull.remove_neighbour,
    swarm_events.StoreInlineBlob: Pull.store_inline_blob,
    swarm_events.GiveUp: Pull.give_up,
}
