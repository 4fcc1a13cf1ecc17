"""Reads a blob's file from its first byte on: what of it is as it was recorded, and the BLAKE3 of each piece.

A host that is alone records no BLAKE3, but the SHA-256 of the blob up to the end of each piece (`peer.store.record`).
A piece is then known to be right or wrong once all before it were read.
"""

from __future__ import annotations

import hashlib
from typing import Final

from blake3 import blake3

from peer.store.data_file import CHUNK_BYTES, DataFile
from peer.store.record import Record
from scheduler.protocol.geometry import piece_count, piece_span


class PrefixReading:
    """Of the blob in `data`, of which `record` tells. In one thread at a time."""

    def __init__(self, data: DataFile, record: Record) -> None:
        self.record: Final = record
        self.count: Final = piece_count(record.header.size_bytes, record.header.piece_length)
        self.digests: Final[dict[int, bytes]] = {}
        """The BLAKE3 of the pieces that were read and are right: all up to the first that is not."""
        self.sha256 = hashlib.sha256()
        """Of these pieces."""
        self._data: Final = data
        self._scratch: bytearray | None = None

    def read_next(self) -> bool:
        """Read one more piece; whether it was recorded, and is as it was recorded. Raises StoreBrokenError."""
        index, header = len(self.digests), self.record.header
        prefix, recorded = self.record.prefixes.get(index), self.record.pieces.get(index)
        if prefix is None and recorded is None:
            return False
        if self._scratch is None:
            self._scratch = bytearray(min(CHUNK_BYTES, header.piece_length))
        sha256, piece = self.sha256.copy(), blake3()
        for chunk in self._data.chunks(*piece_span(index, header.size_bytes, header.piece_length), self._scratch):
            sha256.update(chunk)
            piece.update(chunk)
        digest = piece.digest()
        is_right = digest == recorded if prefix is None else sha256.digest() == prefix
        if is_right:
            self.sha256 = sha256
            self.digests[index] = digest
        return is_right

    def pause(self) -> None:
        """Give the buffer back until the next piece is read."""
        self._scratch = None

    def read_all(self) -> None:
        """Read on to the first piece that is not right. Raises StoreBrokenError."""
        while self.read_next():
            pass
