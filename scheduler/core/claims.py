"""A fact that hosts tell the scheduler and that it cannot check: a piece's digest, a blob's length.

Rules:
1. The first word of each host counts, so that none can change it when it sees how things go.
2. A fact is believed on one word, because nearly always it is right and everybody waits for it. Once it is in doubt,
   it is believed on the same word from WITNESSES hosts that did not have it from each other.
3. So one host that lies, or whose memory or proxy is bad, cannot make a disputed fact believed, and cannot bring
   blame on another. Hosts that conspire under several ids can; ids are what mTLS and join tokens make dear.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from scheduler.core.settings import WITNESSES

HEARSAY: Final = ""
"""The voter of a fact that a host passes on without having it from the origin. Never a witness, never to blame."""

V = TypeVar("V")


class Fact(Generic[V]):
    """What was said about one thing, by whom."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: tuple[tuple[str, V], ...] = ()

    def hear(self, voter: str, value: V) -> None:
        """Take a host's word. What would change nothing, now or in a dispute, is not kept."""
        if any(said_by == voter for said_by, _ in self._words):
            return
        if voter == HEARSAY and self._words:
            return
        if self.witnesses(value) < WITNESSES:
            self._words += ((voter, value),)

    def first(self) -> V | None:
        """What was said first: believed as long as nobody doubts it."""
        return self._words[0][1] if self._words else None

    def confirmed(self) -> V | None:
        """What WITNESSES hosts have said."""
        return next((value for _, value in self._words if self.witnesses(value) >= WITNESSES), None)

    def witnesses(self, value: V) -> int:
        """How many hosts have said `value`."""
        return sum(said == value and voter != HEARSAY for voter, said in self._words)

    def voters(self) -> tuple[str, ...]:
        """Who has said anything, in order."""
        return tuple(voter for voter, _ in self._words if voter != HEARSAY)

    def dissenters(self, value: V) -> tuple[str, ...]:
        """Who has said anything else."""
        return tuple(voter for voter, said in self._words if said != value and voter != HEARSAY)
