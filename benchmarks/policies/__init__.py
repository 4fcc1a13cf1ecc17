"""Other ways of distributing an image than p2pd's, played on the same scenarios, lines and machines.

Each is a small model of what its authors have published, and says what it leaves out and whom that favours.
"""

from __future__ import annotations

from typing import Final

from benchmarks.policies.dragonfly import Dragonfly
from benchmarks.policies.kraken import Kraken
from benchmarks.policies.pull_through import PullThrough
from benchmarks.policies.registry import Registry
from benchmarks.policies.stage import Policy, Stage
from benchmarks.policies.tree import Tree
from p2pd.simulation.result import RunResult
from p2pd.simulation.scenario import Scenario

POLICIES: Final[dict[str, type[Policy]]] = {
    "registry": Registry,
    "pull_through": PullThrough,
    "tree": Tree,
    "dragonfly": Dragonfly,
    "kraken": Kraken,
}
"""By the name that the command line has for each."""


def play(policy: str, scenario: Scenario, *, curves: bool = False) -> RunResult:
    """What comes of a scenario with one of `POLICIES`. Deterministic.

    Raises UnplayableError if something breaks in the scenario, StuckError if some host never gets its image.
    """
    kind = POLICIES[policy]
    stage = Stage(scenario, kind.piece_length, curves=curves)
    return stage.play(kind(stage))
