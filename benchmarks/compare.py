"""`compare OLD.json NEW.json`: the figures of two reports side by side, for a pull request.

Rules:
1. A report is the output of a benchmark with `--json`, or `report.json` of the suite. A figure is compared with the
   figure of the same name and of the same command.
2. Reports of different machines or formats are refused: ratios between machines say nothing.
3. A difference is beyond the spread if no sample of one report lies between the samples of the other. With five samples
   each, chance alone does that in one of 126 comparisons. A figure of one run has no known spread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.report import FORMAT

SAME: Final = ("cpu", "cores", "memory_gib", "kernel", "python")
"""The facts of the machine that two comparable reports have in common."""

HEADINGS: Final = ("figure", "old", "new", "new / old", "beyond the spread", "bar", "met")

MIN_COLUMNS: Final = 130


class NotComparableError(Exception):
    """A file is no report, or two reports cannot be compared. The text names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A figure of a report: the median, the smallest and the largest of `runs` samples."""

    value: float
    least: float
    most: float
    runs: int
    bar: str
    met: bool | None

    def __str__(self) -> str:
        return f"{self.value:g} ({self.least:g} to {self.most:g})" if self.runs > 1 else f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class Recording:
    """A report. `figures` are by command and name; `failures` are the reasons of unmeasured figures, by name."""

    machine: Mapping[str, Any]
    figures: Mapping[tuple[str, str], Recorded]
    failures: Mapping[str, str]


def read(file: Path) -> Recording:
    """The report in a file. Raises NotComparableError."""
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise NotComparableError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(told, dict) or "figures" not in told:
        raise NotComparableError(f"{file} is no report: give the output of `python -m benchmarks COMMAND --json`")
    if told.get("format") != FORMAT:
        raise NotComparableError(
            f"{file} has the format {told.get('format')!r}, and this program reads {FORMAT}: measure again"
        )
    try:
        figures = {(str(row["command"]), str(row["figure"])): _recorded(row) for row in _rows(told)}
        failures = {str(name): str(why) for name, why in told["failures"].items()}
        return Recording({key: told["machine"][key] for key in SAME}, figures, failures)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise NotComparableError(
            f"{file} is no complete report ({type(error).__name__}: {error}): measure again"
        ) from error


def _rows(told: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The figures, each with its command: the suite has rows of several commands, a benchmark has figures by name."""
    figures = told["figures"]
    if isinstance(figures, list):
        yield from figures
    else:
        yield from ({**row, "figure": name, "command": told["command"]} for name, row in figures.items())


def _recorded(row: Mapping[str, Any]) -> Recorded:
    value, least, most = (float(row[key]) for key in ("value", "min", "max"))
    bar, met = row["bar"], row["met"]
    if met not in (True, False, None):
        raise ValueError(f"met is {met!r}")
    return Recorded(value, least, most, int(row["runs"]), "" if bar is None else str(bar), met)


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure of both reports."""

    command: str
    name: str
    old: Recorded
    new: Recorded

    @property
    def ratio(self) -> float | None:
        return self.new.value / self.old.value if self.old.value else None

    @property
    def beyond_spread(self) -> bool | None:
        """Whether the difference is beyond the spread (rule 3); None if the spread is unknown."""
        if min(self.old.runs, self.new.runs) < 2:
            return None
        return self.new.least > self.old.most or self.new.most < self.old.least

    def cells(self) -> tuple[str, ...]:
        """The row below `HEADINGS`."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        beyond = {True: "yes", False: "no", None: "one run"}[self.beyond_spread]
        bar = _change(self.old.bar, self.new.bar)
        met = _change(*({True: "yes", False: "NO", None: ""}[each.met] for each in (self.old, self.new)))
        return self.name, str(self.old), str(self.new), ratio, beyond, bar, met


def _change(old: str, new: str) -> str:
    return new if old == new else f"{old or 'none'}, now {new or 'none'}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The figures of both reports, and `notes` about those that are in one of them only."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def commands(self) -> list[str]:
        return list(dict.fromkeys(pair.command for pair in self.pairs))

    def markdown(self) -> str:
        lines = []
        for command in self.commands():
            lines += [
                f"`python -m benchmarks {command}`",
                "",
                f"| {' | '.join(HEADINGS)} |",
                "|---" * len(HEADINGS) + "|",
            ]
            lines += [f"| {' | '.join(pair.cells())} |" for pair in self.pairs if pair.command == command]
            lines.append("")
        return "\n".join([*lines, *self.notes])

    def print(self, console: Console) -> None:
        console.width = max(console.width, MIN_COLUMNS)  # a narrower terminal wraps lines; a cut number would be wrong
        for command in self.commands():
            table = Table(title=f"benchmarks {command}", title_justify="left", box=SIMPLE)
            for number, heading in enumerate(HEADINGS):
                table.add_column(heading, justify="right" if number else "left", no_wrap=True)
            for pair in self.pairs:
                if pair.command == command:
                    table.add_row(*pair.cells())
            console.print(table)
        for note in self.notes:
            console.print(note)


def compare(old_file: Path, new_file: Path) -> Comparison:
    """Both reports side by side. Raises NotComparableError."""
    old, new = read(old_file), read(new_file)
    if others := [key for key in SAME if old.machine[key] != new.machine[key]]:
        facts = ", ".join(f"{key} {old.machine[key]} and {new.machine[key]}" for key in others)
        raise NotComparableError(
            f"{old_file} and {new_file} are of different machines ({facts}): measure both on the same machine"
        )
    pairs = [Pair(*key, recorded, new.figures[key]) for key, recorded in old.figures.items() if key in new.figures]
    if not pairs:
        commands = [", ".join(sorted({command for command, _ in each.figures})) or "nothing" for each in (old, new)]
        raise NotComparableError(
            f"no figure is in both: {old_file} is of {commands[0]}, {new_file} of {commands[1]}: measure with the same"
            " options"
        )
    notes = []
    for file, one, other in ((old_file, old, new), (new_file, new, old)):
        alone = [key for key in one.figures if key not in other.figures]
        notes += [f"only in {file}: {name} (`{command}`)" for command, name in alone]
        notes += [f"not measured in {file}: {name}: {why}" for name, why in one.failures.items()]
    return Comparison(tuple(pairs), tuple(notes))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD.json", help="the report from before the change")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="the report with the change")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")


def main(options: argparse.Namespace, console: Console) -> None:
    """Print the comparison. Raises NotComparableError."""
    comparison = compare(options.old, options.new)
    if options.markdown:
        print(comparison.markdown())
    else:
        comparison.print(console)
