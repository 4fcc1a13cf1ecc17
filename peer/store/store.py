"""The store: the blobs of one directory, for any thread.

    DIR/blobs/ab/<hex>        a blob's data, as long as the blob from the start
    DIR/blobs/ab/<hex>.record its header and verified pieces (peer.store.record)
    DIR/adopted/ab/<hex>.record the same of a file that is a container runtime's (peer.store.adopted)
    DIR/pins                  until when blobs are kept that are pinned (peer.store.pins)
    DIR/clock                 the date that uses of blobs go by (peer.store.use_clock)

Its parts, each beneath one lock: `held_blobs` (which blobs there are), `blob_files` (what lies in the directory),
`allocator` (room, and what is evicted for it).

Rules:
1. The disk is believed before the memory: a blob that cannot be opened or has other bytes than were stored is lost
   (`drop`). It is told (`on_removed`), and whoever asked for it has it fetched again.
2. What a container runtime's content store holds (`peer.store.adopted`) is held without a file of the store's. It does
   not count, is never evicted, and its file is never written to or removed.
3. A store that can write nothing still serves what it holds. `health` says what is wrong; `tend` tries again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from peer.core.eviction import (
    Bounds,
    DiskShare,
    Quota,
    Room,
)
from peer.errors import (
    BlobAdoptedError,
    BlobInUseError,
    FileLimitError,
    StoreBrokenError,
    StoreError,
    StoreReadOnlyError,
)
from peer.oci.digest import Digest
from peer.store.allocator import Allocator
from peer.store.blob import Blob
from peer.store.blob_files import BlobFiles
from peer.store.directory import StoreDirectory
from peer.store.disk import IN_THE_WAY, disk_errors, room_of, translate_disk_error
from peer.store.facts import BlobInfo, Came, StoreStatistics, VerifyReport
from peer.store.health import Health, StoreState
from peer.store.held_blobs import HeldBlobs
from peer.store.pins import Pins
from peer.store.record import Header
from peer.store.use_clock import UseClock
from scheduler.protocol.geometry import said_piece_length

log = structlog.get_logger("peer.store")


class Store:
    """The blobs of one directory. Every method may be called from any thread. A `digest: str` is a `Digest` in text."""

    def __init__(
        self,
        place: StoreDirectory,
        quota: Quota,
        room: Callable[[Path], Room],
        elapsed: Callable[[], float],
        *,
        alone: bool,
    ) -> None:
        self.directory = place.path
        self.health = Health()
        self._place = place
        self.alone = alone
        """No other host asks for pieces: they are recorded without their BLAKE3 (`peer.store.record`)."""
        self._lock = threading.RLock()
        self._writing_pins = threading.Lock()
        self.on_removed: Callable[[Digest], None] = lambda _digest: None
        """Called with the digest of each blob that was removed, for any reason, from any thread. It must not block."""
        self.on_found: Callable[[BlobInfo], None] = lambda _blob: None
        """Called with each blob that came back with the directory, from any thread. It must not block."""
        self._held: Final = HeldBlobs(
            Pins(self.directory / "pins"),
            UseClock(time.time(), elapsed),
            on_removed=lambda digest: self.on_removed(digest),
            on_found=lambda blob: self.on_found(blob),
        )
        self._files: Final = BlobFiles(place, self._held, self.health)
        self._allocator: Final = Allocator(place, quota, room, self._held, self._files, self.health)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        max_bytes: int | DiskShare,
        min_free_bytes: int | DiskShare,
        ttl_s: float,
        alone: bool = False,
        room: Callable[[Path], Room] = room_of,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> Store:
        """Lock the directory, and read the records in it. `tend` evicts what is beyond the quota.

        `alone`: no other host asks for pieces, and their BLAKE3 is not made when they land.

        Raises StoreInUseError, ForeignDirectoryError, StoreBrokenError, FileLimitError.
        """
        place = StoreDirectory(directory)
        store = cls(place, Quota(max_bytes, min_free_bytes, ttl_s), room, elapsed, alone=alone)
        unable = place.take()
        try:
            found = store._files.scan()
            with suppress(StoreError):
                store._allocator.room()
            store._held.clock = UseClock.of(store._clock_file, found, elapsed)
            store._held.date()
        except OSError as error:
            store.close()
            raise translate_disk_error(error, directory) from error
        except StoreError:
            store.close()
            raise
        if unable is not None and not place.settled():
            store.health.failed(unable)
        return store

    def close(self) -> None:
        """Release the lock on the directory. Pinned blobs stay readable."""
        with self._lock:
            with suppress(OSError, StoreError):
                if self._place.is_held and self._place.is_same():
                    self._held.clock.save(self._clock_file, at_once=True)
            self._place.release()

    # -- blobs -----------------------------------------------------------------------------------------------------

    def peek(self, digest: str) -> BlobInfo | None:
        """The facts of a blob, whole or not, without using it."""
        with self._lock:
            blob = self._held.get(digest)
            return None if blob is None else self._held.info(blob)

    def whole_length(self, digest: str) -> int | None:
        """The length of a blob that is held whole."""
        with self._lock:
            blob = self._held.get(digest)
            return blob.size_bytes if blob is not None and blob.whole else None

    def came(self, digest: str) -> Came:
        """What has come of a blob that is held, whole or not, since the start."""
        with self._lock:
            blob = self._held.get(digest)
            return Came() if blob is None else blob.came

    def acquire(self, digest: str, *, background: bool = False) -> Blob | None:
        """The blob, whole or not, pinned: the caller releases it. Counts as a use, but for `background`.

        None, too, for a blob whose file cannot be opened any more: it is dropped. Raises FileLimitError,
        StoreReadOnlyError.
        """
        with self._lock:
            blob = self._held.get(digest)
            if blob is None:
                return None
            try:
                blob.acquire()
            except (FileLimitError, StoreReadOnlyError):  # the latter of a part, which is opened for writing
                raise
            except StoreError as error:
                self.drop(blob, str(error))
                return None
            self._held.touch(blob)
            blob.is_ahead = blob.is_ahead and background
            return blob

    def remember(self, blob: Blob, content: bytes) -> None:
        """Keep all bytes of a blob for `recall`: they were just read. They are few.

        Raises StoreBrokenError if they are another's; the blob is dropped by then.
        """
        with self._lock:
            if not self._held.is_held(blob):
                return
            try:
                self._held.remembered.add(blob, content)
            except StoreBrokenError as error:
                self.drop(blob, str(error))
                raise

    def recall(self, digest: str, start: int, stop: int) -> bytes | None:
        """Bytes `[start, stop)` for a client, if they are remembered and known to be right on the disk. As `acquire`
        and `used_by_client`, without opening the file.
        """
        with self._lock:
            blob = self._held.get(digest)
            content = None if blob is None else blob.recall(start, stop)
            if blob is not None and content is not None:
                self._held.touch(blob)
                self._held.used_by_client(blob)
                blob.is_ahead = False
            return content

    def create(
        self, digest: str, size_bytes: int, media_type: str, *, told_length: int = 0, background: bool = False
    ) -> Blob:
        """The blob, pinned: the stored blob, or a new one with its disk space allocated. The caller releases it.

        A stored blob of another length is removed: a source had lied about its length. So is a part in other pieces
        than of `told_length` (0: the usual length). `background`: no client waits for it, so it takes no room from
        those that clients use. Raises StoreFullError, StoreBrokenError, FileLimitError.
        """
        length = said_piece_length(size_bytes, told_length)
        header = Header(Digest(digest), size_bytes, length, media_type, by_prefix=self.alone)
        with self._lock:
            blob = self.acquire(digest, background=background)
            is_right = blob is not None and blob.size_bytes == size_bytes and not blob.is_adopted
            if blob is not None and is_right and (blob.whole or blob.header.piece_length == header.piece_length):
                return blob
            if blob is not None:  # adopted since the download began, which needs a file to write to
                blob.release()
                self.discard(digest)
            blob = self._allocator.allocate(header, background=background)
            blob.is_ahead = background
            self._held.add(blob)
            blob.acquire()
            self._held.touch(blob)
            return blob

    def keep(self, digest: str, ttl_s: float) -> bool:
        """Pin a blob that is held for `ttl_s` from now on; False if it is gone, or the share of pins is used. Blocks.

        Raises StoreError.
        """
        with self._writing_pins:
            with self._lock:
                if not self._held.pin(digest, ttl_s, self.bounds.max_bytes):
                    return False
                content = self._held.pins.content()
            with disk_errors(self.directory / "pins"):
                self._held.pins.write(content)
        return True

    def preheated(self, digest: str, *, used: bool) -> None:
        """A blob has come by a preheat. `used`: a client has asked for it meanwhile."""
        with self._lock:
            self._held.preheated(digest, used=used)

    def used_by_client(self, blob: Blob) -> None:
        """A client has asked for a blob."""
        with self._lock:
            self._held.used_by_client(blob)

    def remove(self, digest: str) -> bool:
        """Remove a blob; False if there is none. Raises BlobInUseError while it is in use, and BlobAdoptedError."""
        with self._lock:
            blob = self._held.get(digest)
            if blob is None:
                return False
            if blob.is_adopted:
                raise BlobAdoptedError(f"{digest} is in {blob.data_path.parent}: its runtime removes it, not p2pd")
            if blob.in_use:
                raise BlobInUseError(f"{digest} is being read or written; try again when that has ended")
            self.discard(digest)
            return True

    def drop(self, blob: Blob, why: str) -> None:
        """`blob` is lost: its file is gone, or has other bytes than were stored. As `discard`, and it is said."""
        with self._lock:
            self._held.drop(blob, why)

    def discard(self, digest: str) -> None:
        """Remove a blob at once, even while it is pinned: for wrong bytes. Readers that have it open keep the file."""
        with self._lock:
            self._held.discard(digest)

    # -- files of container runtimes (peer.store.adopted) ----------------------------------------------------------

    def own(self, digest: str) -> Blob | None:
        """The blob, whole or not, if its file is the store's."""
        with self._lock:
            blob = self._held.get(digest)
            return None if blob is None or blob.is_adopted else blob

    def adopt(self, blob: Blob) -> None:
        """From now on `blob`, whose file is a container runtime's, is held, and no file of the store's.

        Nobody writes to the digest meanwhile: the caller sees to that. Who reads the store's file has it to the end.
        """
        with self._lock:
            self._held.adopt(blob)

    def let_go(self, blob: Blob) -> None:
        """The runtime has removed the file of an adopted blob. Who reads it has it to the end."""
        with self._lock:
            self._held.let_go(blob)

    def set_shared(self, blob: Blob, *, is_shared: bool) -> None:
        """Say whether the store's file shares its bytes with a runtime's: shared bytes do not count."""
        with self._lock:
            self._held.set_shared(blob, is_shared=is_shared)

    def is_kept(self, digest: str) -> bool:
        """Whether the blob is kept for a time although nobody uses it (`keep`)."""
        with self._lock:
            return self._held.is_pinned(digest)

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def blobs(self) -> list[BlobInfo]:
        """All blobs, most recently used first."""
        with self._lock:
            return [self._held.info(blob) for blob in sorted(self._held, key=lambda blob: -blob.last_used)]

    def whole_blobs(self) -> list[Blob]:
        """The blobs that are held whole and flushed, in no order."""
        with self._lock:
            return [blob for blob in self._held if blob.is_stored]

    def collect(self) -> list[BlobInfo]:
        """Remove blobs that were not used for `ttl_s`, and blobs beyond the quota, as far as that gets.

        Returns the removed blobs.
        """
        with self._lock:
            return self._allocator.collect()

    def set_quota(self, quota: Quota) -> None:
        """From now on it keeps to `quota`; the next `tend` evicts what is beyond it."""
        with self._lock:
            self._allocator.quota = quota

    def tend(self) -> list[BlobInfo]:
        """What is to be done now and then: see whether the disk is well, and evict. Returns the removed blobs."""
        removed: list[BlobInfo] = []
        try:
            with self._lock:
                unable = self._files.retake_if_changed()
                if unable is not None:
                    self.health.failed(unable)
                removed = self._allocator.collect()
            self._look_at_disk()
        except FileLimitError:
            pass
        except StoreError as error:
            self.health.failed(error)
        except OSError as error:
            self.health.failed(translate_disk_error(error, self._clock_file))
        return removed

    def verify(self) -> VerifyReport:
        """Read and hash every blob again, and remove those with wrong bytes.

        Raises FileLimitError.
        """
        checked, bad = 0, []
        with self._lock:
            digests = [blob.digest for blob in self._held]
        for digest in digests:
            blob = self._held.get(digest)
            if blob is None:
                continue
            checked += 1
            try:
                why = "" if blob.verify() else "it has other bytes than were stored"
            except FileLimitError:
                raise
            except StoreError as error:
                why = str(error)
            if why and not blob.discarded:
                bad.append(digest)
                self.drop(blob, why)
        return VerifyReport(checked, tuple(bad))

    @property
    def state(self) -> StoreState:
        """Whether new blobs can be stored, and why not."""
        return self.health.state

    @property
    def quota(self) -> Quota:
        """What the store may use, as the operator says it."""
        return self._allocator.quota

    @property
    def bounds(self) -> Bounds:
        """What the store may use, as of the last look at the disk."""
        return self._allocator.bounds

    def fits(self, size_bytes: int) -> bool:
        """Whether a blob of this size can be stored without evicting any. Raises StoreError."""
        with self._lock:
            return self._allocator.fits(size_bytes)

    def statistics(self) -> StoreStatistics:
        with self._lock:
            state = self.health.state
            return StoreStatistics(
                blobs=sum(not blob.is_adopted for blob in self._held),
                used_bytes=self._held.used_bytes,
                adopted_bytes=sum(blob.size_bytes for blob in self._held if blob.is_adopted),
                max_bytes=self.bounds.max_bytes,
                min_free_bytes=self.bounds.min_free_bytes,
                disk_bytes=self._allocator.last_room.total_bytes,
                evicted=self._allocator.evicted,
                lost=self._held.lost,
                condition=state.condition.value,
                cause=state.cause,
                preheated_bytes=self._held.preheated_bytes,
                preheated_used_bytes=self._held.preheated_used_bytes,
            )

    # -- the disk --------------------------------------------------------------------------------------------------

    @property
    def _clock_file(self) -> Path:
        return self.directory / "clock"

    def _look_at_disk(self) -> None:
        """See whether something can be stored, and by a write if it could not be. Raises StoreError, OSError."""
        with self._lock:
            self._allocator.look()
        self._place.settle()
        try:
            self._held.clock.save(self._clock_file, at_once=not self.health.state.is_well)
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
        self._allocator.worked()
