"""The cache of tiny blobs, which the scheduler sends inside its messages."""

from __future__ import annotations

from typing import Final


class InlineBlobCache:
    """At most `max_bytes` of verified blobs. The least recently used blobs are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes: Final = max_bytes
        self._blobs: Final[dict[bytes, bytes]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._blobs)

    def get(self, digest: bytes) -> bytes | None:
        """The blob, if the cache has it."""
        data = self._blobs.pop(digest, None)
        if data is not None:
            self._blobs[digest] = data
        return data

    def size_of(self, digest: bytes) -> int | None:
        """The blob's length, if the cache has the blob."""
        data = self._blobs.get(digest)
        return None if data is None else len(data)

    def put(self, digest: bytes, data: bytes) -> None:
        """Add a verified blob, and drop as many other blobs as the bound requires."""
        self.size_bytes += len(data) - len(self._blobs.pop(digest, b""))
        self._blobs[digest] = data
        while self.size_bytes > self._max_bytes:
            self.size_bytes -= len(self._blobs.pop(next(iter(self._blobs))))
