"""What the cluster benchmark decides without real processes: when things are done, and what is made of the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks import __main__
from benchmarks.cluster import command as cluster
from benchmarks.cluster.image import Image, got_bytes, sent_bytes
from benchmarks.cluster.player import POLL_INTERVAL_S, Playing, play
from benchmarks.cluster.schedule import Action, Script, Step
from benchmarks.command import UnmeasurableError
from benchmarks.load import BenchmarkBlob
from p2pd.simulation.scenario import SCENARIOS, Scenario, Shape

MIB = 2**20


def scenario(name: str, nodes: int = 10) -> Scenario:
    """At 1 MiB/s and with 8 MiB, one pull takes 8 s."""
    return SCENARIOS[name](Shape(nodes, (8 * MIB,), rate_bytes_per_s=MIB, hosts_per_rack=4))


def actions(steps: list[Step]) -> list[tuple[float, Action, str]]:
    return [(step.at_s, step.action, step.subject) for step in steps]


def test_in_a_flash_crowd_all_begin_at_once_and_only_once() -> None:
    script = Script(scenario("flash-crowd", 3))
    assert actions(script.due(0.0, [])) == [(0.0, Action.BEGIN, f"n0000{number}") for number in range(3)]
    assert script.due(100.0, []) == []


def test_a_wave_begins_when_the_one_before_has_the_image() -> None:
    script = Script(scenario("rolling-update", 5))
    assert [step.subject for step in script.due(0.0, [])] == ["n00000"]
    assert script.due(50.0, []) == []
    assert [step.subject for step in script.due(60.0, ["n00000"])] == ["n00001"]
    done = [f"n0000{number}" for number in range(5)]
    assert [step.subject for step in script.due(61.0, done)] == ["n00002", "n00003", "n00004"]
    assert script.due(62.0, done) == []


def test_who_starts_later_begins_at_its_time() -> None:
    late = scenario("late-joiners", 4)
    script = Script(late)
    assert [step.subject for step in script.due(0.0, [])] == ["n00000", "n00002"]
    for node in sorted((node for node in late.nodes if node.starts_s), key=lambda node: node.starts_s):
        assert script.due(node.starts_s - 0.001, []) == []
        assert [step.subject for step in script.due(node.starts_s, [])] == [node.name]


def test_who_holds_the_image_asks_for_nothing() -> None:
    assert [step.subject for step in Script(scenario("warm-newcomers")).due(0.0, [])] == ["n00000"]


def test_what_breaks_does_so_at_its_time() -> None:
    churn = scenario("churn")
    vanishes_s = churn.nodes[5].vanishes_s
    assert vanishes_s is not None
    script = Script(churn)
    assert len(script.due(0.0, [])) == 10
    assert actions(script.due(8.0, [])) == [(vanishes_s, Action.VANISH, "n00005")]

    script = Script(scenario("scheduler-gone"))
    script.due(0.0, [])
    gone, back = 0.3 * 8, 0.55 * 8
    assert actions(script.due(8.0, [])) == [(gone, Action.SCHEDULER_GOES, ""), (back, Action.SCHEDULER_COMES, "")]

    script = Script(scenario("rack-cut-off"))
    script.due(0.0, [])
    assert actions(script.due(8.0, [])) == [(gone, Action.CUT, "s0r2"), (back, Action.MEND, "s0r2")]


def test_a_wave_does_not_wait_for_hosts_that_are_expected_to_vanish() -> None:
    first, second = scenario("flash-crowd", 2).nodes
    nodes = (replace(first, vanishes_s=5.0), second, replace(second, name="n00002", wave=1))
    script = Script(replace(scenario("flash-crowd"), nodes=nodes))
    assert [step.subject for step in script.due(0.0, [])] == ["n00000", "n00001"]
    assert [step.subject for step in script.due(2.0, ["n00001"])] == ["n00002"]


@dataclass
class PretendStage:
    """Each client takes as long as `takes_s` says, by a clock that only pausing moves on."""

    takes_s: Mapping[str, float]
    now_s: float = 100.0
    ends_s: dict[str, float] = field(default_factory=dict)
    performed: list[Step] = field(default_factory=list)

    def perform(self, step: Step) -> None:
        self.performed.append(step)
        if step.action is Action.BEGIN:
            self.ends_s[step.subject] = self.now_s + self.takes_s[step.subject]

    def ended(self) -> list[str]:
        ended = [name for name, at_s in self.ends_s.items() if at_s <= self.now_s]
        for name in ended:
            del self.ends_s[name]
        return ended

    def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def play(self, *playings: Playing) -> None:
        play(*playings, clock=lambda: self.now_s, pause=self.pause)


def test_times_are_written_down() -> None:
    stage = PretendStage({"n00000": 2.0, "n00001": 4.0})
    playing = Playing(scenario("flash-crowd", 2), stage, bound_s=60.0)
    stage.play(playing)
    played = playing.played(origin_bytes=8 * MIB, link_messages=32, scheduler_messages=10)
    assert played.began_s == {"n00000": 0.0, "n00001": 0.0}
    assert played.took_s() == [pytest.approx(2.0, abs=2 * POLL_INTERVAL_S), pytest.approx(4.0, abs=2 * POLL_INTERVAL_S)]
    assert (played.failed(), played.origin_copies()) == ([], 1.0)


def test_only_hosts_that_are_expected_to_get_the_image_are_waited_for() -> None:
    churn = scenario("churn")
    stage = PretendStage({node.name: 1000.0 if node.vanishes_s else 9.0 for node in churn.nodes})
    playing = Playing(churn, stage, bound_s=60.0)
    stage.play(playing)
    assert set(playing.played(origin_bytes=0.0).done_s) == {node.name for node in churn.wanting()}
    assert Action.VANISH in {step.action for step in stage.performed}


def test_several_are_played_at_the_same_time() -> None:
    slow, quick = PretendStage({"n00000": 5.0, "n00001": 5.0}), PretendStage({"n00000": 1.0, "n00001": 2.0})
    playings = [Playing(scenario("flash-crowd", 2), stage, bound_s=60.0) for stage in (slow, quick)]

    def pause(seconds: float) -> None:
        slow.pause(seconds)
        quick.pause(seconds)

    play(*playings, clock=lambda: slow.now_s, pause=pause)
    times = [playing.played(origin_bytes=0.0).whole_s() for playing in playings]
    assert times == [pytest.approx(5.0, abs=2 * POLL_INTERVAL_S), pytest.approx(2.0, abs=2 * POLL_INTERVAL_S)]


def test_what_does_not_end_is_told() -> None:
    stage = PretendStage({"n00000": 1.0, "n00001": 1000.0})
    with pytest.raises(UnmeasurableError, match="not within 60 s: n00001"):
        stage.play(Playing(scenario("flash-crowd", 2), stage, bound_s=60.0))


def test_only_blobs_of_the_image_count_as_sent() -> None:
    line = '10.77.0.3 - - [24/Nov/2026:07:32:47 +0000] "{} /v2/bench/blobs/blobs/{} HTTP/1.1" {} {} "" "p2pd"\n'
    image = Image(
        Path("storage"), (BenchmarkBlob("sha256:a", 8), BenchmarkBlob("sha256:b", 8)), BenchmarkBlob("sha256:probe", 8)
    )
    log = "".join(
        line.format(*answer)
        for answer in [
            ("GET", "sha256:a", 200, 8),
            ("GET", "sha256:b", 206, 5),
            ("GET", "sha256:b", 206, 3),
            ("HEAD", "sha256:a", 200, 100),
            ("GET", "sha256:probe", 200, 100),
            ("GET", "sha256:a", 404, 100),
            ("PUT", "sha256:a", 201, 100),
        ]
    )
    assert sent_bytes(log + "some other line\n", image) == 16
    assert got_bytes(log + "some other line\n", {"10.77.0.3", "10.77.0.4"}) == 116
    assert got_bytes(log, {"10.77.0.4", "10.77.0.33"}) == 0


def test_the_simulator_is_given_what_was_measured() -> None:
    mixed = scenario("mixed-speeds", 3)
    measured = cluster.as_measured(mixed, 0.5, 0.001)
    assert [node.up_bytes_per_s for node in measured.nodes] == [0.5 * node.up_bytes_per_s for node in mixed.nodes]
    assert [node.down_bytes_per_s for node in measured.nodes] == [0.5 * node.down_bytes_per_s for node in mixed.nodes]
    assert measured.origin_bytes_per_s == 0.5 * mixed.origin_bytes_per_s
    assert (measured.latency_s, measured.far_latency_s) == (0.001, 0.001)


def test_every_bar_is_for_a_figure_that_is_measured_once() -> None:
    figures = cluster.COMMAND.figures
    assert set(cluster.BARS) <= set(figures)
    assert len(set(figures)) == len(figures)


def test_the_defaults_are_those_of_the_bars() -> None:
    options = __main__.parser().parse_args(["cluster"])
    assert (options.nodes, options.rate, options.size) == (16, 12.5e6, 256 * MIB)
    assert (options.scenario, options.sites, options.runs) == ("flash-crowd", 1, 1)
    assert not options.open, "measured is what users run"


@pytest.mark.parametrize(
    "wrong",
    ["--rate=100", "--rate=0mbit", "--rate=100MiB", "--nodes=1", "--nodes=201", "--sites=0", "--scenario=malicious"],
)
def test_wrong_use_is_exit_code_2(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        __main__.main(["cluster", wrong])
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err
