"""The hosts that publish digests of one blob: those that were checked, those that are, and those that contradict.

`scheduler.core.spot_checks` says when a publisher is checked, and what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from scheduler.core.members import Identity, Member
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import SpotResult
from scheduler.protocol.to_host import DigestRun


@dataclass(slots=True)
class Check:
    """`piece` of a publisher is compared with the origin. All `runs` of digests are held back until then.

    `results` has all that were asked, with None for those that have not answered.
    """

    publisher: Member
    piece: int
    runs: list[DigestRun]
    due: float
    results: dict[Member, SpotResult | None]

    @property
    def digest(self) -> bytes:
        """What the publisher says of the piece."""
        return self.runs[0].digests[:DIGEST_BYTES]

    @property
    def pieces(self) -> int:
        """The pieces that are held back, as a set of bits."""
        pieces = 0
        for run in self.runs:
            pieces |= ((1 << len(run.digests) // DIGEST_BYTES) - 1) << run.first
        return pieces


class Contradiction(NamedTuple):
    """A checker says that the origin has other bytes than those with the digest that a publisher says. One is wrong."""

    checker: Identity
    publisher: Identity
    piece: int
    digest: bytes


class Publishers:
    """Of one swarm."""

    __slots__ = ("admitted", "asked", "checks", "contradictions", "silences", "suspects")

    def __init__(self) -> None:
        self.admitted: Final[dict[Member, None]] = {}
        self.checks: Final[dict[Member, Check]] = {}
        """By publisher."""
        self.asked = 0
        """The comparisons that hosts were asked for."""
        self.silences = 0
        """The checks that nobody has answered in time."""
        self.suspects: Final[set[Identity]] = set()
        """Hosts of which some lie. They get no leases and check nothing, and are in the swarm otherwise."""
        self.contradictions: Final[list[Contradiction]] = []

    @property
    def held(self) -> int:
        """The pieces whose digests are held back, as a set of bits."""
        held = 0
        for check in self.checks.values():
            held |= check.pieces
        return held

    def leave(self, member: Member) -> int:
        """A member is gone. Returns the pieces that nobody is to fetch any more, as a set of bits."""
        self.admitted.pop(member, None)
        for check in self.checks.values():
            if member in check.results:
                check.results[member] = SpotResult.UNKNOWN
                if None not in check.results.values():
                    check.due = 0.0
        check_of_member = self.checks.pop(member, None)
        return 0 if check_of_member is None else check_of_member.pieces
