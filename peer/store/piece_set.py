"""Which pieces of a blob are held: a set that only grows, and knows its contiguous prefix.

A blob of 100 GiB has 25,600 pieces, so one bit for each in a `bytearray` is 3 KiB, and every operation here is either
constant or walks only what it returns.
"""

from __future__ import annotations

from collections.abc import Iterator


class PieceSet:
    """Indices in `[0, count)`. `prefix` is the number of pieces held from the start without a gap."""

    __slots__ = ("_bits", "count", "held", "prefix")

    def __init__(self, count: int) -> None:
        if count < 0:
            raise ValueError(f"a blob has no {count} pieces")
        self.count = count
        self.held = 0
        self.prefix = 0
        self._bits = bytearray((count + 7) // 8)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and bool(self._bits[index >> 3] & (1 << (index & 7)))

    def __iter__(self) -> Iterator[int]:
        return (index for index in range(self.count) if index in self)

    def __len__(self) -> int:
        return self.held

    @property
    def complete(self) -> bool:
        return self.held == self.count

    def add(self, index: int) -> bool:
        """Hold `index`; False if it was held before. Raises IndexError outside of the blob."""
        if not 0 <= index < self.count:
            raise IndexError(f"piece {index} of {self.count}")
        if index in self:
            return False
        self._bits[index >> 3] |= 1 << (index & 7)
        self.held += 1
        while self.prefix < self.count and self.prefix in self:
            self.prefix += 1
        return True

    def run_from(self, start: int, stop: int | None = None) -> int:
        """The end of the run of held pieces that begins at `start` (`start` itself when that piece is missing)."""
        stop = self.count if stop is None else min(stop, self.count)
        if start < self.prefix:
            return max(start, min(self.prefix, stop))
        end = start
        while end < stop and end in self:
            end += 1
        return end
