"""Figures, their bars, and the report that is printed.

Rules:
1. A figure is the median of its samples; the report has the smallest and the largest sample beside it.
2. Two programs are compared sample by sample (`ratios`), never median by median: a drift of the machine then affects
   both sides of a ratio alike.
3. A missed bar is a result. Only a figure that could not be measured is a failure.
"""

from __future__ import annotations

import operator
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

FORMAT: Final = 1
"""The version of the reports' JSON, which `compare` reads."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The limit that a figure must keep to."""

    sense: Literal["<", "<=", ">="]
    limit: float

    def met(self, value: float) -> bool:
        compare = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}[self.sense]
        return bool(compare(value, self.limit))

    def __str__(self) -> str:
        return f"{self.sense} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity, with its unit in its name (`ready_s`); a ratio has none.

    `sides` are the medians of the two sides of a ratio, also with the unit in the name (`nginx_gib_per_s`).
    """

    name: str
    samples: Sequence[float]
    bar: Bar | None = None
    sides: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar."""
        return None if self.bar is None else self.bar.met(self.value)

    def as_json(self) -> dict[str, Any]:
        return {
            "value": rounded(self.value),
            "min": rounded(min(self.samples)),
            "max": rounded(max(self.samples)),
            "runs": len(self.samples),
            "bar": None if self.bar is None else str(self.bar),
            "met": self.met,
            "sides": {name: rounded(value) for name, value in self.sides.items()},
        }


@dataclass(slots=True)
class Report:
    """The figures of one command, and its failures (a measure's name, and the reason).

    `command` has the options that decide what is measured: `transfer --size 256MiB`.
    """

    command: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "command": self.command,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "figures": {figure.name: figure.as_json() for figure in self.figures},
            "failures": dict(self.failures),
        }

    def print(self, console: Console) -> None:
        """The report as a table for people."""
        table = Table(title=f"benchmarks {self.command}", title_justify="left", box=SIMPLE)
        table.add_column("figure", no_wrap=True)
        for heading in ("median", "min", "max", "runs", "bar", "met"):
            table.add_column(heading, justify="right", no_wrap=True)
        for figure in self.figures:
            shown = figure.as_json()
            numbers = (f"{shown[key]:g}" for key in ("value", "min", "max", "runs"))
            met = {True: "yes", False: "NO", None: ""}[figure.met]
            table.add_row(figure.name, *numbers, shown["bar"] or "", met)
        console.print(table)
        sides = {figure.name: figure.as_json()["sides"] for figure in self.figures if figure.sides}
        for name, facts in {**sides, "machine": self.machine, "versions": self.versions}.items():
            console.print(f"{name}: {', '.join(f'{key} {value}' for key, value in facts.items())}")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, pair by pair. Both were measured in turns and have one length."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def rounded(value: float) -> float:
    """The number to four significant digits: more would claim a precision that no run has."""
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """The machine's description for readers. `load_1m` above 0 means that other programs ran before."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": rounded(memory_bytes / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": rounded(os.getloadavg()[0]),
    }


def _cpu() -> str:
    """The processor's model, or its architecture where the kernel does not tell a model."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
