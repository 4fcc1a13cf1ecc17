"""Where a download stands with the scheduler, and for how long it waits for an answer.

STATE         the origin may be asked for
JOINING       nothing, yet
JOINED        what the scheduler leases
STANDALONE    everything: no scheduler answers
ORIGIN_ONLY   everything, for good: this host's client gets the origin's own answer
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final


class MembershipState(Enum):
    JOINING = auto()
    JOINED = auto()
    STANDALONE = auto()
    ORIGIN_ONLY = auto()


class MembershipCause(Enum):
    """What moves a membership from one state to another."""

    SCHEDULER_FOUND = auto()
    ACCEPTED = auto()
    """The scheduler has answered the Join."""
    TIMED_OUT = auto()
    """There has been no scheduler, or no answer of one, for too long."""
    REFUSED = auto()
    """The origin refused this host, or others, and nobody but the origin can tell who may have the blob."""


MEMBERSHIP_TRANSITIONS: Final[Mapping[MembershipState, Mapping[MembershipCause, MembershipState]]] = {
    MembershipState.JOINING: {
        MembershipCause.SCHEDULER_FOUND: MembershipState.JOINING,
        MembershipCause.ACCEPTED: MembershipState.JOINED,
        MembershipCause.TIMED_OUT: MembershipState.STANDALONE,
        MembershipCause.REFUSED: MembershipState.ORIGIN_ONLY,
    },
    MembershipState.JOINED: {
        MembershipCause.SCHEDULER_FOUND: MembershipState.JOINING,
        MembershipCause.ACCEPTED: MembershipState.JOINED,
        MembershipCause.TIMED_OUT: MembershipState.STANDALONE,
        MembershipCause.REFUSED: MembershipState.ORIGIN_ONLY,
    },
    MembershipState.STANDALONE: {
        MembershipCause.SCHEDULER_FOUND: MembershipState.JOINING,
        MembershipCause.ACCEPTED: MembershipState.JOINED,
        MembershipCause.TIMED_OUT: MembershipState.STANDALONE,
        MembershipCause.REFUSED: MembershipState.ORIGIN_ONLY,
    },
    MembershipState.ORIGIN_ONLY: {
        MembershipCause.ACCEPTED: MembershipState.ORIGIN_ONLY,
        MembershipCause.TIMED_OUT: MembershipState.ORIGIN_ONLY,
        MembershipCause.REFUSED: MembershipState.ORIGIN_ONLY,
    },
}

ANSWER_FACTOR: Final = 3
"""Times `scheduler_timeout_s`, for a scheduler that is there and has been asked: 10,000 hosts that join at once take it
4 s, and must not go to the origin because of that. A scheduler that is gone is noticed by its heartbeats."""


@dataclass(slots=True)
class Membership:
    """`answer_due` is when the origin may be asked although no scheduler has answered; infinity if no answer is due."""

    scheduler_timeout_s: float
    state: MembershipState = MembershipState.JOINING
    joined: bool = field(init=False)
    """A scheduler leases what the origin is to be asked for."""
    origin_is_open: bool = field(init=False)
    """Every piece may be asked of the origin: no scheduler leases pieces to this host."""
    answer_due: float = math.inf
    _waits_since: float | None = None

    def __post_init__(self) -> None:
        self._enter(self.state)

    def wait(self, now: float, *, asked: bool) -> None:
        """Wait for a scheduler, or (`asked`) for its answer. A scheduler that never answers gains no time by coming."""
        if asked:
            self._step(MembershipCause.SCHEDULER_FOUND)
        if self._waits_since is None:
            self._waits_since = now
        self.answer_due = self._waits_since + self.scheduler_timeout_s * (ANSWER_FACTOR if asked else 1)

    def accept(self) -> None:
        """The scheduler has answered."""
        self._step(MembershipCause.ACCEPTED)
        self.answer_due, self._waits_since = math.inf, None

    def open_origin(self, *, refused: bool) -> None:
        """No scheduler answers; or (`refused`) none is to be asked again: this download is the host's own."""
        self._step(MembershipCause.REFUSED if refused else MembershipCause.TIMED_OUT)
        self.answer_due, self._waits_since = math.inf, None

    def validate(self) -> None:
        """Raise AssertionError if an answer is due from nobody."""
        assert self.answer_due == math.inf or self.state is MembershipState.JOINING

    def _step(self, cause: MembershipCause) -> None:
        self._enter(MEMBERSHIP_TRANSITIONS[self.state][cause])

    def _enter(self, state: MembershipState) -> None:
        self.state = state
        self.joined = state is MembershipState.JOINED
        self.origin_is_open = state in (MembershipState.STANDALONE, MembershipState.ORIGIN_ONLY)
