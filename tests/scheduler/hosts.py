"""A cluster of hosts that do what the protocol asks of them, around a real scheduler core. One of them may lie."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from scheduler.core.events import Close, Connected, Event, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import FromHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import DigestReport, Disproved, Hello, Join, LeasePieces, Length, Sealed
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.protocol.to_host import Failed, Joined, Lease, OriginRefused, PieceDigests, RequestDigests, Reset, Sized

BLOB = b"d" * 32
SIZE = 3 << 20
COUNT = piece_count(SIZE, piece_length(SIZE))


def right(piece: int) -> bytes:
    """The true digest of a piece."""
    return bytes([piece + 1]) * DIGEST_BYTES


@dataclass
class SimulatedHost:
    """An honest host. It gets each piece as soon as it knows its digest, and the bytes that it gets match it."""

    name: str
    knows_size: bool = True
    generation: int = 1
    expected: dict[int, bytes] = field(default_factory=dict)
    fetched: int = 0
    outcome: str = ""

    def joins(self) -> list[FromHost]:
        return [Join(BLOB, "docker.io", "library/app", SIZE if self.knows_size else None)]

    def told(self, message: Any) -> list[FromHost]:
        """What the host says to a message."""
        match message:
            case Joined() | Sized():
                self.generation = message.generation
            case Reset():
                self.generation = message.generation
                self.expected.clear()
            case Lease():
                return self.fetches(message)
            case PieceDigests():
                for run in message.runs:
                    for at in range(0, len(run.digests), DIGEST_BYTES):
                        self.expected[run.first + at // DIGEST_BYTES] = run.digests[at : at + DIGEST_BYTES]
                return self.checks()
            case RequestDigests():
                held = b"".join(map(self.digest, range(COUNT)))
                return [DigestReport(BLOB, 0, held if self.outcome == "sealed" else b"", last=True)]
            case Failed() | OriginRefused():
                self.outcome = "failed"
        return []

    def fetches(self, lease: Lease) -> list[FromHost]:
        pieces = range(lease.first, min(lease.stop, COUNT))
        self.fetched += len(pieces)
        length: list[FromHost] = [] if self.knows_size else [Length(lease.lease, BLOB, self.size())]
        return length + [LeasePieces(lease.lease, BLOB, piece, self.digest(piece)) for piece in pieces]

    def checks(self) -> list[FromHost]:
        if len(self.expected) < COUNT or self.outcome == "sealed":
            return []
        if all(self.expected[piece] == right(piece) for piece in range(COUNT)):
            self.outcome = "sealed"
            return [Sealed(BLOB, self.generation)]
        return [Disproved(BLOB, self.generation)]

    def digest(self, piece: int) -> bytes:
        return right(piece)

    def size(self) -> int:
        return SIZE


class SimulatedCluster:
    """Delivers the messages of each host in order, and those of different hosts in any order."""

    def __init__(self, hosts: list[SimulatedHost], seed: int) -> None:
        self.scheduler = Scheduler(
            SchedulerSettings(
                seed=seed,
                lease_pieces=2,
                leases_per_host=2,
                leases_per_blob=4,
                orphan_s=1e6,
                settle_s=0.0,
                quorum_s=0.5,
            )
        )
        self.hosts = dict(enumerate(hosts, 1))
        self.closed: dict[str, Closing] = {}
        self.now = 1.0
        self._random = random.Random(seed)
        self._waiting: dict[int, list[FromHost]] = {number: host.joins() for number, host in self.hosts.items()}
        for number, host in self.hosts.items():
            self._tell(Connected(number, Hello(host.name, 1, 1, f"{host.name}:1")))

    def run(self) -> None:
        """Deliver all messages, with a little time after each, until nobody has anything to say for a second."""
        idle_at = self.now
        while self.now < idle_at + 1:
            ready = [number for number, messages in self._waiting.items() if messages]
            if ready:
                number = self._random.choice(ready)
                self._tell(Received(number, self._waiting[number].pop(0)))
                idle_at = self.now
            self.now += 0.001 if ready else 0.1
            self._tell(Tick())

    def _tell(self, event: Event) -> None:
        for instruction in self.scheduler.handle(event, self.now):
            if isinstance(instruction, Close):
                self.closed[self.hosts[instruction.connection].name] = instruction.closing
                self._waiting[instruction.connection] = []
            elif isinstance(instruction, Send):
                for number in instruction.connections:
                    host = self.hosts[number]
                    if host.name not in self.closed:
                        self._waiting[number] += host.told(instruction.message)
        self.scheduler.validate()
