"""How this host stands with the scheduler, for one blob, and for how long it waits for an answer.

JOINING --Joined--> JOINED                         (JOINING: the origin is closed, yet)
JOINING --patience, OriginOpened--> ALONE <--OriginOpened-- JOINED
ALONE, JOINED --SchedulerFound--> JOINING
JOINED --OriginRefused--> EXPELLED                 (this host's client gets the origin's own answer)
JOINED --Failed, in doubt--> EXPELLED              (nobody can tell who is right, or authorised, but the origin)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class State(Enum):
    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    EXPELLED = "expelled"


ASKED: Final = 3
"""Times the patience, for a scheduler that is there and has been asked: 10,000 hosts that join at once take it 4 s, and
are not to go to the origin for that. One that is gone is noticed by its heartbeats."""


@dataclass(slots=True)
class Standing:
    """`answer_due` is when the origin is open although no scheduler has answered."""

    patience_s: float
    state: State = State.JOINING
    answer_due: float | None = None
    _waits_since: float | None = None

    @property
    def joined(self) -> bool:
        """A scheduler leases what the origin is to be asked for."""
        return self.state is State.JOINED

    @property
    def origin_is_open(self) -> bool:
        """Every piece may be asked of the origin: no scheduler leases it to this host."""
        return self.state in (State.ALONE, State.EXPELLED)

    def wait(self, now: float, *, asked: bool) -> None:
        """A scheduler is to come, or (`asked`) to answer. One that comes and goes, and never answers, gains no time."""
        self.state = State.JOINING
        if self._waits_since is None:
            self._waits_since = now
        self.answer_due = self._waits_since + self.patience_s * (ASKED if asked else 1)

    def join(self) -> None:
        """The scheduler has answered."""
        self.state, self.answer_due, self._waits_since = State.JOINED, None, None

    def be_alone(self, *, for_good: bool) -> None:
        """No scheduler answers, or (`for_good`) none is to be asked again: this download is the host's own."""
        self.answer_due = self._waits_since = None
        if for_good:
            self.state = State.EXPELLED
        elif self.state is not State.EXPELLED:
            self.state = State.ALONE

    def is_overdue(self, now: float) -> bool:
        """Whether the scheduler has had its time to answer."""
        return self.answer_due is not None and now >= self.answer_due

    def validate(self) -> None:
        """Raise AssertionError if an answer is due from nobody."""
        assert self.answer_due is None or self.state is State.JOINING
