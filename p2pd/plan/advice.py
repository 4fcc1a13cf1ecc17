"""The limits of a rollout, and the gain of each change of the cluster. Changes are simulated as the cluster is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from p2pd.plan.cluster import Cluster
from p2pd.plan.prediction import Budget, Prediction, predict

START_UP: Final = "start-up"
WAITING: Final = "waiting"
JOINS: Final = "scheduler"

WORTH_WHILE: Final = 0.05
"""A change is advised if it saves at least this part of the time. Less is within the prediction's error."""

RELIEVED: Final[Mapping[str, tuple[str, ...]]] = {
    "double the origin's bandwidth": ("origin",),
    "double the nodes' links": ("node links", "node uploads"),
    "double the sites' uplinks": ("site uplinks",),
    "lift the upload limit": ("node uploads",),
}
"""The parts that each change relieves."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """`limited_by` is the largest of `parts_s`; of several that are as large, the one that the best change relieves.

    `changed_s` is the time of the last node after each change.
    """

    cluster: Cluster
    expected: Prediction
    parts_s: Mapping[str, float]
    changed_s: Mapping[str, float]

    @property
    def limited_by(self) -> str:
        largest_s = max(self.parts_s.values())
        as_large = [part for part, part_s in self.parts_s.items() if part_s >= (1 - WORTH_WHILE) * largest_s]
        relieved = RELIEVED.get(self.best_change or "", ())
        return max(as_large, key=lambda part: (part in relieved, self.parts_s[part]))

    @property
    def best_change(self) -> str | None:
        """The change to make first; None if no change saves enough."""
        best = min(self.changed_s, key=lambda change: self.changed_s[change])
        return best if self.changed_s[best] < (1 - WORTH_WHILE) * self.expected.last_s else None


def make_plan(
    cluster: Cluster, budget: Budget | None = None, on_progress: Callable[[float], None] = lambda _: None
) -> RolloutPlan:
    """Simulate the cluster, and each change of it. `on_progress` gets the part of all work that was just done.

    Raises PlanError.
    """
    budget = budget or Budget()
    others = changes(cluster)

    def on_pull(part: float) -> None:
        on_progress(part / (1 + len(others)))

    expected = predict(cluster, budget, on_pull)
    changed_s = {change: predict(other, budget, on_pull).last_s for change, other in others.items()}
    return RolloutPlan(cluster, expected, _parts_s(cluster, expected), changed_s)


def changes(cluster: Cluster) -> dict[str, Cluster]:
    """The clusters with one change that an operator could make."""
    found = {
        "double the origin's bandwidth": replace(cluster, origin=2 * cluster.origin),
        "double the nodes' links": replace(cluster, link=2 * cluster.link),
    }
    if cluster.site_uplink is not None:
        found["double the sites' uplinks"] = replace(cluster, site_uplink=2 * cluster.site_uplink)
    if cluster.upload is not None and cluster.upload < cluster.link:
        found["lift the upload limit"] = replace(cluster, upload=None)
    return found


def _parts_s(cluster: Cluster, expected: Prediction) -> dict[str, float]:
    """The share of each part of the cluster in the time, by the copies that it has to carry.

    The rest of the time counts as waiting (for answers, and for pieces of neighbours) if it slows the middle of the
    pull, and otherwise as start-up: all nodes can send only after the first copies were made.
    """
    copies = {
        "origin": expected.origin_bytes / cluster.image_bytes,
        "site uplinks": max(1.0, expected.site_bytes / cluster.image_bytes),
    }
    parts = {name: min(expected.last_s, copies.get(name, 1.0) * least_s) for name, least_s in cluster.terms_s().items()}
    flowing_s = max(parts.values())
    parts[WAITING] = max(0.0, min(expected.steady_s, expected.last_s) - flowing_s)
    parts[JOINS] = cluster.joins_s()
    parts[START_UP] = max(0.0, expected.last_s - flowing_s - parts[WAITING] - parts[JOINS])
    return parts
