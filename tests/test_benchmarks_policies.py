"""Other ways of distributing: what theory says of the simple ones, and that each gets the image to all hosts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import policies
from benchmarks.policies import POLICIES, dragonfly
from benchmarks.policies.stage import UnplayableError
from p2pd.simulation.costs import ANSWER_S, VERIFY_BYTES_PER_S
from p2pd.simulation.result import limit_s
from p2pd.simulation.scenario import MIB, SCENARIOS, Scenario, Shape, blob_of
from scheduler.protocol.geometry import piece_length

RATE = 12.5e6
PIECES = 32
SIZE = blob_of(PIECES)
PIECE_S = SIZE / PIECES / RATE
PIECE_TAKEN_IN_S = SIZE / PIECES / VERIFY_BYTES_PER_S
UNPLAYABLE = {
    *("churn", "rack-cut-off", "malicious", "misled", "misled-together"),
    *("scheduler-gone", "scheduler-lost", "scheduler-added"),
}
PLAYABLE = [name for name in SCENARIOS if name not in UNPLAYABLE]


def scenario(name: str = "flash-crowd", nodes: int = 15, **shape: float) -> Scenario:
    return SCENARIOS[name](Shape(nodes, (SIZE,), RATE, **shape))  # type: ignore[arg-type] # floats and ints


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", PLAYABLE)
def test_every_host_gets_the_image_and_no_sooner_than_it_can(policy: str, name: str) -> None:
    played = policies.play(policy, scenario(name, 30), curves=True)
    assert played.failed() == []
    assert set(played.began_s) == set(played.done_s)
    if name != "rolling-update":
        assert played.whole_s() >= limit_s(replace(played.scenario, blobs=(played.scenario.image_bytes,))) * (1 - 1e-6)
    for host, curve in played.curves.items():
        assert list(curve) == sorted(curve)
        assert (curve[0], curve[-1]) == ((played.began_s[host], 0.0), (played.done_s[host], 1.0))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same(policy: str) -> None:
    assert policies.play(policy, scenario(seed=5)) == policies.play(policy, scenario(seed=5))


@pytest.mark.parametrize("policy", ["dragonfly", "kraken"])
def test_another_seed_gives_something_else(policy: str) -> None:
    assert policies.play(policy, scenario(seed=5)).done_s != policies.play(policy, scenario(seed=6)).done_s


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("churn", "hosts that vanish"),
        ("malicious", "malicious hosts"),
        ("rack-cut-off", "a rack that is cut off"),
        ("scheduler-gone", "a scheduler that is gone"),
    ],
)
def test_what_a_model_has_no_answer_to_is_told(policy: str, name: str, why: str) -> None:
    with pytest.raises(UnplayableError, match=f"{name} has {why}"):
        policies.play(policy, scenario(name))


class TestTheRegistry:
    overhead_s = 3 * 0.005 + ANSWER_S + PIECE_TAKEN_IN_S

    def test_takes_as_long_as_its_line_needs_for_all(self) -> None:
        played = policies.play("registry", scenario(nodes=15))
        assert played.whole_s() == pytest.approx(15 * SIZE / RATE + self.overhead_s, rel=1e-6)
        assert played.origin_copies() == 15.0

    def test_takes_as_long_as_the_slowest_host_if_its_line_is_wide(self) -> None:
        played = policies.play("registry", scenario("mixed-speeds", origin_bytes_per_s=1000 * RATE))
        assert played.whole_s() == pytest.approx(2 * SIZE / RATE + self.overhead_s, rel=1e-6)

    def test_with_one_connection_serves_one_host_after_the_other(self) -> None:
        one = replace(scenario(nodes=5), origin_connections=1)
        took_s = policies.play("registry", one).took_s()
        expected = [count * SIZE / RATE + self.overhead_s for count in range(1, 6)]
        assert took_s == pytest.approx(expected, rel=1e-4)

    def test_is_held_back_by_the_lines_of_sites(self) -> None:
        played = policies.play("registry", scenario(nodes=16, sites=4, site_bytes_per_s=RATE / 8))
        assert played.whole_s() == pytest.approx(4 * SIZE / (RATE / 8) + self.overhead_s, rel=1e-6)
        assert played.site_copies() == 4.0


class TestThePullThroughCache:
    def test_takes_one_copy_and_as_long_as_its_link_needs_for_all(self) -> None:
        played = policies.play("pull_through", scenario(nodes=15, origin_bytes_per_s=4 * RATE))
        assert played.origin_copies() == 1.0
        assert played.whole_s() == pytest.approx(15 * SIZE / RATE, rel=0.001)

    def test_sends_while_it_fetches(self) -> None:
        # One host: the last piece comes as soon as the cache has it, and not a whole download later.
        played = policies.play("pull_through", scenario(nodes=1))
        assert SIZE / RATE < played.whole_s() < SIZE / RATE + PIECE_S

    def test_has_what_some_host_has(self) -> None:
        played = policies.play("pull_through", scenario("warm-newcomers", 30))
        assert played.origin_copies() == 0.0
        assert played.whole_s() == pytest.approx(3 * SIZE / RATE, rel=0.01)


class TestTheTree:
    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_takes_what_theory_says(self, depth: int) -> None:
        played = policies.play("tree", scenario(nodes=2 ** (depth + 1) - 1))
        expected_s = (2 * (PIECES + depth) - 1) * PIECE_S
        assert played.whole_s() == pytest.approx(expected_s, rel=0.02)
        assert played.origin_copies() == 1.0

    def test_who_had_the_image_has_one_child_before_any_has_two(self) -> None:
        played = policies.play("tree", scenario("warm-newcomers", 30))
        assert played.whole_s() == pytest.approx(SIZE / RATE, rel=0.02)


class TestDragonfly:
    @pytest.mark.parametrize(
        ("size", "length"),
        [
            (1, 4 * MIB),
            (2000 * MIB, 4 * MIB),
            (2000 * MIB + 1, 8 * MIB),
            (16_000 * MIB, 32 * MIB),
            (10**12, 64 * MIB),
        ],
    )
    def test_pieces_are_a_500th_but_not_too_short_or_long(self, size: int, length: int) -> None:
        assert dragonfly.piece_length(size) == length

    def test_the_first_host_alone_goes_to_the_source(self) -> None:
        assert policies.play("dragonfly", scenario(nodes=40)).origin_copies() == 1.0

    def test_small_layers_are_got_from_the_origin_by_every_host(self) -> None:
        small = replace(scenario(nodes=9), blobs=(4 * MIB, 4 * MIB + 1))
        played = policies.play("dragonfly", small)
        assert played.origin_copies() == pytest.approx((9 * 4 + 4) / 8, rel=0.01)

    def test_the_scheduler_hears_of_every_piece(self) -> None:
        played = policies.play("dragonfly", scenario(nodes=10))
        assert played.scheduler_messages == 10 * (2 + -(-SIZE // (4 * MIB)))


class TestKraken:
    def test_nobody_gets_a_piece_before_the_origin_server_has_all(self) -> None:
        crowd = scenario(nodes=20)
        played = policies.play("kraken", crowd, curves=True)
        first_s = min(curve[1][0] for curve in played.curves.values())
        assert first_s > SIZE / crowd.origin_bytes_per_s
        assert played.origin_copies() == 1.0

    def test_an_image_that_is_there_is_not_waited_for(self) -> None:
        played = policies.play("kraken", scenario("warm-newcomers", 30))
        assert played.origin_copies() == 0.0
        assert played.whole_s() < 2 * SIZE / RATE


def test_p2pd_s_pieces_are_what_others_are_told_of() -> None:
    assert all(POLICIES[name].piece_length(SIZE) == piece_length(SIZE) for name in ("registry", "pull_through", "tree"))
