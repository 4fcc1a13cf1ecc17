"""Where these tests put files, and how the directories of container runtimes are removed again."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


def new_directory(parent: Path | None = None) -> Path:
    """An empty directory with a short name: the sockets below it must stay within the kernel's 107 characters."""
    return Path(tempfile.mkdtemp(prefix="p2pd-" if parent is None else "", dir=parent))


def cache_directory() -> Path:
    """What is kept for later runs: `$XDG_CACHE_HOME/p2pd-tests`, or a directory of this user's in the temporary one.

    Raises PermissionError when somebody else made it first: its content would be trusted.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    directory = Path(base or tempfile.gettempdir()) / f"p2pd-tests-{os.geteuid()}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise PermissionError(f"{directory} belongs to another user: remove it, or set XDG_CACHE_HOME")
    return directory


def kept(name: str, make: Callable[[Path], Path], usable: Callable[[Path], bool] = Path.exists) -> Path:
    """A file or directory of the cache, or the one that `make` returns if none is usable.

    `make` gets an empty directory. One process makes it, and others wait meanwhile.
    """
    place = cache_directory() / name
    with place.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_dir() and not usable(place):
            shutil.rmtree(place)
        if not place.exists():
            workshop = new_directory(place.parent)
            try:
                make(workshop).rename(place)
            finally:
                remove(workshop)
    return place


def remove(directory: Path) -> None:
    """Remove what a program left in `directory`, after unmounting whatever it left mounted there."""
    for mount_point in _mount_points_below(directory):
        subprocess.run(["umount", mount_point], check=True)
    shutil.rmtree(directory)


def _mount_points_below(directory: Path) -> list[str]:
    """Mount points below `directory`, innermost first (the kernel lists a mount after the one that it lies on)."""
    root = directory.resolve()
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    points = [line.split()[1] for line in lines]
    return [point for point in reversed(points) if Path(point).is_relative_to(root)]
