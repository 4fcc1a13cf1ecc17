"""The directory of a store: whose it is, who holds it, and what is in it that is none of ours.

    DIR/p2pd-store    marks the directory as ours, with the format's number
    DIR/lock          held (flock) by the one process that uses the store
    DIR/blobs/ab/…    data files and records
    DIR/adopted/ab/…  records of files that are a container runtime's

Rules:
1. A directory that is not a store is never touched, unless it is empty. What mkfs and file servers leave in the root of
   a volume does not count.
2. The mark is flushed before anything else is written. One that was lost all the same, by a power cut, is made anew if
   what is beside it is a store's.
3. What is not of the store is left alone, wherever it is, and said once.
4. Other users may neither read what is in the directory, nor write to it: files are 0600 and directories 0700 whatever
   the umask. The directory belongs to p2pd's user, or to root. No link in it is followed.
5. A disk on which nothing can be written stops nobody from starting: what could not be made is made later (`settle`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct

from peer.errors import ForeignDirectoryError, StoreBrokenError, StoreError, StoreInUseError
from peer.oci.digest import Digest
from peer.store.disk import (
    IN_THE_WAY,
    NO_ROOM,
    PRIVATE_FILE,
    is_file,
    make_private_directory,
    translate_disk_error,
    write_durably,
)
from peer.store.record import peek
from scheduler.trust.files import flush_directory

log = structlog.get_logger("peer.store")

MARKER: Final = "p2pd-store"
MARK: Final = b"store format 1\n"
BLOBS: Final = "blobs"
_ANY_MARK: Final = re.compile(rb"store format [0-9]+\n?")
_LEFT_BY_OTHERS: Final = re.compile(
    r"lost\+found|\.snapshots?|\.zfs|\.nfs[0-9a-f]+|\.Trash-[0-9]+|\.fseventsd|a?quota\.(user|group)"
)
"""What mkfs, file servers and desktops put into the root of a volume."""
_FOLDERS_BESIDE: Final = ("identity", "scheduler", "https-proxy", "adopted")
"""A host's key (`peer.trust`), a scheduler's CA (`p2pd.daemon.trust`), the proxy's (`proxy.local_authority`), and what
is known of a runtime's files (`peer.store.adopted`)."""

_BESIDE: Final = re.compile(
    r"lock|clock|pins|host-id|admin-secret|catalog\.(db|damaged)(-wal|-shm|-journal)?|\.[a-z0-9-]+\.new"
)
"""The files that p2pd has beside the blobs."""
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_BLOB: Final = re.compile(r"([0-9a-f]{64})(\.record)?")
_UNABLE: Final = frozenset({*NO_ROOM, errno.EROFS, errno.EIO})
"""What a disk says that cannot be written now. Anything else at the start is for the operator: a missing permission."""


class Found(Struct, frozen=True):
    """The files of one blob that are there. `record` None: a data file that no record speaks of."""

    data: Path
    record: Path | None


