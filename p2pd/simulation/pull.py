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
from peer.core import origin_events as origin_side
from peer.core import swarm_events as swarming
from peer.core.choker import Asking
from peer.core.download import Download
from peer.core.member import DISPROVED, Member
from peer.core.origin_events import Outcome, Phase
from peer.core.piece_sets import spans, union
from peer.core.swarm_events import FetchEnded, FetchOutcome
from scheduler.protocol import link
from scheduler.protocol.codec import OnLink
from scheduler.protocol.content import Content
from scheduler.protocol.fields import DIGEST_BYTES, MAX_CONTENT_BYTES
from scheduler.protocol.geometry import piece_count, piece_length

if TYPE_CHECKING:
    from p2pd.simulation.cluster import World
    from p2pd.simulation.host import Host

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
        self.digests = [right(index) for index in range(self.count)]

    def bytes_of(self, index: int) -> int:
        """The length of a piece."""
        return min(self.length, self.size_bytes - index * self.length)


def right(index: int) -> bytes:
    """The digest of the true bytes of a piece, which stands for them."""
    return index.to_bytes(DIGEST_BYTES, "big")


def contents(number: int, size_bytes: int) -> Contents:
    """The image's layer of this number."""
    data = random.Random(number).randbytes(size_bytes) if size_bytes <= MAX_CONTENT_BYTES else b""
    return Contents(hashlib.sha256(data or b"%d" % number).digest(), size_bytes, data)


def wrong(index: int, by: str = "") -> bytes:
    """The digest of other bytes, which are those of the host `by`."""
    return hashlib.blake2s(b"wrong %d %s" % (index, by.encode()), digest_size=DIGEST_BYTES).digest()


class Asked:
    """A piece that was asked of a neighbour, from the request to its end."""

    __slots__ = ("again", "asking", "flow", "pull", "sender", "waits", "wanted")

    def __init__(self, pull: Pull, wanted: swarming.Fetch, sender: Host) -> None:
        self.pull = pull
        self.wanted = wanted
        self.sender = sender
        self.flow: Flow | None = None
        self.asking = Asking(pull.host.name, pull.blob.digest, sender.node.site != pull.host.node.site)
        self.again = False
        """The sender has others to serve then, and tells who asks when it can come again."""
        self.waits = True
        """It has not been answered, and nobody has taken it back."""


