"""`simulate`: a scenario of the simulator, with p2pd and with other policies, beside the physical limit.

Rules:
1. A simulation is deterministic: `--runs N` plays N seeds, one after the other, beginning with `--seed`.
2. Figures of p2pd have plain names; figures of another policy have its name as a suffix (`efficiency_last.kraken`). All
   policies play the same scenario over the same lines. The texts in `benchmarks/policies` name the models' favours.
3. A bar holds for p2pd, and for the numbers of hosts and pieces that it was set for.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Final

import trio

from benchmarks import policies
from benchmarks.arguments import bytes_per_s, size, within
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.compiling import simulating
from benchmarks.policies.stage import StuckError, UnplayableError
from benchmarks.procfs import memory_mib
from benchmarks.report import Bar, Figure, ratios
from benchmarks.simulate.image import MIX_LAYERS, mixed_layers
from p2pd.simulation import run as simulation
from p2pd.simulation.result import RunResult, limit_s, median
from p2pd.simulation.scenario import SCENARIOS, Scenario, Shape, blob_of
from scheduler.protocol.fields import MAX_SCHEDULERS

OURS: Final = "p2pd"
PLAYERS: Final[dict[str, Callable[[Scenario], RunResult]]] = {
    OURS: simulation.run,
    **{name: partial(policies.play, name) for name in policies.POLICIES},
}
"""The functions that play a scenario, by policy name on the command line."""

BARS: Final = {
    "origin_copies": Bar("<=", 1.01),
    "site_copies": Bar("<=", 1.1),
}
EFFICIENCY_BARS: Final = {
    (1_000, 256): Bar(">=", 0.92),
    (1_000, 64): Bar(">=", 0.93),
    (10_000, 256): Bar(">=", 0.94),
}
"""The bars of the last host's efficiency in a flash crowd, by the numbers of hosts and pieces."""

COST_BARS: Final = {
    "churn": Bar("<=", 1.15),
    "malicious": Bar("<=", 1.25),
    "misled": Bar("<=", 1.25),
    "misled-together": Bar("<=", 1.5),
    "rack-cut-off": None,
    "scheduler-gone": None,
    "scheduler-lost": None,
    "scheduler-added": None,
}
"""The bars of the other hosts' time over that of a flash crowd without failures, by scenario."""

MISLED_COPIES: Final = {"misled": Bar("<=", 1.1), "misled-together": Bar("<=", 1.5)}
"""The bars of the copies that come from the origin where hosts say wrong digests, by scenario."""

WORTH_COMPILING: Final = 400_000
"""From this number of received pieces on, a simulation takes longer than its compilation."""

MAX_NODES: Final = 100_000
MAX_LAYERS: Final = 127
"""The most that docker allows."""

DOWNLINKS: Final = 10
"""The limits, and the bars taken from them, are for hosts that send no faster than they receive. `--down-rate` shows
the cost of receiving no faster than sending."""
MAX_IMAGES: Final = 100


@dataclass(frozen=True, slots=True)
class TimedRun:
    """A played scenario, and what playing it took here: seconds by the clock, of a core, and the process's memory."""

    played: RunResult
    wall_s: float
    cpu_s: float
    peak_mib: float


class SimulateTestbed:
    """One scenario, with a seed for each run. Results are kept for all figures that use them."""

    def __init__(self, name: str, shape: Shape, runs: int) -> None:
        self.name = name
        self.shape = shape
        self._seeds = range(shape.seed, shape.seed + runs)
        self._kept: dict[tuple[str, str], list[TimedRun]] = {}

    def runs(self, policy: str, scenario: str | None = None) -> list[TimedRun]:
        """The results of the scenario, or of another scenario of the same shape.

        Raises UnmeasurableError if it cannot be played to its end.
        """
        name = scenario or self.name
        if (policy, name) not in self._kept:
            scenarios = [SCENARIOS[name](replace(self.shape, seed=seed)) for seed in self._seeds]
            if len(scenarios) * self.shape.nodes * scenarios[0].pieces < WORTH_COMPILING:
                self._kept[policy, name] = [_run(policy, scenario) for scenario in scenarios]
            else:
                with simulating(1) as process:
                    self._kept[policy, name] = [process.submit(_run, policy, each).result() for each in scenarios]
        return self._kept[policy, name]

    def has(self, figure: str) -> bool:
        """Whether the figure tells something of this shape."""
        scenario = SCENARIOS[self.name](self.shape)
        tells = {
            "site_copies": self.shape.sites > 1,
            "images_in_order": self.shape.images > 1,
            "busiest_scheduler_share": scenario.schedulers > 1,
            "alone_s": scenario.scheduler_gone is not None,
            "moved_share": scenario.scheduler_gone is not None,
        }
        return tells.get(figure, True)

    def bar(self, figure: str) -> Bar | None:
        """The bar for a figure of p2pd."""
        if figure == "wrong_pieces":
            return Bar("<=", 0)
        if figure == "origin_copies" and self.name in MISLED_COPIES:
            return MISLED_COPIES[self.name]
        if figure == "alone_s" and self.name in ("scheduler-lost", "scheduler-added"):
            return Bar("<=", 2.0)
        if self.name != "flash-crowd":
            return None
        if figure == "efficiency_last":
            pieces = SCENARIOS[self.name](self.shape).pieces
            return EFFICIENCY_BARS.get((self.shape.nodes, pieces))
        return BARS.get(figure)


