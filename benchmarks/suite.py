"""`python -m benchmarks.suite`, or `make bench`: the figures at scale, as JSON, as a table in Markdown, and as plots.

Rules:
1. Preheats run first, and then the cluster of real processes, alone on the machine. While the cluster's comparisons
   wait for their links, the simulations run on all cores, the longest first.
2. A missed bar is a result. A figure that could not be measured is in the report with the reason, and makes the exit
   code 1.
3. Every row names the command that gives the row by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import policies
from benchmarks.compiling import simulating
from benchmarks.plots import draw
from benchmarks.programs import ROOT
from benchmarks.report import Bar, machine, rounded
from benchmarks.simulate.command import BARS, COST_BARS, DOWNLINKS, EFFICIENCY_BARS, PLAYERS
from p2pd.simulation.result import RunResult, limit_s
from p2pd.simulation.scenario import SCENARIOS, Shape, blob_of

RATE_BYTES_PER_S: Final = 12.5e6
GROWTH_BAR: Final = Bar("<=", 1.3)
"""The bar of the growth of a host's cost, from 100 hosts to 10,000."""

CLUSTER: Final = ("cluster", "--nodes", "16", "--rate", "100mbit", "--size", "256MiB")
PREHEAT: Final = ("preheat",)
COMPARES: Final = "speedup_vs_registry"


@dataclass(frozen=True, slots=True)
class SimulationRun:
    """One simulation. `down` is the rate of a downlink over that of an uplink."""

    nodes: int
    pieces: int
    scenario: str = "flash-crowd"
    policy: str = "p2pd"
    sites: int = 1
    down: int = DOWNLINKS
    curves: bool = False

    def command(self) -> str:
        """The command that gives the same figures."""
        words = ["simulate", f"--nodes {self.nodes}", f"--pieces {self.pieces}"]
        words += [f"--scenario {self.scenario}"] if self.scenario != "flash-crowd" else []
        words += [f"--policy {self.policy}"] if self.policy != "p2pd" else []
        words += [f"--sites {self.sites}"] if self.sites > 1 else []
        words += [f"--down-rate {100 * self.down}mbit"] if self.down != DOWNLINKS else []
        return " ".join(words)


SIZES: Final = (10, 100, 1_000)
LARGEST: Final = 10_000
SCENARIO_NODES: Final = 100
SCENARIO_PIECES: Final = 128


def runs() -> Iterator[SimulationRun]:
    """All simulations, the longest first."""
    yield SimulationRun(LARGEST, 256)
    yield SimulationRun(1_000, 256, curves=True)
    yield SimulationRun(1_000, 64)
    yield SimulationRun(500, 128, sites=10)
    yield SimulationRun(1_000, 64, down=1)
    yield from (SimulationRun(nodes, 256, policy=policy) for nodes in reversed(SIZES) for policy in policies.POLICIES)
    yield from (SimulationRun(SCENARIO_NODES, SCENARIO_PIECES, scenario) for scenario in SCENARIOS)
    yield from (SimulationRun(nodes, 256) for nodes in SIZES if nodes < 1_000)


def simulate(run: SimulationRun) -> dict[str, Any]:
    """The figures of a run. It is called in a process of its own."""
    shape = Shape(
        nodes=run.nodes,
        blobs=(blob_of(run.pieces),),
        rate_bytes_per_s=RATE_BYTES_PER_S,
        down_bytes_per_s=run.down * RATE_BYTES_PER_S,
        sites=run.sites,
    )
    began_s = time.perf_counter()
    played: RunResult = PLAYERS[run.policy](SCENARIOS[run.scenario](shape), **({"curves": True} if run.curves else {}))
    return {
        "efficiency_p50": played.efficiency_p50(),
        "efficiency_last": played.efficiency_last(),
        "whole_s": played.whole_s(),
        "limit_s": limit_s(played.scenario),
        "origin_copies": played.origin_copies(),
        "site_copies": played.site_copies(),
        "messages_per_piece": played.progress_share(),
        "scheduler_messages_per_host": played.scheduler_messages / max(1, len(played.done_s)),
        "wrong_pieces": played.wrong_pieces,
        "failed_hosts": len(played.failed()),
        "wall_s": time.perf_counter() - began_s,
        "curves": {name: list(curve) for name, curve in played.curves.items()},
    }


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of the report."""

    figure: str
    value: float
    bar: Bar | None
    command: str

    def as_json(self) -> dict[str, Any]:
        met = None if self.bar is None else self.bar.met(self.value)
        bar = None if self.bar is None else str(self.bar)
        return {"figure": self.figure, "value": rounded(self.value), "bar": bar, "met": met, "command": self.command}


def rows(results: Mapping[SimulationRun, Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of the simulations."""
    for run, result in results.items():
        if run.policy != "p2pd":
            yield Row(f"whole_s.{run.policy}", result["whole_s"], None, run.command())
            continue
        plain = run.scenario == "flash-crowd" and run.down == DOWNLINKS
        bar = EFFICIENCY_BARS.get((run.nodes, run.pieces)) if plain and run.sites == 1 else None
        yield Row("efficiency_last", result["efficiency_last"], bar, run.command())
        yield Row("efficiency_p50", result["efficiency_p50"], None, run.command())
        yield Row("origin_copies", result["origin_copies"], BARS["origin_copies"] if plain else None, run.command())
        if run.sites > 1:
            yield Row("site_copies", result["site_copies"], BARS["site_copies"], run.command())
        if run.scenario in COST_BARS:
            whole = results.get(replace(run, scenario="flash-crowd"))
            if whole is not None:
                yield Row("cost", result["whole_s"] / whole["whole_s"], COST_BARS[run.scenario], run.command())
        yield Row("wrong_pieces", result["wrong_pieces"], Bar("<=", 0), run.command())
    few, many = results.get(SimulationRun(100, 256)), results.get(SimulationRun(LARGEST, 256))
    if few is not None and many is not None:
        for name in ("scheduler_messages_per_host", "messages_per_piece"):
            told = f"{SimulationRun(LARGEST, 256).command()}, over {SimulationRun(100, 256).command()}"
            yield Row(f"{name}, growth", many[name] / few[name], GROWTH_BAR, told)


