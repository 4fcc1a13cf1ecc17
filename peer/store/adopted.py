"""Blobs in the content store of a container runtime: held by p2pd where they lie, without being stored again.

    CONTENT/blobs/sha256/<hex>       a file of the runtime's: containerd's, dockerd's with the containerd image store
    DATA/adopted/ab/<hex>.record     what p2pd knows of it: a record (peer.store.record), and what the file was

Rules:
1. A runtime's file is only ever read. No link in the content store is followed: each name is opened relative to the
   directory before it, and counts only if it is the hex of a SHA-256 and a regular file.
2. The name of a file proves nothing. A file is held once its bytes have that SHA-256, and each piece is compared again
   on its way out, as those of every blob (`peer.store.check`).
3. A file is known again by device, inode, length, mtime and ctime. One in which any of these differs is read anew.
4. The runtime may remove a file at any moment. Who has it open has it to the end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from peer.errors import StoreError
from peer.oci.digest import Digest
from peer.store.blob import Blob
from peer.store.check import Signature
from peer.store.data_file import OPEN_FLAGS, DataFile
from peer.store.disk import PRIVATE_FILE, disk_errors, make_private_directory, read_file
from peer.store.health import Health
from peer.store.record import Header, decode, encode, peek
from scheduler.protocol.geometry import MAX_BLOB_BYTES, piece_length

FOLDER: Final = "adopted"
"""Of the records, in the store's directory."""

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_RECORD: Final = re.compile(r"([0-9a-f]{64})\.record")
_FICLONE: Final = 0x4004_9409
"""ioctl_ficlone(2): one file's bytes become another's too, on the same blocks of the disk."""


class ContentStore:
    """A directory with `blobs/sha256` in it, as an OCI image layout has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"

    def files(self) -> dict[str, Signature]:
        """What may be a blob, by its hex. Raises OSError: there is no such directory, or it may not be read.

        One that is gone before it is looked at is left out, as is one that is too large for a blob.
        """
        found: dict[str, Signature] = {}
        directory = self._opened()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if _HEX.fullmatch(entry.name):
                        with suppress(FileNotFoundError):
                            facts = entry.stat(follow_symlinks=False)
                            if stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_BLOB_BYTES:
                                found[entry.name] = Signature.of(facts)
        finally:
            os.close(directory)
        return found

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """The file of that hex. Raises OSError."""
        directory = self._opened()
        try:
            return os.open(name, flags | OPEN_FLAGS, dir_fd=directory)
        finally:
            os.close(directory)

    def link(self, name: str, target: Path) -> None:
        """Give the file another name. Raises OSError: EXDEV of another file system or mount, EPERM if it may not be."""
        directory = self._opened()
        try:
            os.link(name, target, src_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def _opened(self) -> int:
        """The directory of the blobs. The path to `path` is the operator's, and may have links. Raises OSError."""
        opened = os.open(self.path, _DIRECTORY)
        for name in ("blobs", "sha256"):
            try:
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            finally:
                os.close(opened)
            opened = below
        return opened