def _run(policy: str, scenario: Scenario) -> TimedRun:
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    try:
        played = PLAYERS[policy](scenario)
    except (UnplayableError, StuckError) as error:
        raise UnmeasurableError(f"{policy}: {error}") from error
    except trio.TooSlowError as error:
        raise UnmeasurableError(f"{policy}: some hosts never got the image") from error
    return TimedRun(
        played, time.perf_counter() - began_s, time.process_time() - cpu_began_s, memory_mib(os.getpid(), "VmHWM")
    )


PLAYED: Final[dict[str, Callable[[RunResult], float]]] = {
    "efficiency_p50": RunResult.efficiency_p50,
    "efficiency_last": RunResult.efficiency_last,
    "whole_s": RunResult.whole_s,
    "origin_copies": RunResult.origin_copies,
    "site_copies": RunResult.site_copies,
    "first_layer_s": lambda played: median(played.first_layers_s()),
    "start_s": lambda played: median(played.starts_s()),
    "start_last_s": lambda played: played.starts_s()[-1],
}
"""The figures of every policy. Copies in a site are a figure only with several sites. A container can start when all
layers of its image are unpacked in their order: `start_s` is the median of all images and hosts."""

OUR_PLAYED: Final[dict[str, Callable[[RunResult], float]]] = PLAYED | {
    "limit_s": lambda played: limit_s(played.scenario),
    "messages_per_piece": RunResult.progress_share,
    "scheduler_messages_per_host": lambda played: played.scheduler_messages / len(played.done_s),
    "busiest_scheduler_s": lambda played: played.busiest().busy_s,
    "busiest_scheduler_events": lambda played: played.busiest().events,
    "busiest_scheduler_share": RunResult.busiest_share,
    "alone_s": lambda played: played.alone_s,
    "moved_share": RunResult.moved_share,
    "wrong_pieces": lambda played: played.wrong_pieces,
    "images_in_order": RunResult.images_in_order,
}


def ours(bed: SimulateTestbed) -> list[Figure]:
    """The figures of the scenario with p2pd."""
    runs = bed.runs(OURS)
    figures = [
        Figure(name, [figure(run.played) for run in runs], bed.bar(name))
        for name, figure in OUR_PLAYED.items()
        if bed.has(name)
    ]
    took = {"cpu_s": median([run.cpu_s for run in runs]), "peak_mib": median([run.peak_mib for run in runs])}
    return [*figures, Figure("wall_s", [run.wall_s for run in runs], sides=took)]


def theirs(policy: str, bed: SimulateTestbed) -> list[Figure]:
    """The figures of the scenario with another policy."""
    runs = bed.runs(policy)
    figures = [
        Figure(f"{name}.{policy}", [figure(run.played) for run in runs])
        for name, figure in PLAYED.items()
        if bed.has(name)
    ]
    return [*figures, Figure(f"wall_s.{policy}", [run.wall_s for run in runs])]


def cost(bed: SimulateTestbed) -> list[Figure]:
    """The time of the hosts that stay, over that of a flash crowd without failures."""
    if bed.name not in COST_BARS:
        return []
    broken, whole = ([run.played.whole_s() for run in bed.runs(OURS, name)] for name in (bed.name, "flash-crowd"))
    return [Figure("cost", ratios(broken, whole), COST_BARS[bed.name], {"flash_crowd_s": whole[0]})]


def speedup(policy: str, bed: SimulateTestbed) -> list[Figure]:
    """Another policy's time over p2pd's."""
    slow, quick = ([run.played.whole_s() for run in bed.runs(name)] for name in (policy, OURS))
    return [Figure(f"speedup_vs_{policy}", ratios(slow, quick))]


