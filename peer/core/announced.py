"""Which of the blobs that this host holds whole are known to the scheduler.

A scheduler takes a bounded number of blobs of one host (`Welcome.max_blobs`), held and wanted ones together. A host
that holds more announces those that were used last. When it wants another blob, it takes back one of the least recently
used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from scheduler.protocol.to_host import MAX_BLOBS_PER_HOST


@dataclass(slots=True)
class Announced:
    """`max_blobs` is the scheduler's bound."""

    max_blobs: int = MAX_BLOBS_PER_HOST
    _told: dict[bytes, None] = field(default_factory=dict)
    """The least recently used first."""

    def begin(self, held: Iterable[bytes], wanted: int, max_blobs: int) -> list[bytes]:
        """A scheduler knows nothing yet: the blobs to announce to it, in this order, beside `wanted` others.

        `held` has the most recently used blob first, and so has the result.
        """
        self.max_blobs = max_blobs
        chosen = list(islice(held, max(0, max_blobs - wanted)))
        self._told = dict.fromkeys(reversed(chosen))
        return chosen

    def room(self, wanted: int) -> int:
        """How many blobs more the scheduler takes, beside `wanted` ones."""
        return max(0, self.max_blobs - wanted - len(self._told))

    def add(self, digest: bytes) -> None:
        """The scheduler knows of this blob too, which has just been completed."""
        self._told[digest] = None

    def discard(self, digest: bytes) -> None:
        """The blob was taken back."""
        self._told.pop(digest, None)

    def surplus(self, wanted: int) -> bytes | None:
        """A blob to take back, because there is no room for `wanted` others beside it; None if there is room."""
        if len(self._told) + wanted <= self.max_blobs:
            return None
        return next(iter(self._told), None)
