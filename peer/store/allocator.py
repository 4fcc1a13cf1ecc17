"""The room of a store: who evicts blobs for it, and gives new ones their disk space.

Rules:
1. A blob's disk space is allocated when the blob is created, so a lack of it is known before a client waits.
2. Nothing is evicted in vain: where eviction cannot make enough room, no blob goes (`peer.core.eviction` chooses).
3. A store that has no room is full until a blob as large as the one that did not fit would.
4. The caller holds the store's lock.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from peer.core.eviction import (
    COLD_S,
    Bounds,
    Candidate,
    Choice,
    Quota,
    Room,
    Wanted,
    expired,
    order,
    to_evict,
)
from peer.errors import StoreError, StoreFullError
from peer.store.blob import Blob
from peer.store.blob_files import BlobFiles
from peer.store.data_file import DataFile
from peer.store.directory import StoreDirectory
from peer.store.disk import IN_THE_WAY, NO_ROOM, disk_errors, remove_files, translate_disk_error
from peer.store.facts import BlobInfo
from peer.store.health import Health
from peer.store.held_blobs import HeldBlobs
from peer.store.new_blob import allocate, is_the_disk, why_full
from peer.store.record import Header


class Allocator:
    """Of one store, within `quota`, for the blobs in `held`. `room_of` says what the directory's file system has."""

    def __init__(
        self,
        directory: StoreDirectory,
        quota: Quota,
        room_of: Callable[[Path], Room],
        held: HeldBlobs,
        files: BlobFiles,
        health: Health,
    ) -> None:
        self.quota = quota
        self.last_room = Room(0, 0)
        """As of the last look at the disk."""
        self.evicted = 0
        self._directory: Final = directory
        self._room_of: Final = room_of
        self._held: Final = held
        self._files: Final = files
        self._health: Final = health
        self._unfit_bytes = 0
        """The length of a blob for which the disk had no room: until it has, the store is full."""

    @property
    def bounds(self) -> Bounds:
        """What the store may use, as of the last look at the disk."""
        return self.quota.on(self.last_room, self._held.used_bytes)

    def fits(self, size_bytes: int) -> bool:
        """Whether a blob of this size can be stored without evicting any. Raises StoreError."""
        wanted = Wanted(size_bytes, background=True)
        nothing = to_evict((), self.bounds, self.room(), wanted, used_bytes=self._held.used_bytes, now=0.0)
        return nothing.is_enough

    def allocate(self, header: Header, *, background: bool) -> Blob:
        """The new blob, with its files; older blobs are evicted for it. `background`: no client waits for it.

        Raises StoreError.
        """
        self._make_room(Wanted(header.size_bytes, background))
        return self._allocated(header, background=background)

    def collect(self) -> list[BlobInfo]:
        """Remove blobs that were not used for `ttl_s`, and blobs beyond the quota, as far as that gets.

        Returns the removed blobs.
        """
        removed: list[BlobInfo] = []
        try:
            old = expired(self._candidates(), self.quota, self._held.clock.now())
            removed.extend(self._evict(digest) for digest in old)
            removed.extend(self._evict(digest) for digest in self._choice(self.room(), Wanted()).digests)
        except StoreError as error:
            self._health.failed(error)
        return removed

    def look(self) -> None:
        """See whether there is room, for the blob too that did not fit last. Raises StoreError."""
        room = self.room()
        if not self._choice(room, Wanted(self._unfit_bytes)).is_enough:
            raise StoreFullError(why_full(self._unfit_bytes, self.bounds, room, self._directory.path))

    def worked(self) -> None:
        """A write has succeeded."""
        self._unfit_bytes = 0
        self._health.worked()

    def room(self) -> Room:
        """What the file system has now. Raises StoreError; StoreReadOnlyError where nothing can be removed either."""
        try:
            room = self._room_of(self._directory.path)
        except FileNotFoundError:
            self._files.retake_if_changed()
            with disk_errors(self._directory.path):
                room = self._room_of(self._directory.path)
        except OSError as error:
            raise translate_disk_error(error, self._directory.path) from error
        if room.read_only:
            raise translate_disk_error(OSError(errno.EROFS, os.strerror(errno.EROFS)), self._directory.path)
        self.last_room = room
        return room

    def _make_room(self, wanted: Wanted) -> None:
        """Evict so that `wanted` fits; nothing is evicted in vain. Raises StoreError."""
        try:
            room = self.room()
        except StoreError as error:
            self._health.failed(error)
            raise
        choice = self._choice(room, wanted)
        if choice.is_enough:
            for digest in choice.digests:
                self._evict(digest)
            return
        in_use = sum(blob.size_bytes for blob in self._held if blob.in_use)
        later = replace(room, free_bytes=room.free_bytes + in_use)
        bounds = self.bounds
        passing = to_evict((), bounds, later, wanted, used_bytes=0, now=0.0).is_enough
        full = StoreFullError(why_full(wanted.size_bytes or 0, bounds, room, self._directory.path), passing=passing)
        if not wanted.background and not passing and is_the_disk(wanted.size_bytes or 0, bounds, room):
            self._unfit_bytes = wanted.size_bytes or 0
            self._health.failed(full)
        raise full

    def _allocated(self, header: Header, *, background: bool) -> Blob:
        """The new blob, with its files. If there is less room than was said, older blobs go, about as large as it is.

        Raises StoreError.
        """
        data, record = self._directory.paths(header.digest)
        freed_bytes, retaken = 0, False
        while True:
            try:
                allocate(data, record, header)
                break
            except OSError as error:
                remove_files(data, record)
                failed = translate_disk_error(error, data)
                failed.__cause__ = error
                if error.errno == errno.ENOENT and not retaken:
                    retaken = True
                    self._files.retake_if_changed()
                    continue
                if error.errno in IN_THE_WAY:  # of this blob alone
                    raise failed from error
                oldest = min((each for each in self._candidates() if not each.in_use), key=order, default=None)
                if error.errno not in NO_ROOM or background or not oldest or freed_bytes > header.size_bytes:
                    self._health.failed(failed)
                    raise failed from error
                freed_bytes += oldest.size_bytes
                self._evict(oldest.digest)
        self.worked()
        return Blob(
            header,
            DataFile(data, header.size_bytes),
            record,
            whole=False,
            held_bytes=0,
            recovered=True,
            health=self._health,
        )

    def _choice(self, room: Room, wanted: Wanted) -> Choice:
        now = self._held.clock.now()
        bounds = self.quota.on(room, self._held.used_bytes)
        return to_evict(self._candidates(), bounds, room, wanted, used_bytes=self._held.used_bytes, now=now)

    def _evict(self, digest: str) -> BlobInfo:
        """Raises StoreError if its file cannot be removed: it is kept then."""
        blob = self._held[digest]
        try:
            blob.data_path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            pass  # it is not there either
        except OSError as error:
            raise translate_disk_error(error, blob.data_path) from error
        info = self._held.info(blob)
        blob.preempted = blob.pinned
        self._held.discard(digest)
        self.evicted += 1
        return info

    def _candidates(self) -> Iterator[Candidate]:
        now = self._held.clock.now()
        for blob in self._held:
            if blob.is_adopted or blob.is_shared:
                continue  # no room would come of it
            is_ahead = blob.is_ahead and now - blob.last_used < COLD_S
            is_pinned = self._held.pins.until(blob.digest) > now
            yield Candidate(blob.digest, blob.size_bytes, blob.last_used, blob.in_use, is_ahead, is_pinned)
