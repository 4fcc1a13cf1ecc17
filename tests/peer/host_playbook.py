"""A conversation with the machine of a host as one assertion.

`Playbook() >> joined("b") >> ("b", holds(0)) << asked(0, "b", 0)` reads: the scheduler says Joined, neighbour b says
what it holds, and the host then, and not before, asks b for a piece, and does nothing else. Messages stand for
themselves in both directions; a list stands for all that is in it, in that order. A playbook is true if each step gives
the instructions that are written after it, in that order. The machine's invariants are checked after each event.

Most conversations are about one blob, `D`; `E` is a second one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, get_args

from peer.core.download import Download
from peer.core.events import (
    FromNeighbour,
    FromScheduler,
    Instruction,
    KeepLink,
    Outcome,
    PeerOutcome,
    PieceFailed,
    PieceReceived,
    PiecesHeld,
    Prepare,
    Prepared,
    RangeEnded,
    RangeOpened,
    ReaderMoved,
    Recover,
    ReleaseLink,
    RequestPiece,
    RequestRange,
    SchedulerFound,
    SchedulerLost,
    SourceAdded,
    Tell,
    TellNeighbours,
    Tick,
)
from peer.core.host import HostMachine, HostSettings
from peer.core.piece_sets import bitfield
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FromHost, OnLink, ToHost
from scheduler.protocol.fields import DIGEST_BYTES
from tests.peer.lanes import Wide

D = b"d" * DIGEST_BYTES
E = b"e" * DIGEST_BYTES
PIECE = 256 * 1024
SIZE = 4 * PIECE
"""Four pieces."""

SCHEDULER_TIMEOUT_S = 3.0
WITHIN_S = 15.0
SETTINGS = HostSettings(max_ranges_per_blob=2, linger_s=60.0, scheduler_timeout_s=SCHEDULER_TIMEOUT_S)
JOIN = from_host.Join(D, "docker.io", "library/app", SIZE)
WHOLE = link.Bitfield(D, 1, complete=True)


def digest(index: int) -> bytes:
    """The digest of a piece."""
    return bytes([index + 1]) * DIGEST_BYTES


# -- what happens ------------------------------------------------------------------------------------------------------


def source(
    number: int = 0, size_bytes: int | None = SIZE, *, blob: bytes = D, upstream: str = "docker.io"
) -> SourceAdded:
    """A client brings a way to get the blob."""
    return SourceAdded(blob, number, upstream, "library/app", size_bytes)


def received(request: int, index: int, *, choked: bool = False, blob: bytes = D) -> PieceReceived:
    return PieceReceived(blob, request, index, digest(index), choked)


def failed(request: int, outcome: PeerOutcome) -> PieceFailed:
    return PieceFailed(D, request, outcome)


def opened(request: int, first: int, stop: int, *, size_bytes: int = SIZE, blob: bytes = D) -> RangeOpened:
    return RangeOpened(blob, request, size_bytes, PIECE, first, stop)


def range_ended(request: int, outcome: Outcome, status: int = 0, *, blob: bytes = D) -> RangeEnded:
    return RangeEnded(blob, request, outcome, status)


def neighbour(host: str, distance: int = 0) -> to_host.Neighbour:
    return to_host.Neighbour(host, f"{host}:1", distance)


def joined(*hosts: str, size_bytes: int | None = SIZE, generation: int = 1, blob: bytes = D) -> to_host.Joined:
    return to_host.Joined(blob, generation, size_bytes, sealed=False, neighbours=tuple(map(neighbour, hosts)))


def digests(*indices: int, generation: int = 1) -> to_host.PieceDigests:
    return to_host.PieceDigests(D, generation, tuple(to_host.DigestRun(index, digest(index)) for index in indices))


def lease(number: int, first: int, stop: int, generation: int = 1) -> to_host.Lease:
    return to_host.Lease(number, D, generation, first, stop, WITHIN_S)


def holds(*indices: int, generation: int = 1) -> link.Bitfield:
    return link.Bitfield(D, generation, complete=False, have=bitfield(sum(1 << index for index in indices)))


# -- what the host does ------------------------------------------------------------------------------------------------


def asked(request: int, host: str, index: int) -> RequestPiece:
    """A neighbour is asked for a piece."""
    return RequestPiece(D, request, host, index, digest(index))


def asked_origin(request: int, first: int, stop: int | None, *, of: int = 0, blob: bytes = D) -> RequestRange:
    """The origin is asked for pieces, by source `of`."""
    return RequestRange(blob, request, of, first, stop)


def told(host: str, *indices: int, generation: int = 1) -> TellNeighbours:
    """A neighbour is told all that is held here."""
    return TellNeighbours((host,), holds(*indices, generation=generation))


def met(host: str, *indices: int) -> list[Instruction]:
    """A neighbour is new: there is to be a link to it, and it is told what is held here."""
    return [KeepLink(host, f"{host}:1"), told(host, *indices)]


def left(*hosts: str) -> list[Instruction]:
    """The blob is taken back from the scheduler, and from these neighbours, whose links nothing else needs."""
    dropped: list[Instruction] = [TellNeighbours(hosts, link.DontHave(D))] if hosts else []
    return [Tell(from_host.Leave(D)), *dropped, *map(ReleaseLink, hosts)]


def gained(hosts: tuple[str, ...], first: int, stop: int, generation: int = 1) -> TellNeighbours:
    return TellNeighbours(hosts, link.Have(D, generation, (link.Span(first, stop),)))


def progress(*indices: int, starving: bool = False, generation: int = 1) -> from_host.Progress:
    return from_host.Progress(D, generation, bitfield(sum(1 << index for index in indices)), starving)


# -- the conversation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passes:
    """Time passes, in which nobody says anything."""

    seconds: float


class Playbook:
    """Plays a conversation as it is written down, and compares. The host is `connected` to a scheduler."""

    def __init__(self, settings: HostSettings = SETTINGS, *, connected: bool = True) -> None:
        self.machine = HostMachine(settings)
        self.machine.lanes = Wide(self.machine.slots.used())
        self.now = 100.0
        self._expected: list[object] = []
        self._got: list[object] = []
        self._transcript: list[str] = []
        self._mistakes = 0
        if settings.has_scheduler:
            self._play(SchedulerLost())
            if connected:
                self._play(SchedulerFound())

    def __rshift__(self, step: Any) -> Self:
        self._compare()
        self._transcript.append(f">> {step}")
        match step:
            case Passes(seconds):
                until = self.now + seconds
                while (due := self.machine.next_deadline()) <= until:
                    assert due > self.now, "what is due was not seen to"
                    self.now = due
                    self._play(Tick())
                self.now = until
            case (host, message):
                self._play(FromNeighbour(host, message))
            case message if isinstance(message, get_args(ToHost)):
                self._play(FromScheduler(message))
            case event:
                self._play(event)
        return self

    def __lshift__(self, instruction: Any) -> Self:
        for each in instruction if isinstance(instruction, list) else [instruction]:
            is_message = isinstance(each, get_args(FromHost)) and not isinstance(each, get_args(OnLink))
            self._expected.append(Tell(each) if is_message else each)
        return self

    def __bool__(self) -> bool:
        self._compare()
        assert not self._mistakes, "\n" + "\n".join(self._transcript)
        return True

    @property
    def download(self) -> Download:
        """The download of `D`, which is under way."""
        return self.machine.downloads[D]

    def _play(self, event: Any) -> None:
        self._got += self.machine.handle(event, self.now)
        self.machine.validate()

    def _compare(self) -> None:
        if self._got == self._expected:
            self._transcript += [f"   << {instruction}" for instruction in self._got]
        else:
            self._mistakes += 1
            self._transcript += [f" ! << {instruction}" for instruction in self._got]
            self._transcript += [f"      it should have been {instruction}" for instruction in self._expected]
        self._expected, self._got = [], []


def beginning(playbook: Playbook | None = None) -> Playbook:
    """A download that has a source and a client, has joined, and waits for the scheduler's answer."""
    return (
        (playbook or Playbook())
        >> source()
        << Recover(D)
        >> ReaderMoved(D, 1, 0, None)
        >> PiecesHeld(D)
        << Prepare(D, SIZE)
        << JOIN
        >> Prepared(D)
    )


