"""A blob's data file, as long as the blob from the start: opened, read, written, and read back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from peer.errors import StoreBrokenError
from peer.store.check import Signature, signature_of
from peer.store.disk import disk_errors, is_in_memory

CHUNK_BYTES = 1024 * 1024
"""The size of one read for hashing: few hand-overs of the interpreter lock, and the bytes are still in the cache."""

WRITE_BYTES = 512 * 1024
"""The size of one `pwrite`. Longer ones take the kernel up to three times as long (on lazily backed memory)."""

OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DataFile:
    """Open between `open` and `close`; whoever uses it sees to that. Reading and writing may be from any thread."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._file = -1
        self._in_memory = False

    def fileno(self) -> int:
        return self._file

    def open(self, *, for_writing: bool) -> None:
        """Raises StoreBrokenError, FileLimitError.

        A file that has another name too may be a container runtime's (`peer.store.adopted`): it is not written to.
        """
        access = os.O_RDWR if for_writing else os.O_RDONLY
        with disk_errors(self.path):
            self._file = self._opened(access | OPEN_FLAGS)
            facts = os.fstat(self._file)
            if not stat.S_ISREG(facts.st_mode) or (for_writing and facts.st_nlink > 1):
                self.close()
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._in_memory = is_in_memory(facts.st_dev)

    def _opened(self, flags: int) -> int:
        """Raises OSError."""
        return os.open(self.path, flags)

    def close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1

    def signature(self) -> Signature:
        """Raises StoreBrokenError."""
        with disk_errors(self.path):
            return signature_of(self._file)

    def signature_by_name(self) -> Signature | None:
        """That of the file which has the name now, whether it is open or not; None if there is none to be seen."""
        try:
            return Signature.of(os.stat(self.path, follow_symlinks=False))
        except OSError:
            return None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)`. Raises StoreBrokenError."""
        with disk_errors(self.path):
            got = os.pread(self._file, stop - start, start)
        if len(got) < stop - start:
            raise self._too_short()
        return got

    def read_cached(self, view: memoryview | bytearray, start: int) -> int:
        """Fill `view` from `start` on as far as the page cache has it; how many bytes came."""
        try:
            return os.preadv(self._file, [view], start, 0 if self._in_memory else os.RWF_NOWAIT)
        except OSError:  # it is not in the page cache, or the file system does not say
            return 0

    def chunks(self, start: int, stop: int, scratch: bytearray) -> Iterator[memoryview]:
        """Bytes `[start, stop)`, read into `scratch` part by part. Raises StoreBrokenError."""
        at, view = start, memoryview(scratch)
        while at < stop:
            with disk_errors(self.path):
                got = os.preadv(self._file, [view[: stop - at]], at)
            if not got:
                raise self._too_short()
            yield view[:got]
            at += got

    def blake3(self, start: int, stop: int) -> bytes:
        """The BLAKE3 of bytes `[start, stop)`. Raises StoreBrokenError."""
        digest = blake3()
        for chunk in self.chunks(start, stop, bytearray(min(CHUNK_BYTES, stop - start))):
            digest.update(chunk)
        return digest.digest()

    def read_gently(self, buffer: bytearray, at: int) -> int:
        """Fill `buffer` from byte `at` on, and leave the page cache as it was; returns how much came.

        Raises StoreBrokenError.
        """
        if got := self.read_cached(buffer, at):
            return got
        with disk_errors(self.path):
            got = os.preadv(self._file, [buffer], at)
            os.posix_fadvise(self._file, at, got, os.POSIX_FADV_DONTNEED)
        if not got:
            raise self._too_short()
        return got

    def write(self, view: memoryview, at: int) -> None:
        """Raises OSError."""
        written = 0
        while written < len(view):
            written += os.pwrite(self._file, view[written : written + WRITE_BYTES], at + written)

    def flush(self, *, removed: bool) -> None:
        """Have the disk take all that was written. `removed`: we have removed the file ourselves.

        Raises OSError, and StoreBrokenError if somebody else has removed the file, or cut it.
        """
        os.fdatasync(self._file)
        facts = os.fstat(self._file)
        if facts.st_size != self.size_bytes or not (facts.st_nlink or removed):
            raise StoreBrokenError(f"{self.path} was cut or removed while it arrived")

    def _too_short(self) -> StoreBrokenError:
        return StoreBrokenError(f"{self.path} is shorter than its record says; it is fetched again")
