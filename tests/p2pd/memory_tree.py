"""A Tree in memory, which can fail, or die, at any of its changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from p2pd.configure.runtime import ConfigureError


class Death(BaseException):
    """The process was killed: nothing that it would do afterwards happens."""


class MemoryTree:
    """Files by path. `fail_at` and `die_at` count changes from 1; whoever dies does so once the change is made."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.directories = {str(above) for path in files for above in PurePosixPath(path).parents} | {"/"}
        self.changes = 0
        self.fail_at: int | None = None
        self.die_at: int | None = None
        self._locked = False

    def read(self, path: str, *, private: bool = False) -> bytes | None:  # noqa: ARG002 # all files are alike here
        return self.files.get(path)

    def names(self, directory: str) -> frozenset[str] | None:
        if directory not in self.directories:
            return None
        inside = (PurePosixPath(path) for path in {*self.files, *self.directories} - {"/"})
        return frozenset(path.name for path in inside if str(path.parent) == directory)

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:  # noqa: ARG002
        with self._changing(path):
            self.files[path] = content
            self.directories |= {str(above) for above in PurePosixPath(path).parents}

    def remove(self, path: str, directories: Sequence[str]) -> None:
        with self._changing(path):
            self.files.pop(path, None)
            for directory in reversed(directories):
                if self.names(directory) == frozenset():
                    self.directories.discard(directory)

    @contextmanager
    def lock(self, directory: str) -> Iterator[None]:
        if self._locked:
            raise ConfigureError("another p2pd configure is at work")
        self._locked = True
        self.directories |= {directory, *(str(above) for above in PurePosixPath(directory).parents)}
        try:
            yield
        finally:
            self._locked = False

    def revive(self) -> None:
        """Another process comes, on the same files."""
        self.fail_at = self.die_at = None
        self.changes = 0

    @contextmanager
    def _changing(self, path: str) -> Iterator[None]:
        if self.die_at is not None and self.changes >= self.die_at:
            raise Death
        self.changes += 1
        if self.changes == self.fail_at:
            raise ConfigureError(f"cannot write {path}: No space left on device")
        yield
        if self.changes == self.die_at:
            raise Death
