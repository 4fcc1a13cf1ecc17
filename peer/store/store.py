"""The store directory: its files, its lock, and the eviction of blobs.

    DIR/p2pd-store            marks the directory as ours, with the format's number
    DIR/lock                  held (flock) by the one process that uses the store
    DIR/blobs/ab/<hex>        a blob's data, as long as the blob from the start
    DIR/blobs/ab/<hex>.record its header and verified pieces (peer.store.record)

Rules:
1. A directory that is not a store is never touched, unless it is empty.
2. A blob without a valid record, and a file without a record, are removed when the store opens.
3. A blob's disk space is allocated when the blob is created, so a lack of it is known before a client waits.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from peer.core.eviction import Candidate, Quota, expired, to_evict
from peer.errors import (
    BlobInUseError,
    FileLimitError,
    ForeignDirectoryError,
    StoreError,
    StoreFullError,
    StoreInUseError,
)
from peer.oci.digest import Digest
from peer.store.blob import NO_FILES, Blob, translate_disk_error
from peer.store.record import Header, encode_header, peek
from scheduler.protocol.geometry import piece_length

log = structlog.get_logger("peer.store")

MARKER = "p2pd-store"
MARK = b"store format 1\n"
OTHERS_OF_OURS = ("scheduler", "identity")
"""What p2pd keeps in the data directory beside the store: a CA (`scheduler.trust`), a key (`peer.trust`)."""

TOUCH_EVERY_S = 60.0
"""The precision of `last_used` across a restart. Each touch is a write to the disk's metadata."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob, as `p2pd cache ls` shows it. `last_used` is in Unix seconds."""

    digest: Digest
    size_bytes: int
    held_bytes: int
    complete: bool
    media_type: str
    last_used: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`bad` are the digests of blobs with wrong bytes. They were removed; readers that had them open keep the file."""

    checked: int
    bad: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    blobs: int
    used_bytes: int
    max_bytes: int
    evicted: int


def _free_bytes(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


class Store:
    """The blobs of one directory. Every method may be called from any thread. A `digest: str` is a `Digest` in text."""

    def __init__(self, directory: Path, quota: Quota, lock_file: int, free_bytes: Callable[[Path], int]) -> None:
        self.directory = directory
        self.quota = quota
        self._lock_file = lock_file
        self._free_bytes = free_bytes
        self._blobs: dict[str, Blob] = {}
        self._used_bytes = 0
        self._evicted = 0
        self._touched: dict[str, float] = {}
        self._lock = threading.RLock()
        self.on_removed: Callable[[Digest], None] = lambda _digest: None
        """Called with the digest of each blob that was removed, for any reason, from any thread. It must not block."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        min_free_bytes: int,
        ttl_s: float,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> Store:
        """Lock the directory, and read the records in it.

        Raises StoreInUseError, ForeignDirectoryError, StoreBrokenError, FileLimitError.
        """
        try:
            lock_file = _take(directory)
        except OSError as error:
            raise translate_disk_error(error, directory / MARKER) from error
        store = cls(directory, Quota(max_bytes, min_free_bytes, ttl_s), lock_file, free_bytes)
        try:
            store._scan()
        except OSError as error:
            store.close()
            raise translate_disk_error(error, directory / MARKER) from error
        return store

    def close(self) -> None:
        """Release the lock on the directory. Pinned blobs stay readable."""
        with self._lock:
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1

    # -- blobs -----------------------------------------------------------------------------------------------------

    def peek(self, digest: str) -> BlobInfo | None:
        """The facts of a blob, whole or not, without using it."""
        with self._lock:
            blob = self._blobs.get(digest)
            return None if blob is None else _info(blob)

    def acquire(self, digest: str) -> Blob | None:
        """The blob, whole or not, pinned: the caller releases it. Counts as a use.

        Raises StoreBrokenError, FileLimitError.
        """
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is not None:
                blob.acquire()
                self._touch(blob)
            return blob

    def create(self, digest: str, size_bytes: int, media_type: str) -> Blob:
        """The blob, pinned: the stored blob, or a new one with its disk space allocated. The caller releases it.

        A stored blob of another length is removed: a source had lied about its length. Raises StoreFullError,
        StoreBrokenError, FileLimitError.
        """
        with self._lock:
            blob = self.acquire(digest)
            if blob is not None and blob.size_bytes == size_bytes:
                return blob
            if blob is not None:
                blob.release()
                self.discard(digest)
            self._make_room(size_bytes)
            header = Header(Digest(digest), size_bytes, piece_length(size_bytes), media_type)
            data, record = self._paths(header.digest)
            try:
                _write_files(data, record, header)
            except OSError as error:
                _unlink(data, record)
                raise translate_disk_error(error, data) from error
            blob = Blob(header, data, record, whole=False, held_bytes=0, recovered=True)
            self._blobs[header.digest] = blob
            self._used_bytes += size_bytes
            blob.acquire()
            self._touch(blob)
            return blob

    def remove(self, digest: str) -> bool:
        """Remove a blob; False if there is none. Raises BlobInUseError while it is pinned."""
        with self._lock:
            blob = self._blobs.get(digest)
            if blob is None:
                return False
            if blob.pinned:
                raise BlobInUseError(f"{digest} is being read or written; try again when that has ended")
            self.discard(digest)
            return True

    def discard(self, digest: str) -> None:
        """Remove a blob at once, even while it is pinned: for wrong bytes. Readers that have it open keep the file."""
        with self._lock:
            blob = self._blobs.pop(digest, None)
            if blob is None:
                return
            self._used_bytes -= blob.size_bytes
            self._touched.pop(digest, None)
            blob.discarded = True
            _unlink(blob.data_path, blob.record_path)
            self.on_removed(Digest(digest))

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def blobs(self) -> list[BlobInfo]:
        """All blobs, most recently used first."""
        with self._lock:
            return [_info(blob) for blob in sorted(self._blobs.values(), key=lambda blob: -blob.last_used)]

    def collect(self, now: float) -> list[BlobInfo]:
        """Remove blobs that were not used for `ttl_s`, and blobs beyond the quota. Returns the removed blobs."""
        with self._lock:
            chosen = expired(self._candidates(), self.quota, now)
            removed = [self._evict(digest) for digest in chosen]
            over = to_evict(
                self._candidates(),
                self.quota,
                used_bytes=self._used_bytes,
                free_bytes=self._free_bytes(self.directory),
                wanted_bytes=0,
            )
            return removed + [self._evict(digest) for digest in over or ()]

    def verify(self) -> VerifyReport:
        """Read and hash every blob again, and remove those with wrong bytes.

        Raises FileLimitError.
        """
        checked, bad = 0, []
        for digest in list(self._blobs):
            blob = self._blobs.get(digest)
            if blob is None:
                continue
            checked += 1
            try:
                good = blob.verify()
            except FileLimitError:
                raise
            except StoreError:
                good = False
            if not good:
                bad.append(digest)
                self.discard(digest)
        return VerifyReport(checked, tuple(bad))

    def statistics(self) -> StoreStatistics:
        with self._lock:
            return StoreStatistics(len(self._blobs), self._used_bytes, self.quota.max_bytes, self._evicted)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _make_room(self, wanted_bytes: int) -> None:
        chosen = to_evict(
            self._candidates(),
            self.quota,
            used_bytes=self._used_bytes,
            free_bytes=self._free_bytes(self.directory),
            wanted_bytes=wanted_bytes,
        )
        if chosen is None:
            raise StoreFullError(
                f"no room for {wanted_bytes} bytes in {self.directory}: raise max_bytes (now {self.quota.max_bytes}), "
                f"lower min_free_bytes (now {self.quota.min_free_bytes}) or free disk space"
            )
        for digest in chosen:
            self._evict(digest)

    def _evict(self, digest: str) -> BlobInfo:
        info = _info(self._blobs[digest])
        self.discard(digest)
        self._evicted += 1
        return info

    def _candidates(self) -> Iterator[Candidate]:
        return (Candidate(blob.digest, blob.size_bytes, blob.last_used, blob.pinned) for blob in self._blobs.values())

    def _touch(self, blob: Blob) -> None:
        blob.last_used = now = time.time()
        if now - self._touched.get(blob.digest, 0.0) > TOUCH_EVERY_S:
            self._touched[blob.digest] = now
            with suppress(OSError):
                os.utime(blob.record_path, (now, now))

    def _paths(self, digest: Digest) -> tuple[Path, Path]:
        data = self.directory / "blobs" / digest.hex[:2] / digest.hex
        return data, data.with_name(f"{digest.hex}.record")

    def _scan(self) -> None:
        for folder in sorted((self.directory / "blobs").iterdir()):
            names = {entry.name for entry in os.scandir(folder)}
            for name in sorted(names):
                if name.endswith(".record"):
                    self._load(folder / name.removesuffix(".record"), folder / name)
                elif f"{name}.record" not in names:
                    _unlink(folder / name)

    def _load(self, data: Path, record: Path) -> None:
        try:
            header, held_pieces, complete = peek(record)
            belongs = self._paths(header.digest)[0] == data and data.stat().st_size == header.size_bytes
        except (StoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno in NO_FILES:
                raise
            belongs = False
        if not belongs:
            log.warning("a blob with a damaged record was removed, it is fetched again", path=str(data))
            _unlink(data, record)
            return
        held_bytes = min(held_pieces * header.piece_length, header.size_bytes)
        blob = Blob(header, data, record, whole=complete, held_bytes=held_bytes, recovered=False)
        blob.last_used = record.stat().st_mtime
        self._blobs[header.digest] = blob
        self._used_bytes += header.size_bytes


def _take(directory: Path) -> int:
    """Make or check the directory, and lock it; returns the lock's file descriptor."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (FileExistsError, NotADirectoryError):
        raise ForeignDirectoryError(f"{directory} is, or is below, a file: name a directory as data") from None
    marker = directory / MARKER
    mark = marker.read_bytes() if marker.exists() else b""
    if not mark:  # new, or killed before the mark was written
        if any(entry.name not in (MARKER, *OTHERS_OF_OURS) for entry in directory.iterdir()):
            raise ForeignDirectoryError(
                f"{directory} has files in it and is not a store of p2pd's: name an empty or new directory as data"
            )
        marker.write_bytes(MARK)
    elif mark != MARK:
        raise ForeignDirectoryError(
            f"{marker} is damaged, or of a version that this p2pd does not know: name another directory as data"
        )
    lock_file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_file)
        raise StoreInUseError(f"another p2pd uses {directory}: stop it, or name another directory as data") from None
    (directory / "blobs").mkdir(exist_ok=True)
    return lock_file


def _write_files(data: Path, record: Path, header: Header) -> None:
    data.parent.mkdir(exist_ok=True)
    file = os.open(data, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if header.size_bytes:
            os.posix_fallocate(file, 0, header.size_bytes)
    finally:
        os.close(file)
    record.write_bytes(encode_header(header))


def _unlink(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _info(blob: Blob) -> BlobInfo:
    return BlobInfo(
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        held_bytes=blob.held_bytes,
        complete=blob.whole,
        media_type=blob.header.media_type,
        last_used=blob.last_used,
        in_use=blob.pinned,
    )
