"""The record of one blob in use: its file, the BLAKE3 of its pieces, and whether the data file still has these bytes.

Rules:
1. The BLAKE3 of a piece that is recorded by its prefix is made when somebody needs it. The pieces before it are read
   for that, once.
2. Once that of every piece is known, the record is replaced by one without prefixes.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from peer.errors import StoreBrokenError, StoreError
from peer.store.data_file import DataFile
from peer.store.disk import disk_errors, is_file, write_durably
from peer.store.prefix_reading import PrefixReading
from peer.store.record import COMPLETE, PREFIX, Header, Record, decode, encode, encode_entry
from scheduler.protocol.geometry import piece_count, piece_span

FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobRecord:
    """Of the blob in `data`. Open from `open`, or from the first entry that is added, to `close`. From any thread."""

    def __init__(self, path: Path, header: Header, data: DataFile) -> None:
        self.path = path
        self.header = header
        self._data = data
        self._file = -1
        self._appending = threading.Lock()
        self._reading = threading.Lock()
        self._digests: dict[int, bytes] | None = None
        """The BLAKE3 of the pieces as far as they are known, kept until `close`."""
        self._prefix: PrefixReading | None = None
        """Makes the others. It is kept at `close`, since a client may ask for one range after the other."""

    # -- the file --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Raises StoreError."""
        with disk_errors(self.path):
            self._file = os.open(self.path, FLAGS)

    def close(self) -> None:
        self._close_file()
        self._digests = None
        if self._prefix is not None:
            self._prefix.pause()

    def add(self, index: int, digest: bytes) -> None:
        """Piece `index`, of which `digest` is the BLAKE3. Raises OSError."""
        self._append(encode_entry(index, digest))

    def add_prefix(self, index: int, sha256: bytes) -> None:
        """Piece `index`, which ends the bytes that have this SHA-256. Raises OSError."""
        self._append(encode_entry(PREFIX | index, sha256))

    def complete(self) -> None:
        """The data file was flushed, and its SHA-256 is right. Raises OSError."""
        self._append(encode_entry(COMPLETE))

    def read(self) -> Record:
        """Raises StoreBrokenError."""
        with disk_errors(self.path):
            if not is_file(self.path):
                raise StoreBrokenError(f"{self.path} is gone")
            return decode(self.path.read_bytes())

    def cut(self, valid_bytes: int) -> None:
        """Forget what is beyond the valid part, which would hide the entries to come. Raises StoreError."""
        with disk_errors(self.path):
            os.truncate(self.path, valid_bytes)

    def replace(self, digests: Mapping[int, bytes], *, complete: bool) -> None:
        """From now on it has these pieces, by index, with their BLAKE3. Raises StoreError."""
        header = replace(self.header, by_prefix=False)
        with self._appending, disk_errors(self.path):
            write_durably(self.path, encode(header, digests, complete=complete))
            self._close_file()
        self.header = header

    def _append(self, entry: bytes) -> None:
        with self._appending:
            if self._file < 0:  # it was opened as a whole blob, or the file was replaced
                self._file = os.open(self.path, FLAGS)
            valid_bytes = os.fstat(self._file).st_size
            if os.write(self._file, entry) < len(entry):
                os.ftruncate(self._file, valid_bytes)  # a torn entry would hide those to come
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _close_file(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1

    # -- the bytes that it speaks of -------------------------------------------------------------------------------

    def digests(self) -> dict[int, bytes]:
        """The BLAKE3 of every piece of a whole blob, by index. All of the blob is read if they are not recorded.

        Raises StoreBrokenError.
        """
        known = self._known()
        if self.header.by_prefix:
            self._read_on(piece_count(self.header.size_bytes, self.header.piece_length))
        return known

    def read_back(self, index: int) -> Iterable[int]:
        """Read piece `index` of a whole blob, and those before it that are needed for that; returns which.

        Raises StoreBrokenError if one has other bytes than were recorded.
        """
        known = self._known()
        if index not in known and self.header.by_prefix:
            read = self._read_on(index + 1)
            if index in read:
                return read
        start, stop = piece_span(index, self.header.size_bytes, self.header.piece_length)
        if self._data.blake3(start, stop) != known.get(index):
            raise self._other_bytes(index)
        return (index,)

    def _known(self) -> dict[int, bytes]:
        """The one dictionary of all threads, which grows."""
        if self._digests is None:
            with self._reading:
                if self._digests is None:
                    self._digests = self.read().pieces | ({} if self._prefix is None else self._prefix.digests)
        return self._digests

    def _read_on(self, stop: int) -> range:
        """Read the pieces before `stop` that no call has read, and compare; returns which."""
        known = self._known()
        with self._reading:
            if not self.header.by_prefix:
                return range(0)  # another thread has made them all
            if self._prefix is None:
                self._prefix = PrefixReading(self._data, self.read())
            made, first = self._prefix.digests, len(self._prefix.digests)
            while len(made) < stop:
                if not self._prefix.read_next():
                    raise self._other_bytes(len(made))
            known.update(made)
            if len(made) == self._prefix.count and self._prefix.record.complete:
                with suppress(StoreError):  # the next process makes them again
                    self.replace(made, complete=True)
                    self._prefix = None
            return range(first, len(made))

    def _other_bytes(self, index: int) -> StoreBrokenError:
        return StoreBrokenError(f"piece {index} of {self._data.path} has other bytes than were stored")