class AdoptedFile(DataFile):
    """A file of a runtime's, which is only read."""

    def __init__(self, content: ContentStore, digest: Digest, size_bytes: int) -> None:
        super().__init__(content.blobs / digest.hex, size_bytes)
        self.content = content
        self._name = digest.hex

    def _opened(self, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.content.open(self._name, flags)


class AdoptedBlob(Blob):
    """A blob that is whole in a runtime's file. `signature` is of the file whose bytes were read and were right."""

    def __init__(self, content: ContentStore, header: Header, record_path: Path, health: Health) -> None:
        super().__init__(
            header,
            AdoptedFile(content, header.digest, header.size_bytes),
            record_path,
            whole=True,
            held_bytes=header.size_bytes,
            recovered=True,
            health=health,
        )
        self.content = content
        self.signature = Signature(*header.of_file)
        with suppress(OSError):
            self.last_used = record_path.stat().st_mtime

    @property
    def is_adopted(self) -> bool:
        return True

    def unlink(self) -> None:
        """Forget the file."""
        with suppress(OSError):
            self.record_path.unlink()


class Records:
    """The records of adopted files in a store's directory: what was read once is not read again after a restart."""

    def __init__(self, directory: Path, health: Health) -> None:
        self._directory = directory / FOLDER
        self._health = health

    def path(self, digest: Digest) -> Path:
        return self._directory / digest.hex[:2] / f"{digest.hex}.record"

    def known(self, content: ContentStore, name: str, signature: Signature) -> AdoptedBlob | None:
        """The blob of a file that was read before, and has not changed since."""
        digest = Digest(f"sha256:{name}")
        path = self.path(digest)
        try:
            header, _, is_complete = peek(path)
        except (OSError, StoreError):
            return None
        belongs = header.digest == digest and header.size_bytes == signature.size_bytes
        is_ours = header.piece_length == piece_length(signature.size_bytes)
        if not (belongs and is_ours and is_complete and header.of_file == signature):
            return None
        return AdoptedBlob(content, header, path, self._health)

    def add(self, content: ContentStore, header: Header, pieces: Sequence[bytes]) -> AdoptedBlob:
        """The blob of a file that was just read. `pieces`: how each is recorded. Raises StoreError."""
        path, entries = self.path(header.digest), dict(enumerate(pieces))
        recorded = ({}, entries) if header.by_prefix else (entries, {})
        self._write(path, encode(header, *recorded, complete=True))
        blob = AdoptedBlob(content, header, path, self._health)
        blob.read_whole(blob.signature)
        return blob

    def renew(self, blob: AdoptedBlob) -> None:
        """A name of the store's was given to the file, or taken, which changes its ctime: that is no change of it."""
        try:
            file = blob.content.open(blob.digest.hex)
            try:
                now = Signature.of(os.fstat(file))
            finally:
                os.close(file)
            if now == blob.signature or now._replace(ctime_ns=blob.signature.ctime_ns) != blob.signature:
                return
            record = decode(read_file(blob.record_path))
            header = replace(record.header, of_file=now)
            self._write(blob.record_path, encode(header, record.pieces, record.prefixes, complete=True))
            blob.record.header, blob.signature = header, now
        except (OSError, StoreError):
            return  # it is read anew

    def _write(self, path: Path, content: bytes) -> None:
        """Raises StoreError. It is not flushed: a record that a power cut has torn is not complete."""
        new = path.with_name(f".{path.name}.new")
        with disk_errors(path):
            for directory in (self._directory, path.parent):
                make_private_directory(directory)
            new.unlink(missing_ok=True)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, PRIVATE_FILE)
            with open(file, "wb") as stream:
                stream.write(content)
            new.replace(path)

    def forget_others(self, names: frozenset[str]) -> None:
        """Remove the records of files that are there no longer: all but those of `names`, which are in hex."""
        for path in self._paths():
            parsed = _RECORD.fullmatch(path.name)
            if parsed is None or parsed[1] not in names:
                with suppress(OSError):
                    path.unlink()

    def _paths(self) -> Iterator[Path]:
        with suppress(OSError):
            for folder in self._directory.iterdir():
                with suppress(OSError):
                    yield from folder.iterdir()


def share(adopted: AdoptedBlob, ours: Path) -> bool:
    """Make `ours`, a file of the store's with the same bytes, share those of the runtime's file. Blocks.

    False if the file system cannot, or p2pd may not (a hard link across owners: fs.protected_hardlinks); then `ours` is
    as it was. What is in the new file is compared again on its way out, as after any change of a file.
    """
    new = ours.with_name(f".{ours.name}.new")
    with suppress(OSError):
        if ours.lstat().st_ino == adopted.signature.inode and ours.lstat().st_dev == adopted.signature.device:
            return True  # it is the runtime's file by another name, since before a restart
    for put in (_clone, _link):
        try:
            new.unlink(missing_ok=True)
            put(adopted, new)
            if new.lstat().st_size == adopted.size_bytes:
                new.replace(ours)
                return True
        except (OSError, StoreError):
            continue
    with suppress(OSError):
        new.unlink(missing_ok=True)
    return False


def _clone(adopted: AdoptedBlob, new: Path) -> None:
    source = adopted.content.open(adopted.digest.hex)
    try:
        target = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, PRIVATE_FILE)
        try:
            fcntl.ioctl(target, _FICLONE, source)
            os.fdatasync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _link(adopted: AdoptedBlob, new: Path) -> None:
    adopted.content.link(adopted.digest.hex, new)
