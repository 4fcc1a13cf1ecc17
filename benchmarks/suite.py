"""`python -m benchmarks.suite`, or `make bench`: the figures at scale, as JSON, as a table in Markdown, and as plots.

Rules:
1. Benchmarks of real processes run first, one after the other, alone on the machine. The last is the cluster: while its
   comparisons wait for their links, the simulations run on all cores, the longest first. Models of policies that
   take seconds run while p2pd is being compiled.
2. A missed bar is a result. A figure that could not be measured is in the report with the reason, and makes the exit
   code 1.
3. Every row names the command that gives the row by itself.
4. The largest swarm is simulated only if that is asked for: it takes as long as everything else together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import policies
from benchmarks.arguments import measured_by
from benchmarks.background import command as background
from benchmarks.cluster import command as cluster
from benchmarks.compiling import simulating
from benchmarks.datapath import command as datapath
from benchmarks.plots import draw
from benchmarks.programs import ROOT
from benchmarks.report import FORMAT, Bar, machine, rounded
from benchmarks.simulate.command import BARS, COST_BARS, DOWNLINKS, EFFICIENCY_BARS, PLAYERS
from benchmarks.simulate.image import MIX_LAYERS, mixed_layers
from benchmarks.transfer import command as transfer
from p2pd.simulation.result import RunResult, limit_s, median
from p2pd.simulation.scenario import SCENARIOS, Shape, blob_of

RATE_BYTES_PER_S: Final = 12.5e6


def _only(figures: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for name in figures for word in ("--only", name))


ONLY_TRANSFER: Final = _only(name for name in transfer.COMMAND.figures if name not in transfer.ENCRYPTED_FIGURES)
"""All figures but those of encryption, which take as long as all others together."""

ONLY_DATAPATH: Final = _only((*(name for name in datapath.COMMAND.figures if name in datapath.BARS), "cpu_share"))
"""The figures that have bars, and how busy the cores are: the others are cold pulls by further clients."""

ONLY_FLOORS: Final = _only(datapath.FLOORS)
"""Beside the cold pulls that miss their bars."""

ONLY_LIMITED: Final = _only(("cold_vs_direct", "cpu_s_per_gib.cold"))
"""With a limited origin only the first has a bar."""

ONLY_BACKGROUND: Final = _only(
    name for name in background.COMMAND.figures if name.endswith(f".{background.TRANSPORTS[0]}")
)
"""The figures that have bars. HTTP, which has none, takes as long."""

ONLY_SWARM: Final = _only(name for name in cluster.COMMAND.figures if not name.startswith("speedup_vs"))
GROWTH_BAR: Final = Bar("<=", 1.3)
"""The bar of the growth of a host's cost, from 100 hosts to 1,000 and to 10,000."""

ALONE: Final = (
    ("transfer", "--size", "256MiB", *ONLY_TRANSFER),
    ("datapath", "--size", "256MiB", *ONLY_DATAPATH, *ONLY_FLOORS),
    ("datapath", "--size", "256MiB", "--origin-rate", "1gbit", *ONLY_LIMITED),
    ("datapath", "--size", "256MiB", "--origin-rate", "5gbit", *ONLY_LIMITED, *ONLY_FLOORS),
    ("cluster", "--nodes", "16", "--rate", "100mbit", "--layers", "20", "--layer-size", "8MiB", *ONLY_SWARM),
    ("preheat",),
    ("preheat", "--origin-rate", "250mbit", "--only", "pull_during_preheat"),
    ("adopt",),
    ("background", *ONLY_BACKGROUND),
)
CLUSTER: Final = ("cluster", "--nodes", "16", "--rate", "100mbit", "--size", "256MiB")
COMPARES: Final = "speedup_vs_registry"


