"""Files of an OCI image layout: opened without ever leaving its directory, and read as an origin's body.

Rules:
1. Below the layout's directory no symbolic link is followed, and only regular files are opened.
2. A file whose length changes while it is open is broken: blobs never change.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, Self

from peer.errors import OriginBrokenError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_READ_BYTES = 4 * 1024 * 1024
"""The most that one read takes, so `abort` need not wait until a slow disk has filled a large buffer."""


def open_below(directory: Path, names: Sequence[str]) -> int:
    """Open the regular file `names` (folders, then the file) below `directory` for reading. Returns its descriptor.

    Raises FileNotFoundError if there is none, and other kinds of OSError if the system or rule 1 refuses it.
    """
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        # So that a named pipe does not block for ever.
        file = os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", "/".join(names))
    return file


class LayoutBody:
    """Bytes `[start, stop)` of a blob's file: a `Body`. Owns `file`, the descriptor.

    The blob begins at byte `offset` of the file.
    """

    def __init__(
        self, file: int, *, start: int, stop: int, size_bytes: int, media_type: str, digest: str, offset: int = 0
    ) -> None:
        self.start = start
        self.stop = stop
        self.size_bytes = size_bytes
        self.media_type = media_type
        self._digest = digest
        self._position = start
        self._offset = offset
        self._file_bytes = os.fstat(file).st_size
        self._aborted = False
        self._lock = threading.Lock()  # held while the descriptor is in use, so that nobody closes it meanwhile
        self._file: int | None = file

    def readinto(self, view: memoryview) -> int:
        """See `Body.readinto`. A file cannot be resumed: if it breaks, it stays broken."""
        wanted = min(len(view), self.stop - self._position)
        filled = 0
        while filled < wanted:
            filled += self._read_some(view[filled : min(wanted, filled + _READ_BYTES)])
        return filled

    def _read_some(self, view: memoryview) -> int:
        with self._lock:
            if self._aborted or self._file is None:
                raise OriginBrokenError(f"reading {self._digest} was aborted")
            try:
                count = os.preadv(self._file, [view], self._offset + self._position)
                file_bytes = os.fstat(self._file).st_size
            except OSError as error:
                raise OriginBrokenError(f"the layout's {self._digest} cannot be read: {error.strerror}") from None
            if count == 0 or file_bytes != self._file_bytes:
                raise OriginBrokenError(
                    f"the layout's {self._digest} went from {self._file_bytes} to {file_bytes} bytes while it was read:"
                    " let nothing write to blobs that are there"
                )
            self._position += count
            return count

    def abort(self) -> None:
        """See `Body.abort`."""
        self._aborted = True

    def close(self) -> None:
        """Close the file; may be called again."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
