"""How many members hold each piece of one blob, as far as they have told.

Rules:
1. Sets of pieces are integers: piece `i` is bit `i`. They are small, fast, and what a bitfield on the wire is.
2. Members that hold everything are one number, so that the many that complete cost nothing per piece.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator


def pieces_in(pieces: int) -> Iterator[int]:
    """The numbers of the pieces in a set, lowest first. Its time is linear in the highest number."""
    bits = bin(pieces)[:1:-1]
    at = bits.find("1")
    while at >= 0:
        yield at
        at = bits.find("1", at + 1)


class Holdings:
    """Counts the copies of each of `count` pieces."""

    __slots__ = ("_partial", "complete")

    def __init__(self, count: int) -> None:
        self.complete = 0
        """Members that hold everything."""
        self._partial = array("I", bytes(4 * count))

    def copies(self, piece: int) -> int:
        """How many members hold a piece."""
        return self.complete + self._partial[piece]

    def change(self, before: int, after: int) -> None:
        """A member that held the pieces `before` now holds `after`; one that holds everything counts in `complete`."""
        for piece in pieces_in(after & ~before):
            self._partial[piece] += 1
        for piece in pieces_in(before & ~after):
            self._partial[piece] -= 1

    def without_copy(self, pieces: int) -> int:
        """Those of a set of pieces that nobody is known to hold."""
        if self.complete:
            return 0
        lost = 0
        for piece in pieces_in(pieces):
            if not self._partial[piece]:
                lost |= 1 << piece
        return lost
