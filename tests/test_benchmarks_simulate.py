"""What the simulator's benchmark decides: which bar is for which figures, who is played, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import __main__
from benchmarks.command import UnmeasurableError
from benchmarks.policies import POLICIES
from benchmarks.report import Bar
from benchmarks.simulate import command as simulate
from benchmarks.simulate.image import mixed_layers
from p2pd.simulation.result import UNPACK_BYTES_PER_S
from p2pd.simulation.scenario import Shape, blob_of


def bed(scenario: str = "flash-crowd", nodes: int = 8, pieces: int = 16, *, runs: int = 1) -> simulate.SimulateTestbed:
    return simulate.SimulateTestbed(scenario, Shape(nodes, (blob_of(pieces),), rate_bytes_per_s=12.5e6), runs)


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert __main__.main(["simulate", "--json", "--nodes", "8", "--pieces", "16", *words]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)["figures"]
    return figures


@pytest.mark.parametrize(
    ("nodes", "pieces", "bar"),
    [
        (1_000, 256, Bar(">=", 0.92)),
        (1_000, 64, Bar(">=", 0.93)),
        (10_000, 256, Bar(">=", 0.94)),
        (100, 256, None),
    ],
)
def test_the_bar_of_efficiency_is_for_a_size_of_the_swarm(nodes: int, pieces: int, bar: Bar | None) -> None:
    assert bed("flash-crowd", nodes, pieces).bar("efficiency_last") == bar
    assert bed("late-joiners", nodes, pieces).bar("efficiency_last") is None


def test_no_wrong_byte_is_a_bar_in_every_scenario() -> None:
    assert bed("malicious").bar("wrong_pieces") == Bar("<=", 0)


def test_the_figures_of_p2pd(capsys: pytest.CaptureFixture[str]) -> None:
    figures = report(capsys)
    assert set(figures) == {
        *("efficiency_p50", "efficiency_last", "whole_s", "limit_s", "origin_copies", "messages_per_piece"),
        *("scheduler_messages_per_host", "wrong_pieces", "wall_s", "first_layer_s", "start_s", "start_last_s"),
        *("busiest_scheduler_s", "busiest_scheduler_events"),
    }
    ratio = figures["limit_s"]["value"] / figures["whole_s"]["value"]
    assert figures["efficiency_last"]["value"] == pytest.approx(ratio, rel=0.001)
    assert figures["origin_copies"]["bar"] == "<= 1.01"


def test_copies_in_sites_are_told_where_there_are_sites(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(capsys, "--sites", "2")["site_copies"]["bar"] == "<= 1.1"


def test_several_schedulers_are_told_of_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    figures = report(capsys, "--schedulers", "3", "--scenario", "scheduler-lost")
    assert figures["moved_share"]["value"] == 1.0
    assert figures["alone_s"]["bar"] == "<= 2"
    assert 1 / 3 < figures["busiest_scheduler_share"]["value"] <= 1.0


def test_one_policy_is_measured_alone(capsys: pytest.CaptureFixture[str]) -> None:
    figures = report(capsys, "--policy", "tree")
    assert all(name.endswith(".tree") for name in figures)


def test_all_are_compared_with_p2pd(capsys: pytest.CaptureFixture[str]) -> None:
    figures = report(capsys, "--policy", "all", "--origin-rate", "50mbit")
    for policy in POLICIES:
        ratio = figures[f"whole_s.{policy}"]["value"] / figures["whole_s"]["value"]
        assert figures[f"speedup_vs_{policy}"]["value"] == pytest.approx(ratio, rel=0.002)


def test_what_is_named_is_measured_whatever_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(report(capsys, "--only", "whole_s.registry")) == {"whole_s.registry"}


def test_what_breaks_is_compared_with_a_flash_crowd(capsys: pytest.CaptureFixture[str]) -> None:
    cost = report(capsys, "--scenario", "churn", "--nodes", "12")["cost"]
    assert cost["bar"] == "<= 1.15"
    assert cost["value"] > 0


def test_runs_are_of_seeds_one_after_the_other() -> None:
    runs = bed(runs=3).runs("kraken")
    assert [run.played.scenario.seed for run in runs] == [0, 1, 2]


def test_what_is_played_is_played_once() -> None:
    testbed = bed()
    assert testbed.runs("tree") is testbed.runs("tree")


def test_a_scenario_that_a_policy_cannot_play_is_told() -> None:
    with pytest.raises(UnmeasurableError, match="kraken: churn has hosts that vanish"):
        bed("churn", 12).runs("kraken")


def test_every_figure_is_measured_once() -> None:
    figures = simulate.COMMAND.figures
    assert {*simulate.BARS, "efficiency_last", "cost"} <= set(figures)
    assert len(set(figures)) == len(figures)


def test_the_defaults_are_those_of_the_bars() -> None:
    options = __main__.parser().parse_args(["simulate"])
    assert (options.nodes, options.pieces, options.rate, options.origin_rate) == (1_000, 256, 12.5e6, None)
    assert (options.scenario, options.sites, options.runs, options.policy) == ("flash-crowd", 1, 1, "p2pd")


@pytest.mark.parametrize(
    "wrong", ["--pieces=0", "--pieces=5000000", "--nodes=1", "--rate=100", "--scenario=none", "--policy=none"]
)
def test_wrong_use_is_exit_code_2(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        __main__.main(["simulate", wrong])
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err


class TestImages:
    def test_the_size_mix_has_the_quantiles_of_docker_hub(self) -> None:
        sizes = sorted(mixed_layers(1_000, seed=0))
        assert sizes[499] < 4e6 < sizes[500]
        assert sizes[899] < 63e6 < sizes[900]

    def test_the_seed_decides_the_order_and_nothing_else(self) -> None:
        assert mixed_layers(20, seed=1) != mixed_layers(20, seed=2)
        assert sorted(mixed_layers(20, seed=1)) == sorted(mixed_layers(20, seed=2))

    @pytest.mark.parametrize(
        ("words", "layers"),
        [
            ([], [2**30]),
            (["--size", "8MiB", "--layers", "3"], 3 * [2**23]),
            (["--size", "8MiB", "--layers", "3", "--images", "2"], 6 * [2**23]),
            (["--image", "mix"], list(mixed_layers(20, 0))),
            (["--image", "mix", "--layers", "5", "--images", "2", "--seed", "7"], [
                *mixed_layers(5, 7), *mixed_layers(5, 8)
            ]),
        ],
    )  # fmt: skip
    def test_the_options_say_the_layers(self, words: list[str], layers: list[int]) -> None:
        assert list(simulate.layers(__main__.parser().parse_args(["simulate", *words]))) == layers

    @pytest.mark.parametrize("wrong", [["--layers", "3"], ["--image", "mix", "--size", "8MiB"]])
    def test_options_that_contradict_are_told(self, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert __main__.main(["simulate", *wrong]) == 2
        assert "error: --" in capsys.readouterr().err

    def test_a_container_starts_when_its_layers_are_unpacked(self, capsys: pytest.CaptureFixture[str]) -> None:
        figures = report(capsys, "--size", "1MiB", "--layers", "4", "--images", "3", "--policy", "p2pd")
        values = {name: figure["value"] for name, figure in figures.items()}
        unpacking_s = 4 * 2**20 / UNPACK_BYTES_PER_S
        assert 0 < values["first_layer_s"] < values["start_s"] <= values["start_last_s"]
        assert values["whole_s"] < values["start_last_s"] <= values["whole_s"] + 1.001 * unpacking_s
        assert 0 <= values["images_in_order"] <= 1

    def test_other_policies_play_one_image(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "start_s.tree" in report(capsys, "--size", "1MiB", "--layers", "4", "--policy", "tree")
        assert __main__.main(["simulate", "--nodes", "8", "--size", "1MiB", "--images", "2", "--policy", "tree"]) == 1
        assert "several images" in capsys.readouterr().err
