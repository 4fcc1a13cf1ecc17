"""A scheduler with a crowd of hosts that pull, without connections: for what shows a cluster."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from scheduler.core.events import Connected, Disconnected, Instruction, Received, Send
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import Fault, Hello, Join, LeasePieces, NeighbourFailed, Progress, Sealed
from scheduler.protocol.geometry import piece_count, piece_length
from scheduler.protocol.to_host import Joined, Lease, Neighbours

BLOB: Final = hashlib.sha256(b"crowd").digest()
SIZE_BYTES: Final = 256 * 1024 * 1024
PIECES: Final = piece_count(SIZE_BYTES, piece_length(SIZE_BYTES))
REPOSITORY: Final = "library/app"


@dataclass
class Crowd:
    """Its hosts are `host-0` and so on, with these connections from 1 on. `now` is by the scheduler's clock."""

    scheduler: Scheduler = field(default_factory=lambda: Scheduler(SchedulerSettings(settle_s=0.0)))
    now: float = 1000.0
    leases: list[tuple[int, Lease]] = field(default_factory=list)
    neighbours: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """What each host was told of neighbours, as far as they were added."""

    def connect(self, count: int, *, sites: int = 1, zones: int = 1, version: str = "1.2.3") -> None:
        """Connect hosts, spread over sites and zones."""
        for number in range(count):
            hello = Hello(
                f"host-{number}",
                1,
                1,
                f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:65002",
                site=f"site-{number % sites}",
                zone=f"zone-{number // sites % zones}",
                rack=f"r{number % 7}",
                software=version,
            )
            self._take(self.scheduler.handle(Connected(number + 1, hello, certified=True), self.now))

    def say(self, host: int, message: object) -> None:
        """Have `host-<host>` say something."""
        self._take(self.scheduler.handle(Received(host + 1, message), self.now))  # type: ignore[arg-type]

    def leave(self, host: int) -> None:
        """Break its connection."""
        self._take(self.scheduler.handle(Disconnected(host + 1), self.now))

    def join(self, hosts: Iterable[int], repository: str = REPOSITORY, digest: bytes = BLOB) -> None:
        """Have hosts want the blob."""
        for host in hosts:
            self.say(host, Join(digest, "docker.io", repository, SIZE_BYTES))

    def progress(self, hosts: Iterable[int], pieces: int, digest: bytes = BLOB) -> None:
        """Have hosts hold the first pieces."""
        have = ((1 << pieces) - 1).to_bytes(PIECES // 8 + 1, "little")
        for host in hosts:
            self.say(host, Progress(digest, 1, have))

    def fetch(self, most: int = PIECES) -> int:
        """Have hosts fetch what they have leases for, up to so many leases; returns how many pieces came."""
        pieces = 0
        while self.leases and most:
            host, lease = self.leases.pop(0)
            most -= 1
            for piece in range(lease.first, min(lease.stop, PIECES)):
                digest = hashlib.sha256(bytes([piece])).digest()
                self.say(host, LeasePieces(lease.lease, lease.digest, piece, digest))
                pieces += 1
        return pieces

    def finish(self, hosts: Iterable[int], *, far_bytes: int = 0, digest: bytes = BLOB) -> None:
        """Have hosts hold the whole blob."""
        for host in hosts:
            self.say(host, Sealed(digest, 1, 0, far_bytes))

    def lose(self, host: int) -> None:
        """A neighbour of the host says that it cannot reach it."""
        reporter = next(number for number, others in self.neighbours.items() if f"host-{host}" in others)
        self.say(reporter, NeighbourFailed(BLOB, f"host-{host}", Fault.GONE))

    def _take(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            if not isinstance(each, Send):
                continue
            for connection in each.connections:
                if isinstance(each.message, Lease):
                    self.leases.append((connection - 1, each.message))
                elif isinstance(each.message, Neighbours):
                    self.neighbours[connection - 1].update(other.host for other in each.message.add)
                    self.neighbours[connection - 1].difference_update(each.message.remove)
                elif isinstance(each.message, Joined):
                    self.neighbours[connection - 1].update(other.host for other in each.message.neighbours)