def greeted(playbook: Playbook, *hosts: str) -> Playbook:
    """These neighbours have said that they hold nothing yet, and each has been answered."""
    for host in hosts:
        playbook = playbook >> (host, holds()) << told(host)
    return playbook


def with_neighbours(*hosts: str) -> Playbook:
    """A download that is in a swarm with these neighbours."""
    playbook = beginning() >> joined(*hosts)
    for host in hosts:
        playbook = playbook << met(host)
    return greeted(playbook, *hosts)


def fetching() -> Playbook:
    """Pieces 0 and 1 are asked of b; c holds nothing."""
    return with_neighbours("b", "c") >> digests(0, 1) >> ("b", holds(0, 1)) << asked(0, "b", 0) << asked(1, "b", 1)


def leased() -> Playbook:
    """Pieces 0 and 1 are leased, and the origin sends them."""
    return with_neighbours("b") >> lease(7, 0, 2) << asked_origin(0, 0, 2) >> opened(0, 0, 2)


def whole() -> Playbook:
    """All four pieces came from the origin under a lease."""
    playbook = with_neighbours("b") >> lease(7, 0, 4) << asked_origin(0, 0, 4) >> opened(0, 0, 4)
    for index in range(4):
        published = from_host.LeasePieces(7, D, index, digest(index))
        playbook = playbook >> received(0, index) << published << gained(("b",), index, index + 1)
    return playbook
