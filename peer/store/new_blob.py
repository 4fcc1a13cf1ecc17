"""A new blob's files, and why there is no room for one."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from peer.core.eviction import Bounds, Room, is_attainable
from peer.store.disk import PRIVATE_FILE, make_private_directory
from peer.store.record import Header, encode_header


def allocate(data: Path, record: Path, header: Header) -> None:
    """Make the files of a new blob, with the room for all of it. Raises OSError.

    What is there already may be a container runtime's file by another name (`peer.store.adopted`): it is not emptied,
    but loses the name.
    """
    make_private_directory(data.parent)
    for path, content, size_bytes in ((data, b"", header.size_bytes), (record, encode_header(header), 0)):
        _clear(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        with open(file, "wb", buffering=0) as stream:
            os.fchmod(file, PRIVATE_FILE)
            if size_bytes:
                os.posix_fallocate(file, 0, size_bytes)
            if stream.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _clear(path: Path) -> None:
    """Make way for a file. What has content of its own, a directory with something in it, is left alone."""
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def why_full(size_bytes: int, bounds: Bounds, room: Room, directory: Path) -> str:
    """Why a blob of `size_bytes` does not fit, and what to do."""
    if not is_attainable(bounds, room):
        return (
            f"no room for {_shown(size_bytes)} in {directory}: min_free_bytes (now {_shown(bounds.min_free_bytes)}) is "
            f"more than its file system has ({_shown(room.total_bytes)}), lower it"
        )
    if room.total_inodes and room.free_inodes <= room.spare_inodes:
        return f"no room in {directory}: its file system has no inodes left, remove files or make it with more inodes"
    return (
        f"no room for {_shown(size_bytes)} in {directory}: raise max_bytes (now {_shown(bounds.max_bytes)}), "
        f"lower min_free_bytes (now {_shown(bounds.min_free_bytes)}) or free disk space"
    )


def _shown(size_bytes: int) -> str:
    """For people: `50.0 GiB`."""
    amount = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def is_the_disk(size_bytes: int, bounds: Bounds, room: Room) -> bool:
    """Whether it is the disk that lacks room for what `max_bytes` lets in; not for a blob that never fits there."""
    largest = min(bounds.max_bytes, room.total_bytes - bounds.min_free_bytes)
    return size_bytes <= max(0, largest) or not is_attainable(bounds, room)
