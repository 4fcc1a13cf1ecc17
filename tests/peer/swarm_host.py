"""One host of the simulated swarm (`tests.peer.swarm_model`): its member core, and what a shell keeps for it.

It carries out what the member says, as `peer.downloads` and `peer.swarm` do, and has the faults that its flags say.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

from peer.core import download as origin_side
from peer.core import swarm_events as swarming
from peer.core.download import Download, Outcome, Phase
from peer.core.member import DISPROVED, Member
from peer.core.piece_sets import digest_runs
from peer.core.swarm_events import FetchEnded, FetchOutcome
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FromHost, OnLink, ToHost
from scheduler.protocol.content import Content
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.geometry import piece_length

TINY = b"tiny"
BLOB = hashlib.sha256(TINY).digest()
"""The blob's digest, whatever its length; it is right where the scheduler checks it."""

PATIENCE_S = 3.0
ASKS_AGAIN_S = 0.5
"""How soon a client comes back after a download has failed."""


def right(index: int) -> bytes:
    """The digest of the true bytes of a piece, which stands for them."""
    return index.to_bytes(DIGEST_BYTES, "big")


def wrong(index: int) -> bytes:
    """The digest of other bytes."""
    return b"\xff" * (DIGEST_BYTES - 4) + index.to_bytes(4, "big")


class World(Protocol):
    """What is around a host."""

    now: float
    size_bytes: int
    count: int

    def after(self, seconds: float, action: Callable[[], None]) -> None: ...

    def tell(self, host: Host, message: FromHost) -> None: ...

    def say(self, host: Host, name: str, message: OnLink) -> None: ...

    def open_transfer(self, host: Host, number: int, first: int, stop: int | None) -> None: ...

    def ask(self, host: Host, fetch: swarming.Fetch) -> None: ...

    def note(self, host: Host, instruction: swarming.Instruction) -> None: ...


