"""What is known of a whole blob's bytes on the disk: which pieces were right when they were last read.

Data files are sent by `sendfile`, so nobody looks at the bytes on their way out. A piece is therefore read back and
compared with its BLAKE3 before it is sent, unless that was done before and still holds (docs/decisions/0015 has what
each way costs). A check holds until

1. the file's inode, length, mtime or ctime is another: somebody wrote to it;
2. `HOLDS_S` are over: a disk that rots changes no time;
3. the blob is asked for again within `AGAIN_S` of when it was sent whole: perhaps the receiver found it wrong. A check
   that is younger than `FRESH_S` holds all the same, so that many clients of one image do not cost a check each.

Bytes that this process wrote and hashed on their way in count as checked, but for rule 3: they were not read back.

The bytes of a small blob may be kept as long as its check holds (`content`): who asks for them costs a look at the
file's inode, and no opening and reading of the file.
"""

from __future__ import annotations

import math
import os
from typing import Final, NamedTuple

from peer.store.piece_set import PieceSet

HOLDS_S: Final = 24 * 3600.0
AGAIN_S: Final = 600.0
FRESH_S: Final = 5.0


class Signature(NamedTuple):
    """What changes when somebody writes to a file, or puts another in its place."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Signature:
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def signature_of(file: int) -> Signature:
    """Raises OSError."""
    return Signature.of(os.fstat(file))


class Check:
    """The pieces of one blob that were right. `now` is monotonic, in seconds. The caller holds the blob's lock."""

    __slots__ = ("_checked_at", "_pieces", "_read_at", "_sent_at", "_signature", "content")

    def __init__(self, count: int) -> None:
        self.content: bytes | None = None
        """All of the blob, read since the check began to hold."""
        self._pieces = PieceSet(count)
        self._signature: Signature | None = None
        self._checked_at = -math.inf
        self._read_at = -math.inf
        self._sent_at = -math.inf

    def void(self) -> None:
        """Nothing is known any more."""
        self._pieces = PieceSet(self._pieces.count)
        self._signature = None
        self.content = None

    def stored(self, signature: Signature, now: float) -> None:
        """This process has written the whole file, and flushed it."""
        self.void()
        self._signature, self._checked_at = signature, now
        for index in range(self._pieces.count):
            self._pieces.add(index)

    def read(self, signature: Signature, index: int, now: float) -> None:
        """Piece `index` was read back, and was right."""
        if signature != self._signature or not len(self._pieces):
            self.void()
            self._signature, self._checked_at = signature, now
        self._pieces.add(index)
        self._read_at = now

    def read_all(self, signature: Signature, now: float) -> None:
        """All of it was read back, and was right."""
        self.stored(signature, now)
        self._read_at = now

    def sent_whole(self, now: float) -> None:
        """All of the blob was sent to somebody."""
        self._sent_at = now

    def asked(self, now: float) -> None:
        """Somebody asks for the blob: earlier checks may not hold for this (rules 2 and 3)."""
        again = now - self._sent_at < AGAIN_S and now - self._read_at > FRESH_S
        if again or now - self._checked_at > HOLDS_S:
            self.void()

    def covers(self, signature: Signature, first: int, stop: int) -> bool:
        """Whether pieces `[first, stop)` are known to be right in a file with this signature."""
        return signature == self._signature and self._pieces.run_from(first, stop) >= stop
