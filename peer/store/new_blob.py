"""A new blob's files, and why there is no room for one."""

from __future__ import annotations

import os
from pathlib import Path

from peer.core.eviction import Quota, Room, is_attainable
from peer.store.record import Header, encode_header


def allocate(data: Path, record: Path, header: Header) -> None:
    """Make the files of a new blob, with the room for all of it. Raises OSError."""
    data.parent.mkdir(exist_ok=True)
    if data.is_symlink():
        data.unlink()
    file = os.open(data, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if header.size_bytes:
            os.posix_fallocate(file, 0, header.size_bytes)
    finally:
        os.close(file)
    record.write_bytes(encode_header(header))


def why_full(size_bytes: int, quota: Quota, room: Room, directory: Path) -> str:
    """Why a blob of `size_bytes` does not fit, and what to do."""
    if not is_attainable(quota, room):
        return (
            f"min_free_bytes ({quota.min_free_bytes}) is more than the file system of {directory} has "
            f"({room.total_bytes}): lower it"
        )
    if room.total_inodes and room.free_inodes <= room.spare_inodes:
        return f"the file system of {directory} has no inodes left: remove files, or make it with more inodes"
    return (
        f"no room for {size_bytes} bytes in {directory}: raise max_bytes (now {quota.max_bytes}), "
        f"lower min_free_bytes (now {quota.min_free_bytes}) or free disk space"
    )


def is_the_disk(size_bytes: int, quota: Quota, room: Room) -> bool:
    """Whether it is the disk that lacks room for what `max_bytes` lets in; not for a blob that never fits there."""
    largest = min(quota.max_bytes, room.total_bytes - quota.min_free_bytes)
    return size_bytes <= max(0, largest) or not is_attainable(quota, room)
