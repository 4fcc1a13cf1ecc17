"""Files of keys: a crash leaves the old file or the new one, and a file that others can reach is not read.

Rules:
1. A directory of keys has mode 0700 and a file in it 0600, from the moment it exists.
2. No link is followed at the last part of a path. The parts before it are the operator's.
3. The owner is this process's user, or, for root, anybody: root runs `p2pd token` beside a scheduler of another user.
   What root writes there belongs to the directory's owner.
4. A file is whole when it has its name: it is written and flushed under another one, and the directory is flushed after
   the renaming.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from scheduler.trust.errors import UnsafeFileError

MAX_FILE_BYTES: Final = 1024 * 1024
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private_directory(directory: Path) -> None:
    """Make the directory (0700) and those above it, or check the one that is there. Raises UnsafeFileError."""
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
            directory.chmod(0o700)  # whatever the umask took from it
        status = directory.lstat()
    except OSError as error:
        raise UnsafeFileError(f"{directory} cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFileError(f"{directory} is not a directory, and links are not followed there")
    _check(directory, status)


def read_private(path: Path) -> bytes:
    """The content of a file with a secret. Raises UnsafeFileError; FileNotFoundError if there is none."""
    return _read(path, secret=True)


def read_public(path: Path) -> bytes:
    """The content of a file beside the secrets, which others may read. Raises as `read_private`."""
    return _read(path, secret=False)


def _read(path: Path, *, secret: bool) -> bytes:
    try:
        file = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "links are not followed there" if path.is_symlink() else error.strerror
        raise UnsafeFileError(f"{path} cannot be read: {reason}") from None
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
        os.close(file)
        raise UnsafeFileError(f"{path} is not a file of PEM")
    with os.fdopen(file, "rb") as stream:
        if secret:
            _check(path, status)
        try:
            return stream.read(MAX_FILE_BYTES)
        except OSError as error:
            raise UnsafeFileError(f"{path} cannot be read: {error.strerror}") from None


def write_private(path: Path, content: bytes) -> None:
    """Make or replace a file (0600). Raises UnsafeFileError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        file = os.open(partial, _NEW, 0o600)
        try:
            with os.fdopen(file, "wb") as stream:
                _give_to_owner_of(path.parent, file)
                stream.write(content)
                stream.flush()
                os.fsync(file)
            partial.rename(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        flush_directory(path.parent)
    except OSError as error:
        raise UnsafeFileError(f"{path} cannot be written: {error.strerror}") from None


def create_private(path: Path) -> None:
    """Make an empty file (0600) if there is none, and check the one that is there. Raises UnsafeFileError."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = "links are not followed there" if path.is_symlink() else error.strerror
        raise UnsafeFileError(f"{path} cannot be opened: {reason}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFileError(f"{path} is not a file")
        _check(path, status)
        os.fchmod(file, 0o600)  # whatever the umask took from it
        _give_to_owner_of(path.parent, file)
    finally:
        os.close(file)


def flush_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _check(path: Path, status: os.stat_result) -> None:
    user = os.geteuid()
    if user not in (0, status.st_uid):
        raise UnsafeFileError(f"{path} belongs to the user {status.st_uid}, and p2pd runs as {user}: chown it")
    if status.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise UnsafeFileError(f"other users can reach {path}, where keys are kept: chmod {mode} {path}")


def _give_to_owner_of(directory: Path, file: int) -> None:
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
