"""The floor of a join: the scheduler's own shell around a core that decides nothing, as a process of its own.

Rules:
1. It has the same frames in and out as a join of `benchmarks.scheduler.command`: a Joined with `LINKS` neighbours and
   the digests of all pieces to the newcomer, and a Neighbours to each of `LINKS` other hosts. All are encoded anew.
2. There are no swarms, links, leases, deadlines or counts. Which hosts hear of a newcomer is drawn, so that the kernel
   writes to as many connections as for a scheduler.
"""

from __future__ import annotations

import random
import sys
from typing import Final

import uvloop

from benchmarks.scheduler.load_hosts import PIECES, SIZE_BYTES
from scheduler.core.events import Connected, Event, Instruction, Received, Send
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Join
from scheduler.protocol.to_host import DigestRun, Joined, Neighbour, Neighbours, PieceDigests, Welcome
from scheduler.shell.server import SchedulerServer

LINKS: Final = 10
"""`SchedulerSettings.degree`."""

BLOB: Final = bytes(DIGEST_BYTES)
NEIGHBOURS: Final = tuple(Neighbour(f"host-{number}", f"host-{number}:1", 0) for number in range(1000, 1000 + LINKS))
WELCOME: Final = Welcome(1, (), 10.0)
JOINED: Final = Joined(BLOB, 1, SIZE_BYTES, False, NEIGHBOURS)
DIGESTS: Final = PieceDigests(BLOB, 1, (DigestRun(0, bytes(DIGEST_BYTES * PIECES)),))
CHANGED: Final = Neighbours(BLOB, NEIGHBOURS[:1], (NEIGHBOURS[1].host,))


class BareCore:
    """Answers a Hello and a Join, and nothing else."""

    def __init__(self) -> None:
        self._connections: list[int] = []
        self._draw = random.Random(0)

    def handle(self, event: Event, _: float) -> list[Instruction]:
        if isinstance(event, Connected):
            self._connections.append(event.connection)
            return [Send((event.connection,), WELCOME)]
        if isinstance(event, Received) and isinstance(event.message, Join):
            to = (event.connection,)
            told = [Send((other,), CHANGED) for other in self._draw.choices(self._connections, k=LINKS)]
            return [Send(to, JOINED), Send(to, DIGESTS), *told]
        return []

    def next_deadline(self) -> float | None:
        return None


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    uvloop.run(SchedulerServer(BareCore()).serve(host, int(port)))