class Host:
    """`corrupts`: sends other bytes than it holds. `lies`: believes in other bytes than the origin has. `refused`: the
    origin's status for it. `claims`: says that it holds pieces, and serves none. `slow`: times that an upload takes.
    `late_s`: when its client asks for the blob, after the others."""

    def __init__(
        self,
        name: str,
        *,
        corrupts: bool = False,
        lies: bool = False,
        claims: bool = False,
        refused: int = 0,
        slow: float = 1.0,
        late_s: float = 0.0,
        knows_size: bool = True,
        upload_slots: int = 4,
    ) -> None:
        self.name = name
        self.corrupts, self.lies, self.claims, self.refused, self.slow = corrupts, lies, claims, refused, slow
        self.knows_size, self.upload_slots, self.late_s = knows_size, upload_slots, late_s
        self.alive, self.whole, self.outcome = True, False, ""
        self.connection = 0
        self.uploads = 0
        self.pulls = 0
        self.contents: dict[int, bytes] = {}
        self.member: Member | None = None
        self.fetches: dict[int, swarming.Fetch] = {}
        self.transfers: set[int] = set()
        self.met: dict[str, bool] = {}
        """Its neighbours, and whether each has been answered."""
        self.asked: Counter[tuple[int, int]] = Counter()
        """How often each pull asked a neighbour for each piece."""
        self.landed: Counter[tuple[int, int]] = Counter()
        """How often each pull got each piece from a neighbour."""
        self._world: World
        self._ticks_at: float | None = None

    def enter(self, world: World) -> None:
        self._world = world

    def pull(self) -> None:
        """A client asks for the blob."""
        if not self.alive or self.whole or self.member is not None:
            return
        world = self._world
        self.pulls += 1
        member = self.member = Member(Download(4, 60.0), BLOB, "docker.io", "library/app", patience_s=PATIENCE_S)
        self.feed(origin_side.SourceAdded(0))
        self.feed(origin_side.ReaderMoved(1, 0, None))
        if self.contents:
            member.download.learn_geometry(world.size_bytes, piece_length(world.size_bytes))
            for index, digest in self.contents.items():
                self.feed(origin_side.PieceLanded(None, index, digest))
            self.feed(swarming.Prepared())
        self.feed(swarming.Begun(bool(self.connection), world.size_bytes if self.knows_size else None))

    def feed(self, event: swarming.Event) -> None:
        """Give an event to the member, and carry out what it says."""
        member = self.member
        if member is None or not self.alive:
            return
        instructions = member.handle(event, self._world.now)
        member.validate()
        for instruction in instructions:
            self._world.note(self, instruction)
            self._carry_out(instruction)
        due = None if member.is_over() else member.next_deadline()
        if due is not None and due != self._ticks_at:
            self._ticks_at = due
            self._world.after(due - self._world.now, partial(self._tick, member, due))

    def within(self, action: Callable[[], None]) -> Callable[[], None]:
        """The action, as long as this pull is under way: what comes for an earlier one is too late."""
        pull = self.pulls
        return lambda: action() if pull == self.pulls and self.member is not None else None

    def later(self, seconds: float, event: swarming.Event) -> None:
        """Give an event to the member of this pull."""
        self._world.after(seconds, self.within(partial(self.feed, event)))

    def _tick(self, member: Member, due: float) -> None:
        if self.member is member and self._ticks_at == due:
            self._ticks_at = None
            self.feed(origin_side.Tick())

    def _carry_out(self, instruction: swarming.Instruction) -> None:
        world = self._world
        match instruction:
            case origin_side.WantSlot(source):
                self.later(0, origin_side.SlotGranted(source))
            case origin_side.StartTransfer(number, _, first, stop):
                self.transfers.add(number)
                world.open_transfer(self, number, first, stop)
            case origin_side.StopTransfer(number):
                self.end_transfer(number, Outcome.BROKEN)
            case origin_side.Ended(phase):
                self._ended(phase)
            case swarming.Prepare():
                self.later(0.001, swarming.Prepared())
            case swarming.Fetch(number, _, index):
                assert index not in self.contents, "a piece is asked for that is held"
                self.fetches[number] = instruction
                self.asked[self.pulls, index] += 1
                world.ask(self, instruction)
            case swarming.StopFetch(number):
                assert number in self.fetches
                world.after(0, self.within(partial(self.end_fetch, number, FetchOutcome.STOPPED)))
            case _:
                self._say(instruction)

    def _say(self, instruction: swarming.Instruction) -> None:
        world = self._world
        match instruction:
            case swarming.Tell(message):
                world.tell(self, message)
            case swarming.TellContent():
                world.tell(self, Content(BLOB, TINY))
            case swarming.TellNeighbours(names, message):
                for name in names:
                    world.say(self, name, message)
            case swarming.Meet(neighbour):
                self._meet(neighbour.host)
            case swarming.Part(name):
                self.met.pop(name, None)
            case swarming.Deliver(data):
                assert data == TINY
                world.after(0, self.within(partial(self.has_landed, None, 0, right(0))))
            case swarming.GiveUp(reason, _, tainted):
                self.outcome = reason
                if tainted:
                    self.contents.clear()
                self.feed(origin_side.Stopped())

    def _ended(self, phase: Phase) -> None:
        self.member, self._ticks_at = None, None
        self.fetches.clear()
        self.transfers.clear()
        if phase is Phase.COMPLETE:
            self.whole = True
            return
        self.outcome = self.outcome or phase.value
        if self.outcome == DISPROVED and not self.contents:
            self.pull()  # it stays in the swarm: else nobody might be left of whom is known who said what
            return
        self._world.tell(self, from_host.Leave(BLOB))
        for name in self.met:
            self._world.say(self, name, link.Dropped(BLOB))
        self.met.clear()
        self._world.after(ASKS_AGAIN_S, self.pull)

    def has_landed(self, transfer: int | None, index: int, digest: bytes) -> None:
        """A piece is in the store; with the last one, the SHA-256 is known."""
        self.contents.setdefault(index, digest)
        self.feed(origin_side.PieceLanded(transfer, index, digest))
        if len(self.contents) == self._world.count:
            ok = all(digest == right(index) for index, digest in self.contents.items())
            if not ok:
                self.contents.clear()
            self.feed(origin_side.BlobVerified(ok))

    def end_transfer(self, number: int, outcome: Outcome, status: int = 0) -> None:
        """A transfer from the origin has ended."""
        if number in self.transfers:
            self.transfers.discard(number)
            self.later(0, origin_side.TransferEnded(number, outcome, status))

    def end_fetch(self, number: int, outcome: FetchOutcome) -> None:
        """A request to a neighbour has ended."""
        if self.fetches.pop(number, None) is not None:
            self.feed(FetchEnded(number, outcome))

    # -- what others ask and say -----------------------------------------------------------------------------------

    def serves(self, index: int) -> bool:
        """Whether a neighbour may have this piece."""
        start, length = index * piece_length(self._world.size_bytes), piece_length(self._world.size_bytes)
        served = self.member and self.member.may_serve(start, min(start + length, self._world.size_bytes))
        return not self.claims and (self.whole or bool(served))

    def holding(self) -> from_host.Holding | None:
        """What it announces when it connects, beside what its member does."""
        whole = self.whole or self.claims
        return from_host.Holding(BLOB, self._world.size_bytes, complete=True) if whole else None

    def hears(self, name: str, message: OnLink) -> None:
        """A message from a neighbour. The first that says what that one holds is answered."""
        self.feed(swarming.FromNeighbour(name, message))
        if isinstance(message, link.Holds) and self.met.get(name) is False:
            self.met[name] = True
            self._introduce(name)

    def is_told(self, message: ToHost) -> None:
        """A message from the scheduler: for the member, or about a blob that is held whole."""
        if self.member is not None:
            self.feed(swarming.FromScheduler(message))
        elif isinstance(message, to_host.Neighbours):
            for name in message.remove:
                self.met.pop(name, None)
            for neighbour in message.add:
                self._meet(neighbour.host)
        elif isinstance(message, to_host.Lease):
            self._world.tell(self, from_host.LeaseEnded(message.lease, BLOB, from_host.LeaseOutcome.RETURNED))
        elif isinstance(message, to_host.Recall):
            runs = list(digest_runs(self.contents)) or [(0, b"")]
            for number, (first, digests) in enumerate(runs, 1):
                self._world.tell(self, from_host.Recalled(BLOB, first, digests, last=number == len(runs)))

    def _meet(self, name: str) -> None:
        self.met[name] = False
        self._introduce(name)

    def _introduce(self, name: str) -> None:
        if self.whole or self.claims:
            self._world.say(self, name, link.Holds(BLOB, 1, complete=True))
        elif self.member is not None:
            self._world.say(self, name, self.member.holds())
