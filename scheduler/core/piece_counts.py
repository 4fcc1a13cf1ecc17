"""How many members hold each piece of one blob, as far as they have told.

Rules:
1. Sets of pieces are integers: piece `i` is bit `i`. They are small, fast, and what a bitfield on the wire is.
2. Members that hold everything are one number, so that the many that complete cost nothing per piece.
3. The counts of all pieces are added to at once, as on paper: column by column, with a carry. A report costs a few
   operations on integers, however many pieces it names.
"""

from __future__ import annotations


class PieceCounts:
    """Counts the copies of each piece."""

    __slots__ = ("_columns", "complete")

    def __init__(self) -> None:
        self.complete = 0
        """Members that hold everything."""
        self._columns: list[int] = []
        """Bit `i` of column `k` is bit `k` of the number of other members that hold piece `i`."""

    def copies(self, piece: int) -> int:
        """How many members hold a piece."""
        return self.complete + sum((column >> piece & 1) << k for k, column in enumerate(self._columns))

    def change(self, before: int, after: int) -> None:
        """A member that held the pieces `before` now holds `after`; one that holds everything counts in `complete`."""
        carry = after & ~before
        borrow = before & ~after
        for k, column in enumerate(self._columns):
            self._columns[k] = column ^ carry ^ borrow
            carry &= column
            borrow &= ~column
            if not carry and not borrow:
                return
        assert not borrow, "fewer members than none hold a piece"
        if carry:
            self._columns.append(carry)

    def without_copy(self, pieces: int) -> int:
        """Those of a set of pieces that nobody is known to hold."""
        if self.complete:
            return 0
        for column in self._columns:
            pieces &= ~column
        return pieces