MEASURES: Final[dict[str, tuple[Measure[SimulateTestbed], ...]]] = {
    OURS: (Measure((*OUR_PLAYED, "wall_s"), ours), Measure(("cost",), cost))
} | {
    policy: (
        Measure(tuple(f"{name}.{policy}" for name in (*PLAYED, "wall_s")), partial(theirs, policy)),
        Measure((f"speedup_vs_{policy}",), partial(speedup, policy)),
    )
    for policy in policies.POLICIES
}


def pieces(text: str) -> int:
    """Parse a number of pieces that an image of one layer can have."""
    count = within(1, 1 << 16)(text)
    try:
        blob_of(count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nodes", type=within(2, MAX_NODES), default=1_000, help="hosts that there are (default %(default)s)"
    )
    parser.add_argument(
        "--pieces", type=pieces, default=256, help="of an image of one layer, which says its size (default %(default)s)"
    )
    parser.add_argument("--size", "--layer-size", type=size, help="of each layer of the image, instead of --pieces")
    parser.add_argument(
        "--layers", type=within(1, MAX_LAYERS), help=f"of an image with --size (default 1) or a mix ({MIX_LAYERS})"
    )
    parser.add_argument(
        "--image",
        choices=["mix"],
        help="an image with layers of the sizes that real registries have, instead of --pieces",
    )
    parser.add_argument(
        "--images",
        type=within(1, MAX_IMAGES),
        default=1,
        help="that each host pulls at once, of p2pd alone (default %(default)s)",
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, default="flash-crowd", help="what happens (default %(default)s)"
    )
    parser.add_argument("--rate", type=bytes_per_s, default="100mbit", help="of every uplink (default %(default)s)")
    parser.add_argument(
        "--down-rate",
        type=bytes_per_s,
        help=f"of every downlink (default: {DOWNLINKS} times --rate, so that uplinks alone are the limit)",
    )
    parser.add_argument("--origin-rate", type=bytes_per_s, help="of the origin's line (default: that of a link)")
    parser.add_argument(
        "--sites", type=within(1, MAX_NODES), default=1, help="in which the hosts are (default %(default)s)"
    )
    parser.add_argument(
        "--schedulers",
        type=within(1, MAX_SCHEDULERS),
        default=1,
        help="that divide the blobs. A blob is at one of them: what they share shows with several layers "
        "(default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn by chance (default %(default)s)")
    parser.add_argument(
        "--policy",
        choices=[*PLAYERS, "all"],
        default=OURS,
        help="the way of distributing, all: each, and how much faster p2pd is (default %(default)s)",
    )
    parser.set_defaults(runs=1)


def chosen(policy: str, only: Sequence[str]) -> list[str]:
    """The requested figures: the named ones, else those of the named policy, else all."""
    if only or policy == "all":
        return list(only)
    return [name for measure in MEASURES[policy] for name in measure.figures if not name.startswith("speedup_vs")]


def layers(options: argparse.Namespace) -> tuple[int, ...]:
    """The layers' sizes in bytes, of all images. Raises argparse.ArgumentTypeError if options contradict each other."""
    if options.image is not None and options.size is not None:
        raise argparse.ArgumentTypeError("--image and --size both say the sizes of layers: give one of them")
    images: int = options.images
    if options.image is not None:
        mixes = (mixed_layers(options.layers or MIX_LAYERS, options.seed + number) for number in range(images))
        return tuple(size_bytes for mix in mixes for size_bytes in mix)
    if options.layers is not None and options.size is None:
        raise argparse.ArgumentTypeError("--layers needs --size, or --image mix: --pieces is for an image of one layer")
    size_bytes: int = options.size or blob_of(options.pieces)
    return (size_bytes,) * (options.layers or 1) * images


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[SimulateTestbed]:
    options.only = chosen(options.policy, options.only)
    shape = Shape(
        nodes=options.nodes,
        blobs=layers(options),
        rate_bytes_per_s=options.rate,
        down_bytes_per_s=options.down_rate or DOWNLINKS * options.rate,
        origin_bytes_per_s=options.origin_rate,
        sites=options.sites,
        images=options.images,
        schedulers=options.schedulers,
        seed=options.seed,
    )
    yield SimulateTestbed(options.scenario, shape, options.runs)


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("p2pd", "trio")}


COMMAND = Command(
    name="simulate",
    summary="a scenario in virtual time, with p2pd's own cores and with other ways of distributing",
    measures=tuple(measure for measures in MEASURES.values() for measure in measures),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
