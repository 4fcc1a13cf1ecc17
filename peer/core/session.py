"""This host's connection to the scheduler, as all of its downloads see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class SessionState(Enum):
    SEARCHING = auto()
    """There is no scheduler, yet or for a moment."""
    CONNECTED = auto()
    STANDALONE = auto()
    """There has been no scheduler for so long that the origin is asked without one."""


class SessionCause(Enum):
    """What moves a session from one state to another."""

    FOUND = auto()
    LOST = auto()
    TIMED_OUT = auto()


SESSION_TRANSITIONS: Final[Mapping[SessionState, Mapping[SessionCause, SessionState]]] = {
    SessionState.SEARCHING: {
        SessionCause.FOUND: SessionState.CONNECTED,
        SessionCause.LOST: SessionState.SEARCHING,
        SessionCause.TIMED_OUT: SessionState.STANDALONE,
    },
    SessionState.CONNECTED: {
        SessionCause.FOUND: SessionState.CONNECTED,
        SessionCause.LOST: SessionState.SEARCHING,
    },
    SessionState.STANDALONE: {
        SessionCause.FOUND: SessionState.CONNECTED,
        SessionCause.LOST: SessionState.SEARCHING,
    },
}


@dataclass(slots=True)
class SchedulerSession:
    """`due` is when a host that searches stands alone (monotonic, seconds); infinity while it does not search."""

    timeout_s: float
    state: SessionState
    progress_s: float = 2.0
    """How often the scheduler wants to hear of progress."""
    due: float = math.inf

    def found(self, progress_s: float) -> None:
        """There is a connection to a scheduler."""
        self._step(SessionCause.FOUND)
        self.progress_s = progress_s

    def lost(self, now: float) -> None:
        """There is none; one is looked for from now on."""
        self._step(SessionCause.LOST)
        self.due = now + self.timeout_s

    def time_out(self) -> None:
        """None was found."""
        self._step(SessionCause.TIMED_OUT)

    def _step(self, cause: SessionCause) -> None:
        self.state = SESSION_TRANSITIONS[self.state][cause]
        self.due = math.inf
