"""One blob in the store: its data file, its record, and the SHA-256 that grows with its prefix.

Rules:
1. `land` and `recover` run in worker threads; everything else may run anywhere. One short lock guards the state.
2. A piece is in `pieces` only after its bytes are in the file and its digest is in the record: what is in `pieces`
   may be served. Pieces that an earlier process left are in `pieces` only after `recover` has hashed them again.
3. The blob is `whole` once the SHA-256 over all its pieces is its name; until then the last piece is not to be served.
4. The file is open while somebody has it pinned, and what is pinned is never evicted.
5. A thread that has landed a piece keeps it at hand for the SHA-256 while all that comes before it is at hand or held
   too, so that it waits for hashing and never for a source. Else it leaves the piece, to be read back in its turn.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from peer.core.pieces import PieceSet
from peer.errors import FileLimitError, PeerCorruptError, StoreBrokenError, StoreError, StoreFullError
from peer.store.record import COMPLETE, Header, Record, decode, encode_entry
from scheduler.protocol.geometry import piece_count, piece_span

EMPTY_DIGEST = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The blob of no bytes: whole from the start."""

HASH_CHUNK_BYTES = 1024 * 1024
"""What is read back at a time: few hand-overs of the interpreter lock, and still in the cache when it is hashed."""

WRITE_BYTES = 512 * 1024
"""What one `pwrite` takes. Longer ones cost the kernel up to three times as much (measured on lazily backed memory)."""


@dataclass(frozen=True, slots=True)
class Landed:
    """A piece is in the store. `whole`: None while pieces are missing, else whether the SHA-256 is the blob's name."""

    index: int
    digest: bytes
    whole: bool | None