class StoreDirectory:
    """One directory, held by this process from `take` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / BLOBS
        self._lock_file = -1
        self.identity: tuple[int, int] | None = None
        """Device and inode of the directory that was taken."""
        self._was_gone = False
        """It was not there when it was looked for last: what was taken from it then may be there again."""
        self._told: set[str] = set()

    def take(self) -> StoreError | None:
        """Make or check the directory, and lock it. Returns why nothing can be written to it, if so.

        Raises StoreInUseError, ForeignDirectoryError, StoreError.
        """
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
            make_private_directory(self.path)
            self._check_user()
            self._check_owner()
            self._keep_others_out()
            self._lock()
            self.identity = _identity(self.path)
        except (FileExistsError, NotADirectoryError):
            raise ForeignDirectoryError(f"{self.path} is, or is below, a file: name a directory as data") from None
        except OSError as error:
            if error.errno not in _UNABLE:
                raise translate_disk_error(error, self.path / MARKER) from error
            return translate_disk_error(error, self.path / MARKER)
        try:
            self.settle()
        except OSError as error:
            if error.errno not in _UNABLE | IN_THE_WAY:
                self.release()
                raise translate_disk_error(error, self.path / MARKER) from error
            return translate_disk_error(error, self.path / MARKER)
        return None

    def settle(self) -> None:
        """Make what is missing of the directory. Raises OSError."""
        if self._mark() != MARK:
            write_durably(self.path / MARKER, MARK)
        if not self.blobs.is_dir():
            make_private_directory(self.blobs)
            flush_directory(self.path)

    def settled(self) -> bool:
        """Whether what could not be made of the directory could be made now."""
        try:
            self.settle()
        except OSError:
            return False
        return self.is_held

    def release(self) -> None:
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    @property
    def is_held(self) -> bool:
        """Whether the directory is locked for this process."""
        return self._lock_file >= 0

    def is_same(self) -> bool:
        """Whether the directory is the one that was taken, with its mark and its blobs.

        Raises StoreBrokenError if its file system is not mounted any more: nothing is to be written beneath.
        """
        try:
            now = _identity(self.path)
        except OSError:
            now = None
        seen, self._was_gone = not self._was_gone, False
        if now is not None and now == self.identity and seen and is_file(self.path / MARKER) and self.blobs.is_dir():
            return True
        if now is None or self.identity is None or not is_file(self.path / MARKER):
            self._check_device()
        return False

    def retake(self) -> StoreError | None:
        """Take the directory that is there now: made anew, or mounted again. As `take`."""
        self.release()
        return self.take()

    def paths(self, digest: Digest) -> tuple[Path, Path]:
        """The data file and the record of a blob."""
        data = self.blobs / digest.hex[:2] / digest.hex
        return data, data.with_name(f"{digest.hex}.record")

    def files(self) -> Iterator[Found]:
        """The blobs' files. What else is there is said."""
        for folder in self._entries(self.blobs):
            if not (_FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False)):
                self._tell(folder.path)
                continue
            names: dict[str, set[str]] = {}
            for entry in self._entries(Path(folder.path)):
                parsed = _BLOB.fullmatch(entry.name)
                if parsed is None or not entry.is_file(follow_symlinks=False):
                    self._tell(entry.path)
                else:
                    names.setdefault(parsed[1], set()).add(entry.name)
            for name, kinds in sorted(names.items()):
                record = f"{name}.record"
                yield Found(Path(folder.path, name), Path(folder.path, record) if record in kinds else None)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _entries(self, directory: Path) -> list[os.DirEntry[str]]:
        """What is in a directory; of one that cannot be read, nothing."""
        try:
            with os.scandir(directory) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise_if_limited(error, directory)
            log.warning("a directory of the store cannot be read", path=str(directory), error=error.strerror)
            return []

    def _tell(self, path: str) -> None:
        if path not in self._told and not _LEFT_BY_OTHERS.fullmatch(Path(path).name):
            self._told.add(path)
            log.warning("something that is not of the store is left alone", path=path)

    def _mark(self) -> bytes:
        marker = self.path / MARKER
        return marker.read_bytes() if is_file(marker) else b""

    def _check_user(self) -> None:
        """Raises ForeignDirectoryError if the directory is another user's.

        Root owns what Kubernetes and others mount for a daemon that is not root; root reads it all anyhow.
        """
        user, us = self.path.stat().st_uid, os.geteuid()
        if user not in (us, 0):
            raise ForeignDirectoryError(
                f"{self.path} belongs to the user {user}, and p2pd runs as {us}: "
                "run it as that user, or name another directory as data"
            )

    def _keep_others_out(self) -> None:
        """Nobody else may read what is in the directory, or put links there. It is known to be a store's by now.

        Raises ForeignDirectoryError.
        """
        facts, us = self.path.stat(), os.geteuid()
        mode = stat.S_IMODE(facts.st_mode)
        if facts.st_uid == us and mode & 0o077:
            with suppress(OSError):  # of a disk that is not to be written: its files are private all the same
                self.path.chmod(mode & ~0o077)
                log.info("the directory is now closed to other users", path=str(self.path), mode=f"{mode:o}")
        elif mode & 0o002 and not mode & stat.S_ISVTX:
            raise ForeignDirectoryError(
                f"{self.path} is root's and every user may write to it: close it to others, or name a directory "
                f"below it as data ({self.path / 'p2pd'}), which p2pd makes for itself"
            )

    def _check_owner(self) -> None:
        """Raises ForeignDirectoryError if the directory is somebody else's."""
        mark = self._mark()
        if mark == MARK:
            return
        if _ANY_MARK.fullmatch(mark):
            raise ForeignDirectoryError(
                f"{self.path / MARKER} is of a version that this p2pd does not know: name another directory as data"
            )
        names = {entry.name: entry for entry in os.scandir(self.path) if not _LEFT_BY_OTHERS.fullmatch(entry.name)}
        names.pop(MARKER, None)
        is_lost = not mark.strip(b"\0") or MARK.startswith(mark)
        if (is_lost and not names) or self._is_a_store(names):
            if names:
                log.warning("the mark of the store was lost and is made anew", path=str(self.path / MARKER))
            return
        if mark and not is_lost:
            raise ForeignDirectoryError(
                f"{self.path / MARKER} is damaged, and nothing beside it is a store's: name another directory as data"
            )
        raise ForeignDirectoryError(
            f"{self.path} has files in it and is not a store of p2pd's: name an empty or new directory as data"
        )

    def _is_a_store(self, names: dict[str, os.DirEntry[str]]) -> bool:
        """Whether these are what a store has: nothing else at all, or a blob with its record."""
        only_ours = all(
            name in (BLOBS, *_FOLDERS_BESIDE) or (_BESIDE.fullmatch(name) and entry.is_file(follow_symlinks=False))
            for name, entry in names.items()
        )
        folders = [Path(each) for each in self._entries(self.blobs)] if BLOBS in names else []
        if only_ours and names and all(_FOLDER.fullmatch(each.name) and not self._entries(each) for each in folders):
            return True
        records = (
            Path(entry)
            for folder in folders
            if folder.is_dir() and not folder.is_symlink()
            for entry in self._entries(folder)
            if entry.name.endswith(".record")
        )
        return any(_is_record(record) for record in records)

    def _lock(self) -> None:
        """Raises StoreInUseError."""
        lock = self.path / "lock"
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT | flags, PRIVATE_FILE)
            os.fchmod(file, PRIVATE_FILE)
        except OSError as error:
            if error.errno not in {*_UNABLE, errno.EISDIR}:
                raise
            try:
                file = os.open(lock, os.O_RDONLY | flags)
            except FileNotFoundError:
                file = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise StoreInUseError(
                f"another p2pd uses {self.path}: stop it, or name another directory as data"
            ) from None
        self._lock_file = file

    def _check_device(self) -> None:
        """Raises StoreBrokenError if what is there now is on another file system than the directory was."""
        for there in (self.path, *self.path.parents):
            with suppress(OSError):
                if self.identity is not None and there.stat().st_dev != self.identity[0]:
                    self._was_gone = True
                    raise StoreBrokenError(f"{self.path} is gone, with its file system: mount it again")
                return


def _is_record(path: Path) -> bool:
    with suppress(StoreError, OSError):
        return is_file(path) and path.name == f"{peek(path)[0].digest.hex}.record"
    return False


def _identity(directory: Path) -> tuple[int, int]:
    facts = directory.stat()
    return facts.st_dev, facts.st_ino


def raise_if_limited(error: OSError, path: Path) -> None:
    """Raise what says nothing of the disk: FileLimitError."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise translate_disk_error(error, path) from error
