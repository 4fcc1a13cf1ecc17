"""Scenarios of hosts that divide a blob into other pieces than the usual ones."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.run import Run, run
from p2pd.simulation.scenario import MIB, SCENARIOS, Shape, blob_of
from scheduler.core.settings import SchedulerSettings
from tests.simulation.playing import Playing

LARGE = SchedulerSettings(large_swarm=2, piece_cost_s=0.001)
"""A swarm of two hosts counts as a large one."""

PIECES = 24
"""Of the usual length; of half of it there are twice as many."""

RATE = 12.5e6
SLOW = 3e5


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("flash-crowd", RATE),
        ("late-joiners", RATE),
        ("warm-newcomers", RATE),
        ("misled", RATE),
        ("malicious", RATE),
        ("scheduler-gone", SLOW),
        ("scheduler-lost", SLOW),
        ("scheduler-added", SLOW),
    ],
)
def test_every_honest_host_that_stays_has_the_image_and_no_other_bytes(name: str, rate: float) -> None:
    shape = Shape(12, (blob_of(PIECES),), rate_bytes_per_s=rate, hosts_per_rack=4)
    result = run(SCENARIOS[name](shape), settings=LARGE, checks=True)
    assert result.failed() == []
    assert result.wrong_pieces == 0 or name == "misled"


def test_each_piece_leaves_the_origin_once() -> None:
    playing = Playing(6, PIECES, large_swarm=2, piece_cost_s=0.001)
    playing.run()
    assert all(len(host.store[playing.blob.digest]) == 2 * PIECES for host in playing.hosts)
    assert set(playing.cluster.origin.gave.values()) == {1}
    assert len(playing.cluster.origin.gave) == 2 * PIECES


LAYER_BYTES = 8 * MIB


@pytest.mark.parametrize(("layers", "length"), [(1, MIB // 2), (6, MIB)])
def test_layers_that_are_pulled_together_have_longer_pieces(layers: int, length: int) -> None:
    shape = Shape(4, (LAYER_BYTES,) * layers, rate_bytes_per_s=RATE, hosts_per_rack=4)
    one = Run(SimulatedCluster(SCENARIOS["flash-crowd"](shape), checks=True))
    trio.run(one.run, clock=trio.testing.MockClock(autojump_threshold=0))
    for host in one.cluster.hosts.values():
        assert [len(held) for held in host.store.values()] == [LAYER_BYTES // length] * layers
    assert one.result().origin_copies() == pytest.approx(1.0)


def test_a_large_swarm_is_faster_with_them() -> None:
    shape = Shape(70, (blob_of(32),), rate_bytes_per_s=RATE, down_bytes_per_s=10 * RATE)
    crowd = SCENARIOS["flash-crowd"](shape)
    usual = run(crowd, settings=SchedulerSettings(large_swarm=1000))
    assert run(crowd).whole_s() < 0.97 * usual.whole_s()
