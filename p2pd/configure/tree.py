"""The files of this machine, or of another one's image below a root: read, and written atomically.

Rules:
1. A write is a new file in the same directory, synchronised, and renamed over the old one: whoever reads, and whoever
   starts after a crash, finds the old bytes or the new ones. What a crash leaves beside it is overwritten next time.
2. Mode, owner and extended attributes of a file that is there are kept. A new file is readable by all, unless private.
3. A symbolic link is written through, to its target. One that leads out of the root is refused.
4. Every OSError becomes a ConfigureError that names the path.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from p2pd.configure.runtime import ConfigureError, Reader


class FileTree(Reader, Protocol):
    """The files as p2pd.configure.plan needs them. Every method raises ConfigureError."""

    def read(self, path: str, *, private: bool = False) -> bytes | None:
        """As Reader has it. A `private` file is refused if others than root and this user could have written it."""
        ...

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        """Make the file have these bytes, atomically, with the directories that it needs.

        `private`: it and its directory, if new, are for their owner only.
        """
        ...

    def remove(self, path: str, directories: Sequence[str]) -> None:
        """Remove the file if it is there, then those of `directories` (outermost first) that are empty."""
        ...

    def lock(self, directory: str) -> AbstractContextManager[None]:
        """Hold `directory`, which is made if need be, against other processes that do the same."""
        ...


class Disk:
    """The Tree below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))

    def read(self, path: str, *, private: bool = False) -> bytes | None:
        with _told(path, "read"):
            try:
                with self._real(path).open("rb") as file:
                    status = os.fstat(file.fileno())
                    if private and (status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022):
                        raise ConfigureError(
                            f"{path} could have been written by others than root, so it is not believed: "
                            "look at what it says, restore the files by hand, and remove it"
                        )
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, directory: str) -> frozenset[str] | None:
        with _told(directory, "read"):
            try:
                return frozenset(each.name for each in self._real(directory).iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        with _told(path, "write"):
            real = self._real(path)
            _make_directories(real.parent, private=private)
            new = _new(real)
            new.unlink(missing_ok=True)
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content)
                    file.flush()
                    _take_after(real, new, 0o600 if private else 0o644)
                    os.fsync(file.fileno())
                new.replace(real)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
            _synchronise(real.parent)

    def remove(self, path: str, directories: Sequence[str]) -> None:
        with _told(path, "remove"):
            real = self._real(path)
            if real.parent.is_dir():
                _new(real).unlink(missing_ok=True)
                real.unlink(missing_ok=True)
                _synchronise(real.parent)
            for directory in reversed(directories):
                with suppress(OSError):  # it is not empty, or somebody removed it
                    self._real(directory).rmdir()

    @contextmanager
    def lock(self, directory: str) -> Iterator[None]:
        with _told(directory, "lock"):
            real = self._real(directory)
            _make_directories(real, private=True)
            held = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigureError("another p2pd configure is at work: try again when it is done") from None
            yield
        finally:
            os.close(held)

    def _real(self, path: str) -> Path:
        real = Path(os.path.realpath(self._root / path.lstrip("/")))
        if not real.is_relative_to(self._root):
            raise ConfigureError(f"{path} is a symbolic link that leads out of {self._root}, to {real}")
        return real


@contextmanager
def _told(path: str, verb: str) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise ConfigureError(f"cannot {verb} {path}: permission denied (run it as root)") from None
    except OSError as error:
        raise ConfigureError(f"cannot {verb} {path}: {error.strerror}") from None


def _new(real: Path) -> Path:
    """Where the new bytes of `real` are gathered. No runtime takes that name for one of its own files."""
    return real.with_name(f".{real.name}.p2pd-new")


def _make_directories(directory: Path, *, private: bool) -> None:
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir()
        one.chmod(0o700 if private and one == directory else 0o755)  # whatever the umask is


def _take_after(real: Path, new: Path, mode: int) -> None:
    """Give `new` what belongs to the file that it will replace, or `mode` if there is none."""
    try:
        status = real.stat()
    except FileNotFoundError:
        new.chmod(mode)
        return
    mine = new.stat()
    if (status.st_uid, status.st_gid) != (mine.st_uid, mine.st_gid):
        os.chown(new, status.st_uid, status.st_gid)
    shutil.copystat(real, new)
    os.utime(new)
    if stat.S_IMODE(new.stat().st_mode) != stat.S_IMODE(status.st_mode):
        raise PermissionError


def _synchronise(directory: Path) -> None:
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
