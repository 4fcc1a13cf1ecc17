"""The files of this machine, or of another machine's image below a root: read, and written atomically.

Rules:
1. A write makes a new file in the same directory, synchronises it, and renames it over the old file. A reader finds the
   old bytes or the new ones, also after a crash. The next write overwrites a temporary file that a crash has left.
2. An existing file keeps mode, owner and extended attributes. A new file is readable by all, unless it is private.
3. A write to a symbolic link goes to its target. A link that leads out of the root is refused.
4. Every OSError becomes a ConfigureError that names the path.
5. If the root is put together of mounted directories, as in an init container, a path outside of these is refused. It
   would be read from the container, and written to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from p2pd.configure.runtime import ConfigureError, NotMountedError, Reader


class FileTree(Reader, Protocol):
    """The files as p2pd.configure.plan needs them. Every method raises ConfigureError."""

    def read(self, path: str, *, private: bool = False) -> bytes | None:
        """As `Reader.read`. A `private` file is refused if users beside root and this user could have written it."""
        ...

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        """Make the file have these bytes, atomically, with the directories that it needs.

        `private`: it and its directory, if new, are for their owner only.
        """
        ...

    def remove(self, path: str, directories: Sequence[str]) -> None:
        """Remove the file if it exists, then those of `directories` (outermost first) that are empty."""
        ...

    def lock(self, directory: str) -> AbstractContextManager[None]:
        """Lock `directory`, which is made if it is missing, against other processes that lock it."""
        ...


class Disk:
    """The Tree below `root`."""

    def __init__(self, root: Path, mounts: Sequence[Path] | None = None) -> None:
        """`mounts`: the mount points of this process, by default as the kernel has them."""
        self._root = Path(os.path.realpath(root))
        mounts = mount_points() if mounts is None else mounts
        is_whole = self._root == Path("/") or (self._root / "usr").exists()
        below = [point for point in mounts or () if point != self._root and point.is_relative_to(self._root)]
        self._mounted = [] if is_whole else below

    def read(self, path: str, *, private: bool = False) -> bytes | None:
        with _told(path, "read"):
            try:
                with open(self._real(path), "rb", opener=_open_at_once) as file:
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
        if self._mounted and not any(real.is_relative_to(one) or one.is_relative_to(real) for one in self._mounted):
            raise NotMountedError(
                f"{path} is not in a directory that is mounted below {self._root}. Mount the machine's {path}, or the "
                f"directory that it is in, at the same place below {self._root} (in Kubernetes: a hostPath volume and "
                "a volumeMount of the init container); nothing was changed"
            )
        return real


@contextmanager
def _told(path: str, verb: str) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise ConfigureError(f"cannot {verb} {path}: permission denied (run it as root)") from None
    except OSError as error:
        advice = " (is its directory mounted read-only?)" if error.errno == errno.EROFS else ""
        raise ConfigureError(f"cannot {verb} {path}: {error.strerror}{advice}") from None


def mount_points() -> tuple[Path, ...]:
    """The mount points that this process sees; none if the kernel does not tell (proc_pid_mountinfo(5))."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return ()
    fields = (line.split(b" ")[4].decode(errors="surrogateescape") for line in lines)
    return tuple(Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)) for field in fields)


def _open_at_once(path: str, flags: int) -> int:
    """Nobody who may write to a directory that root reads in makes it wait, by a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _new(real: Path) -> Path:
    """The temporary file for the new bytes of `real`. No runtime reads a file of that name."""
    return real.with_name(f".{real.name}.p2pd-new")


def _make_directories(directory: Path, *, private: bool) -> None:
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir()
        one.chmod(0o700 if private and one == directory else 0o755)  # whatever the umask is


def _take_after(real: Path, new: Path, mode: int) -> None:
    """Give `new` the mode, owner and attributes of the file that it replaces, or `mode` if there is no such file."""
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
