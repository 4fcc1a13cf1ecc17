"""Rates of counters that are looked at now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

OVER_S: Final = 5.0
"""Hosts report what they hold every two seconds."""


class Rates:
    """The rate of each counter over the last `OVER_S`. One that is not looked at any more is forgotten."""

    def __init__(self) -> None:
        self._seen: Final[dict[Hashable, deque[tuple[float, float]]]] = {}

    def of(self, counter: Hashable, value: float, now: float) -> float:
        """The rate per second of a counter that is at `value` now."""
        seen = self._seen.setdefault(counter, deque())
        if seen and value < seen[-1][1]:  # the daemon has started anew
            seen.clear()
        seen.append((now, value))
        while len(seen) > 2 and now - seen[1][0] >= OVER_S:
            seen.popleft()
        began, before = seen[0]
        return (value - before) / (now - began) if now > began else 0.0

    def forget(self, before: float) -> None:
        """Forget the counters that were not looked at since then."""
        for counter in [name for name, seen in self._seen.items() if seen[-1][0] < before]:
            del self._seen[counter]
