"""The memory that hosts make the scheduler take with what they say: bounded for each host, each address, and in all.

Rules:
1. What a message names and does not carry is charged before it is stored: a swarm, the bits of a claimed length, the
   digests of a piece map. What is charged is an estimate of the bytes that it takes.
2. All of it is charged to the *witness* of the host that said it (`scheduler.core.members.Identity`): its certificate,
   or the address that it comes from. So many ids on one machine have what one of them has.
3. A swarm gives back all that was charged for it when it ends.
4. What hosts without certificates hold and want is charged too, to the network that they come from: their ids cost
   nothing, so the bounds of one host bound nothing. A host with a certificate has those bounds alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SWARM_BYTES: Final = 10 * 1024
"""A swarm of one member."""

SHELVED_BYTES: Final = 600
"""A blob on the shelf with one holder."""

PUBLISHED_BYTES: Final = 224
"""A digest as it is published: the record in the swarm's log, and its place in what newcomers are told."""

MEMBER_BYTES: Final = 1024
"""A member beside the first."""

HOLDER_BYTES: Final = 100
"""A holder of a blob on the shelf, without the pieces of which it holds a part."""

BITMAPS: Final = 5
"""Sets of pieces that a swarm and its first member keep: unleased, needed, orphans, counts, held."""


def bitmap_bytes(pieces: int) -> int:
    """What a length costs that makes so many pieces."""
    return BITMAPS * -(-pieces // 8)


class Budget:
    """Bytes that are charged to their owners. An owner that would have more than `each` is refused."""

    def __init__(self, each: int, in_all: int) -> None:
        self._each: Final = each
        self._in_all: Final = in_all
        self._taken: Final[dict[str, int]] = {}
        self.taken = 0
        """All bytes that are charged now."""

    def take(self, owner: str, amount: int) -> bool:
        """Charge an owner. Returns False, and charges nothing, if that is beyond a bound."""
        if not self.has_room(owner, amount):
            return False
        if not amount:
            return True
        self._taken[owner] = self._taken.get(owner, 0) + amount
        self.taken += amount
        return True

    def has_room(self, owner: str, amount: int) -> bool:
        """Whether `take` would charge the owner."""
        return self._taken.get(owner, 0) + amount <= self._each and self.taken + amount <= self._in_all

    def give_back(self, charges: Mapping[str, int]) -> None:
        """End the charges of each owner."""
        for owner, amount in charges.items():
            left = self._taken[owner] - amount
            assert left >= 0, (owner, left)
            self.taken -= amount
            if left:
                self._taken[owner] = left
            else:
                del self._taken[owner]

    def validate(self) -> None:
        """Raise AssertionError if the sums differ."""
        assert sum(self._taken.values()) == self.taken <= self._in_all
        assert all(0 < taken <= self._each for taken in self._taken.values())
