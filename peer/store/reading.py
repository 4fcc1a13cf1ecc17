"""One file of a container runtime's that is being read: its SHA-256, and what its pieces are recorded by.

The kernel is asked to read, and for nothing else. Its own readahead has the disk at work while a part is hashed: a
thread waits for a fast disk for 5% of its time. To ask for more (`POSIX_FADV_WILLNEED`) took 0.5 CPU-s more for a GiB
(docs/decisions/0034).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from blake3 import blake3

from peer.errors import ManifestError, StoreBrokenError
from peer.oci.digest import Digest
from peer.oci.manifest import MAX_MANIFEST_BYTES, manifest_type
from peer.store.adopted import ContentStore
from peer.store.check import Signature, signature_of
from peer.store.disk import disk_errors
from peer.store.record import Header
from scheduler.protocol.geometry import piece_count, piece_length, piece_span


class Reading:
    """Of the file of that name. The methods block, and raise StoreError, and OSError for a file that is gone or may not
    be read.

    `scratch` is lent: nobody else uses it meanwhile. A step that is under way in another thread ends before the `with`
    block does, and none comes after that. `by_prefix`: the BLAKE3 of pieces is not made (`peer.store.record`).
    """

    def __init__(self, content: ContentStore, name: str, scratch: bytearray, *, by_prefix: bool) -> None:
        self.content = content
        self.read_bytes = 0
        self.is_over = False
        self.header: Header | None = None
        """What is known of the file once it was read; None if it is not what its name says, or was changed."""
        self.is_wrong = False
        """Its bytes are others than its name says, and were not changed while they were read."""
        self.pieces: list[bytes] = []
        """The BLAKE3 of each that was read, or the SHA-256 of all up to its end."""
        self._by_prefix = by_prefix
        self._name = name
        self._path = content.blobs / name
        self._view = memoryview(scratch)
        self._stepping = threading.Lock()
        self._file = -1
        self._is_closed = False
        self._is_cached = False
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stepping:
            self._is_closed = True
            if self._file >= 0:
                os.close(self._file)

    def go_on(self, most_bytes: int) -> None:
        """Read some more pieces, one at least and about `most_bytes`.

        What that brings into the page cache leaves it again.
        """
        begun = self.read_bytes
        with self._stepping:
            if self._is_closed:
                return
            if self._file < 0:
                self._open()
            while len(self.pieces) < self._count and self.read_bytes - begun < most_bytes:
                self._piece(*piece_span(len(self.pieces), self.size_bytes, self._length))
            if not self._is_cached:
                os.posix_fadvise(self._file, begun, self.read_bytes - begun, os.POSIX_FADV_DONTNEED)
            if len(self.pieces) == self._count:
                self._conclude()

    def _open(self) -> None:
        self._file = self.content.open(self._name)
        facts = os.fstat(self._file)
        if not stat.S_ISREG(facts.st_mode):
            raise StoreBrokenError(f"{self._path} is no regular file")
        self.signature = Signature.of(facts)
        self.size_bytes = facts.st_size
        self._length = piece_length(facts.st_size)
        self._count = piece_count(facts.st_size, self._length)
        self._is_cached = self._begins_in_cache()

    def _begins_in_cache(self) -> bool:
        try:
            return os.preadv(self._file, [self._view[:4096]], 0, os.RWF_NOWAIT) > 0
        except OSError:
            return False

    def _piece(self, start: int, stop: int) -> None:
        piece = None if self._by_prefix else blake3()
        while start < stop:
            with disk_errors(self._path):
                got = os.preadv(self._file, [self._view[: stop - start]], start)
            if not got:
                raise StoreBrokenError(f"{self._path} is shorter than it was")
            part = self._view[:got]
            self._sha256.update(part)
            if piece is not None:
                piece.update(part)
            start += got
            self.read_bytes += got
        self.pieces.append((piece or self._sha256).digest())

    def _conclude(self) -> None:
        is_unchanged = signature_of(self._file) == self.signature
        is_right = self._sha256.hexdigest() == self._name
        self.is_wrong = is_unchanged and not is_right
        if is_unchanged and is_right:
            digest = Digest(f"sha256:{self._name}")
            of_file = self.signature
            length, kind = self._length, self._media_type()
            self.header = Header(digest, self.size_bytes, length, kind, of_file, by_prefix=self._by_prefix)
        self.is_over = True

    def _media_type(self) -> str:
        """That of a manifest; of anything else its manifest says it."""
        if self.size_bytes > MAX_MANIFEST_BYTES or os.pread(self._file, 1, 0) != b"{":
            return ""
        with suppress(ManifestError):
            return manifest_type(os.pread(self._file, self.size_bytes, 0))
        return ""
