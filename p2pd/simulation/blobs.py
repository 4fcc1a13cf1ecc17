"""Blobs of a simulated image. A piece's bytes are stood for by their digest, which is the piece's index."""

from __future__ import annotations

import hashlib
import random

from scheduler.protocol.fields import DIGEST_BYTES, MAX_INLINE_BYTES
from scheduler.protocol.geometry import piece_count, piece_length


class Contents:
    """A blob as the origin has it. `data` is there for one so small that it travels in messages."""

    __slots__ = ("count", "data", "digest", "digests", "length", "size_bytes")

    def __init__(self, digest: bytes, size_bytes: int, data: bytes = b"") -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.length = piece_length(size_bytes)
        self.count = piece_count(size_bytes, self.length)
        self.data = data
        self.digests = [true_digest(index) for index in range(self.count)]

    def bytes_of(self, index: int) -> int:
        """The length of a piece."""
        return min(self.length, self.size_bytes - index * self.length)


def true_digest(index: int) -> bytes:
    """The digest of the true bytes of a piece, which stands for them."""
    return index.to_bytes(DIGEST_BYTES, "big")


def false_digest(index: int, by: str = "") -> bytes:
    """The digest of other bytes, which are those of the host `by`."""
    return hashlib.blake2s(b"wrong %d %s" % (index, by.encode()), digest_size=DIGEST_BYTES).digest()


def contents(number: int, size_bytes: int) -> Contents:
    """The image's layer of this number."""
    data = random.Random(number).randbytes(size_bytes) if size_bytes <= MAX_INLINE_BYTES else b""
    return Contents(hashlib.sha256(data or b"%d" % number).digest(), size_bytes, data)
