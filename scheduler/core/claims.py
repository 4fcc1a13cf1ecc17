"""A claim: hosts report a value that the scheduler cannot check, such as a piece's digest or a blob's length.

Rules:
1. Only the first report of each witness counts: its certificate or, without one, the address that it comes from
   (`scheduler.core.members.Identity`). No witness can change its report after it has seen the other reports.
2. The first report is believed, because nearly every report is right and every member waits for it. Once the claim is
   disputed, a value is believed only if QUORUM witnesses reported it independently.
3. A single witness that lies, or that has bad memory or a bad proxy, can neither get a disputed value believed nor get
   another host accused, under however many ids it speaks.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from scheduler.core.members import Identity

QUORUM: Final = 2
"""One witness may lie or have bad memory; two that report the same value independently are believed."""

SECONDHAND: Final = Identity("", "")
"""The reporter of a value that a host passes on and did not fetch from the origin. SECONDHAND never counts towards the
quorum and is never accused."""

V = TypeVar("V")


class Claim(Generic[V]):
    """The reports about one value, each with its reporter."""

    __slots__ = ("_reports",)

    def __init__(self) -> None:
        self._reports: tuple[tuple[Identity, V], ...] = ()

    def add(self, reporter: Identity, value: V, quorum: int = QUORUM) -> None:
        """Record a host's report. A report that cannot change the outcome, now or in a dispute, is dropped."""
        witness, reports = reporter.witness, 0
        for said_by, said in self._reports:
            if said_by.witness == witness:
                return
            reports += said == value and said_by != SECONDHAND
        if reporter == SECONDHAND and self._reports:
            return
        if reports < quorum:
            self._reports += ((reporter, value),)

    def first(self) -> V | None:
        """The value that was reported first. It is believed until the claim is disputed."""
        return self._reports[0][1] if self._reports else None

    def confirmed(self, quorum: int = QUORUM) -> V | None:
        """The value that `quorum` witnesses have reported."""
        return next((value for _, value in self._reports if self.reports(value) >= quorum), None)

    def reports(self, value: V) -> int:
        """The number of witnesses that have reported `value`."""
        return sum(said == value and reporter != SECONDHAND for reporter, said in self._reports)

    def reporters(self) -> tuple[Identity, ...]:
        """The hosts that have reported a value, in order."""
        return tuple(reporter for reporter, _ in self._reports if reporter != SECONDHAND)

    def dissenters(self, value: V) -> tuple[Identity, ...]:
        """The hosts that have reported another value."""
        return tuple(reporter for reporter, said in self._reports if said != value and reporter != SECONDHAND)
