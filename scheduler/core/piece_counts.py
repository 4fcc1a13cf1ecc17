"""The number of known copies of each piece of one blob.

Rules:
1. A set of pieces is an integer: piece `i` is bit `i`. Such a set is small, fast, and the same as a wire bitfield.
2. Seeders are counted in one number, so that a completed member costs nothing per piece.
3. The counts are stored in columns: column `k` has bit `k` of every count. Adding a set of pieces is an addition with
   carry, column by column. A report costs a few operations on integers for any number of pieces.
"""

from __future__ import annotations


class PieceCounts:
    """Counts the copies of each piece."""

    __slots__ = ("_columns", "complete")

    def __init__(self) -> None:
        self.complete = 0
        """The number of members that hold the whole blob."""
        self._columns: list[int] = []
        """Bit `i` of column `k` is bit `k` of the number of other members that hold piece `i`."""

    def copies(self, piece: int) -> int:
        """The number of members that hold a piece."""
        return self.complete + sum((column >> piece & 1) << k for k, column in enumerate(self._columns))

    @property
    def partial(self) -> int:
        """The pieces of all members that do not hold the whole blob, together."""
        return sum(column.bit_count() << k for k, column in enumerate(self._columns))

    def change(self, before: int, after: int) -> None:
        """Count a member that held the pieces `before` and now holds `after`. Seeders count in `complete` instead."""
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
        """The pieces of a set that no member is known to hold."""
        if self.complete:
            return 0
        for column in self._columns:
            pieces &= ~column
        return pieces