class ClusterProcess:
    """A benchmark of real processes, as another process. `alone` returns when it no longer needs the whole machine."""

    def __init__(self, log: Path, words: Sequence[str] = CLUSTER) -> None:
        self._log = log
        self._name = words[0]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *words, "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def alone(self) -> None:
        """Wait until the process compares, or has ended."""
        assert self._process.stderr is not None
        with self._log.open("w") as log:
            for line in self._process.stderr:
                log.write(line)
                print(f"{self._name}: {line.rstrip()}", file=sys.stderr, flush=True)
                if line.startswith("measuring") and COMPARES in line:
                    return

    def report(self) -> dict[str, Any]:
        """The report of the process."""
        out, errors = self._process.communicate()
        with self._log.open("a") as log:
            log.write(errors)
        if not out:
            return {"figures": {}, "failures": {self._name: errors.strip()[-500:] or self._log.read_text()[-500:]}}
        report: dict[str, Any] = json.loads(out)
        return report

    def stop(self) -> None:
        """End the process at any time. It ends the programs that it started."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def measure(directory: Path) -> dict[str, Any]:
    """The whole report. Figures that could not be measured are in `failures`."""
    preheat = ClusterProcess(directory / "preheat.log", PREHEAT)
    try:
        preheated = preheat.report()
    finally:
        preheat.stop()
    cluster = ClusterProcess(directory / "cluster.log")
    failures: dict[str, str] = {}
    results: dict[SimulationRun, dict[str, Any]] = {}
    try:
        cluster.alone()
        with simulating(min(2, len(os.sched_getaffinity(0)))) as pool:
            pending: dict[SimulationRun, Future[dict[str, Any]]] = {run: pool.submit(simulate, run) for run in runs()}
            for run, future in pending.items():
                try:
                    results[run] = future.result()
                    print(f"{run.command()}: {results[run]['wall_s']:.0f} s", file=sys.stderr, flush=True)
                except Exception as error:  # a failed run is reported, and does not end the others
                    failures[run.command()] = f"{type(error).__name__}: {error}"
        real = cluster.report()
    finally:
        cluster.stop()
    failures |= preheated["failures"] | real["failures"]
    table = [
        {"figure": name, "value": told["value"], "bar": told["bar"], "met": told["met"], "command": " ".join(words)}
        for words, report in ((CLUSTER, real), (PREHEAT, preheated))
        for name, told in report["figures"].items()
    ]
    table += [row.as_json() for row in rows(results)]
    return {
        "machine": machine(),
        "figures": table,
        "failures": failures,
        "cluster": real,
        "runs": [{**asdict(run), "command": run.command(), **result} for run, result in results.items()],
    }


def markdown(report: Mapping[str, Any], took_s: float) -> str:
    """The report as a table."""
    facts = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [f"Measured by `make bench` in {took_s / 60:.0f} minutes, on a machine with {facts}.", ""]
    lines += ["| figure | value | bar | `python -m benchmarks …` |", "|---|---|---|---|"]
    for row in report["figures"]:
        missed = {False: ", **missed**", True: "", None: ""}[row["met"]]
        lines.append(f"| {row['figure']} | {row['value']:g} | {row['bar'] or ''}{missed} | `{row['command']}` |")
    lines += [f"\nNot measured: {name}: {why}" for name, why in report["failures"].items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="where to (default build/bench)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    report = measure(options.out)
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    (options.out / "report.md").write_text(text := markdown(report, time.monotonic() - began_s))
    draw(report["runs"], options.out)
    print(text)
    print(f"the report and the plots are in {options.out}", file=sys.stderr)
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
