"""A few hosts with certificates enter the swarm of a host that pulls a blob alone, and outvote it."""

from __future__ import annotations

import pytest

from scheduler.core.events import Connected, Event, Received, Send, Tick
from scheduler.core.piece_map import MapState
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import FromHost
from scheduler.protocol.from_host import Announce, DigestReport, Hello, Holding, Join, LeasePieces, Sealed
from scheduler.protocol.to_host import Lease, RequestDigests
from tests.scheduler.hosts import BLOB, COUNT, SIZE, right

HONEST = 1
WRONG = b"\xff" * 32


class Cluster:
    """All hosts have certificates. Host 1 is honest, and `liars` say the same wrong digests."""

    def __init__(self, hosts: int, liars: int) -> None:
        self.core = Scheduler(SchedulerSettings(settle_s=0.0))
        self.now = 1.0
        self._liars = range(HONEST + 1, HONEST + 1 + liars)
        for host in range(1, hosts + 1):
            self._tell(Connected(host, Hello(f"h{host}", 1, 1, f"h{host}:1"), certified=True))
        self._say(HONEST, Join(BLOB, "docker.io", "library/app", SIZE))
        for host in self._liars:
            self._say(host, Announce((Holding(BLOB, SIZE, complete=True),)))
        for _ in range(10):
            self.now += 1.0
            self._tell(Tick())
        for host in self._liars:
            self._say(host, Sealed(BLOB, self.core._state.swarms[BLOB].generation))

    @property
    def quarantined(self) -> int:
        return self.core.statistics().quarantined

    def _say(self, host: int, message: FromHost) -> None:
        self._tell(Received(host, message))

    def _tell(self, event: Event) -> None:
        for each in self.core.handle(event, self.now):
            if isinstance(each, Send):
                for host in each.connections:
                    self._answer(host, each.message)

    def _answer(self, host: int, message: object) -> None:
        match message:
            case RequestDigests() if host in self._liars:
                self._say(host, DigestReport(BLOB, 0, WRONG * COUNT, last=True))
            case Lease() if message.generation > 1 or message.first == 0:  # before that the liars come
                for piece in range(message.first, min(message.stop, COUNT)):
                    digest = WRONG if host in self._liars else right(piece)
                    self._say(host, LeasePieces(message.lease, BLOB, piece, digest))


@pytest.mark.parametrize("liars", [2, 3, 10])
def test_it_is_not_quarantined(liars: int) -> None:
    cluster = Cluster(100, liars)
    piece_map = cluster.core._state.swarms[BLOB].map
    assert piece_map is not None
    assert piece_map.state is MapState.PROVEN
    assert piece_map.digest(0) == WRONG, "they have outvoted it: its client is served from the origin"
    assert cluster.quarantined == 0
    assert not cluster.core._state.credit, "and they are checked as before"


def test_a_tenth_of_a_cluster_can_do_that() -> None:
    assert Cluster(100, 11).quarantined == 1
