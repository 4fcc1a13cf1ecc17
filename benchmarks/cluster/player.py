"""Plays scenarios by the clock: carries out their schedules, and records the time at which each host had the image.

Several scenarios can be played at the same time, in networks of their own, if they are bound by links.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from benchmarks.cluster.schedule import Action, Script, Step
from benchmarks.command import UnmeasurableError
from p2pd.simulation.result import RunResult
from p2pd.simulation.scenario import Scenario

POLL_INTERVAL_S: Final = 0.01
"""The longest delay in noticing the end of a client: well below a hundredth of the measured time."""


class Playable(Protocol):
    """The stage of a scenario."""

    def perform(self, step: Step) -> None: ...

    def ended(self) -> list[str]:
        """The hosts whose clients finished since the last call. Raises UnmeasurableError if a client failed."""
        ...


class Playing:
    """One scenario that is being played. Taking longer than `bound_s` is an error."""

    def __init__(self, scenario: Scenario, stage: Playable, bound_s: float) -> None:
        self._scenario = scenario
        self._stage = stage
        self._bound_s = bound_s
        self._script = Script(scenario)
        self._missing = {node.name for node in scenario.wanting()}
        self._began_s: dict[str, float] = {}
        self._done_s: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        return not self._missing

    def advance(self, now_s: float) -> None:
        """Carry out the steps that are due. Raises UnmeasurableError if a client failed, or the time is up."""
        for name in self._stage.ended():
            self._missing.discard(name)
            self._done_s[name] = now_s
        for step in self._script.due(now_s, self._done_s):
            if step.action is Action.BEGIN:
                self._began_s[step.subject] = now_s
            self._stage.perform(step)
        if self._missing and now_s > self._bound_s:
            raise UnmeasurableError(f"not within {self._bound_s:.0f} s: {', '.join(sorted(self._missing))} have it all")

    def played(
        self,
        *,
        origin_bytes: float,
        site_bytes: Mapping[str, float] | None = None,
        link_messages: int = 0,
        scheduler_messages: int = 0,
    ) -> RunResult:
        """The result, with the counts that were made elsewhere."""
        wanting = {node.name for node in self._scenario.wanting()}
        return RunResult(
            scenario=self._scenario,
            began_s={name: at_s for name, at_s in self._began_s.items() if name in wanting},
            done_s={name: at_s for name, at_s in self._done_s.items() if name in wanting},
            origin_bytes=origin_bytes,
            site_bytes=site_bytes or {},
            link_messages=link_messages,
            scheduler_messages=scheduler_messages,
        )


def play(
    *playings: Playing,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Play all scenarios at the same time, each to its end. Raises UnmeasurableError."""
    started_s = clock()
    while not all(playing.finished for playing in playings):
        for playing in playings:
            if not playing.finished:
                playing.advance(clock() - started_s)
        pause(POLL_INTERVAL_S)
