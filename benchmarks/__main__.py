"""`python -m benchmarks COMMAND`: measure, and print the report.

Exit codes: 0 all requested figures were measured, whether bars were missed or not; 1 a figure could not be measured;
2 used wrongly, or two reports that cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console

from benchmarks import compare
from benchmarks.arguments import measured_by, positive
from benchmarks.command import Command, UnmeasurableError, run_measures
from benchmarks.report import Report, machine

NAMES: Final = (
    "datapath",
    "transfer",
    "profile",
    "scheduler",
    "failover",
    "cluster",
    "bare",
    "preheat",
    "background",
    "predict",
    "simulate",
    "adopt",
)
"""Each command is `COMMAND` in `benchmarks/NAME/command.py`."""


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """For all commands, or only for the one that these words begin with: all take 1.5 s of CPU more to load than it."""
    root = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for name in words[:1] if words and words[0] in NAMES else NAMES:
        command: Command[Any] = import_module(f"benchmarks.{name}.command").COMMAND
        one = commands.add_parser(command.name, help=command.summary, description=command.summary)
        one.set_defaults(command=command)
        one.add_argument("--json", action="store_true", help="print the report as JSON")
        one.add_argument(
            "--runs", type=positive, default=5, metavar="N", help="samples of each figure (default %(default)s)"
        )
        one.add_argument(
            "--only",
            action="append",
            default=[],
            choices=command.figures,
            metavar="NAME",
            help=f"measure this figure only; repeatable: {', '.join(command.figures)}",
        )
        one.add_argument(
            "--workdir",
            type=Path,
            metavar="DIR",
            help="make the temporary directory below DIR, which decides the disk that is measured",
        )
        command.add_arguments(one)
    comparing = commands.add_parser("compare", help=compare.__doc__.splitlines()[0], description=compare.__doc__)
    comparing.set_defaults(command=None)
    compare.add_arguments(comparing)
    return root


def exit_on_signal(number: int, _frame: FrameType | None) -> None:
    """Exit through every `with` block, so that all started programs are ended."""
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    options = parser(words).parse_args(words)
    command: Command[Any] | None = options.command
    console = Console(markup=False, highlight=False)
    errors = partial(print, file=sys.stderr, flush=True)
    if command is None:
        try:
            compare.main(options, console)
        except compare.NotComparableError as error:
            errors(error)
            return 2
        return 0
    signal.signal(signal.SIGTERM, exit_on_signal)
    report = Report(measured_by(words), machine(), command.versions())
    try:
        with command.testbed(options) as testbed:
            run_measures(command, testbed, options.only, report, errors)
    except argparse.ArgumentTypeError as error:
        errors(f"error: {error}")
        return 2
    except UnmeasurableError as error:
        errors(f"nothing was measured: {error}")
        return 1
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        command.show(report, console)
    for name, why in report.failures.items():
        errors(f"not measured: {name}: {why}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
