"""A claim that hosts tell the scheduler and that it cannot check: a piece's digest, a blob's length.

Rules:
1. The first word of each host counts, so that none can change it when it sees how things go.
2. A claim is believed on one word, because nearly always it is right and everybody waits for it. Once it is in doubt,
   it is believed on the same word from QUORUM hosts that did not have it from each other.
3. So one host that lies, or whose memory or proxy is bad, cannot make a disputed claim believed, and cannot bring
   blame on another. Hosts that conspire under several ids can; ids are what mTLS and join tokens make dear.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

QUORUM: Final = 2
"""One host may lie or have bad memory; two hosts that report the same value independently are believed."""

SECONDHAND: Final = ""
"""The reporter of a claim that a host passes on without having it from the origin. Never counted in the quorum, never
accused."""

V = TypeVar("V")


class Claim(Generic[V]):
    """What was said about one thing, by whom."""

    __slots__ = ("_reports",)

    def __init__(self) -> None:
        self._reports: tuple[tuple[str, V], ...] = ()

    def add(self, reporter: str, value: V) -> None:
        """Take a host's word. What would change nothing, now or in a dispute, is not kept."""
        if any(said_by == reporter for said_by, _ in self._reports):
            return
        if reporter == SECONDHAND and self._reports:
            return
        if self.reports(value) < QUORUM:
            self._reports += ((reporter, value),)

    def first(self) -> V | None:
        """What was said first: believed as long as nobody doubts it."""
        return self._reports[0][1] if self._reports else None

    def confirmed(self) -> V | None:
        """What QUORUM hosts have said."""
        return next((value for _, value in self._reports if self.reports(value) >= QUORUM), None)

    def reports(self, value: V) -> int:
        """How many hosts have said `value`."""
        return sum(said == value and reporter != SECONDHAND for reporter, said in self._reports)

    def reporters(self) -> tuple[str, ...]:
        """Who has said anything, in order."""
        return tuple(reporter for reporter, _ in self._reports if reporter != SECONDHAND)

    def dissenters(self, value: V) -> tuple[str, ...]:
        """Who has said anything else."""
        return tuple(reporter for reporter, said in self._reports if said != value and reporter != SECONDHAND)
