"""The disk under the store: its errors as ours, its room, and small files that survive a power cut."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from peer.core.eviction import Room
from peer.errors import FileLimitError, StoreBrokenError, StoreError, StoreFullError, StoreReadOnlyError
from scheduler.trust.files import flush_directory

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_FILES = {
    errno.EMFILE: "p2pd has as many files and connections open as it may: raise LimitNOFILE in its unit, or ulimit -n",
    errno.ENFILE: "the machine has as many files open as it may: raise fs.file-max",
}
"""Errors of our own limits on open files. The disk is well: no blob is removed because of them."""

BAD_BYTES = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.ESTALE, errno.EREMOTEIO})
"""Errors of reading a file's bytes. `sendfile` has them too, beside those of the connection."""

IN_THE_WAY = frozenset({errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.EEXIST})
"""Something else is where a file of the store should be. That concerns the one blob, and not the disk."""


class disk_errors:  # noqa: N801 # as `contextlib.suppress`
    """The seam where the disk's errors become ours. Raises StoreError.

    A class costs a quarter of a generator, and every request passes the seam three times.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise translate_disk_error(error, self._path) from error


def remove_files(*paths: Path) -> None:
    """Remove these files, as far as they are there and can be removed."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def translate_disk_error(error: OSError, path: Path) -> StoreError:
    """Our error for `error`: no room, a limit of our own, a disk that may not be written, or one that fails."""
    if error.errno in NO_FILES:
        return FileLimitError(f"{path} could not be opened: {NO_FILES[error.errno]}")
    if error.errno in NO_ROOM:
        return StoreFullError(f"no room left for {path.parent}: free disk space or lower max_bytes")
    if error.errno == errno.EROFS:
        return StoreReadOnlyError(f"{path}: the file system is read-only; check the disk, and mount it for writing")
    if error.errno in IN_THE_WAY:
        return StoreBrokenError(f"{path}: something else is in its place ({error.strerror}); move it away")
    return StoreBrokenError(f"{path}: {error.strerror or error}; check the disk")


def room_of(directory: Path) -> Room:
    """What the file system of `directory` has left for this process. Raises OSError."""
    disk = os.statvfs(directory)
    return Room(
        free_bytes=disk.f_bavail * disk.f_frsize,
        total_bytes=disk.f_blocks * disk.f_frsize,
        free_inodes=disk.f_favail,
        total_inodes=disk.f_files,
        read_only=bool(disk.f_flag & os.ST_RDONLY),
    )


@lru_cache(maxsize=16)
def is_in_memory(device: int) -> bool:
    """Whether the file system on that device (`st_dev`) is a tmpfs (proc_pid_mountinfo(5)).

    A tmpfs does not know RWF_NOWAIT, and needs it no more than other memory does.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            mount, _, file_system = line.partition(" - ")
            if mount.split(" ")[2] == number:
                return file_system.split(" ")[0] == "tmpfs"
    return False


PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700


def make_private_file(path: Path) -> None:
    """Make an empty file if there is none; no other user may read it. Raises OSError, for a link too."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        if stat.S_IMODE(os.fstat(file).st_mode) != PRIVATE_FILE:
            os.fchmod(file, PRIVATE_FILE)
    finally:
        os.close(file)


def make_private_directory(path: Path) -> None:
    """Make the directory if there is none, for nobody else. Raises OSError."""
    with suppress(FileExistsError):
        path.mkdir(mode=PRIVATE_DIRECTORY)
        path.chmod(PRIVATE_DIRECTORY)  # whatever the umask took from it


def write_durably(path: Path, content: bytes) -> None:
    """Replace a small file in one step that survives a power cut: no reader ever finds half of it. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.fchmod(file, PRIVATE_FILE)
            with open(file, "wb", closefd=False) as stream:
                stream.write(content)
            os.fsync(file)
        finally:
            os.close(file)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def is_file(path: Path) -> bool:
    """Whether there is a regular file, and no link to one. Raises OSError, but for a missing one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def read_file(path: Path) -> bytes:
    """What is in a regular file; no link is followed, and no pipe waited for. Raises OSError."""
    if not is_file(path):
        raise FileNotFoundError(errno.ENOENT, "no regular file", str(path))
    return path.read_bytes()
