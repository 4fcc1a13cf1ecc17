"""The report on scale: what is in it, what its rows are held to, and that its plots are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import __main__, policies
from benchmarks.plots import PLOTS, draw
from benchmarks.report import Bar
from benchmarks.suite import (
    ALONE,
    CLUSTER,
    LARGEST,
    PLAYED,
    SCENARIO_NODES,
    SCENARIO_PIECES,
    Row,
    SimulationRun,
    benchmark,
    markdown,
    real_rows,
    rows,
    runs,
    simulate,
)
from p2pd.simulation.scenario import SCENARIOS


def result(**figures: Any) -> dict[str, Any]:
    return {
        "efficiency_p50": 0.95,
        "efficiency_last": 0.9,
        "whole_s": 10.0,
        "limit_s": 9.0,
        "first_layer_s": 1.0,
        "start_s": 12.0,
        "origin_copies": 1.0,
        "site_copies": 1.0,
        "messages_per_piece": 8.0,
        "scheduler_messages_per_host": 50.0,
        "wrong_pieces": 0,
        "failed_hosts": 0,
        "wall_s": 1.0,
        "curves": {},
        **figures,
    }


def row(found: Iterator[Row], figure: str, command: str = "") -> Row:
    [one] = [each for each in found if each.figure == figure and command in each.command]
    return one


class TestWhatIsRun:
    def test_every_scenario_every_policy_and_every_size_that_has_a_bar(self) -> None:
        planned = list(runs(largest=True))
        assert len(planned) == len(set(planned))
        assert any(run.mix for run in planned)
        assert {run.scenario for run in planned if run.nodes == SCENARIO_NODES} == set(PLAYED)
        assert set(SCENARIOS) - set(PLAYED) == {"many-layers", "size-mix"}, "images of many layers are those of `mix`"
        assert {run.policy for run in planned} == {"p2pd", *policies.HELD}
        assert {(LARGEST, 256), (1_000, 256), (1_000, 64), (100, 256)} <= {(run.nodes, run.pieces) for run in planned}
        assert any(run.sites == 10 for run in planned)

    def test_the_largest_only_if_that_is_asked_for_and_before_all_others(self) -> None:
        largest, *others = runs(largest=True)
        assert largest.nodes == LARGEST
        assert others == list(runs())
        assert largest.nodes > others[0].nodes == max(run.nodes for run in others)

    @pytest.mark.parametrize("policy", ["p2pd", "tree"])
    def test_a_run_gives_all_figures_of_a_row(self, policy: str) -> None:
        run = SimulationRun(6, 8, policy=policy, curves=policy == "p2pd")
        found = simulate(run)
        assert set(found) == set(result())
        assert found["failed_hosts"] == found["wrong_pieces"] == 0
        assert 0 < found["efficiency_last"] <= 1
        assert bool(found["curves"]) is (policy == "p2pd")


class TestRealProcesses:
    def test_every_benchmark_is_a_command_that_there_is(self) -> None:
        for words in (*ALONE, CLUSTER):
            options = __main__.parser().parse_args(words)
            assert options.command.name == words[0]

    def test_what_is_measured_is_a_row_with_its_spread_and_its_command(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with benchmark(("simulate", "--nodes", "4", "--pieces", "4", "--runs", "2"), log) as process:
            process.wait_for("efficiency_last")
            report = process.report()
        [told] = [each for each in real_rows(report) if each["figure"] == "efficiency_last"]
        assert told["min"] <= told["value"] <= told["max"]
        assert (told["runs"], told["command"]) == (2, "simulate --nodes 4 --pieces 4")
        assert report["took_s"] > 0
        assert "measuring" in log.read_text()

    def test_a_benchmark_that_fails_is_told_with_its_reason(self, tmp_path: Path) -> None:
        with benchmark(("simulate", "--nodes", "none"), tmp_path / "log") as process:
            process.wait_for("its end")
            report = process.report()
        [(name, why)] = report["failures"].items()
        assert name == "simulate --nodes none"
        assert "none is not a number" in why
        assert list(real_rows(report)) == []


class TestRows:
    def test_an_efficiency_is_held_to_the_bar_of_its_size(self) -> None:
        assert row(rows({SimulationRun(1_000, 256): result()}), "efficiency_last").bar == Bar(">=", 0.92)
        assert row(rows({SimulationRun(1_000, 64): result()}), "efficiency_last").bar == Bar(">=", 0.93)
        assert row(rows({SimulationRun(1_000, 256, down=1): result()}), "efficiency_last").bar is None
        assert row(rows({SimulationRun(100, 256): result()}), "efficiency_last").bar is None

    def test_a_missed_bar_shows(self) -> None:
        told = row(rows({SimulationRun(1_000, 256): result(efficiency_last=0.5)}), "efficiency_last").as_json()
        assert told["met"] is False
        report = {
            "machine": {"cores": 2},
            "figures": [told],
            "failures": {"cluster": "not root"},
            "took_s": {"cluster --nodes 16": 61.7},
        }
        text = markdown(report, 90.0)
        assert ">= 0.92, **missed**" in text
        assert "Not measured: cluster: not root" in text
        assert "`cluster --nodes 16` 62 s" in text

    def test_what_breaks_is_compared_with_the_same_crowd_in_which_nothing_does(self) -> None:
        crowd, churn = (SimulationRun(SCENARIO_NODES, SCENARIO_PIECES, name) for name in ("flash-crowd", "churn"))
        cost = row(rows({crowd: result(), churn: result(whole_s=12.0)}), "cost")
        assert (cost.value, cost.bar) == (1.2, Bar("<=", 1.15))

    def test_the_time_to_a_container_s_start_is_told_of_the_size_mix(self) -> None:
        mix = SimulationRun(100, 0, mix=True)
        assert row(rows({mix: result()}), "start_s").command == "simulate --nodes 100 --image mix"

    @pytest.mark.parametrize("many", [SimulationRun(1_000, 256, curves=True), SimulationRun(LARGEST, 256)])
    def test_what_a_host_costs_is_compared_between_sizes(self, many: SimulationRun) -> None:
        found = {SimulationRun(10, 256): result(), SimulationRun(100, 256): result(messages_per_piece=5.0)}
        found |= {many: result(messages_per_piece=6.0), SimulationRun(1_000, 64): result()}
        growth = row(rows(found), "messages_per_piece, growth")
        assert (growth.value, growth.bar) == (1.2, Bar("<=", 1.3))
        assert growth.command.startswith(many.command())

    def test_the_command_of_a_run_gives_it_again(self) -> None:
        assert SimulationRun(1_000, 64).command() == "simulate --nodes 1000 --pieces 64"
        assert SimulationRun(9, 4, "churn", sites=3, down=1).command() == (
            "simulate --nodes 9 --pieces 4 --scenario churn --sites 3 --down-rate 100mbit"
        )


class TestPlots:
    def test_all_are_drawn(self, tmp_path: Path) -> None:
        curve = {"n0": [(0.0, 0.0), (10.0, 1.0)], "n1": [(0.0, 0.0), (9.0, 1.0)]}
        planned: dict[SimulationRun, dict[str, Any]] = {
            SimulationRun(nodes, 256, policy=policy): result()
            for nodes in (10, 1_000)
            for policy in ("p2pd", *policies.POLICIES)
        }
        planned[SimulationRun(1_000, 256, curves=True)] = result(curves=curve)
        planned |= {SimulationRun(SCENARIO_NODES, SCENARIO_PIECES, name): result() for name in SCENARIOS}
        draw([{**asdict(run), **found} for run, found in planned.items()], tmp_path)
        for name in PLOTS:
            assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")  # noqa: S314 # our own file
            assert (tmp_path / f"{name}.png").stat().st_size > 1000

    def test_what_there_are_no_runs_for_is_left_out(self, tmp_path: Path) -> None:
        draw([], tmp_path)
        assert not list(tmp_path.iterdir())
