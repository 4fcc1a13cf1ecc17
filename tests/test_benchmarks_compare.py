"""Two reports side by side: what is compared, what is told of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__
from benchmarks.arguments import measured_by
from benchmarks.compare import NotComparableError, compare
from benchmarks.report import FORMAT, Bar, Figure, Report, machine
from benchmarks.suite import Row


class Reports:
    """Reports in files of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str, *figures: Figure, command: str = "transfer", **changes: Any) -> Path:
        report = Report(command, machine() | {"load_1m": 0.1}, {}, list(figures))
        return self.write(name, json.dumps(report.as_json() | changes))

    def write(self, name: str, text: str) -> Path:
        file = self._directory / f"{name}.json"
        file.write_text(text)
        return file


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    return Reports(tmp_path)


def test_a_figure_is_told_with_its_ratio_and_its_bar(reports: Reports, capsys: pytest.CaptureFixture[str]) -> None:
    old = reports("old", Figure("vs_limit", [0.4, 0.5, 0.6], Bar(">=", 0.85)), Figure("gib_s", [1.0, 2.0, 3.0]))
    new = reports("new", Figure("vs_limit", [0.9, 1.0, 1.1], Bar(">=", 0.9)), Figure("gib_s", [2.5, 2.5, 2.5]))
    assert __main__.main(["compare", str(old), str(new), "--markdown"]) == 0
    told = capsys.readouterr().out
    assert "`python -m benchmarks transfer`" in told
    assert "| vs_limit | 0.5 (0.4 to 0.6) | 1 (0.9 to 1.1) | 2 | yes | >= 0.85, now >= 0.9 | NO, now yes |" in told
    assert "| gib_s | 2 (1 to 3) | 2.5 (2.5 to 2.5) | 1.25 | no |  |  |" in told


def test_the_terminal_is_told_the_same(
    reports: Reports, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    file = reports("same", Figure("gib_s", [1.0, 1.5]))
    assert __main__.main(["compare", str(file), str(file)]) == 0
    told = capsys.readouterr().out
    assert "benchmarks transfer" in told
    assert "1.25 (1 to 1.5)" in told


@pytest.mark.parametrize(
    ("old", "new", "beyond"),
    [
        ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], True),
        ([4.0, 5.0, 6.0], [1.0, 2.0, 3.0], True),
        ([1.0, 2.0, 3.0], [3.0, 4.0, 5.0], False),
        ([1.0], [4.0, 5.0, 6.0], None),
    ],
)
def test_a_difference_is_beyond_the_spread_if_the_samples_are_apart(
    reports: Reports, old: list[float], new: list[float], beyond: bool | None
) -> None:
    [pair] = compare(reports("old", Figure("x", old)), reports("new", Figure("x", new))).pairs
    assert pair.beyond_spread is beyond


def test_a_figure_of_zero_has_no_ratio(reports: Reports) -> None:
    [pair] = compare(reports("old", Figure("x", [0.0])), reports("new", Figure("x", [1.0]))).pairs
    assert pair.ratio is None
    assert pair.cells()[3] == ""


def test_figures_of_one_report_only_are_told(reports: Reports) -> None:
    old = reports("old", Figure("both", [1.0]), Figure("gone", [1.0]))
    new = reports("new", Figure("both", [1.0]), failures={"gone": "no nginx"})
    notes = compare(old, new).notes
    assert notes == (f"only in {old}: gone (`transfer`)", f"not measured in {new}: gone: no nginx")


def test_a_row_of_the_suite_is_compared_with_the_same_command_alone(reports: Reports) -> None:
    row = Row("efficiency_last", 0.8, Bar(">=", 0.85), "simulate --nodes 9").as_json()
    suite = reports("suite", figures=[row, {**row, "command": "simulate --nodes 99"}])
    alone = reports("alone", Figure("efficiency_last", [0.9], Bar(">=", 0.85)), command="simulate --nodes 9")
    [pair] = compare(suite, alone).pairs
    assert (pair.command, pair.old.value, pair.new.value) == ("simulate --nodes 9", 0.8, 0.9)


def test_the_command_has_the_options_that_decide_what_is_measured() -> None:
    words = ["transfer", "--json", "--size", "256MiB", "--runs", "3", "--only", "gib_s", "--workdir=/x"]
    assert measured_by(words) == "transfer --size 256MiB"


class TestRefused:
    def why(self, old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> str:
        assert __main__.main(["compare", str(old), str(new)]) == 2
        return capsys.readouterr().err

    def test_another_machine(self, reports: Reports, capsys: pytest.CaptureFixture[str]) -> None:
        old = reports("old", Figure("x", [1.0]))
        new = reports("new", Figure("x", [1.0]), machine=machine() | {"cores": 999})
        told = self.why(old, new, capsys)
        assert "different machines" in told
        assert "and 999" in told
        assert "measure both on the same machine" in told

    @pytest.mark.parametrize("number", [None, FORMAT + 1])
    def test_another_format(self, reports: Reports, number: int | None, capsys: pytest.CaptureFixture[str]) -> None:
        told = self.why(reports("old", Figure("x", [1.0]), format=number), reports("new"), capsys)
        assert f"has the format {number}, and this program reads {FORMAT}: measure again" in told

    def test_other_commands(self, reports: Reports, capsys: pytest.CaptureFixture[str]) -> None:
        old = reports("old", Figure("x", [1.0]), command="transfer --size 1GiB")
        new = reports("new", Figure("x", [1.0]), command="transfer --size 2GiB")
        assert "measure with the same options" in self.why(old, new, capsys)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "cannot be read as JSON"),
            ("[" * 100_000, "cannot be read as JSON"),
            ("[]", "is no report"),
            ("{}", "is no report"),
            (json.dumps({"format": FORMAT, "figures": {"x": {}}}), "is no complete report"),
            (json.dumps({"format": FORMAT, "figures": 7}), "is no complete report"),
            (json.dumps({"format": FORMAT, "figures": [], "failures": [], "machine": {}}), "is no complete report"),
        ],
    )
    def test_what_is_no_report(self, reports: Reports, text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert why in self.why(reports.write("old", text), reports("new"), capsys)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotComparableError, match=r"nothing\.json cannot be read"):
            compare(tmp_path / "nothing.json", tmp_path / "nothing.json")
