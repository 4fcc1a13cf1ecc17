"""Random choices that are the same in every run: a seeded generator, independent of the system's generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

_MASK: Final = (1 << 64) - 1

T = TypeVar("T")


class Rng:
    """SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) from a seed."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def randbelow(self, bound: int) -> int:
        """A number within `0..bound - 1`. The bias is below bound / 2**64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return (z ^ (z >> 31)) * bound >> 64

    def choice(self, items: Sequence[T]) -> T:
        """A random item of `items`, which must not be empty."""
        return items[self.randbelow(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All `items` in a random order (Fisher and Yates)."""
        order = list(items)
        for at in range(len(order) - 1, 0, -1):
            other = self.randbelow(at + 1)
            order[at], order[other] = order[other], order[at]
        return order

    def sample(self, items: Sequence[T], most: int) -> list[T]:
        """All `items` from a random position on. Of more than `most` items, `most` random items with repetitions."""
        count = len(items)
        if count == 0:
            return []
        if count <= most:
            start = self.randbelow(count)
            return [*items[start:], *items[:start]]
        return [items[self.randbelow(count)] for _ in range(most)]
