"""Other policies for distributing an image than p2pd's, played on the same scenarios, lines and machines.

Each policy is a small model of its authors' publications. Its text names the omissions, and whom they favour.
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
"""The policies by their names on the command line."""

HELD: Final = ("registry", "pull_through", "tree", "kraken")
"""The policies that figures of the documentation may rest on. Kraken's model was held against Kraken itself and agrees;
Dragonfly's model does not agree with Dragonfly (docs/measured.md)."""


def play(policy: str, scenario: Scenario, *, curves: bool = False) -> RunResult:
    """The result of a scenario with one of `POLICIES`. Deterministic.

    Raises UnplayableError if the scenario has failures, StuckError if a host never gets its image.
    """
    kind = POLICIES[policy]
    stage = Stage(scenario, kind.piece_length, curves=curves)
    return stage.play(kind(stage))
