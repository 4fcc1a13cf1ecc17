"""When no more files may be open, that is our own limit: it is said so, and nothing that the disk holds is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.errors import FileLimitError
from peer.store import Store
from tests.peer.download_fixtures import CONTENT, DIGEST, PIECE, read, run, source, started
from tests.peer.fakes import FakeOrigin
from tests.peer.store_fixtures import a_store, files_left, files_of, hold, hold_part, open_store

WHAT_TO_DO = "raise LimitNOFILE"


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_to_open_a_blob(store: Store) -> None:
    hold(store, CONTENT)
    before = open_files()
    with files_left(0), pytest.raises(FileLimitError, match=WHAT_TO_DO):
        store.acquire(DIGEST)
    assert open_files() == before
    blob = store.acquire(DIGEST)
    assert blob is not None
    assert blob.read(0, len(CONTENT)) == CONTENT
    blob.release()


@pytest.mark.parametrize("left", [0, 1])
def test_to_make_a_blob(store: Store, left: int) -> None:
    with files_left(left), pytest.raises(FileLimitError, match=WHAT_TO_DO):
        store.create(DIGEST, len(CONTENT), "")
    hold(store, CONTENT)


def test_to_verify_the_store_removes_nothing(store: Store) -> None:
    hold(store, CONTENT)
    with files_left(0), pytest.raises(FileLimitError, match=WHAT_TO_DO):
        store.verify()
    assert [blob.digest for blob in store.blobs()] == [DIGEST]


@pytest.mark.parametrize("left", [0, 1])
def test_to_open_a_store_removes_nothing(tmp_path: Path, left: int) -> None:
    with a_store(tmp_path) as store:
        hold(store, CONTENT)
    with files_left(left), pytest.raises(FileLimitError, match=WHAT_TO_DO):
        open_store(tmp_path)
    with a_store(tmp_path) as store:
        (blob,) = store.blobs()
        assert blob.digest == DIGEST
        data, record = files_of(store, DIGEST)
        with files_left(0), pytest.raises(FileLimitError, match=WHAT_TO_DO):
            store._files.load(data, record)  # another thread may have taken the last one since the directory was read
        assert data.exists()


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_blob_that_is_held_in_part_is_kept_and_the_client_is_told(
    tmp_path: Path, origin: FakeOrigin, left: int
) -> None:
    """Two are enough to open it, and not to read what an earlier process has recorded of it."""
    with a_store(tmp_path / "kept") as before:
        hold_part(before, CONTENT, range(1, 10))
    store = open_store(tmp_path / "kept")

    async def scene() -> None:
        async with started(store) as (_, readers):
            with files_left(left), pytest.raises(FileLimitError, match=WHAT_TO_DO):
                await read(readers, source(origin))
            assert await read(readers, source(origin)) == CONTENT

    run(scene)
    assert [stop for _, stop in origin.ranges(DIGEST)] == [PIECE], "what was held is not fetched again"
    store.close()
