"""A disk of its own for a test, which may be filled, and made read-only. Needs root: such tests are marked `real`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_disk(at: Path, options: str = "size=1m") -> Iterator[Path]:
    """A file system in memory, mounted at `at` while the block runs."""
    at.mkdir(exist_ok=True)
    mount(at, options)
    try:
        yield at
    finally:
        while os.path.ismount(at):
            subprocess.run(["umount", "-l", at], check=True)


def mount(at: Path, options: str) -> None:
    """Mount an empty file system."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], check=True)


def make_read_only(disk: Path) -> None:
    """As the kernel does after an error. Files that are open for writing are in no way of that."""
    if subprocess.run(["mount", "-o", "remount,ro", disk], check=False, capture_output=True).returncode:
        subprocess.run(["mount", "--bind", disk, disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)


def make_writable(disk: Path) -> None:
    """Undo `make_read_only`."""
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def fill(disk: Path) -> Path:
    """Another program takes all the room that is left; returns its file."""
    other = disk / "other"
    with suppress(OSError), other.open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return other
