"""Which blobs make room: least recently used first, what nobody reads or writes, and what has outlived its time.

LRU is within a few per cent of SIEVE and of perfect LFU on registry traces, and an operator can predict it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    digest: str
    size_bytes: int
    last_used: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class Quota:
    """What a store may use: at most `max_bytes` for blobs, and at least `min_free_bytes` left on the disk."""

    max_bytes: int
    min_free_bytes: int
    ttl_s: float


def expired(candidates: Iterable[Candidate], quota: Quota, now: float) -> list[str]:
    """Digests that nobody used for `ttl_s` (0: never expire)."""
    if not quota.ttl_s:
        return []
    return [c.digest for c in candidates if not c.in_use and now - c.last_used > quota.ttl_s]


def to_evict(
    candidates: Iterable[Candidate], quota: Quota, *, used_bytes: int, free_bytes: int, wanted_bytes: int
) -> list[str] | None:
    """Digests to evict so that `wanted_bytes` more fit, oldest first; None if even evicting all would not do."""
    over = max(used_bytes + wanted_bytes - quota.max_bytes, wanted_bytes + quota.min_free_bytes - free_bytes)
    chosen: list[str] = []
    for candidate in sorted(candidates, key=lambda c: c.last_used):
        if over <= 0:
            break
        if not candidate.in_use:
            chosen.append(candidate.digest)
            over -= candidate.size_bytes
    return chosen if over <= 0 else None
