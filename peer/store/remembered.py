"""The small blobs whose bytes are kept in memory, so that who asks again has them without a reading of the file.

Rules:
1. The caller holds the store's lock.
2. A blob keeps its bytes itself, and gives them up once it is not known any more that they are right on the disk
   (`peer.store.check`). Here is only counted how many there are at most: the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from peer.store.blob import Blob

MAX_REMEMBERED_BYTES: Final = 4 * 1024 * 1024
"""Of small blobs that clients have asked for: some 2,000 configs and manifests of images."""


class RememberedBlobs:
    """The blobs of one store that have kept their bytes."""

    def __init__(self) -> None:
        self._sizes: Final[OrderedDict[Blob, int]] = OrderedDict()
        """In bytes, the oldest first. A blob may have given its bytes up by itself."""
        self._total_bytes = 0

    def add(self, blob: Blob, content: bytes) -> None:
        """Have a blob keep its bytes. Raises StoreBrokenError if they are another's."""
        blob.remember(content)
        self._total_bytes += len(content) - self._sizes.pop(blob, 0)
        self._sizes[blob] = len(content)
        while self._total_bytes > MAX_REMEMBERED_BYTES:
            self.discard(next(iter(self._sizes)))

    def discard(self, blob: Blob) -> None:
        """Have a blob keep its bytes no longer."""
        self._total_bytes -= self._sizes.pop(blob, 0)
        blob.forget_content()
