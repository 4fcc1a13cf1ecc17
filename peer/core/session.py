"""This host's connection to one scheduler, as the downloads see it whose blobs are there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from peer.core.announced import Announced
from scheduler.protocol.geometry import knows_pieces

STEADY_S: Final = 3.0
"""A connection that ends before that was of no use, and the next one has to last for so long."""


class SessionState(Enum):
    UNUSED = auto()
    """No connection is wanted, as far as this host knows the scheduler lives."""
    SEARCHING = auto()
    """There is no connection, yet or for a moment."""
    CONNECTED = auto()
    MISSING = auto()
    """There has been no connection for so long that this host goes on without this scheduler."""


class SessionCause(Enum):
    """What moves a session from one state to another."""

    OPENED = auto()
    FOUND = auto()
    LOST = auto()
    TIMED_OUT = auto()
    CLOSED = auto()


SESSION_TRANSITIONS: Final[Mapping[SessionState, Mapping[SessionCause, SessionState]]] = {
    SessionState.UNUSED: {
        SessionCause.OPENED: SessionState.SEARCHING,
    },
    SessionState.SEARCHING: {
        SessionCause.FOUND: SessionState.CONNECTED,
        SessionCause.LOST: SessionState.SEARCHING,
        SessionCause.TIMED_OUT: SessionState.MISSING,
        SessionCause.CLOSED: SessionState.UNUSED,
    },
    SessionState.CONNECTED: {
        SessionCause.FOUND: SessionState.CONNECTED,
        SessionCause.LOST: SessionState.SEARCHING,
        SessionCause.CLOSED: SessionState.UNUSED,
    },
    SessionState.MISSING: {
        SessionCause.FOUND: SessionState.CONNECTED,
        SessionCause.LOST: SessionState.SEARCHING,
        SessionCause.CLOSED: SessionState.UNUSED,
    },
}


@dataclass(slots=True, eq=False)
class SchedulerSession:
    """With the scheduler that is reached at `url`."""

    url: str = ""
    state: SessionState = SessionState.UNUSED
    progress_s: float = 2.0
    """How often the scheduler wants to hear of progress."""
    divides: bool = False
    """Whether the scheduler knows of pieces of another length than the usual one."""
    lengthens: bool = False
    """Whether it knows of longer ones too."""
    id: str = ""
    """What the scheduler is called in the list that it has sent; "" if it has sent none."""
    since: float | None = None
    """When the search began (monotonic, seconds); None while there is none."""
    grace: bool = False
    """Whether what is searched for is a connection that was lost and may be back in a moment."""
    has_failed: bool = False
    """Whether an attempt has failed during the search."""
    unsteady: bool = False
    """Whether a connection ended soon after it was made, and none has lasted since."""
    doubt_at: float = math.inf
    """When this host asks another scheduler for a list, because this one has said that its own is outdated."""
    is_doubted: bool = False
    """Whether that time has come, and this scheduler has said nothing else since."""
    found_at: float = -math.inf
    spare_until: float = math.inf
    """Until when the connection is kept though it is not needed; infinity while it is."""
    announced: Announced = field(default_factory=Announced)
    leaves: dict[bytes, float] = field(default_factory=dict)
    """Blobs that have moved to other schedulers, and when this one is told so."""
    returned: set[bytes] = field(default_factory=set)
    """Those of `leaves` of which a lease was given back to this scheduler."""
    kept: dict[bytes, list[int]] = field(default_factory=dict)
    """The leases of `leaves` that came after that. They end when this scheduler is told that the blob has moved."""

    def may_return(self, digest: bytes, lease: int) -> bool:
        """Whether a lease of a blob that has moved is to be given back; if not, it is kept."""
        if digest in self.returned:
            self.kept.setdefault(digest, []).append(lease)
            return False
        if digest in self.leaves:
            self.returned.add(digest)
        return True

    def stay(self, digest: bytes) -> list[int]:
        """There is no leaving any more of a blob: it is here again, or has left. Returns the leases that were kept."""
        self.leaves.pop(digest, None)
        self.returned.discard(digest)
        return self.kept.pop(digest, [])

    def open(self, now: float) -> None:
        """A connection is wanted from now on."""
        self._step(SessionCause.OPENED)
        self._search(now, grace=False)

    def found(self, progress_s: float, now: float, *, divides: bool = True, lengthens: bool = True) -> None:
        """There is a connection."""
        self._step(SessionCause.FOUND)
        self.progress_s, self.since, self.found_at = progress_s, None, now
        self.divides, self.lengthens = divides, lengthens

    def knows_pieces(self, size_bytes: int, told_length: int) -> bool:
        """Whether the scheduler knows of pieces of this length (0: the usual one) of a blob."""
        return knows_pieces(size_bytes, told_length, divides=self.divides, lengthens=self.lengthens)

    def lost(self, now: float, *, stops: bool = False) -> None:
        """There is none; one is looked for from now on. `stops`: the scheduler has said that it will not be back."""
        was_connected = self.state is SessionState.CONNECTED
        self.unsteady = was_connected and now < self.found_at + STEADY_S
        self._step(SessionCause.LOST)
        self._search(now, grace=was_connected and not stops and not self.unsteady)
        self.has_failed = was_connected and not self.grace

    @property
    def steady_at(self) -> float:
        """When an unsteady connection counts; infinity if there is none that is to last for that."""
        return self.found_at + STEADY_S if self.unsteady and self.state is SessionState.CONNECTED else math.inf

    def time_out(self) -> None:
        """None was found."""
        self._step(SessionCause.TIMED_OUT)
        self.since = None

    def trust(self) -> None:
        """Its list is not outdated, or there is no list."""
        self.doubt_at, self.is_doubted = math.inf, False

    def close(self) -> None:
        """No connection is wanted any more."""
        self._step(SessionCause.CLOSED)
        self.since, self.id, self.unsteady, self.spare_until = None, "", False, math.inf
        self.trust()
        self._forget_leaving()

    def _search(self, now: float, *, grace: bool) -> None:
        self.since, self.grace, self.has_failed, self.id = now, grace, False, ""
        self.trust()
        self._forget_leaving()

    def _forget_leaving(self) -> None:
        for each in (self.leaves, self.returned, self.kept):
            each.clear()

    def _step(self, cause: SessionCause) -> None:
        self.state = SESSION_TRANSITIONS[self.state][cause]
