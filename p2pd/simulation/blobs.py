"""Blobs of a simulated image. A piece's bytes are stood for by their digest, which is the piece's index."""

from __future__ import annotations

import hashlib
import random

from scheduler.protocol.fields import DIGEST_BYTES, MAX_INLINE_BYTES
from scheduler.protocol.geometry import piece_count, said_piece_length, told_piece_length


class Contents:
    """A blob as the origin has it, in pieces of `length`. `data` is there if it is so small that it is in messages."""

    __slots__ = ("_divided", "count", "data", "digest", "digests", "length", "size_bytes")

    def __init__(self, digest: bytes, size_bytes: int, data: bytes = b"", *, told_length: int = 0) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.length = said_piece_length(size_bytes, told_length)
        self.count = piece_count(size_bytes, self.length)
        self.data = data
        self.digests = [true_digest(index) for index in range(self.count)]
        self._divided: dict[int, Contents] = {}

    def divided(self, told_length: int) -> Contents:
        """The same blob in pieces of another length (0: the usual one)."""
        if told_length == told_piece_length(self.size_bytes, self.length):
            return self
        if told_length not in self._divided:
            self._divided[told_length] = Contents(self.digest, self.size_bytes, self.data, told_length=told_length)
        return self._divided[told_length]

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
