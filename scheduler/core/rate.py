"""The rate at which a host gets bytes, for the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

RATE_OVER_S: Final = 10.0
"""Hosts report their progress every 2 s."""


@dataclass(slots=True)
class Rate:
    """Bytes per second, an average that forgets exponentially: what came `RATE_OVER_S` ago counts a third."""

    per_s: float = 0.0
    at: float = 0.0

    def add(self, size_bytes: int, now: float) -> None:
        self.per_s = self.now(now) + size_bytes / RATE_OVER_S
        self.at = max(now, self.at)

    def now(self, now: float) -> float:
        return self.per_s * math.exp(-max(0.0, now - self.at) / RATE_OVER_S)
