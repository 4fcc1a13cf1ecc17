"""Scenarios, played with the cores that production runs: short and seeded."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from types import FrameType

import pytest
import trio
from trio.testing import MockClock

from p2pd.simulation.cluster import SimulatedCluster
from p2pd.simulation.result import RunResult
from p2pd.simulation.run import Run, run
from p2pd.simulation.scenario import MISLEADING, SCENARIOS, Misbehaviour, Scenario, Shape, blob_of
from scheduler.protocol.connection import Closing

RATE = 12.5e6
SLOW = 3e5
"""Bytes per second. At the slow rate a quarter of one pull is longer than it takes to miss somebody."""

CALLS_PER_PIECE = 640
"""Calls of Python functions for a piece that a host gets, in a small flash crowd: some 632, on any machine."""


def scenario(name: str, nodes: int, pieces: int, *, rate: float = RATE, seed: int = 0, sites: int = 1) -> Scenario:
    shape = Shape(
        nodes, (blob_of(pieces),), rate_bytes_per_s=rate, sites=sites, hosts_per_rack=max(2, nodes // 3), seed=seed
    )
    return SCENARIOS[name](shape)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        *((name, RATE) for name in SCENARIOS),
        *((name, SLOW) for name in ("churn", "rack-cut-off", "scheduler-gone", "malicious")),
    ],
)
def test_every_honest_host_that_stays_has_the_image_and_no_other_bytes(name: str, rate: float) -> None:
    result = run(scenario(name, 24, 16, rate=rate), checks=True)
    assert result.failed() == []
    assert set(result.done_s) == {node.name for node in result.scenario.wanting()}
    assert result.wrong_pieces == 0 or "misled" in name  # those who check them hold them


def test_newcomers_in_a_warm_swarm_receive_as_fast_as_their_lines_allow() -> None:
    """Ten uplinks fill a downlink, and each of the few newcomers has ten seeders to itself."""
    shape = Shape(60, (blob_of(128),), rate_bytes_per_s=RATE, down_bytes_per_s=10 * RATE)
    warm = SCENARIOS["warm-newcomers"](shape)
    few = replace(warm, nodes=tuple(replace(node, holds_image=node.name > "n00020") for node in warm.nodes))
    assert run(few).efficiency_p50() >= 0.6


def test_the_last_newcomer_of_a_warm_swarm_is_not_a_round_of_pieces_behind() -> None:
    """Nine seeders for each bring nine pieces at a time, from the first round on."""
    shape = Shape(100, (blob_of(128),), rate_bytes_per_s=RATE, down_bytes_per_s=10 * RATE, seed=1)
    assert run(SCENARIOS["warm-newcomers"](shape)).efficiency_last() >= 0.86


def test_malicious_hosts_that_are_taken_out_do_not_take_the_origins_line() -> None:
    assert run(scenario("malicious", 60, 48)).origin_copies() <= 1.1


@pytest.fixture(scope="module")
def crowd() -> RunResult:
    return run(scenario("flash-crowd", 60, 48), curves=True)


class TestAFlashCrowd:
    def test_comes_near_to_the_limit(self, crowd: RunResult) -> None:
        assert 0.7 <= crowd.efficiency_last() <= crowd.efficiency_p50() <= 1.0

    def test_takes_one_copy_from_the_origin(self, crowd: RunResult) -> None:
        assert 1.0 <= crowd.origin_copies() <= 1.01, "and a hundredth for checks"

    def test_costs_few_calls_for_each_piece(self) -> None:
        """The machine of `peer.core.host` is most of it: this is what a piece costs a node, too."""
        calls = 0

        def count(_: FrameType, event: str, __: object) -> None:
            nonlocal calls
            calls += event == "call"

        profiler = sys.getprofile()
        sys.setprofile(count)
        try:
            run(scenario("flash-crowd", 32, 32))
        finally:
            sys.setprofile(profiler)
        assert calls / (32 * 32) <= CALLS_PER_PIECE

    def test_draws_how_far_each_host_was(self, crowd: RunResult) -> None:
        assert set(crowd.curves) == set(crowd.done_s)
        for curve in crowd.curves.values():
            assert list(curve) == sorted(curve)
            assert curve[0] == (0.0, 0.0)
            assert all(0.0 <= share <= 1.0 for _, share in curve)

    def test_with_the_same_seed_is_the_same_and_with_another_is_not(self, crowd: RunResult) -> None:
        assert run(scenario("flash-crowd", 60, 48), curves=True) == crowd
        assert run(scenario("flash-crowd", 60, 48, seed=1)).done_s != crowd.done_s


def test_the_chance_in_a_scenario_comes_from_its_seed() -> None:
    for name in SCENARIOS:
        assert scenario(name, 24, 16, seed=3) == scenario(name, 24, 16, seed=3)
    for name in ("late-joiners", "churn", "size-mix"):
        assert replace(scenario(name, 24, 16, seed=3), seed=4) != scenario(name, 24, 16, seed=4)


def test_several_sites_need_less_than_a_copy_for_each_host() -> None:
    result = run(scenario("flash-crowd", 24, 16, sites=3))
    assert set(result.site_bytes) == {"s0", "s1", "s2"}
    assert 1.0 <= result.site_copies() < 8.0


@pytest.mark.parametrize(
    "misbehaviour", [misbehaviour for misbehaviour in Misbehaviour if misbehaviour not in MISLEADING]
)
def test_one_malicious_host_of_each_kind_does_no_harm_to_the_others(misbehaviour: Misbehaviour) -> None:
    crowd = scenario("flash-crowd", 12, 16)
    nodes = tuple(
        replace(node, misbehaviour=misbehaviour) if not index else node for index, node in enumerate(crowd.nodes)
    )
    result = run(replace(crowd, nodes=nodes), checks=True)
    assert result.failed() == []
    assert result.wrong_pieces == 0


@pytest.mark.parametrize("name", ["misled", "misled-together"])
@pytest.mark.parametrize("seed", range(3))
def test_those_that_say_wrong_digests_are_found_early_and_nobody_else_is_accused(name: str, seed: int) -> None:
    cluster = SimulatedCluster(scenario(name, 40, 64, seed=seed))
    play = Run(cluster)
    trio.run(play.run, clock=MockClock(autojump_threshold=0))
    quarantined = {host for host, closing in cluster.schedulers.closed.items() if closing is Closing.QUARANTINED}
    liars = {host for host, simulated in cluster.hosts.items() if simulated.misbehaviour in MISLEADING}
    assert quarantined <= liars
    assert play.result().failed() == []
    assert play.result().origin_copies() <= 1.1
    assert play.result().whole_s() <= 1.25 * whole_s_of_a_crowd(seed)


@cache
def whole_s_of_a_crowd(seed: int) -> float:
    """The time of the last of 40 hosts, of which none misbehaves."""
    return run(scenario("flash-crowd", 40, 64, seed=seed)).whole_s()
