"""`predict`: what models of `p2pd predict` would have had preheated over a trace, and what came of it.

Rules:
1. The first half of the days is for learning, and the second is scored. Models are asked, and learn, on all days: what
   is held out is held out from whoever chose the models and their constants, which was done with other seeds.
2. All models have the same budget, room, horizon and lead.
3. `--runs N` plays N synthetic traces, of the seeds from `--seed` on. A file is one trace.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.arguments import GIB, size, within
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.predict.ibm import TraceError, read_ibm
from benchmarks.predict.replay import Replay, Score
from benchmarks.predict.synthetic import synthetic
from benchmarks.report import Bar, Figure, ratios
from p2pd.predict.facts import DAY_S
from p2pd.predict.forecast import LEAST_CONFIDENCE, MODELS
from scheduler.core.history import Record

SYNTHETIC: Final = "synthetic"
BASELINE: Final = "ewma+push"
REPORT_SEED: Final = 1
"""The seeds from 1001 on are for development."""

FIGURES: Final[dict[str, Callable[[Score], float]]] = {
    "warm_share": lambda score: score.warm_share,
    "warm_pulls": lambda score: score.made_warm,
    "cold_pulls": lambda score: score.cold,
    "preheated_gib": lambda score: score.preheated_bytes / GIB,
    "used_gib": lambda score: score.used_bytes / GIB,
    "wasted_gib": lambda score: score.wasted_bytes / GIB,
    "precision": lambda score: score.precision,
}
"""`warm_share`: of the pulls that would have been cold, those that were made warm. `precision`: the used share of what
was preheated."""


class PredictTestbed:
    """The traces, and each model's scores, which all figures share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._traces: list[list[Record]] = []
        self._scores: dict[str, list[Score]] = {}

    def scores(self, model: str) -> list[Score]:
        """Raises UnmeasurableError."""
        if model == "river" and find_spec("river") is None:
            raise UnmeasurableError("river is not here: pip install 'p2pd[predict]'")
        if model not in self._scores:
            self._scores[model] = [self._replay(model).run(trace) for trace in self._all_traces()]
        return self._scores[model]

    def _replay(self, model: str) -> Replay:
        options = self._options
        return Replay(
            model,
            horizon_s=options.hours * 3600.0,
            budget_bytes=options.budget,
            room_bytes=options.room,
            score_from_s=options.days // 2 * DAY_S,
            least=options.least / 100,
        )

    def _all_traces(self) -> list[list[Record]]:
        options = self._options
        if not self._traces and options.trace == [SYNTHETIC]:
            seeds = range(options.seed, options.seed + options.runs)
            self._traces = [synthetic(seed, options.days) for seed in seeds]
        elif not self._traces:
            try:
                trace = read_ibm([Path(name) for name in options.trace])
            except (OSError, TraceError) as error:
                raise UnmeasurableError(str(error)) from None
            self._traces = [[each for each in trace if each.at < trace[0].at + options.days * DAY_S]]
        return self._traces


def measure(model: str, testbed: PredictTestbed) -> Sequence[Figure]:
    scores = testbed.scores(model)
    return [Figure(f"{name}.{model}", [of(each) for each in scores]) for name, of in FIGURES.items()]


def against(testbed: PredictTestbed) -> Sequence[Figure]:
    """How many times as many pulls the model that learns makes warm, trace by trace."""
    theirs = [each.made_warm for each in testbed.scores(BASELINE)]
    if not all(theirs):
        raise UnmeasurableError(f"{BASELINE} makes no pull warm in one of these traces")
    ours = [each.made_warm for each in testbed.scores("river")]
    return [Figure("river_vs_baseline", ratios(ours, theirs), Bar(">=", 1.0))]


NAMES: Final = ("none", *MODELS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace",
        action="append",
        metavar="synthetic|FILE",
        help="a trace of IBM's registry as JSON; repeatable (default synthetic)",
    )
    parser.add_argument(
        "--model", choices=[*NAMES, "all"], default="all", help="what is asked (default: all, and how they compare)"
    )
    parser.add_argument("--days", type=within(2, 400), default=28, help="of the trace (default %(default)s)")
    parser.add_argument("--hours", type=within(1, 168), default=6, help="that are predicted (default %(default)s)")
    parser.add_argument("--budget", type=size, default="20GiB", help="of a site and day (default %(default)s)")
    parser.add_argument("--room", type=size, default="60GiB", help="of a site's cache (default %(default)s)")
    parser.add_argument(
        "--least",
        type=within(0, 100),
        default=round(LEAST_CONFIDENCE * 100),
        help="confidence that is preheated, in %% (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help="of the first trace (default %(default)s)")


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[PredictTestbed]:
    options.trace = options.trace or [SYNTHETIC]
    if SYNTHETIC in options.trace and len(options.trace) > 1:
        raise argparse.ArgumentTypeError("--trace synthetic stands alone")
    if not options.only and options.model != "all":
        options.only = [f"{name}.{options.model}" for name in FIGURES]
    yield PredictTestbed(options)


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("p2pd", "river") if name == "p2pd" or find_spec(name)}


COMMAND = Command(
    name="predict",
    summary="models of what will be pulled, replayed over traces: pulls made warm, and bytes in vain",
    measures=(
        *(Measure(tuple(f"{figure}.{name}" for figure in FIGURES), partial(measure, name)) for name in NAMES),
        Measure(("river_vs_baseline",), against),
    ),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