class Pull:
    """One download of one blob by one host, from its beginning to its end."""

    def __init__(self, host: Host, blob: Contents) -> None:
        self.host: Final = host
        self.blob: Final = blob
        download = Download(TRANSFERS_PER_BLOB, LINGER_S)
        if not host.world.checks:  # nobody reads the story then, and it would keep millions of events in memory
            download = Download(TRANSFERS_PER_BLOB, LINGER_S, remembers=0)
        self.member: Final = Member(download, blob.digest, "docker.io", "library/app", patience_s=PATIENCE_S)
        self.number: Final = host.attempts
        self.over = False
        self._given_up_for = ""
        self.fetches: dict[int, Flow | None] = {}
        self.transfers: dict[int, Flow | None] = {}
        self._world: Final[World] = host.world
        self._ticks_at: float | None = None
        self._news: dict[tuple[str, ...], int] = {}
        """What has not been said yet, and to whom."""
        self._told_s = 0.0

    def begin(self, *, connected: bool, knows_size: bool = True) -> None:
        """A client asks for the blob; what is held of it already is taken in first."""
        self.feed(origin_side.SourceAdded(0))
        self.feed(origin_side.ReaderMoved(1, 0, None))
        held = self.host.store[self.blob.digest]
        if held:
            self.member.download.learn_geometry(self.blob.size_bytes, self.blob.length)
            for index, digest in held.items():
                self.feed(origin_side.PieceLanded(None, index, digest))
            self.feed(swarming.Prepared())
        self.feed(swarming.Begun(connected, self.blob.size_bytes if knows_size else None))

    def feed(self, event: swarming.Event) -> None:
        """Give an event to the member, and carry out what it says."""
        if self.over or not self.host.alive:
            return
        member, world = self.member, self._world
        instructions = member.handle(event, world.timeline.now)
        if world.checks:
            member.validate()
        for instruction in instructions:
            if world.checks:
                world.note(self.host.name, instruction)
            self._carry_out(instruction)
        due = None if member.is_over() else member.next_deadline()
        if due is not None and (self._ticks_at is None or due < self._ticks_at):
            self._ticks_at = due
            world.timeline.at(due, self._tick, due)

    def later(self, seconds: float, event: swarming.Event) -> None:
        """Give an event to the member in a while."""
        self._world.timeline.after(seconds, self.feed, event)

    def _tick(self, due: float) -> None:
        if self._ticks_at == due:
            self._ticks_at = None
            self.feed(origin_side.Tick())

    def _carry_out(self, instruction: swarming.Instruction) -> None:
        _CARRY_OUT[type(instruction)](self, instruction)

    # -- neighbours ------------------------------------------------------------------------------------------------

    def fetch(self, instruction: swarming.Fetch) -> None:
        if self._world.checks:
            assert instruction.index not in self.host.store[self.blob.digest], "a piece is asked for that is held"
        self.fetches[instruction.fetch] = None
        self._world.ask(self, instruction)

    def stop_fetch(self, instruction: swarming.StopFetch) -> None:
        if instruction.fetch in self.fetches:
            self._world.take_back(self, instruction.fetch)
            self._world.timeline.after(0, self.end_fetch, instruction.fetch, FetchOutcome.STOPPED)

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

    def tell_neighbours(self, instruction: swarming.TellNeighbours) -> None:
        """News are gathered, as links do, if others were sent just before; what is not of pieces is said at once."""
        message = instruction.message
        if isinstance(message, link.Gained):
            if not self._news:
                self._world.timeline.at(max(self._world.timeline.now, self._told_s + GATHER_S), self._say_news)
            pieces = union((span.first, span.stop) for span in message.spans)
            self._news[instruction.hosts] = self._news.get(instruction.hosts, 0) | pieces
        else:
            self._say_news()
            self._world.say(self.host, instruction.hosts, message)

    def _say_news(self) -> None:
        news, self._news, self._told_s = self._news, {}, self._world.timeline.now
        if self.over:
            return
        for hosts, pieces in news.items():
            gained = tuple(link.Span(first, stop) for first, stop in spans(pieces))
            self._world.say(self.host, hosts, link.Gained(self.blob.digest, max(1, self.member.generation), gained))

    def holds(self) -> OnLink:
        """What to tell a neighbour that was just met."""
        return self.member.holds()

    # -- the origin ------------------------------------------------------------------------------------------------

    def want_slot(self, instruction: origin_side.WantSlot) -> None:
        self.later(0, origin_side.SlotGranted(instruction.source))

    def start_transfer(self, instruction: origin_side.StartTransfer) -> None:
        self.transfers[instruction.transfer] = None
        self._world.origin.open(self, instruction.transfer, instruction.first, instruction.stop)

    def stop_transfer(self, instruction: origin_side.StopTransfer) -> None:
        self.end_transfer(instruction.transfer, Outcome.BROKEN)

    def end_transfer(self, number: int, outcome: Outcome, status: int = 0) -> None:
        """A transfer from the origin has ended."""
        if number in self.transfers:
            self._world.origin.close(self, number)
            del self.transfers[number]
            self.later(0, origin_side.TransferEnded(number, outcome, status))

    # -- pieces ----------------------------------------------------------------------------------------------------

    def has_landed(self, transfer: int | None, index: int, digest: bytes) -> None:
        """A piece is in the store; with the last one, the SHA-256 is known."""
        held = self.host.store[self.blob.digest]
        if index not in held:
            held[index] = digest
            self.host.got(self.blob, index)
        self.feed(origin_side.PieceLanded(transfer, index, digest))
        if len(held) == self.blob.count and not self.over:
            ok = list(map(held.__getitem__, range(self.blob.count))) == self.blob.digests
            if not ok:
                self.host.lost(self.blob)
            self.feed(origin_side.BlobVerified(ok))

    def deliver(self, instruction: swarming.Deliver) -> None:
        if instruction.data == self.blob.data:
            self._world.timeline.after(0, self.has_landed, None, 0, right(0))

    def prepare(self, _: swarming.Prepare) -> None:
        self.later(0.001, swarming.Prepared())

    # -- words -----------------------------------------------------------------------------------------------------

    def tell(self, instruction: swarming.Tell) -> None:
        self._world.tell(self.host, instruction.message)

    def tell_content(self, _: swarming.TellContent) -> None:
        self._world.tell(self.host, Content(self.blob.digest, self.blob.data))

    def meet(self, instruction: swarming.Meet) -> None:
        self.host.meet(self.blob.digest, instruction.neighbour.host)

    def part(self, instruction: swarming.Part) -> None:
        self.host.part(self.blob.digest, instruction.host)

    # -- the end ---------------------------------------------------------------------------------------------------

    def give_up(self, instruction: swarming.GiveUp) -> None:
        self._given_up_for = instruction.reason
        if instruction.tainted:
            self.host.lost(self.blob)
        self.feed(origin_side.Stopped())

    def ended(self, instruction: origin_side.Ended) -> None:
        self.over = True
        for number in list(self.fetches):
            self._world.take_back(self, number)
        for number in list(self.transfers):
            self._world.origin.close(self, number)
        self.fetches.clear()
        self.transfers.clear()
        if instruction.phase is Phase.COMPLETE:
            self.host.completed(self.blob)
            return
        reason = self._given_up_for or instruction.phase.value
        stays = reason == DISPROVED and not self.host.store[self.blob.digest]
        self.host.failed(self.blob, reason, stays=stays, again_s=0.0 if stays else RETRY_S)


_CARRY_OUT: Final[dict[type, Callable[[Pull, Any], None]]] = {
    origin_side.WantSlot: Pull.want_slot,
    origin_side.ReturnSlot: lambda _, __: None,
    origin_side.StartTransfer: Pull.start_transfer,
    origin_side.StopTransfer: Pull.stop_transfer,
    origin_side.Ended: Pull.ended,
    swarming.Prepare: Pull.prepare,
    swarming.Fetch: Pull.fetch,
    swarming.StopFetch: Pull.stop_fetch,
    swarming.Tell: Pull.tell,
    swarming.TellContent: Pull.tell_content,
    swarming.TellNeighbours: Pull.tell_neighbours,
    swarming.Meet: Pull.meet,
    swarming.Part: Pull.part,
    swarming.Deliver: Pull.deliver,
    swarming.GiveUp: Pull.give_up,
}
