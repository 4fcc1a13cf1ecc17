"""One blob in the store: its data file, its record, its pieces as they land, and what of it may be served.

Rules:
1. `land` and `recover` run in worker threads; everything else may run anywhere. One short lock guards the state.
2. A piece is added to `pieces` after its bytes are in the file and it is in the record. Every piece in `pieces`
   may be served. Pieces of an earlier process are added after `recover` has hashed them again.
3. The blob is `whole` once the SHA-256 over all pieces is its digest. Before that, the last piece must not be served.
4. The file is open while the blob is pinned, for writing only until the blob is whole. A blob that is in use is never
   evicted. Upkeep pins it without using it, and what is fetched ahead is in use once a client reads it.
5. Bytes of a whole blob are sent after `is_checked` or `check` has said that they are right (`peer.store.check`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3
from msgspec import Struct

from peer.errors import PeerCorruptError, StoreBrokenError, StoreError
from peer.oci.digest import Digest
from peer.store.blob_record import BlobRecord
from peer.store.check import Check, Signature
from peer.store.data_file import DataFile
from peer.store.disk import IN_THE_WAY, disk_errors, remove_files
from peer.store.facts import Came
from peer.store.health import Health
from peer.store.piece_set import PieceSet
from peer.store.prefix_hash import PrefixHash
from peer.store.prefix_reading import PrefixReading
from peer.store.record import Header
from scheduler.protocol.geometry import piece_count, piece_span

EMPTY_DIGEST = Digest.of(b"")
"""The digest of the empty blob, which is whole from the start."""


class Landed(Struct, frozen=True):
    """A piece is in the store.

    `digest`: its BLAKE3, b"" if it was not made. `whole`: None while pieces are missing, else whether the blob has the
    SHA-256 of its digest.
    """

    index: int
    digest: bytes
    whole: bool | None


class Blob:
    """A blob that the store holds, in whole or in part."""

    def __init__(
        self,
        header: Header,
        data: DataFile,
        record_path: Path,
        *,
        whole: bool,
        held_bytes: int,
        recovered: bool,
        health: Health | None = None,
    ) -> None:
        """`recovered`: no earlier process left pieces, so `recover` has nothing to do. `health` hears of writes."""
        self.digest: Digest = header.digest
        self.size_bytes = header.size_bytes
        self.data = data
        self.record = BlobRecord(record_path, header, self.data)
        self.count = piece_count(header.size_bytes, header.piece_length)
        self.pieces = PieceSet(self.count)
        self.piece_digests: dict[int, bytes] = {}
        self.last_used = 0.0
        self.discarded = False
        self.is_ahead = False
        """It is, or was, fetched ahead, and no client has asked for it yet."""
        self.preheated = False
        """It came by a preheat, and no client has asked for it yet."""
        self.preempted = False
        """It was evicted on its way here: a client needed the room."""
        self.is_shared = False
        """Its file shares its bytes on the disk with a file of a container runtime (`peer.store.adopted`)."""
        self.came = Came()
        """What has come of it since the start, and from where. Kept by who receives it, on the event loop."""
        self._health = health or Health()
        self._held_bytes = held_bytes
        self._pins = 0
        self._upkeep_pins = 0
        self._recovered = recovered
        self._recovering = threading.Lock()
        self._lock = threading.RLock()
        self._was_whole = whole or header.digest == EMPTY_DIGEST
        self._sha256 = PrefixHash(header, self.data, self.pieces, threading.Condition(self._lock))
        self._check = Check(self.count)
        self._stored = self.whole
        """COMPLETE is in the record, or was tried to be: from then on the file is not written to."""

    @property
    def whole(self) -> bool:
        """Whether it is held whole, and its SHA-256 is the digest."""
        return self._was_whole or self._sha256.is_right is True

    @property
    def reread_bytes(self) -> int:
        """What was read back from the file for the SHA-256."""
        return self._sha256.reread_bytes

    @property
    def data_path(self) -> Path:
        return self.data.path

    @property
    def header(self) -> Header:
        return self.record.header

    @property
    def record_path(self) -> Path:
        return self.record.path

    @property
    def is_adopted(self) -> bool:
        """Whether its file is a container runtime's (`peer.store.adopted`), and not the store's."""
        return False

    @property
    def taken_bytes(self) -> int:
        """What the store has taken of the disk for it, and gets back when it is removed."""
        return 0 if self.is_adopted or self.is_shared else self.size_bytes

    @property
    def pinned(self) -> bool:
        return self._pins > 0

    @property
    def is_stored(self) -> bool:
        """Whether it is held whole, and nothing is written to its file any more."""
        return self.whole and self._stored

    @property
    def in_use(self) -> bool:
        """Whether it is being read or written for a client, or for another host."""
        return self._pins > self._upkeep_pins and not self.is_ahead

    @property
    def held_bytes(self) -> int:
        """Recorded bytes on disk, including those of an earlier process."""
        return self.size_bytes if self.whole else self._held_bytes

    @property
    def verdict(self) -> bool | None:
        """Whether the SHA-256 over all pieces is the blob's digest; None while it is not known."""
        with self._lock:
            return True if self._was_whole else self._sha256.is_right

    def acquire(self) -> None:
        """Pin the blob: until `release` its file is open and it is not evicted.

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

    @contextmanager
    def upkeep(self) -> Iterator[None]:
        """Pin the blob without using it: it may be evicted meanwhile, and its bytes are there until the end."""
        with self.pin():
            self._count_upkeep(1)
            try:
                yield
            finally:
                self._count_upkeep(-1)

    def fileno(self) -> int:
        """The data file of a pinned blob. With this method a Blob can be passed to `sendfile`."""
        return self.data.fileno()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `[start, stop)` of a pinned blob. Raises StoreBrokenError."""
        try:
            return self.data.read(start, stop)
        except StoreBrokenError:
            self.doubt()
            raise

    def read_cached(self, view: memoryview, start: int) -> int:
        """Fill `view` with a pinned blob's bytes from `start` on, as far as the page cache has them; how many came.

        The disk is not waited for, and nothing is raised: what is wrong with the file, `read` says.
        """
        return self.data.read_cached(view, start)

    def remember(self, content: bytes) -> None:
        """Keep all of its bytes, which were just read, for `recall`. Raises StoreBrokenError if they are another's."""
        if not self.digest.names(content):
            raise StoreBrokenError(f"{self.data_path} has another SHA-256 than its name says")
        with self._lock:
            self._check.content = content

    def recall(self, start: int, stop: int) -> bytes | None:
        """Bytes `[start, stop)` for somebody who asks, if they are remembered and its file is as it was when they were
        read. Costs a system call, and the blob need not be pinned.
        """
        with self._lock:
            content = self._check.content
            if content is None:
                return None
            now = time.monotonic()
            self._check.asked(now)
            signature = self.data.signature_by_name()
            if signature is None or not self._check.covers(signature, 0, self.count):
                return None
            if stop - start == len(content):
                self._check.sent_whole(now)
            return content[start:stop]

    def forget_content(self) -> None:
        """Keep its bytes no longer."""
        with self._lock:
            self._check.content = None

    # -- what is right on the disk ---------------------------------------------------------------------------------

    def asked(self) -> None:
        """Somebody asks for the whole blob: `is_checked` is to be asked anew from here on."""
        with self._lock:
            self._check.asked(time.monotonic())

    def sent_whole(self) -> None:
        """All of the blob was sent to somebody."""
        with self._lock:
            self._check.sent_whole(time.monotonic())

    def doubt(self) -> None:
        """Reading the file has failed: nothing is known to be right any more."""
        with self._lock:
            self._check.void()

    def is_checked(self, start: int, stop: int) -> bool:
        """Whether bytes `[start, stop)` of a pinned blob are known to be right on the disk. Costs a system call.

        Raises StoreBrokenError.
        """
        if not self._stored or start >= stop:
            return True
        signature = self.data.signature()
        with self._lock:
            return self._check.covers(signature, *self._indices(start, stop))

    def check(self, start: int, stop: int) -> None:
        """Read bytes `[start, stop)` of a pinned, whole blob, and compare them piece by piece. In a worker thread.

        Raises StoreBrokenError if they are others than were stored, or cannot be read; FileLimitError.
        """
        signature = self.data.signature()
        if signature.size_bytes != self.size_bytes:
            raise StoreBrokenError(f"{self.data_path} has {signature.size_bytes} bytes, not {self.size_bytes}")
        for index in range(*self._indices(start, stop)):
            with self._lock:
                if self._check.covers(signature, index, index + 1):
                    continue
            read = self.record.read_back(index)
            with self._lock:
                for each in read:
                    self._check.read(signature, each, time.monotonic())

    def _indices(self, start: int, stop: int) -> tuple[int, int]:
        length = self.header.piece_length
        return start // length, -(-stop // length)

    def read_whole(self, signature: Signature) -> None:
        """All was read back, and was right, since the file had this signature. A later one is not covered by that."""
        with self._lock:
            self._check.read_all(signature, time.monotonic())

    # -- what may be served ----------------------------------------------------------------------------------------

    def servable_until(self, start: int) -> int:
        """The end of the bytes that may be served from byte `start` on; `start` itself if none may."""
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
        on_at_hand: Callable[[], None] = lambda: None,
    ) -> Landed:
        """Write piece `index`, record it, and carry the SHA-256 on. The blob is pinned by the caller.

        If the BLAKE3 of the bytes is not `expected`, PeerCorruptError is raised before they reach the file. `on_held`
        gets the piece and its BLAKE3 once the piece may be served; the SHA-256 may take as long again. `on_at_hand` is
        called before: who lands the next piece from then on waits for this one's part of the SHA-256
        (`peer.store.prefix_hash`). Where pieces are recorded by prefix the SHA-256 comes first, and there is no BLAKE3
        (b""), but of a piece that is out of order.

        A piece that is held already, or that another thread is landing, is not written again: bytes that were hashed,
        and perhaps served, never change. Raises StoreFullError (the disk), StoreBrokenError.
        """
        start, stop = self.span(index)
        if len(view) != stop - start:
            raise ValueError(f"piece {index} has {stop - start} bytes, not {len(view)}")
        is_new = self._sha256.claim(index)
        on_at_hand()
        if not is_new:
            known = self.piece_digests.get(index)
            digest = blake3(view).digest() if known is None else known
            on_held(index, digest)
            return Landed(index, digest, self.verdict)
        try:
            by_prefix = self.header.by_prefix and expected is None
            digest = b"" if by_prefix else self._digest(index, view, expected)
            with self._writing():
                self.data.write(view, start)
                sha256 = self._sha256.over(view) if by_prefix and self._sha256.has_early_turn(index) else None
                if sha256 is None:
                    digest = digest or blake3(view).digest()
                    self.record.add(index, digest)
                else:
                    self.record.add_prefix(index, sha256.digest())
            self._hold(index, digest)
            try:
                on_held(index, digest)
            finally:  # who lands the next piece waits for this one's part of the SHA-256
                if sha256 is None and self._sha256.has_turn(index):
                    sha256 = self._sha256.over(view)
                if sha256 is not None:
                    self._sha256.extend(sha256)
        finally:
            self._sha256.let_go(index)
        return Landed(index, digest, self.verdict)

    def _digest(self, index: int, view: memoryview, expected: bytes | None) -> bytes:
        """The BLAKE3 of a piece. Raises PeerCorruptError if it is not the expected one."""
        digest = blake3(view).digest()
        if expected is not None and digest != expected:
            raise PeerCorruptError(f"piece {index} of {self.digest} has another BLAKE3 than the map says")
        return digest

    def recover(self) -> None:
        """Hash the pieces that an earlier process left, and hold those whose bytes are still the recorded ones.

        `pieces` and `verdict` have the result. The caller pins the blob. Later calls do nothing; a call while another
        thread recovers the blob waits for that thread. Raises StoreBrokenError.
        """
        with self._recovering:
            if self._recovered or self.whole:
                return
            record = self.record.read()
            self.record.cut(record.valid_bytes)
            self._held_bytes = 0
            reading = PrefixReading(self.data, record)
            reading.read_all()
            digests = dict(reading.digests)
            for index, digest in sorted(record.pieces.items()):
                if index not in digests and self.data.blake3(*self.span(index)) == digest:
                    digests[index] = digest
            if self.header.by_prefix:
                with self._writing():
                    self.record.replace(digests, complete=False)
            for index, digest in digests.items():
                self._hold(index, digest)
            self._recovered = True
            self._sha256.resume(reading.sha256, len(reading.digests))

    def seal(self) -> None:
        """Make `whole` durable: flush the data, then append COMPLETE to the record. Slow, so clients go first.

        Raises StoreError; the blob's bytes are to be checked then before they are sent.
        """
        try:
            with self.upkeep(), self._writing():
                self.data.flush(removed=self.discarded)
                self.record.complete()
                with self._lock:
                    self._check.stored(self.data.signature(), time.monotonic())
        finally:
            self._stored = True
        self.piece_digests = {}

    def verify(self) -> bool:
        """Read and hash every recorded piece again, for `p2pd cache verify`. Slow."""
        with self.upkeep():
            reading = PrefixReading(self.data, self.record.read())
            reading.read_all()
            recorded, read = reading.record, reading.digests
            if self.whole:
                return len(read) == self.count and reading.sha256.digest() == self.digest.raw
            rest = {index: digest for index, digest in recorded.pieces.items() if index not in read}
            return recorded.prefixes.keys() <= read.keys() and all(
                self.data.blake3(*self.span(index)) == digest for index, digest in rest.items()
            )

    def unlink(self) -> None:
        """Remove what is the store's of its files. Who has them open keeps them."""
        remove_files(self.data_path, self.record_path)
        with suppress(OSError):  # it has other blobs
            self.data_path.parent.rmdir()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _hold(self, index: int, digest: bytes) -> None:
        start, stop = self.span(index)
        with self._lock:
            if self.pieces.add(index):
                self._held_bytes += stop - start
            self.piece_digests[index] = digest

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The seam for writes. `health` hears of errors; a success says little, for its room was taken before."""
        try:
            with disk_errors(self.data_path):
                yield
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno not in IN_THE_WAY:
                self._health.failed(error)
            raise

    def _count_upkeep(self, count: int) -> None:
        with self._lock:
            self._upkeep_pins += count

    def _open(self) -> None:
        if self.discarded:
            raise StoreBrokenError(f"{self.digest} was removed from the store; ask for it again")
        self.data.open(for_writing=not self.whole)
        if not self.whole:
            try:
                self.record.open()
            except StoreError:
                self._close()
                raise

    def _close(self) -> None:
        self.data.close()
        self.record.close()
        self._sha256.close()
