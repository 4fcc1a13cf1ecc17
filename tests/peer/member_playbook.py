"""A conversation with a member core as one assertion.

`Playbook() >> Joined(…) >> ("b", Bitfield(…)) << Fetch(…)` reads: the scheduler says Joined, neighbour b says what it
holds, and the member then, and not before, wants a piece fetched, and nothing else. Messages stand for themselves in
both directions. A playbook is true if each step gives the instructions that are written after it, in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, get_args

from peer.core.download import Download
from peer.core.member import Member
from peer.core.origin_events import (
    PieceLanded,
    ReaderMoved,
    SlotGranted,
    SourceAdded,
    StartTransfer,
    Tick,
    TransferOpened,
    WantSlot,
)
from peer.core.swarm_events import (
    AddNeighbour,
    Begun,
    Fetch,
    FromNeighbour,
    FromScheduler,
    Prepare,
    Prepared,
    Tell,
    TellNeighbours,
)
from scheduler.protocol import from_host, link, to_host
from scheduler.protocol.codec import FromHost, OnLink, ToHost
from scheduler.protocol.fields import DIGEST_BYTES

D = b"d" * DIGEST_BYTES
PIECE = 256 * 1024
SIZE = 4 * PIECE
"""Four pieces."""

PATIENCE_S = 3.0
WITHIN_S = 15.0
JOIN = from_host.Join(D, "docker.io", "library/app", SIZE)
WHOLE = link.Bitfield(D, 1, complete=True)


def digest(index: int) -> bytes:
    """The digest of a piece."""
    return bytes([index + 1]) * DIGEST_BYTES


def neighbour(host: str, distance: int = 0) -> to_host.Neighbour:
    return to_host.Neighbour(host, f"{host}:1", distance)


def joined(*hosts: str, size_bytes: int | None = SIZE, generation: int = 1) -> to_host.Joined:
    return to_host.Joined(D, generation, size_bytes, sealed=False, neighbours=tuple(map(neighbour, hosts)))


def digests(*indices: int, generation: int = 1) -> to_host.PieceDigests:
    return to_host.PieceDigests(D, generation, tuple(to_host.DigestRun(index, digest(index)) for index in indices))


def lease(number: int, first: int, stop: int, generation: int = 1) -> to_host.Lease:
    return to_host.Lease(number, D, generation, first, stop, WITHIN_S)


def holds(*indices: int, generation: int = 1) -> link.Bitfield:
    return link.Bitfield(D, generation, complete=False, have=bytes([sum(1 << index for index in indices)]))


def gained(hosts: tuple[str, ...], first: int, stop: int, generation: int = 1) -> TellNeighbours:
    return TellNeighbours(hosts, link.Have(D, generation, (link.Span(first, stop),)))


def progress(*indices: int, starving: bool = False, generation: int = 1) -> from_host.Progress:
    have = sum(1 << index for index in indices)
    return from_host.Progress(D, generation, have.to_bytes((have.bit_length() + 7) // 8, "little"), starving)


@dataclass(frozen=True)
class Passes:
    """Time passes, in which nobody says anything."""

    seconds: float


class Playbook:
    """Plays a conversation as it is written down, and compares."""

    def __init__(self) -> None:
        self.member = Member(Download(2, 60.0), D, "docker.io", "library/app", patience_s=PATIENCE_S)
        self.now = 100.0
        self._expected: list[object] = []
        self._got: list[object] = []
        self._transcript: list[str] = []
        self._mistakes = 0

    def __rshift__(self, step: Any) -> Self:
        self._compare()
        self._transcript.append(f">> {step}")
        match step:
            case Passes(seconds):
                until = self.now + seconds
                while (due := self.member.next_deadline()) is not None and due <= until:
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
        is_message = isinstance(instruction, get_args(FromHost)) and not isinstance(instruction, get_args(OnLink))
        self._expected.append(Tell(instruction) if is_message else instruction)
        return self

    def __bool__(self) -> bool:
        self._compare()
        assert not self._mistakes, "\n" + "\n".join(self._transcript)
        return True

    def _play(self, event: Any) -> None:
        self._got += self.member.handle(event, self.now)
        self.member.validate()

    def _compare(self) -> None:
        if self._got == self._expected:
            self._transcript += [f"   << {instruction}" for instruction in self._got]
        else:
            self._mistakes += 1
            self._transcript += [f" ! << {instruction}" for instruction in self._got]
            self._transcript += [f"      it should have been {instruction}" for instruction in self._expected]
        self._expected, self._got = [], []


def beginning() -> Playbook:
    """A download that has a source and a client, has joined, and waits for the scheduler's answer."""
    return (
        Playbook()
        >> SourceAdded(0)
        >> ReaderMoved(1, 0, None)
        >> Begun(connected=True, size_bytes=SIZE)
        << Prepare(SIZE)
        << JOIN
        >> Prepared()
    )


def with_neighbours(*hosts: str) -> Playbook:
    """A download that is in a swarm with these neighbours."""
    playbook = beginning() >> joined(*hosts)
    for host in hosts:
        playbook = playbook << AddNeighbour(neighbour(host))
    return playbook


def fetching() -> Playbook:
    """Pieces 0 and 1 are asked of b; c holds nothing."""
    return (
        with_neighbours("b", "c")
        >> digests(0, 1)
        >> ("b", holds(0, 1))
        << Fetch(0, "b", 0, digest(0))
        << Fetch(1, "b", 1, digest(1))
    )


def leased() -> Playbook:
    """Pieces 0 and 1 are leased, and the origin sends them."""
    return (
        with_neighbours("b")
        >> lease(7, 0, 2)
        << WantSlot(0)
        >> SlotGranted(0)
        << StartTransfer(0, 0, 0, 2)
        >> TransferOpened(0, SIZE, PIECE, 0, 2)
    )


def whole() -> Playbook:
    """All four pieces came from the origin under a lease."""
    playbook = (
        with_neighbours("b")
        >> lease(7, 0, 4)
        << WantSlot(0)
        >> SlotGranted(0)
        << StartTransfer(0, 0, 0, 4)
        >> TransferOpened(0, SIZE, PIECE, 0, 4)
    )
    for index in range(4):
        playbook = (
            playbook
            >> PieceLanded(0, index, digest(index))
            << from_host.LeasePieces(7, D, index, digest(index))
            << gained(("b",), index, index + 1)
        )
    return playbook
