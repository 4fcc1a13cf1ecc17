"""The schedule of a scenario that is played with real processes. No I/O; time is an argument.

Rules:
1. Times are seconds from the scenario's start. A wave's steps are timed from the end of the wave before. A wave ends
   when all its hosts have the image that they expect.
2. A step is due once. Steps that are due together come in the order of their times.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from p2pd.simulation.scenario import Scenario


class Action(Enum):
    """The action of a step. The step names the host or rack."""

    BEGIN = "the host's client asks for the image"
    VANISH = "the host and its client are gone"
    SCHEDULER_GOES = "the scheduler is gone"
    SCHEDULER_COMES = "there is a scheduler again, which knows nothing"
    CUT = "the rack reaches nothing outside of it"
    MEND = "the rack is connected again"


@dataclass(frozen=True, slots=True)
class Step:
    at_s: float
    action: Action
    subject: str = ""
    wave: int = 0


class Script:
    """The steps of a scenario that have not been done yet."""

    def __init__(self, scenario: Scenario) -> None:
        self._waiting = sorted(_steps(scenario), key=lambda step: step.at_s)
        self._waves_of = {node.name: node.wave for node in scenario.wanting()}
        self._began_s = {0: 0.0}

    def due(self, now_s: float, done: Collection[str]) -> list[Step]:
        """The steps that are due at `now_s`, after the clients of these hosts finished."""
        missing = [wave for name, wave in self._waves_of.items() if name not in done]
        current = min(missing, default=max(self._waves_of.values(), default=0))
        for wave in range(current + 1):
            self._began_s.setdefault(wave, now_s)
        due = [step for step in self._waiting if now_s >= self._began_s.get(step.wave, float("inf")) + step.at_s]
        self._waiting = [step for step in self._waiting if step not in due]
        return due


def _steps(scenario: Scenario) -> list[Step]:
    steps = [Step(node.starts_s, Action.BEGIN, node.name, node.wave) for node in scenario.nodes if not node.holds_image]
    steps += [Step(node.vanishes_s, Action.VANISH, node.name) for node in scenario.nodes if node.vanishes_s is not None]
    if scenario.scheduler_gone is not None:
        goes_s, comes_s = scenario.scheduler_gone
        steps += [Step(goes_s, Action.SCHEDULER_GOES), Step(comes_s, Action.SCHEDULER_COMES)]
    if (cut := scenario.cut) is not None:
        steps += [Step(cut.begins_s, Action.CUT, cut.rack), Step(cut.ends_s, Action.MEND, cut.rack)]
    return steps