@dataclass(frozen=True, slots=True)
class SimulationRun:
    """One simulation. `down` is the rate of a downlink over that of an uplink.

    With `mix` the image has the size mix of real registries, and `pieces` says nothing.
    """

    nodes: int
    pieces: int
    scenario: str = "flash-crowd"
    policy: str = "p2pd"
    sites: int = 1
    down: int = DOWNLINKS
    curves: bool = False
    mix: bool = False

    def command(self) -> str:
        """The command that gives the same figures."""
        words = ["simulate", f"--nodes {self.nodes}", "--image mix" if self.mix else f"--pieces {self.pieces}"]
        words += [f"--scenario {self.scenario}"] if self.scenario != "flash-crowd" else []
        words += [f"--policy {self.policy}"] if self.policy != "p2pd" else []
        words += [f"--sites {self.sites}"] if self.sites > 1 else []
        words += [f"--down-rate {100 * self.down}mbit"] if self.down != DOWNLINKS else []
        return " ".join(words)


SIZES: Final = (10, 100, 1_000)
LARGEST: Final = 10_000
SCENARIO_NODES: Final = 100
SCENARIO_PIECES: Final = 128
QUICK: Final = frozenset({"registry", "pull_through", "tree"})
"""Policies whose models take seconds. Kraken's takes three times as long when it is not compiled."""

PLAYED: Final = [name for name in SCENARIOS if name not in {"many-layers", "size-mix"}]
"""Of images with many layers `--image mix` is the run: these two take as long as all other scenarios together."""


def runs(*, largest: bool = False) -> Iterator[SimulationRun]:
    """All simulations, the longest first."""
    if largest:
        yield SimulationRun(LARGEST, 256)
    yield SimulationRun(1_000, 256, curves=True)
    yield SimulationRun(1_000, 64)
    yield SimulationRun(500, 128, sites=10)
    yield SimulationRun(1_000, 64, down=1)
    yield SimulationRun(SCENARIO_NODES, 0, mix=True)
    yield from (SimulationRun(nodes, 256, policy=policy) for nodes in reversed(SIZES) for policy in policies.HELD)
    yield from (SimulationRun(SCENARIO_NODES, SCENARIO_PIECES, scenario) for scenario in PLAYED)
    yield from (SimulationRun(nodes, 256) for nodes in SIZES if nodes < 1_000)


