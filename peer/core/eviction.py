"""Which blobs make room: least recently used first, what nobody reads or writes, and what has outlived its time.

LRU is within a few per cent of SIEVE and of perfect LFU on registry traces, and an operator can predict it.

Rules:
1. Room is bytes and inodes. A blob takes `INODES_PER_BLOB` of them: its data and its record.
2. What is fetched ahead of clients never takes the room of what clients use: it may evict only blobs that nobody used
   for `COLD_S`. A client's blob may evict one that is only being fetched ahead.
3. A blob that was fetched ahead and that no client has read yet goes last.
4. A pinned blob (`peer.store.pins`) goes after all others, only for what a client wants, and does not expire.
5. A file system that is smaller than `min_free_bytes` can never have that much free. Nothing is evicted for it.
6. A part of the file system is worked out anew at each look: it may grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

INODES_PER_BLOB: Final = 2
NEW_INODES: Final = INODES_PER_BLOB + 1
"""What a new blob may take: the directory that it is in may be new, too."""

MAX_SPARE_INODES: Final = 1024
"""Inodes that are left to others, at most; of a small file system one in fifty."""

COLD_S: Final = 600.0
"""A client that pulls an image comes back for what was fetched ahead within this time, or not at all."""


class Candidate(Struct, frozen=True):
    """A blob. `in_use`: it is read or written for a client. `is_ahead`: fetched ahead, and not yet read by a client.

    `is_pinned`: an operator wants it kept.
    """

    digest: str
    size_bytes: int
    last_used: float
    in_use: bool
    is_ahead: bool = False
    is_pinned: bool = False


class DiskShare(Struct, frozen=True):
    """A part of the store's file system. One that `yields` is at most half of what others leave to the store."""

    percent: float
    yields: bool = False

    def of(self, room: Room, used_bytes: int) -> int:
        """In bytes, where the store's blobs take `used_bytes`."""
        share_bytes = int(room.total_bytes * self.percent / 100)
        return min(share_bytes, (room.free_bytes + used_bytes) // 2) if self.yields else share_bytes


class Bounds(Struct, frozen=True):
    """What a store may use now: at most `max_bytes` for blobs, and at least `min_free_bytes` left on the disk."""

    max_bytes: int
    min_free_bytes: int


class Quota(Struct, frozen=True):
    """What a store may use, as the operator says it, in bytes or as a part of the disk (see `Bounds`)."""

    max_bytes: int | DiskShare
    min_free_bytes: int | DiskShare
    ttl_s: float

    def on(self, room: Room, used_bytes: int) -> Bounds:
        """In bytes, where the store's blobs take `used_bytes`."""
        found = (
            each.of(room, used_bytes) if isinstance(each, DiskShare) else each
            for each in (self.max_bytes, self.min_free_bytes)
        )
        return Bounds(*found)


class Room(Struct, frozen=True):
    """What a file system has. `total_inodes` 0: it does not count inodes (btrfs)."""

    free_bytes: int
    total_bytes: int
    free_inodes: int = 0
    total_inodes: int = 0
    read_only: bool = False

    @property
    def spare_inodes(self) -> int:
        """How many inodes are left to others."""
        return min(MAX_SPARE_INODES, self.total_inodes // 50)


class Wanted(Struct, frozen=True):
    """What is to fit: a new blob of `size_bytes`, or nothing (None). `background`: no client waits for it."""

    size_bytes: int | None = None
    background: bool = False


class Choice(Struct, frozen=True):
    """Digests to evict, in this order, and whether that is enough. It is as far as eviction gets if it is not."""

    digests: tuple[str, ...]
    is_enough: bool


def expired(candidates: Iterable[Candidate], quota: Quota, now: float) -> list[str]:
    """Digests that nobody used for `ttl_s` (0: never expire)."""
    if not quota.ttl_s:
        return []
    return [c.digest for c in candidates if not (c.in_use or c.is_pinned) and now - c.last_used > quota.ttl_s]


def to_evict(
    candidates: Iterable[Candidate], bounds: Bounds, room: Room, wanted: Wanted, *, used_bytes: int, now: float
) -> Choice:
    """What to evict so that `wanted` fits."""
    size_bytes, inodes = (0, 0) if wanted.size_bytes is None else (wanted.size_bytes, NEW_INODES)
    over_bytes = used_bytes + size_bytes - bounds.max_bytes
    if wanted.size_bytes is not None or is_attainable(bounds, room):
        over_bytes = max(over_bytes, size_bytes + bounds.min_free_bytes - room.free_bytes)
    over_inodes = inodes + room.spare_inodes - room.free_inodes if room.total_inodes else 0
    chosen: list[str] = []
    for candidate in sorted(candidates, key=order):
        if over_bytes <= 0 and over_inodes <= 0:
            break
        if candidate.in_use or (wanted.background and (candidate.is_ahead or now - candidate.last_used < COLD_S)):
            continue
        if wanted.background and candidate.is_pinned:
            continue
        chosen.append(candidate.digest)
        over_bytes -= candidate.size_bytes
        over_inodes -= INODES_PER_BLOB
    return Choice(tuple(chosen), over_bytes <= 0 and over_inodes <= 0)


def order(candidate: Candidate) -> tuple[bool, bool, float]:
    """The key by which blobs go, the first first."""
    return candidate.is_pinned, candidate.is_ahead, candidate.last_used


def is_attainable(bounds: Bounds, room: Room) -> bool:
    """Whether the file system is large enough to have `min_free_bytes` free."""
    return bounds.min_free_bytes < room.total_bytes
