"""The structure of a benchmark command, and its execution.

A command is a number of measures over one testbed. To add a command, write a module with a `Command` and name it in
`benchmarks.__main__.NAMES`. Options, selection, progress, failures and the report are the same for all commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Generic, TypeVar

from rich.console import Console

from benchmarks.report import Figure, Report

Testbed = TypeVar("Testbed")


class UnmeasurableError(Exception):
    """A precondition of a measure is missing or failed. The text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Measure(Generic[Testbed]):
    """One experiment, and the names of its figures."""

    figures: tuple[str, ...]
    run: Callable[[Testbed], Sequence[Figure]]


@dataclass(frozen=True, slots=True)
class Command(Generic[Testbed]):
    """A command. `testbed` makes and ends the shared parts; it starts each of them at the first use by a measure.

    It raises argparse.ArgumentTypeError for options that contradict each other, and UnmeasurableError if nothing can be
    measured.
    """

    name: str
    summary: str
    measures: tuple[Measure[Testbed], ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    testbed: Callable[[argparse.Namespace], AbstractContextManager[Testbed]]
    versions: Callable[[], Mapping[str, str]]
    show: Callable[[Report, Console], None] = Report.print
    """Prints the report for people."""

    @property
    def figures(self) -> list[str]:
        return [name for measure in self.measures for name in measure.figures]


def run_measures(
    command: Command[Testbed],
    testbed: Testbed,
    only: Sequence[str],
    report: Report,
    progress: Callable[[str], None],
) -> None:
    """Run the measures that have a figure in `only` (all, if it is empty), and fill in the report.

    A measure that fails does not end the others.
    """
    for measure in command.measures:
        wanted = [name for name in measure.figures if not only or name in only]
        if not wanted:
            continue
        progress(f"measuring {', '.join(wanted)}")
        try:
            report.figures += [figure for figure in measure.run(testbed) if figure.name in wanted]
        except (UnmeasurableError, OSError, HTTPException) as error:
            report.failures |= dict.fromkeys(wanted, str(error))
