"""What the tests of the store share: a store with room for all, and pieces that land in it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from peer.core.eviction import Room
from peer.oci.digest import Digest
from peer.store import Blob, Landed, Store
from peer.store.directory import StoreDirectory
from tests.peer.origin_conformance import digest_of

PLENTY = 1 << 40
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"


def open_store(
    directory: Path,
    *,
    max_bytes: int = PLENTY,
    min_free_bytes: int = 0,
    ttl_s: float = 0,
    alone: bool = False,
    free_bytes: Callable[[Path], int] = lambda _: PLENTY,
    elapsed: Callable[[], float] = time.monotonic,
) -> Store:
    """A store that has room for everything, but for what the test says."""
    return Store.open(
        directory,
        max_bytes=max_bytes,
        min_free_bytes=min_free_bytes,
        ttl_s=ttl_s,
        alone=alone,
        room=lambda path: Room(free_bytes(path), 2 * PLENTY),
        elapsed=elapsed,
    )


@contextmanager
def a_store(directory: Path, *, alone: bool = False) -> Iterator[Store]:
    """A store that is given up again, as by a process that ends."""
    store = open_store(directory, alone=alone)
    try:
        yield store
    finally:
        store.close()


def files_of(store: Store, digest: Digest) -> tuple[Path, Path]:
    """The data file and the record of a blob."""
    return StoreDirectory(store.directory).paths(digest)


def create(store: Store, content: bytes) -> Blob:
    """The blob for `content`, pinned."""
    return store.create(digest_of(content), len(content), MEDIA_TYPE)


@contextmanager
def pinned(store: Store, content: bytes) -> Iterator[Blob]:
    """The blob for `content`, pinned for the block alone."""
    blob = create(store, content)
    with blob.pin():
        blob.release()
        yield blob


def land(blob: Blob, content: bytes, indices: Iterable[int] | None = None) -> list[Landed]:
    """Land these pieces of `content`, or all, in this order."""
    landed = []
    for index in range(blob.count) if indices is None else indices:
        start, stop = blob.span(index)
        landed.append(blob.land(index, memoryview(content)[start:stop]))
    return landed


def hold(store: Store, content: bytes) -> None:
    """Have the whole blob in the store."""
    blob = create(store, content)
    land(blob, content)
    blob.seal()
    blob.release()


def hold_part(store: Store, content: bytes, indices: Iterable[int]) -> None:
    """Have these pieces of the blob in the store."""
    blob = create(store, content)
    land(blob, content, indices)
    blob.release()


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The system refuses to write further into any file, as it does on a disk that is full."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, most))
    try:
        with capture_logs():  # the log may be a file, too
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@contextmanager
def files_left(count: int) -> Iterator[None]:
    """This process may open so many files more."""
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(count + 1)]
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for file in free:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def flip(path: Path, offset: int) -> None:
    """Damage one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def files_in(directory: Path) -> list[str]:
    """The names of all files below a directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
