"""Which origins clients wait for, so that a preheat of another blob gives way there (`scheduler.core.lease_policy`).

The problem: a registry's line is often the narrowest. Hosts that preheat fill it, and each lease of theirs makes the
leases of a client's pull as much slower.

Rules:
1. A swarm is of the background if all hosts that want its blob want it for preheats. All others are of clients.
2. A client's swarm uses an origin while it has leases of it, or waits for one. As long as one does, and CALM_S longer,
   no swarm of the background is given a lease there, but one piece in FLOOR_S, so that no preheat waits for ever.
3. When the first client comes, what swarms of the background have under way there ends at once, and a piece that has
   come in part is lost. Else a client would wait for several pieces of a line that it needs, and small pulls would take
   twice as long. CALM_S is longer than what lies between two layers of one pull.
4. Clients that come and go, again and again, would each time take back what the background was given in between. Once
   that has gone on for FLOOR_S, what is under way is left to end by itself, once.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from scheduler.core.swarm import Swarm

CALM_S: Final = 2.0
FLOOR_S: Final = 30.0
"""A piece of 4 MiB takes 1.3 s of a line of 25 Mbit/s: one in twenty of its bytes."""


_NONE: Final[frozenset[str]] = frozenset()


class _Came(NamedTuple):
    """Clients came to an origin at `last`, and since `since` never more than FLOOR_S after each other."""

    since: float
    last: float


class ClientsFirst:
    """The origins (upstreams) that clients' swarms use."""

    def __init__(self) -> None:
        self._used_by: Final[dict[Swarm, frozenset[str]]] = {}
        self._users: Final[Counter[str]] = Counter()
        self._calm_at: Final[dict[str, float]] = {}
        """When the background may have each origin again that clients use no longer."""
        self._next_piece_at: Final[dict[str, float]] = {}
        """Of each origin that clients use, or have used a moment ago: when the background may have its next piece."""
        self._came: Final[dict[str, _Came]] = {}
        """Of each origin to which clients came within FLOOR_S, the latest last (rule 4)."""

    def note(self, swarm: Swarm, upstreams: frozenset[str], now: float) -> tuple[list[str], list[str]]:
        """A swarm uses these upstreams for clients, and no others.

        Returns those of which clients' use begins with that, so that the background ends there, and those of which it
        is over, but for CALM_S.
        """
        self._forget(now)
        before = self._used_by.get(swarm, _NONE)
        if upstreams == before:
            return [], []
        self._used_by.pop(swarm, None)
        if upstreams:
            self._used_by[swarm] = upstreams
        begun, over = [], []
        for upstream in sorted(upstreams - before):
            self._users[upstream] += 1
            self._calm_at.pop(upstream, None)
            if upstream not in self._next_piece_at:
                self._next_piece_at[upstream] = now + FLOOR_S
                if self._takes_back(upstream, now):
                    begun.append(upstream)
        for upstream in sorted(before - upstreams):
            self._users[upstream] -= 1
            if not self._users[upstream]:
                del self._users[upstream]
                self._calm_at[upstream] = now + CALM_S
                over.append(upstream)
        return begun, over

    def due(self, upstream: str, now: float) -> float | None:
        """When the background may have a lease next; None if it may have any number now."""
        self._forget(now)
        due = self._next_piece_at.get(upstream)
        return due if due is None else min(due, self._calm_at.get(upstream, due))

    def give_piece(self, upstream: str, now: float) -> bool:
        """The background gets a lease. Returns whether it is to be a single piece, as clients use the origin."""
        if upstream not in self._next_piece_at:
            return False
        self._next_piece_at[upstream] = now + FLOOR_S
        return True

    def _takes_back(self, upstream: str, now: float) -> bool:
        """Whether what is under way there ends, now that clients come (rule 4)."""
        before = self._came.pop(upstream, None)
        since = now if before is None else before.since
        takes_back = since == now or now - since < FLOOR_S
        self._came[upstream] = _Came(since if takes_back else now, now)
        return takes_back

    def _forget(self, now: float) -> None:
        """Forget the origins that clients have not used for CALM_S; the first in `_calm_at` is the earliest."""
        while self._came and (oldest := next(iter(self._came.items())))[1].last <= now - FLOOR_S:
            del self._came[oldest[0]]
        while self._calm_at and (first := next(iter(self._calm_at.items())))[1] <= now:
            del self._calm_at[first[0]], self._next_piece_at[first[0]]

    def validate(self) -> None:
        """Raise AssertionError if a count is wrong."""
        assert self._users == Counter(upstream for used in self._used_by.values() for upstream in used)
        assert self._next_piece_at.keys() == self._users.keys() | self._calm_at.keys()
        assert not self._users.keys() & self._calm_at.keys()
