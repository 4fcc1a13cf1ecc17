"""Which blobs a store holds, what they take of the disk, and when each was last used.

Rules:
1. The caller holds the store's lock.
2. `used_bytes` is the sum of what the held blobs take. A container runtime's file takes nothing (`peer.store.adopted`).
3. Every removal is told (`on_removed`), whatever its reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import structlog

from peer.oci.digest import Digest
from peer.store.blob import Blob
from peer.store.facts import BlobInfo
from peer.store.pins import Pins
from peer.store.remembered import RememberedBlobs
from peer.store.use_clock import UseClock

log = structlog.get_logger("peer.store")

TOUCH_EVERY_S: Final = 60.0
"""The precision of `last_used` across a restart. Each touch is a write to the disk's metadata."""


class HeldBlobs:
    """The blobs of one store. A `digest: str` is a `Digest` in text."""

    def __init__(
        self,
        pins: Pins,
        clock: UseClock,
        on_removed: Callable[[Digest], None],
        on_found: Callable[[BlobInfo], None],
    ) -> None:
        self.pins: Final = pins
        self.clock = clock
        self.remembered: Final = RememberedBlobs()
        self.used_bytes = 0
        self.lost = 0
        """How many blobs were gone from the disk, or had other bytes there than were stored."""
        self.preheated_bytes = 0
        self.preheated_used_bytes = 0
        self.on_removed: Final = on_removed
        self.on_found: Final = on_found
        self._blobs: Final[dict[str, Blob]] = {}
        self._touched: Final[dict[str, float]] = {}

    def __iter__(self) -> Iterator[Blob]:
        return iter(self._blobs.values())

    def __len__(self) -> int:
        return len(self._blobs)

    def __contains__(self, digest: str) -> bool:
        return digest in self._blobs

    def __getitem__(self, digest: str) -> Blob:
        return self._blobs[digest]

    def get(self, digest: str) -> Blob | None:
        return self._blobs.get(digest)

    def is_held(self, blob: Blob) -> bool:
        """Whether it is this blob that is held, and not a later one with its digest."""
        return self._blobs.get(blob.digest) is blob

    def add(self, blob: Blob) -> None:
        self._blobs[blob.digest] = blob
        self.used_bytes += blob.taken_bytes

    def discard(self, digest: str) -> None:
        """Remove a blob and its files. Readers that have it open keep the file."""
        blob = self._blobs.pop(digest, None)
        if blob is None:
            return
        self.used_bytes -= blob.taken_bytes
        self.remembered.discard(blob)
        self._touched.pop(digest, None)
        self.pins.discard(digest)
        blob.discarded = True
        blob.unlink()
        self.on_removed(Digest(digest))

    def drop(self, blob: Blob, why: str) -> None:
        """`blob` is lost: its file is gone, or has other bytes than were stored. As `discard`, and it is said."""
        if not self.is_held(blob):
            return  # it was dropped already, and perhaps fetched again
        self.lost += not blob.is_adopted
        self.discard(blob.digest)
        if blob.is_adopted:  # its runtime removes files at any time
            log.info("a file of a container runtime is not what it was", digest=blob.digest, cause=why)
            return
        log.warning("a blob was lost, it is fetched again when it is wanted", digest=blob.digest, cause=why)

    # -- files of container runtimes (peer.store.adopted) ----------------------------------------------------------

    def adopt(self, blob: Blob) -> None:
        """From now on `blob`, whose file is a container runtime's, is held, and no file of the store's."""
        ours = self._blobs.get(blob.digest)
        blob.last_used = min(self.clock.now(), blob.last_used if ours is None else ours.last_used)
        if ours is not None:
            self.used_bytes -= ours.taken_bytes
            self.remembered.discard(ours)
            ours.discarded = True
            ours.unlink()
        self.add(blob)
        if ours is None or not ours.whole:
            self.on_found(self.info(blob))

    def let_go(self, blob: Blob) -> None:
        """The runtime has removed the file of an adopted blob."""
        if self.is_held(blob):
            self.discard(blob.digest)
        else:
            blob.unlink()

    def set_shared(self, blob: Blob, *, is_shared: bool) -> None:
        """Say whether the store's file shares its bytes with a runtime's: shared bytes do not count."""
        if self.is_held(blob):
            self.used_bytes -= blob.taken_bytes
            blob.is_shared = is_shared
            self.used_bytes += blob.taken_bytes

    # -- uses ------------------------------------------------------------------------------------------------------

    def touch(self, blob: Blob) -> None:
        """The blob is used now."""
        blob.last_used = now = self.clock.now()
        if now - self._touched.get(blob.digest, 0.0) > TOUCH_EVERY_S:
            self._touched[blob.digest] = now
            with suppress(OSError):
                os.utime(blob.record_path, (now, now))

    def date(self) -> None:
        """A use beyond the clock is one at the clock: somebody else has dated the file."""
        now = self.clock.now()
        for blob in self:
            blob.last_used = min(blob.last_used, now)

    def preheated(self, digest: str, *, used: bool) -> None:
        """A blob has come by a preheat. `used`: a client has asked for it meanwhile."""
        blob = self._blobs.get(digest)
        if blob is not None and not blob.preheated:
            self.preheated_bytes += blob.size_bytes
            blob.preheated = True
            if used:
                self.used_by_client(blob)

    def used_by_client(self, blob: Blob) -> None:
        """A client has asked for a blob."""
        self.preheated_used_bytes += blob.size_bytes if blob.preheated else 0
        blob.preheated = False

    def pin(self, digest: str, ttl_s: float, max_bytes: int) -> bool:
        """Keep a blob for `ttl_s` from now on; False if it is gone, or the share of pins in `max_bytes` is used."""
        now = self.clock.now()
        if digest not in self or not self.pins.fits(digest, max_bytes, now, self._pinned_bytes):
            return False
        self.pins.add(digest, now + ttl_s)
        return True

    def is_pinned(self, digest: str) -> bool:
        """Whether the blob is kept for a time although nobody uses it."""
        return self.pins.until(digest) > self.clock.now()

    def _pinned_bytes(self, digest: str) -> int | None:
        """How much of the room a pin on the blob keeps. A runtime's file takes none."""
        blob = self._blobs.get(digest)
        return None if blob is None else 0 if blob.is_adopted else blob.size_bytes

    def info(self, blob: Blob) -> BlobInfo:
        return BlobInfo(
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            held_bytes=blob.held_bytes,
            complete=blob.whole,
            media_type=blob.header.media_type,
            last_used=self.clock.to_unix(blob.last_used),
            in_use=blob.in_use,
            pinned_s=max(0.0, self.pins.until(blob.digest) - self.clock.now()),
            adopted=blob.is_adopted,
            piece_length=blob.header.piece_length,
        )
