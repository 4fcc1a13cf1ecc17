"""Pins: blobs that are kept for a time although nobody uses them, because an operator had them fetched ahead.

    DIR/pins    until when each is kept, by the store's clock (`peer.store.use_clock`)

Rules:
1. A pinned blob goes last: after all others, and only for what a client wants. It does not expire.
2. Pinned blobs have at most `SHARE` of `max_bytes`, so that a preheat never leaves clients without a cache. What is
   beyond that is held like any other blob.
3. The file is written before a pin counts as kept. One that cannot be read, or is not of that form, is no pins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from peer.errors import InvalidNameError
from peer.oci.digest import Digest
from peer.store.disk import read_file, write_durably

log = structlog.get_logger("peer.store")

SHARE: Final = 0.5
MAX_PINS: Final = 65_536


class Pins:
    """The pins of one store. The store's lock is held by the callers, but for `write`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._until = _read(file)

    def until(self, digest: str) -> float:
        """Until when a blob is kept; 0 if it has no pin."""
        return self._until.get(digest, 0.0)

    def fits(self, digest: str, max_bytes: int, now: float, size_of: Callable[[str], int | None]) -> bool:
        """Whether a pin on this blob would keep to the share. Forgets those that are over.

        `size_of` says how much of the room a blob takes; None for one that is gone.
        """
        sizes = {each: size_of(each) for each, until in self._until.items() if until > now}
        self._until = {each: self._until[each] for each, size in sizes.items() if size is not None}
        pinned_bytes = sum(size or 0 for each, size in sizes.items() if each != digest)
        return pinned_bytes + (size_of(digest) or 0) <= SHARE * max_bytes and len(self._until) < MAX_PINS

    def add(self, digest: str, until: float) -> None:
        """Keep a blob until then, or for as long as it was to be kept already."""
        self._until[digest] = max(until, self.until(digest))

    def discard(self, digest: str) -> None:
        """The blob was removed. The file has it until the next pin, which does no harm."""
        self._until.pop(digest, None)

    def content(self) -> bytes:
        """What is to be written."""
        return json.dumps(self._until).encode()

    def write(self, content: bytes) -> None:
        """Blocks. Raises OSError."""
        write_durably(self._file, content)


def _read(file: Path) -> dict[str, float]:
    try:
        found = json.loads(read_file(file))
        return {str(Digest(digest)): float(until) for digest, until in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, InvalidNameError) as error:
        log.warning("the pins cannot be read: what was preheated may be evicted", path=str(file), error=str(error))
        return {}
