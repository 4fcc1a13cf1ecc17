"""Room in the store: what goes when it is short, what never goes, and a disk that is full."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peer.errors import (
    BlobInUseError,
    StoreBrokenError,
    StoreFullError,
)
from peer.oci.digest import Digest
from peer.store import Blob, Store
from peer.store.record import Header
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import (
    PLENTY,
    a_store,
    create,
    files_in,
    files_of_at_most,
    hold,
    land,
    open_store,
)
from tests.peer.storing_process import PIECE

CONTENT = content_of(3 * PIECE + 5, seed=4)


class TestRoom:
    def test_the_least_recently_used_goes(self, tmp_path: Path) -> None:
        contents = [content_of(100, seed) for seed in range(4)]
        store = open_store(tmp_path, max_bytes=300)
        for content in contents[:3]:
            hold(store, content)
        used = store.acquire(digest_of(contents[0]))
        assert used is not None
        used.release()
        hold(store, contents[3])
        assert [info.digest for info in store.blobs()] == [digest_of(contents[index]) for index in (3, 0, 2)]
        assert store.statistics().evicted == 1
        store.close()

    def test_what_is_pinned_is_not_evicted_and_then_there_is_no_room(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=300)
        pinned = create(store, content_of(200))
        hold(store, content_of(100, 1))
        with pytest.raises(StoreFullError, match=r"raise max_bytes \(now 300 bytes\)"):
            create(store, content_of(101, 2))
        assert len(store.blobs()) == 2, "nothing was evicted in vain"
        pinned.release()
        create(store, content_of(101, 2)).release()
        store.close()

    def test_what_fits_without_evicting(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=300)
        hold(store, content_of(100, 1))
        assert store.fits(200)
        assert not store.fits(201), "although a client's blob of that size would get the room"
        assert len(store.blobs()) == 1

    def test_a_blob_that_never_fits_evicts_nothing(self, tmp_path: Path) -> None:
        store = open_store(tmp_path, max_bytes=300)
        hold(store, content_of(100))
        with pytest.raises(StoreFullError):
            create(store, content_of(301, 1))
        assert len(store.blobs()) == 1
        store.close()

    def test_the_disks_floor_is_kept(self, tmp_path: Path) -> None:
        disk_bytes = 1000
        store: Store | None = None

        def free_bytes(_: Path) -> int:
            return disk_bytes - (store.statistics().used_bytes if store else 0)

        store = open_store(tmp_path, min_free_bytes=700, free_bytes=free_bytes)
        hold(store, content_of(200))
        hold(store, content_of(150, 1))
        assert [info.size_bytes for info in store.blobs()] == [150]
        with pytest.raises(StoreFullError, match=r"lower min_free_bytes \(now 700 bytes\)"):
            create(store, content_of(301, 2))
        disk_bytes = 800  # somebody else took 200
        assert [info.size_bytes for info in store.collect()] == [150]
        store.close()

    def test_a_disk_that_is_full_although_its_directory_was_replaced_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_store(tmp_path)
        hold(store, content_of(100))
        fails = [errno.ENOENT, errno.ENOSPC]

        def failing(data: Path, record: Path, header: Header) -> None:
            if fails[0] == errno.ENOENT:  # somebody has put an empty directory in its place: nothing is held any more
                shutil.rmtree(tmp_path)
                tmp_path.mkdir(mode=0o700)
            code = fails.pop(0) if len(fails) > 1 else fails[0]
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("peer.store.allocator.allocate", failing)
        with pytest.raises(StoreFullError):
            create(store, content_of(50, 1))
        assert store.blobs() == []
        store.close()

    def test_the_ttl_takes_what_nobody_used(self, tmp_path: Path) -> None:
        now = 1000.0
        store = open_store(tmp_path, ttl_s=60, elapsed=lambda: now)
        hold(store, content_of(10))
        pinned = create(store, content_of(20, 1))
        now += 59
        assert store.collect() == []
        now += 2
        assert [info.size_bytes for info in store.collect()] == [10]
        pinned.release()
        assert [info.size_bytes for info in store.collect()] == [20]
        assert files_in(tmp_path / "blobs") == []
        store.close()

    def test_a_lower_quota_is_reached_by_collect(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            for seed in range(3):
                hold(store, content_of(100, seed))
        store = open_store(tmp_path, max_bytes=150)
        assert len(store.collect()) == 2
        assert store.statistics().used_bytes == 100
        store.close()


class TestAFullDisk:
    def test_when_the_blob_is_created(self, store: Store) -> None:
        with files_of_at_most(len(CONTENT) - 1), pytest.raises(StoreFullError, match="free disk space"):
            create(store, CONTENT)
        assert (store.blobs(), files_in(store.directory / "blobs")) == ([], [])
        hold(store, CONTENT)

    def test_when_the_record_is_created(self, store: Store) -> None:
        with files_of_at_most(50), pytest.raises(StoreFullError):
            create(store, b"small")
        assert (store.blobs(), files_in(store.directory / "blobs")) == ([], [])

    def test_when_a_piece_is_written(self, store: Store) -> None:
        blob = create(store, CONTENT)
        with files_of_at_most(PIECE + 100):
            land(blob, CONTENT, [0])
            with pytest.raises(StoreFullError):
                land(blob, CONTENT, [1])
        assert list(blob.pieces) == [0]
        assert land(blob, CONTENT, [1, 2, 3])[-1].whole
        blob.release()

    def test_when_its_entry_is_written(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            blob = create(store, b"small")
            record_bytes = blob.record_path.stat().st_size
            with files_of_at_most(record_bytes + 20), pytest.raises(StoreFullError):
                land(blob, b"small")
            assert (list(blob.pieces), blob.record_path.stat().st_size) == ([], record_bytes)
            assert land(blob, b"small")[0].whole
            blob.release()
        with a_store(tmp_path) as store:
            again = store.acquire(digest_of(b"small"))
            assert again is not None
            again.recover()
            assert again.whole
            again.release()

    @pytest.mark.real
    def test_of_a_real_small_disk(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
        try:
            with a_store(disk / "store") as store:
                hold(store, content_of(600_000))
                pinned = store.acquire(digest_of(content_of(600_000)))
                assert pinned is not None
                with pytest.raises(StoreFullError, match="free disk space"):
                    create(store, content_of(600_000, 1))
                assert len(store.blobs()) == 1
                pinned.release()
                hold(store, content_of(600_000, 1))
                assert len(store.blobs()) == 1
            roomy = Store.open(disk / "store", max_bytes=PLENTY, min_free_bytes=500_000, ttl_s=0)
            hold(roomy, content_of(400_000, 2))
            assert [info.size_bytes for info in roomy.blobs()] == [400_000]
            roomy.close()
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_a_directory_that_cannot_be_written_is_an_error_of_the_disk(self, tmp_path: Path) -> None:
        with a_store(tmp_path) as store:
            (tmp_path / "blobs").rmdir()
            (tmp_path / "blobs").write_text("")
            with pytest.raises(StoreBrokenError, match="something else is in its place"):
                create(store, CONTENT)
            assert store.blobs() == []


class AnySequence(RuleBasedStateMachine):
    """Clients come and go in any order: the quota holds, and nobody loses what is in use."""

    MAX_BYTES = 100

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.store = open_store(Path(self.directory.name), max_bytes=self.MAX_BYTES)
        self.pinned: list[Blob] = []

    @rule(seed=st.integers(0, 7), size=st.sampled_from([0, 1, 20, 40, 60, 100, 101]))
    def create(self, seed: int, size: int) -> None:
        digest = Digest(f"sha256:{seed:064x}")
        in_use = {blob.digest: blob.size_bytes for blob in self.pinned if not blob.discarded}
        try:
            blob = self.store.create(digest, size, "")
        except StoreFullError:
            in_use.pop(digest, None)
            assert sum(in_use.values()) + size > self.MAX_BYTES
            return
        assert blob.size_bytes == size
        self.pinned.append(blob)
        assert self.store.statistics().used_bytes <= self.MAX_BYTES

    @rule(seed=st.integers(0, 7))
    def acquire(self, seed: int) -> None:
        blob = self.store.acquire(f"sha256:{seed:064x}")
        if blob is not None:
            self.pinned.append(blob)

    @rule(which=st.integers(0, 20))
    def release(self, which: int) -> None:
        if self.pinned:
            self.pinned.pop(which % len(self.pinned)).release()

    @rule(seed=st.integers(0, 7))
    def discard(self, seed: int) -> None:
        self.store.discard(f"sha256:{seed:064x}")

    @rule(seed=st.integers(0, 7))
    def remove(self, seed: int) -> None:
        digest = Digest(f"sha256:{seed:064x}")
        in_use = any(blob.digest == digest and not blob.discarded for blob in self.pinned)
        try:
            self.store.remove(digest)
        except BlobInUseError:
            assert in_use
        else:
            assert not in_use

    @rule()
    def collect(self) -> None:
        self.store.collect()

    @rule()
    def restart(self) -> None:
        while self.pinned:
            self.pinned.pop().release()
        self.store.close()
        self.store = open_store(Path(self.directory.name), max_bytes=self.MAX_BYTES)

    @invariant()
    def what_is_in_use_is_there(self) -> None:
        for blob in self.pinned:
            assert os.fstat(blob.fileno()).st_size == blob.size_bytes
            assert blob.discarded or blob.data_path.exists()

    @invariant()
    def the_books_agree_with_the_disk(self) -> None:
        infos = self.store.blobs()
        assert self.store.statistics().used_bytes == sum(info.size_bytes for info in infos)
        assert len(files_in(self.store.directory / "blobs")) == 2 * len(infos)
        assert {info.digest for info in infos if info.in_use} == {
            blob.digest for blob in self.pinned if not blob.discarded
        }

    def teardown(self) -> None:
        for blob in self.pinned:
            blob.release()
        self.store.close()
        self.directory.cleanup()


AnySequence.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestAnySequence = AnySequence.TestCase
