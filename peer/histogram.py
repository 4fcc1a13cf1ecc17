"""Histograms: values counted by upper bound, as Prometheus has them, without a lock and in well under a microsecond.

The library's own histogram takes two locks per value and looks at each bound; the mirror has 10,000 values a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from msgspec import Struct


class Distribution(Struct, frozen=True):
    """The values that were seen: `counts[i]` of them are at most `bounds[i]` and above the bound before.

    `counts` has one more, for the values above all bounds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    """The sum of the values."""

    def __add__(self, other: Distribution) -> Distribution:
        """The values of both, which have the same bounds."""
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Distribution(self.bounds, counts, self.total + other.total)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """For each bound, and last for infinity, how many values are at most that."""
        so_far = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            yield bound, so_far


class Histogram:
    """Counts values. One thread at a time may call `observe`."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def statistics(self) -> Distribution:
        """What was counted so far."""
        return Distribution(self._bounds, tuple(self._counts), self._total)
