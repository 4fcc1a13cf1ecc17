"""`p2pd plan`: rates, limits, what is simulated and what is extrapolated, advice, and the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Final

import pytest
from click.testing import CliRunner, Result

from p2pd.cli.app import app
from p2pd.config.values import ConfigError
from p2pd.plan.advice import JOINS, RolloutPlan, changes, make_plan
from p2pd.plan.cluster import Cluster
from p2pd.plan.prediction import Budget, PlanError, Prediction, predict, scenario_of, shrunk
from p2pd.plan.rates import parse_rate, show_rate
from p2pd.simulation.result import limit_s, registry_s
from tests.support.registry_server import PATIENCE_S

MIB: Final = 2**20
GBIT: Final = 125e6
SMALL: Final = Cluster(nodes=6, image_bytes=4 * MIB, link=GBIT, origin=GBIT)
LARGE: Final = Cluster(nodes=500, image_bytes=2048 * MIB, link=GBIT, origin=10 * GBIT, sites=4, site_uplink=2 * GBIT)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1gbit", 125e6),
        ("100 Mbit/s", 12.5e6),
        ("2.5Gbps", 312.5e6),
        ("64kbits", 8e3),
        ("800bit", 100),
        ("50MiB/s", 50 * MIB),
        ("1GB", 1e9),
        (" 10B/s ", 10),
    ],
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "1000", "10G", "1 g", "0gbit", "0B/s", "-1gbit", "1gbit/h", "\u0661gbit"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rate(text)


def test_rates_for_people() -> None:
    assert [show_rate(rate) for rate in (12.5, 12.5e6, 312.5e6, 1.25e15)] == [
        "100 bit/s",
        "100 Mbit/s",
        "2.5 Gbit/s",
        "1e+04 Tbit/s",
    ]


def test_limits() -> None:
    size = LARGE.image_bytes
    assert LARGE.terms_s() == {
        "origin": size / (10 * GBIT),
        "node links": size / GBIT,
        "node uploads": 500 * size / (510 * GBIT),
        "site uplinks": size / (2 * GBIT),
    }
    assert LARGE.fluid_s() == size / GBIT
    assert LARGE.registry_s() == 125 * size / (2 * GBIT)
    assert LARGE.pull_through_s() == 125 * size / GBIT
    assert replace(LARGE, cache_link=10 * GBIT).pull_through_s() == 125 * size / (10 * GBIT)
    assert replace(LARGE, upload=GBIT / 10).fluid_s() == 500 * size / (60 * GBIT)


def test_limits_are_those_of_the_simulator() -> None:
    for cluster in (SMALL, replace(LARGE, sites=1, site_uplink=None), replace(SMALL, origin=GBIT / 10)):
        scenario = scenario_of(cluster)
        assert cluster.registry_s() == pytest.approx(registry_s(scenario))
        assert cluster.fluid_s() <= limit_s(scenario) * (1 + 1e-9)


def test_the_scheduler_counts_where_the_ramp_does_not_hide_it() -> None:
    assert LARGE.joins_s() == 0.0
    assert replace(LARGE, nodes=20_000).joins_s() == pytest.approx(10.0 - 14 * 4 * MIB / GBIT)


@pytest.mark.parametrize("size_mib", [1, 4, 30, 100, 300, 400, 20_000])
def test_what_is_simulated_has_pieces_of_the_same_length(size_mib: int) -> None:
    cluster = replace(LARGE, image_bytes=size_mib * MIB + 1)
    small = shrunk(cluster, Budget(hosts=32, pieces=50))
    assert (small.nodes, small.sites, small.piece_bytes) == (32, 2, cluster.piece_bytes)
    assert min(50, cluster.pieces) <= small.pieces <= min(100, cluster.pieces)


def test_what_is_small_is_simulated_whole() -> None:
    assert shrunk(SMALL, Budget()) == SMALL
    parts: list[float] = []
    found = predict(SMALL, Budget(), parts.append)
    assert (found.hosts, found.pieces, parts) == (SMALL.nodes, SMALL.pieces, [1.0])
    assert found.limit_s <= found.median_s <= found.last_s
    assert found.origin_bytes == SMALL.image_bytes


def test_what_is_extrapolated_is_near_what_is_simulated() -> None:
    cluster = replace(SMALL, nodes=60, image_bytes=5 * MIB)
    parts: list[float] = []
    guess, truth = predict(cluster, Budget(hosts=24, pieces=14), parts.append), predict(cluster, Budget())
    assert (guess.hosts, guess.pieces, len(parts)) == (24, 14, 2)
    assert sum(parts) == pytest.approx(1.0)
    assert guess.last_s == pytest.approx(truth.last_s, rel=0.2)
    assert guess.median_s == pytest.approx(truth.median_s, rel=0.2)
    assert guess.origin_bytes == pytest.approx(truth.origin_bytes, rel=0.02)  # few pieces: nobody's digests are checked


def test_a_slow_origin_is_what_to_change() -> None:
    parts: list[float] = []
    plan = make_plan(replace(SMALL, origin=GBIT / 20), Budget(), parts.append)
    assert sum(parts) == pytest.approx(1.0)
    assert (plan.limited_by, plan.best_change) == ("origin", "double the origin's bandwidth")
    assert plan.changed_s["double the origin's bandwidth"] < 0.7 * plan.expected.last_s


def test_the_limit_and_the_change_to_make_first_do_not_contradict_each_other() -> None:
    """The origin is as fast as a node: both are the limit, and more of the one helps, as the simulation shows."""
    plan = make_plan(replace(SMALL, origin=SMALL.link))
    parts = {"origin": 4.19, "node links": 4.19, "node uploads": 3.15}
    changes_s = {"double the origin's bandwidth": 5.0, "double the nodes' links": 3.0}
    as_large = replace(plan, parts_s=parts, changed_s=changes_s, expected=replace(plan.expected, last_s=5.0))
    assert (as_large.limited_by, as_large.best_change) == ("node links", "double the nodes' links")
    assert replace(as_large, changed_s=dict.fromkeys(changes_s, 5.0)).limited_by == "origin", "no change helps"
    assert replace(as_large, parts_s={**parts, "origin": 5.0}).limited_by == "origin", "it is larger by far"


def test_an_upload_limit_is_what_to_lift() -> None:
    plan = make_plan(replace(SMALL, upload=GBIT / 20))
    assert plan.best_change == "lift the upload limit"
    assert plan.parts_s["node uploads"] == max(plan.cluster.terms_s().values())


def test_only_what_there_is_can_be_changed() -> None:
    assert len(changes(SMALL)) == 2
    assert changes(replace(LARGE, upload=GBIT / 2)) == {
        "double the origin's bandwidth": replace(LARGE, upload=GBIT / 2, origin=20 * GBIT),
        "double the nodes' links": replace(LARGE, upload=GBIT / 2, link=2 * GBIT),
        "double the sites' uplinks": replace(LARGE, upload=GBIT / 2, site_uplink=4 * GBIT),
        "lift the upload limit": LARGE,
    }
    assert "lift the upload limit" not in changes(replace(LARGE, upload=2 * GBIT))


def test_what_saves_little_is_not_advised() -> None:
    expected = Prediction(10.0, 9.0, 8.0, 7.0, 1, 1, 96, 96)
    assert RolloutPlan(SMALL, expected, {JOINS: 1.0}, {"a": 9.6, "b": 9.9}).best_change is None
    assert RolloutPlan(SMALL, expected, {JOINS: 1.0}, {"a": 9.6, "b": 9.0}).best_change == "b"


def test_a_pull_that_does_not_end_is_an_error_that_says_so() -> None:
    with pytest.raises(PlanError, match="far below the others"):
        predict(Cluster(2, MIB // 2, GBIT, GBIT, sites=2, site_uplink=100.0), Budget())


def test_ctrl_c_in_the_middle_of_a_simulation() -> None:
    before = signal.signal(signal.SIGVTALRM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)  # of CPU time, of which this takes far more
        with pytest.raises(KeyboardInterrupt):
            predict(LARGE, Budget())
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def p2pd_plan(**flags: str) -> Result:
    given = {"nodes": "4", "image-size": "2MiB", "link": "1gbit", "origin": "1gbit", **flags}
    return CliRunner().invoke(app, ["plan", *(f"--{key}={value}" for key, value in given.items())])


def test_the_command_for_people() -> None:
    result = p2pd_plan(**{"sites": "2", "site-uplink": "500mbit"})
    assert (result.exit_code, result.stderr) == (0, "")
    said = " ".join(result.stdout.split())
    for text in (
        "4 nodes with 1 Gbit/s, 2.0MiB, an origin of 1 Gbit/s, 2 sites with 500 Mbit/s",
        "the physical limit",
        "all to the registry, at least",
        "double the sites' uplinks",
        "of the physical limit",
        "A site's uplink carries",
        "All of it was simulated.",
    ):
        assert text in said
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_the_command_for_machines() -> None:
    result = CliRunner().invoke(
        app, ["plan", "--nodes=4", "--image-size=2MiB", "--link=1gbit", "--origin=50MiB/s", "--json"]
    )
    assert (result.exit_code, result.stderr) == (0, "")
    figures = json.loads(result.stdout)
    assert (figures["nodes"], figures["simulated_nodes"], figures["origin_bytes_per_s"]) == (4, 4, 50 * MIB)
    assert figures["limit_s"] <= figures["median_s"] <= figures["last_s"]
    assert figures["efficiency_last"] == pytest.approx(figures["limit_s"] / figures["last_s"], rel=0.05)
    assert figures["registry_s"] == pytest.approx(4 * 2 / 50, abs=0.001)
    assert (figures["origin_copies"], figures["site_bytes"]) == (1.0, None)
    assert set(figures["changes_s"]) == {"double the origin's bandwidth", "double the nodes' links"}
    assert figures["limited_by"] in figures["parts_s"]


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("nodes", "0", "--nodes"),
        ("nodes", "100001", "--nodes"),
        ("image-size", "lots", "expected a size"),
        ("image-size", "0", "from 1B to 256GiB"),
        ("image-size", "1TiB", "from 1B to 256GiB"),
        ("link", "1000", "with its unit"),
        ("origin", "fast", "with its unit"),
        ("sites", "5", "more --sites than --nodes"),
        ("site-uplink", "0mbit", "at least a byte"),
    ],
)
def test_wrong_input_is_exit_code_2(flag: str, value: str, said: str) -> None:
    result = p2pd_plan(**{flag: value})
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_nothing_of_the_simulator_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, p2pd.cli.plan; sys.exit(bool({'trio', 'p2pd.simulation', 'rich', 'p2pd.plan'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0
