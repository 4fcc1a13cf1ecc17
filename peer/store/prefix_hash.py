"""The SHA-256 of a blob while its pieces land: it grows with the prefix, whatever the order of the pieces is.

Rules:
1. A thread that has landed a piece keeps its buffer until the SHA-256 has reached the piece, if all pieces before it
   are held or in such buffers: the thread then waits for hashing only, never for a source. Otherwise it gives the
   buffer back, and the piece is read from the file in its turn.
2. One thread hashes at a time, without the lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Final

from peer.errors import StoreError
from peer.store.data_file import CHUNK_BYTES, DataFile
from peer.store.piece_set import PieceSet
from peer.store.record import Header
from scheduler.protocol.geometry import piece_span


class PrefixHash:
    """Of one blob, of which `pieces` are held in `data`. From any thread. `lock` guards `pieces`, too."""

    __slots__ = (
        "_at_hand",
        "_data",
        "_hashed",
        "_hashing",
        "_header",
        "_lock",
        "_pieces",
        "_scratch",
        "_sha256",
        "_turn",
        "_unreadable",
        "is_right",
        "reread_bytes",
    )

    def __init__(self, header: Header, data: DataFile, pieces: PieceSet, lock: threading.Condition) -> None:
        self._header: Final = header
        self._data: Final = data
        self._pieces: Final = pieces
        self._lock: Final = lock  # notified when a piece is not at hand any more, and when hashing pauses
        self._at_hand: Final[set[int]] = set()  # pieces that a thread is landing, or has landed and is to hash
        self._sha256 = hashlib.sha256()
        self._hashed = 0  # pieces that are in _sha256
        self._hashing = False
        self._turn: int | None = None  # the piece whose thread may extend _sha256, and has not yet
        self.is_right: bool | None = None if pieces.count else self._sha256.digest() == header.digest.raw
        """Whether the SHA-256 over all pieces is the digest; None before all of them are in it."""
        self.reread_bytes = 0
        """What was read back from the file, since its buffer was given back before its turn."""
        self._scratch: bytearray | None = None  # kept: mapping it again takes as long as reading into it
        self._unreadable = False

    def close(self) -> None:
        """The file is closed: the buffer for reading it is not needed meanwhile."""
        self._scratch = None

    def claim(self, index: int) -> bool:
        """Begin to land a piece, until `let_go`; False if it is held. Waits while another thread lands it."""
        with self._lock:
            self._lock.wait_for(lambda: index not in self._at_hand)
            if index in self._pieces:
                return False
            self._at_hand.add(index)
            return True

    def has_turn(self, index: int) -> bool:
        """Wait until the SHA-256 has reached piece `index`; False if its buffer is to be given back (rule 1)."""
        with self._lock:
            if self._waited_for_turn(index):
                return True
            self._at_hand.remove(index)
            return False

    def has_early_turn(self, index: int) -> bool:
        """The same of a piece that is not held yet. After False, `has_turn` is asked once it is held."""
        with self._lock:
            return self._waited_for_turn(index)

    def over(self, view: memoryview) -> hashlib._Hash:
        """The SHA-256 up to the end of the piece whose turn it is, and whose buffer is `view`."""
        sha256 = self._sha256.copy()
        sha256.update(view)
        return sha256

    def let_go(self, index: int) -> None:
        """The piece is landed, or is not: its buffer is given back, and its turn, if it had one and did not use it."""
        with self._lock:
            self._at_hand.discard(index)
            if self._turn == index:
                self._turn, self._hashing = None, False
            self._lock.notify_all()

    def extend(self, sha256: hashlib._Hash) -> None:
        """`sha256` has the piece whose turn it is (`over`), and it is held. Go on with what follows without a gap."""
        self._sha256, self._turn = sha256, None
        if self._has_reached(self._hashed + 1):
            self._extend_over_held()

    def resume(self, sha256: hashlib._Hash, hashed: int) -> None:
        """Begin with the pieces that are held from the start, of which `sha256` has the first `hashed`.

        Raises StoreBrokenError.
        """
        self._sha256 = sha256
        if self._has_reached(hashed):
            self._extend_over_held()

    def _waited_for_turn(self, index: int) -> bool:
        self._lock.wait_for(lambda: self._is_next(index) or not self._comes_soon(index))
        if not self._is_next(index):
            return False
        self._turn, self._hashing = index, True
        return True

    def _extend_over_held(self) -> None:
        try:
            while True:
                for chunk in self._chunks(self._hashed):
                    self._sha256.update(chunk)
                    self.reread_bytes += len(chunk)
                if not self._has_reached(self._hashed + 1):
                    return
        except StoreError:
            self._unreadable = True  # the SHA-256 cannot go on; `let_go` wakes the threads that wait
            raise

    def _is_next(self, index: int) -> bool:
        return index == self._hashed and not self._hashing

    def _comes_soon(self, index: int) -> bool:
        before = range(self._hashed, index)
        return not self._unreadable and all(each in self._pieces or each in self._at_hand for each in before)

    def _has_reached(self, hashed: int) -> bool:
        """So many pieces are in the SHA-256. Returns whether the next piece is read from the file."""
        with self._lock:
            self._hashed = hashed
            if self._hashed == self._pieces.count:
                self.is_right = self._sha256.digest() == self._header.digest.raw
            self._hashing = self._hashed in self._pieces and self._hashed not in self._at_hand
            if not self._hashing:
                self._lock.notify_all()
            return self._hashing

    def _chunks(self, index: int) -> Iterator[memoryview]:
        """The bytes of a held piece. The scratch buffer is kept until `close`."""
        length = self._header.piece_length
        if self._scratch is None:
            self._scratch = bytearray(min(CHUNK_BYTES, length))
        return self._data.chunks(*piece_span(index, self._header.size_bytes, length), self._scratch)
