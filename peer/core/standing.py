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


class State(Enum):
    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    EXPELLED = "expelled"


@dataclass(slots=True)
class Standing:
    """`answer_due` is when the origin is open although no scheduler has answered."""

    patience_s: float
    state: State = State.JOINING
    answer_due: float | None = None

    @property
    def joined(self) -> bool:
        """A scheduler leases what the origin is to be asked for."""
        return self.state is State.JOINED

    @property
    def origin_is_open(self) -> bool:
        """Every piece may be asked of the origin: no scheduler leases it to this host."""
        return self.state in (State.ALONE, State.EXPELLED)

    def wait(self, now: float) -> None:
        """A scheduler is to answer. One that comes and goes, and never answers, does not put it off."""
        self.state = State.JOINING
        if self.answer_due is None:
            self.answer_due = now + self.patience_s

    def join(self) -> None:
        """The scheduler has answered."""
        self.state, self.answer_due = State.JOINED, None

    def be_alone(self, *, for_good: bool) -> None:
        """No scheduler answers, or (`for_good`) none is to be asked again: this download is the host's own."""
        self.answer_due = None
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
