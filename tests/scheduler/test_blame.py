"""One host lies in one way or another: it is found out, nobody else is blamed, and everybody gets the right blob."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from scheduler.protocol.codec import FromHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Corrupt, Disproved, Join, Sealed
from scheduler.protocol.to_host import Neighbours
from tests.scheduler.hosts import BLOB, COUNT, SIZE, SimulatedCluster, SimulatedHost, right

SEEDS = range(6)


class LiesAboutPieces(SimulatedHost):
    """Publishes wrong digests under its leases."""

    def digest(self, piece: int) -> bytes:
        return bytes([0xFF - piece]) * DIGEST_BYTES


@dataclass
class LiesAboutEverySecondPiece(SimulatedHost):
    """Publishes wrong digests of every second piece that it tells of, and says that the blob is right nevertheless."""

    lies_about: dict[int, bool] = field(default_factory=dict)

    def digest(self, piece: int) -> bytes:
        lies = self.lies_about.setdefault(piece, len(self.lies_about) % 2 == 0)
        return b"\xff" * DIGEST_BYTES if lies else right(piece)

    def checks(self) -> list[FromHost]:
        if len(self.expected) < COUNT:
            return []
        self.outcome = "sealed"
        return [Sealed(BLOB, self.generation)]


class AccusesFalsely(SimulatedHost):
    """Says that the SHA-256 is wrong whenever it can."""

    def checks(self) -> list[FromHost]:
        return [Disproved(BLOB, self.generation)] if len(self.expected) == COUNT else []


class LiesAndAccuses(LiesAboutPieces, AccusesFalsely):
    """Both."""


class LiesAboutTheLength(SimulatedHost):
    """Has it from a manifest of its own."""

    def joins(self) -> list[FromHost]:
        return [Join(BLOB, "docker.io", "library/app", SIZE + (1 << 20))]


class ReportsEverybody(SimulatedHost):
    """Says of every neighbour that it sends corrupt pieces, again and again."""

    def told(self, message: object) -> list[FromHost]:
        replies = super().told(message)
        if isinstance(message, Neighbours):
            replies += [Corrupt(BLOB, self.generation, 0, neighbour.host) for neighbour in message.add] * 4
        return replies


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [4, 9, 30])
@pytest.mark.parametrize(
    "liar",
    [LiesAboutPieces, LiesAboutEverySecondPiece, AccusesFalsely, LiesAndAccuses, LiesAboutTheLength, ReportsEverybody],
)
def test_one_liar_harms_nobody_but_itself(liar: type[SimulatedHost], size: int, seed: int) -> None:
    honest = [SimulatedHost(f"h{number}") for number in range(size - 1)]
    hosts = [*honest]
    hosts.insert(seed % size, liar("liar"))
    cluster = SimulatedCluster(hosts, seed)
    cluster.run()
    assert set(cluster.closed) <= {"liar"}
    assert [host.outcome for host in honest] == ["sealed"] * len(honest)
    assert sum(host.fetched for host in cluster.hosts.values()) <= 3 * COUNT + 8


@pytest.mark.parametrize("liar", [LiesAboutPieces, LiesAboutEverySecondPiece, AccusesFalsely, LiesAndAccuses])
def test_the_liar_is_quarantined(liar: type[SimulatedHost]) -> None:
    cluster = SimulatedCluster([liar("liar"), *(SimulatedHost(f"h{number}") for number in range(5))], 1)
    cluster.run()
    assert cluster.closed == {"liar": Closing.QUARANTINED}


def test_without_a_third_host_nobody_is_blamed_and_both_ask_the_origin_themselves() -> None:
    hosts = [LiesAboutPieces("liar"), SimulatedHost("honest")]
    cluster = SimulatedCluster(hosts, 0)
    cluster.run()
    assert not cluster.closed
    assert hosts[1].outcome == "failed"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("knows_size", [True, False])
def test_honest_hosts_fetch_each_piece_once(size: int, seed: int, knows_size: bool) -> None:
    hosts = [SimulatedHost(f"h{number}", knows_size) for number in range(size)]
    cluster = SimulatedCluster(hosts, seed)
    cluster.run()
    assert [host.outcome for host in hosts] == ["sealed"] * size
    assert sum(host.fetched for host in hosts) == COUNT


def test_leases_are_spread_over_the_swarm() -> None:
    hosts = [SimulatedHost(f"h{number}") for number in range(40)]
    cluster = SimulatedCluster(hosts, 3)
    cluster.run()
    assert max(host.fetched for host in hosts) <= COUNT // 2
