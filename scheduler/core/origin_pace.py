"""How long pieces take from each origin, by what the hosts' leases have brought.

The problem: an origin's line is shared by all its leases. Where it is narrow, every piece takes longer than the usual
time of a lease, and if each such lease counted as silent, other hosts would fetch the same pieces over the same line.

Rules:
1. Of each witness (`scheduler.core.members.Identity`) the mean counts, the latest piece for WEIGHT of it. Of all
   witnesses the median counts: a few that are slow, or that say so, change nothing.
2. A time is by the byte, because pieces of blobs of different lengths have different lengths.
"""

from __future__ import annotations

import statistics
from typing import Final

WEIGHT: Final = 1 / 4
MAX_WITNESSES: Final = 32
"""Of each origin: those whose leases brought something last."""

MAX_ORIGINS: Final = 64


class OriginPace:
    """Of the origins (upstreams) from which leases have brought something last."""

    def __init__(self) -> None:
        self._origins: Final[dict[str, dict[str, float]]] = {}
        """Seconds for a byte, by upstream and witness. The latest are the last."""

    def brought(self, upstream: str, witness: str, size_bytes: int, took_s: float) -> None:
        """A lease of a host of this witness has brought so many bytes."""
        s_per_byte = self._origins[upstream] = self._origins.pop(upstream, {})
        took = took_s / size_bytes
        before = s_per_byte.pop(witness, took)
        s_per_byte[witness] = before + WEIGHT * (took - before)
        if len(s_per_byte) > MAX_WITNESSES:
            del s_per_byte[next(iter(s_per_byte))]
        if len(self._origins) > MAX_ORIGINS:
            del self._origins[next(iter(self._origins))]

    def usual_s(self, upstream: str, size_bytes: int) -> float:
        """The usual time of so many bytes, in seconds; 0 if nothing is known."""
        s_per_byte = self._origins.get(upstream)
        return statistics.median(s_per_byte.values()) * size_bytes if s_per_byte else 0.0