def simulate(run: SimulationRun) -> dict[str, Any]:
    """The figures of a run. It is called in a process of its own."""
    shape = Shape(
        nodes=run.nodes,
        blobs=mixed_layers(MIX_LAYERS, 0) if run.mix else (blob_of(run.pieces),),
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
        "first_layer_s": median(played.first_layers_s()),
        "start_s": median(played.starts_s()),
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
        value = rounded(self.value)
        spread = {"min": value, "max": value, "runs": 1}
        return {"figure": self.figure, "value": value, **spread, "bar": bar, "met": met, "command": self.command}


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
        if run.mix:
            yield from (
                Row(name, result[name], None, run.command()) for name in ("whole_s", "first_layer_s", "start_s")
            )
        if run.sites > 1:
            yield Row("site_copies", result["site_copies"], BARS["site_copies"], run.command())
        if run.scenario in COST_BARS:
            whole = results.get(replace(run, scenario="flash-crowd"))
            if whole is not None:
                yield Row("cost", result["whole_s"] / whole["whole_s"], COST_BARS[run.scenario], run.command())
        yield Row("wrong_pieces", result["wrong_pieces"], Bar("<=", 0), run.command())
    yield from _growth(results)


def _growth(results: Mapping[SimulationRun, Mapping[str, Any]]) -> Iterator[Row]:
    """What a host costs in larger swarms, over what it costs in one of 100."""
    few = SimulationRun(100, 256)
    for run, result in results.items():
        is_larger = run.nodes > few.nodes and replace(run, nodes=few.nodes, curves=False) == few
        if is_larger and few in results:
            for name in ("scheduler_messages_per_host", "messages_per_piece"):
                told = f"{run.command()}, over {few.command()}"
                yield Row(f"{name}, growth", result[name] / results[few][name], GROWTH_BAR, told)


class BenchmarkProcess:
    """A benchmark as another process, whose messages go to this one's log."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._command = measured_by(words)
        self._log = log
        self._began_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *words, "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, figure: str) -> None:
        """Wait until the process measures this figure, or has ended."""
        assert self._process.stderr is not None
        with self._log.open("a") as log:
            for line in self._process.stderr:
                log.write(line)
                print(f"{self._command}: {line.rstrip()}", file=sys.stderr, flush=True)
                if line.startswith("measuring") and figure in line:
                    return

    def report(self) -> dict[str, Any]:
        """The report of the process, with the seconds that it took."""
        out, errors = self._process.communicate()
        with self._log.open("a") as log:
            log.write(errors)
        took = {"took_s": rounded(time.monotonic() - self._began_s)}
        if not out:
            why = errors.strip()[-500:] or self._log.read_text()[-500:]
            return {"command": self._command, "figures": {}, "failures": {self._command: why}, **took}
        return {**json.loads(out), **took}

    def stop(self) -> None:
        """End the process at any time. It ends the programs that it started."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def benchmark(words: Sequence[str], log: Path) -> Iterator[BenchmarkProcess]:
    """A benchmark, which ends with the block."""
    process = BenchmarkProcess(words, log)
    try:
        yield process
    finally:
        process.stop()


def report_of(words: Sequence[str], log: Path) -> dict[str, Any]:
    """The report of a benchmark, from its begin to its end."""
    with benchmark(words, log) as process:
        process.wait_for("its end")
        return process.report()


def real_rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a benchmark's report."""
    for name, told in report["figures"].items():
        yield {"figure": name, **told, "command": report["command"]}


def measure(directory: Path, *, largest: bool) -> dict[str, Any]:
    """The whole report. Figures that could not be measured are in `failures`."""
    log = directory / "benchmarks.log"
    log.unlink(missing_ok=True)
    reports = [report_of(words, log) for words in ALONE]
    failures: dict[str, str] = {}
    results: dict[SimulationRun, dict[str, Any]] = {}
    with benchmark(CLUSTER, log) as process:
        process.wait_for(COMPARES)
        began_s = time.monotonic()
        planned = list(runs(largest=largest))
        with ExitStack() as pools:
            early = pools.enter_context(simulating(1, compiled=False))
            pending: dict[SimulationRun, Future[dict[str, Any]]] = {
                run: early.submit(simulate, run) for run in planned if run.policy in QUICK
            }
            pool = pools.enter_context(simulating(min(2, len(os.sched_getaffinity(0)))))
            pending |= {run: pool.submit(simulate, run) for run in planned if run not in pending}
            reports.append(process.report())
            for run in planned:
                try:
                    results[run] = pending[run].result()
                    print(f"{run.command()}: {results[run]['wall_s']:.0f} s", file=sys.stderr, flush=True)
                except Exception as error:  # a failed run is reported, and does not end the others
                    failures[run.command()] = f"{type(error).__name__}: {error}"
        simulated_s = rounded(time.monotonic() - began_s)
    for report in reports:
        failures |= {f"{name} ({report['command']})": why for name, why in report["failures"].items()}
    return {
        "format": FORMAT,
        "machine": machine(),
        "figures": [row for report in reports for row in real_rows(report)] + [row.as_json() for row in rows(results)],
        "failures": failures,
        "took_s": {report["command"]: report["took_s"] for report in reports} | {"all simulations": simulated_s},
        "benchmarks": reports,
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
    took = (f"`{part}` {seconds:.0f} s" for part, seconds in report["took_s"].items())
    lines += ["", f"Time: {', '.join(took)} (the simulations beside the end of the last cluster)."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="where to (default build/bench)")
    parser.add_argument("--largest", action="store_true", help=f"simulate {LARGEST:,} hosts as well")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    report = measure(options.out, largest=options.largest)
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    (options.out / "report.md").write_text(text := markdown(report, time.monotonic() - began_s))
    draw(report["runs"], options.out)
    print(text)
    print(f"the report and the plots are in {options.out}", file=sys.stderr)
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