class Blob:
    """A blob that the store holds, in whole or in part."""

    def __init__(
        self, header: Header, data_path: Path, record_path: Path, *, whole: bool, held_bytes: int, recovered: bool
    ) -> None:
        """`recovered`: no earlier process left anything of it, so that there is nothing for `recover` to do."""
        self.header = header
        self.data_path = data_path
        self.record_path = record_path
        self.whole = whole or header.digest == EMPTY_DIGEST
        self.count = piece_count(header.size_bytes, header.piece_length)
        self.pieces = PieceSet(self.count)
        self.piece_digests: dict[int, bytes] = {}
        self.last_used = 0.0
        self.discarded = False
        self._held_bytes = held_bytes
        self._pins = 0
        self._file = -1
        self._record_file = -1
        self._recovered = recovered
        self._recovering = threading.Lock()
        self._appending = threading.Lock()
        self._lock = threading.Condition()  # notified when a piece is not at hand any more, and when hashing pauses
        self._at_hand: set[int] = set()  # pieces that a thread is landing, or has landed and is to hash
        self._sha256 = hashlib.sha256()
        self._hashed = 0  # pieces that are in _sha256
        self._hashing = False
        self._scratch: bytearray | None = None  # kept, for mapping it anew costs as much as reading into it
        self._unreadable = False

    @property
    def digest(self) -> str:
        return self.header.digest

    @property
    def size_bytes(self) -> int:
        return self.header.size_bytes

    @property
    def pinned(self) -> bool:
        return self._pins > 0

    @property
    def held_bytes(self) -> int:
        """Verified bytes on disk, those included that an earlier process left."""
        return self.size_bytes if self.whole else self._held_bytes

    @property
    def verdict(self) -> bool | None:
        """Whether the SHA-256 over all pieces is the blob's name; None while it is not known."""
        with self._lock:
            return self.whole if self.whole or self._hashed == self.count else None

    def acquire(self) -> None:
        """Pin the blob: its file is open, and it is not evicted, until `release`.

        Raises StoreBrokenError, FileLimitError.
        """
        with self._lock:
            if not self._pins:
                self._open()
            self._pins += 1

    def release(self) -> None:
        with self._lock:
            self._pins -= 1
            if not self._pins:
                self._close()

    @contextmanager
    def pin(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def fileno(self) -> int:
        """The data file, of a pinned blob; so that a Blob can be given to whatever sends files."""
        return self._file

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of a pinned blob, for what is small, such as a manifest. Raises StoreBrokenError."""
        with _disk_errors(self.data_path):
            return os.pread(self._file, stop - start, start)

    def servable_until(self, start: int) -> int:
        """The end of the bytes that may be sent from byte `start` on, which is `start` itself when none may."""
        if self.whole:
            return self.size_bytes
        first = start // self.header.piece_length
        end = self.pieces.run_from(first, self.count - 1)  # the last piece waits for the blob's SHA-256
        return max(start, end * self.header.piece_length) if end > first else start

    def span(self, index: int) -> tuple[int, int]:
        """Bytes `[start, stop)` of piece `index`."""
        return piece_span(index, self.size_bytes, self.header.piece_length)

    # -- worker threads --------------------------------------------------------------------------------------------

    def land(
        self,
        index: int,
        view: memoryview,
        expected: bytes | None = None,
        on_held: Callable[[int, bytes], None] = lambda _index, _digest: None,
    ) -> Landed:
        """Write piece `index`, record it, and carry the SHA-256 on. The blob is pinned by the caller.

        With an `expected` BLAKE3 other bytes raise PeerCorruptError, and never reach the file. `on_held` is told the
        piece and its BLAKE3 once it may be served; hashing may take as long again.

        A piece that is held already, or that another thread lands at this moment, stays as that thread had it: what
        was hashed, and perhaps served, is never written over. Raises StoreFullError (the disk), StoreBrokenError.
        """
        start, stop = self.span(index)
        if len(view) != stop - start:
            raise ValueError(f"piece {index} has {stop - start} bytes, not {len(view)}")
        with self._lock:
            self._lock.wait_for(lambda: index not in self._at_hand)
            held = index in self.pieces
            if not held:
                self._at_hand.add(index)
        if held:
            digest = self.piece_digests.get(index) or blake3(view).digest()
            on_held(index, digest)
            return Landed(index, digest, self.verdict)
        try:
            digest = blake3(view).digest()
            if expected is not None and digest != expected:
                raise PeerCorruptError(f"piece {index} of {self.digest} has another BLAKE3 than the map says")
            with _disk_errors(self.data_path):
                _write_at(self._file, view, start)
                self._append(encode_entry(index, digest))
            self._hold(index, digest)
            on_held(index, digest)
            if self._has_turn(index):
                self._extend_hash(view)
        finally:
            self._let_go(index)
        return Landed(index, digest, self.verdict)

    def recover(self) -> None:
        """Hash the pieces that an earlier process left, and hold those whose bytes are still what was recorded.

        `pieces` and `verdict` tell what came of it. The blob is pinned by the caller. Nothing to do, and cheap, when it
        is not the first call; who calls while another thread is at it waits. Raises StoreBrokenError.
        """
        with self._recovering:
            if self._recovered or self.whole:
                return
            record = self._read_record()
            with _disk_errors(self.record_path):
                os.truncate(self.record_path, record.valid_bytes)  # what follows would hide the entries to come
            self._held_bytes = 0
            for index, digest in sorted(record.pieces.items()):
                if self._hash_file_piece(index) == digest:
                    self._hold(index, digest)
            self._recovered = True
            if 0 in self.pieces:
                self._hashing = True
                self._extend_hash(None)

    def seal(self) -> None:
        """Make `whole` durable: flush the data, then say so in the record. Slow; after the clients were served."""
        with self.pin(), _disk_errors(self.data_path):
            os.fdatasync(self._file)
            self._append(encode_entry(COMPLETE))
        self.piece_digests = {}

    def recorded_digests(self) -> dict[int, bytes]:
        """The BLAKE3 of every piece that is recorded, by index. Raises StoreBrokenError."""
        return self._read_record().pieces

    def verify(self) -> bool:
        """Read everything that is recorded again and compare; for `p2pd cache verify`. Slow."""
        with self.pin():
            record = self._read_record()
            if any(self._hash_file_piece(index) != digest for index, digest in record.pieces.items()):
                return False
            if not self.whole:
                return True
            sha256, scratch = hashlib.sha256(), self._new_scratch()
            for index in range(self.count):
                for chunk in self._chunks(index, scratch):
                    sha256.update(chunk)
            return f"sha256:{sha256.hexdigest()}" == self.digest

    # -- inside ----------------------------------------------------------------------------------------------------

    def _hold(self, index: int, digest: bytes) -> None:
        start, stop = self.span(index)
        with self._lock:
            if self.pieces.add(index):
                self._held_bytes += stop - start
            self.piece_digests[index] = digest

    def _append(self, entry: bytes) -> None:
        with self._appending:
            valid_bytes = os.fstat(self._record_file).st_size
            if os.write(self._record_file, entry) < len(entry):
                os.ftruncate(self._record_file, valid_bytes)  # a torn entry would hide those to come
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _has_turn(self, index: int) -> bool:
        """Wait until the SHA-256 has come to piece `index`, which is at hand; False if it is left (rule 5)."""
        with self._lock:
            self._lock.wait_for(lambda: self._is_next(index) or not self._comes_soon(index))
            if self._is_next(index):
                self._hashing = True
                return True
            self._at_hand.remove(index)
            return False

    def _is_next(self, index: int) -> bool:
        return index == self._hashed and not self._hashing

    def _comes_soon(self, index: int) -> bool:
        before = range(self._hashed, index)
        return not self._unreadable and all(each in self.pieces or each in self._at_hand for each in before)

    def _let_go(self, index: int) -> None:
        with self._lock:
            self._at_hand.discard(index)
            self._lock.notify_all()

    def _extend_hash(self, view: memoryview | None) -> None:
        """Carry the SHA-256 over what is held without a gap. `view` has the first piece's bytes if they are at hand."""
        try:
            while True:
                for chunk in self._chunks(self._hashed, self._kept_scratch()) if view is None else (view,):
                    self._sha256.update(chunk)
                view = None
                if not self._next_to_read():
                    return
        except StoreError:
            self._unreadable = True  # nobody can go on from here; who waits is woken by `_let_go`
            raise

    def _next_to_read(self) -> bool:
        """One more piece is in the SHA-256: whether the next one is to be read back."""
        with self._lock:
            self._hashed += 1
            if self._hashed == self.count:
                self.whole = f"sha256:{self._sha256.hexdigest()}" == self.digest
            self._hashing = self._hashed in self.pieces and self._hashed not in self._at_hand
            if not self._hashing:
                self._lock.notify_all()
            return self._hashing

    def _hash_file_piece(self, index: int) -> bytes:
        piece = blake3()
        for chunk in self._chunks(index, self._new_scratch()):
            piece.update(chunk)
        return piece.digest()

    def _kept_scratch(self) -> bytearray:
        """That of the one thread that hashes, as long as the blob is pinned."""
        if self._scratch is None:
            self._scratch = self._new_scratch()
        return self._scratch

    def _new_scratch(self) -> bytearray:
        return bytearray(min(HASH_CHUNK_BYTES, self.header.piece_length))

    def _chunks(self, index: int, scratch_bytes: bytearray) -> Iterator[memoryview]:
        """The bytes of a piece, read into `scratch_bytes` part by part."""
        at, stop = self.span(index)
        scratch = memoryview(scratch_bytes)
        while at < stop:
            with _disk_errors(self.data_path):
                got = os.preadv(self._file, [scratch[: stop - at]], at)
            if not got:
                raise StoreBrokenError(f"{self.data_path} is shorter than its record says; remove the blob")
            yield scratch[:got]
            at += got

    def _open(self) -> None:
        if self.discarded:
            raise StoreBrokenError(f"{self.digest} was removed from the store; ask for it again")
        with _disk_errors(self.data_path):
            self._file = os.open(self.data_path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._record_file = os.open(self.record_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            except OSError:
                self._close()
                raise

    def _close(self) -> None:
        for file in (self._file, self._record_file):
            with suppress(OSError):
                os.close(file)
        self._file = self._record_file = -1
        self._scratch = None

    def _read_record(self) -> Record:
        with _disk_errors(self.record_path):
            return decode(self.record_path.read_bytes())


def _write_at(file: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(file, view[written : written + WRITE_BYTES], offset + written)


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_FILES = {
    errno.EMFILE: "p2pd has as many files and connections open as it may: raise LimitNOFILE in its unit, or ulimit -n",
    errno.ENFILE: "the machine has as many files open as it may: raise fs.file-max",
}
"""Limits on open files. They say nothing of the disk, and what it holds is not to be thrown away because of them."""


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """The one seam at which the disk's errors become ours."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise translate_disk_error(error, path) from error


def translate_disk_error(error: OSError, path: Path) -> StoreError:
    """`error` in our words: the lack of room, and our own limits, apart from a disk that fails."""
    if error.errno in NO_FILES:
        return FileLimitError(f"{path} could not be opened: {NO_FILES[error.errno]}")
    if error.errno in NO_ROOM:
        return StoreFullError(f"no room left for {path.parent}: free disk space or lower max_bytes")
    return StoreBrokenError(f"{path}: {error.strerror or error}; check the disk")
