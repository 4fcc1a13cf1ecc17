"""The store's directory: what is in it that is none of ours, what was lost of it, and a disk that takes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from peer.errors import ForeignDirectoryError, StoreBrokenError, StoreFullError, StoreReadOnlyError
from peer.store import BlobInfo, Store
from peer.store.directory import MARK, MARKER
from peer.store.health import Condition
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import a_store, create, files_in, hold, hold_part, open_store
from tests.support.small_disk import fill, make_read_only, make_writable, mount, small_disk

CONTENT = content_of(1000)
DIGEST = digest_of(CONTENT)
ANOTHER = content_of(1000, 1)
LEFT_ALONE = "something that is not of the store is left alone"
MADE_ANEW = "the mark of the store was lost and is made anew"


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The directory of a store that holds one blob."""
    with a_store(tmp_path / "data") as store:
        hold(store, CONTENT)
    return tmp_path / "data"


def holds(store: Store, content: bytes = CONTENT) -> bool:
    info = store.peek(digest_of(content))
    return info is not None and info.complete


def reads(store: Store, content: bytes = CONTENT) -> bool:
    blob = store.acquire(digest_of(content))
    if blob is None:
        return False
    try:
        return blob.read(0, len(content)) == content
    finally:
        blob.release()


class TestWhoseItIs:
    @pytest.mark.parametrize("name", ["lost+found", ".snapshot", ".zfs", ".nfs0000000012345678", ".Trash-1000"])
    def test_what_others_leave_in_a_new_volume_is_nothing(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        with capture_logs() as logs, a_store(tmp_path) as store:
            hold(store, CONTENT)
        assert logs == []
        assert (tmp_path / name).is_dir()

    @pytest.mark.parametrize("mark", [None, b"", bytes(len(MARK)), MARK[:5], b"\xff" * 9])
    def test_one_whose_mark_was_lost_is_known_by_its_blobs(self, filled: Path, mark: bytes | None) -> None:
        (filled / "core").write_bytes(b"of another program")
        (filled / MARKER).unlink()
        if mark is not None:
            (filled / MARKER).write_bytes(mark)
        with capture_logs() as logs, a_store(filled) as store:
            assert holds(store)
        assert [log["event"] for log in logs] == [MADE_ANEW]
        assert (filled / MARKER).read_bytes() == MARK
        assert (filled / "core").exists()

    def test_one_whose_mark_was_lost_before_there_was_a_blob(self, tmp_path: Path) -> None:
        with a_store(tmp_path):
            pass
        (tmp_path / "host-id").write_text("me")
        (tmp_path / "catalog.db-wal").write_bytes(b"")
        (tmp_path / MARKER).unlink()
        with capture_logs(), a_store(tmp_path) as store:
            hold(store, CONTENT)

    def test_who_may_reach_what_is_not_ours_stays(self, tmp_path: Path) -> None:
        """Root may name `/dev/null`, or `/etc`."""
        directory, file = tmp_path / "etc", tmp_path / "null"
        directory.mkdir(mode=0o755)
        for other in (file, directory / "hosts"):
            other.touch(mode=0o644)
        for named, mode in ((directory, 0o755), (file, 0o644)):
            with pytest.raises(ForeignDirectoryError):
                open_store(named)
            assert named.stat().st_mode & 0o777 == mode

    def test_another_version_is_refused_though_its_blobs_are_like_ours(self, filled: Path) -> None:
        (filled / MARKER).write_bytes(b"store format 12\n")
        before = files_in(filled)
        with pytest.raises(ForeignDirectoryError, match="of a version"):
            open_store(filled)
        assert files_in(filled) == before

    @pytest.mark.parametrize("name", ["blobs/ab/README", "blobs/mine", "photos"])
    def test_what_looks_a_little_like_ours_is_not_ours(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
        with pytest.raises(ForeignDirectoryError):
            open_store(tmp_path)


class TestWhatIsNotOurs:
    PLACES = ("blobs/README", "blobs/ab/README", "blobs/ab/x.record", "core", "blobs/lost+found/x", "blobs/AB/y")

    def test_files_of_others_are_left_alone_and_said_once(self, filled: Path) -> None:
        for place in self.PLACES:
            (filled / place).parent.mkdir(exist_ok=True)
            (filled / place).write_text("precious")
        (filled / "blobs" / DIGEST.hex[:2] / ("0" * 64)).mkdir()
        (filled / "blobs" / "cd").symlink_to("/")
        with capture_logs() as logs, a_store(filled) as store:
            assert holds(store)
            store.tend()
            assert len(store.blobs()) == 1
        assert all((filled / place).read_text() == "precious" for place in self.PLACES)
        told = [log["path"] for log in logs if log["event"] == LEFT_ALONE]
        assert sorted(Path(path).name for path in told) == ["0" * 64, "AB", "README", "README", "cd", "x.record"]

    def test_a_record_whose_data_is_a_link_goes_and_the_link_stays(self, filled: Path, tmp_path: Path) -> None:
        (tmp_path / "precious").write_bytes(CONTENT)
        data = filled / "blobs" / DIGEST.hex[:2] / DIGEST.hex
        data.unlink()
        data.symlink_to(tmp_path / "precious")
        with capture_logs(), a_store(filled) as store:
            assert store.blobs() == []
            assert data.is_symlink()
            hold(store, CONTENT)
            assert not data.is_symlink()
        assert (tmp_path / "precious").read_bytes() == CONTENT

    @pytest.mark.parametrize("kind", ["", ".record"])
    def test_what_has_no_content_makes_way_for_a_blob(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "precious").write_bytes(b"precious")
        with capture_logs(), a_store(tmp_path / "data") as store:
            folder = store.directory / "blobs" / DIGEST.hex[:2]
            path = folder / f"{DIGEST.hex}{kind}"
            for make in (path.mkdir, partial(os.mkfifo, path), partial(path.symlink_to, tmp_path / "precious")):
                folder.mkdir(exist_ok=True)
                make()
                hold(store, CONTENT)
                assert reads(store)
                store.discard(DIGEST)
        assert (tmp_path / "precious").read_bytes() == b"precious"

    def test_a_file_in_place_of_a_directory_stops_its_blobs_alone(self, tmp_path: Path) -> None:
        with capture_logs(), a_store(tmp_path) as store:
            (tmp_path / "blobs" / DIGEST.hex[:2]).write_text("precious")
            with pytest.raises(StoreBrokenError, match="something else is in its place"):
                create(store, CONTENT)
            assert store.state.is_well
            hold(store, ANOTHER)


class TestRemovedUnderARunningStore:
    @pytest.mark.parametrize("gone", ["", "blobs"])
    def test_what_is_stored_next_makes_it_anew(self, filled: Path, gone: str) -> None:
        with capture_logs(), a_store(filled) as store:
            shutil.rmtree(filled / gone)
            hold(store, ANOTHER)
            assert reads(store, ANOTHER)
            assert not holds(store)
            assert store.state.is_well
            with pytest.raises(Exception, match="another p2pd uses"):
                open_store(filled)
        with a_store(filled) as store:
            assert reads(store, ANOTHER)

    def test_upkeep_finds_it_too(self, filled: Path) -> None:
        lost: list[str] = []
        with capture_logs(), a_store(filled) as store:
            store.on_removed = lost.append
            shutil.rmtree(filled)
            store.tend()
            assert (lost, store.blobs()) == ([DIGEST], [])
            assert store.statistics().used_bytes == 0

    def test_what_is_read_meanwhile_is_read_to_its_end(self, filled: Path) -> None:
        with capture_logs(), a_store(filled) as store:
            blob = store.acquire(DIGEST)
            assert blob is not None
            shutil.rmtree(filled)
            store.tend()
            assert blob.read(0, len(CONTENT)) == CONTENT
            blob.release()


@pytest.mark.real
class TestADiskThatTakesNothing:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        with small_disk(tmp_path / "disk", "size=1m,nr_inodes=200") as disk:
            with real_store(disk / "data") as store:
                hold(store, CONTENT)
            yield disk

    def test_read_only_at_the_start(self, disk: Path) -> None:
        make_read_only(disk)
        with capture_logs() as logs, real_store(disk / "data", min_free_bytes=10**9) as store:
            store.tend()
            assert reads(store), "and nothing was evicted, since that frees nothing"
            assert store.state.condition is Condition.READ_ONLY
            with pytest.raises(StoreReadOnlyError, match="read-only"):
                create(store, ANOTHER)
            store.tend()
            make_writable(disk)
            store.set_quota(type(store.quota)(10**6, 0, 0))
            store.tend()
            assert store.state.is_well
            hold(store, ANOTHER)
        assert [log["event"] for log in logs] == [
            "the store takes nothing new",
            "the store takes new blobs again",
        ]

    def test_read_only_while_it_runs(self, disk: Path) -> None:
        with capture_logs(), real_store(disk / "data") as store:
            hold_part(store, ANOTHER, [])
            make_read_only(disk)
            assert reads(store)
            with pytest.raises(StoreReadOnlyError):
                create(store, content_of(10, 2))
            assert store.state.condition is Condition.READ_ONLY
            with pytest.raises(StoreReadOnlyError):
                store.acquire(digest_of(ANOTHER))
            assert len(store.blobs()) == 2

    def test_full_at_the_start(self, disk: Path) -> None:
        fill(disk)
        for name in (MARKER, "lock", "clock"):
            (disk / "data" / name).unlink(missing_ok=True)
            fill(disk)
        with capture_logs() as logs, real_store(disk / "data", min_free_bytes=1000) as store:
            assert reads(store)
            store.tend()
            assert store.blobs() == [], "it went to make room"
            with pytest.raises(StoreFullError):
                create(store, content_of(500_000))
            (disk / "other").unlink()
            store.tend()
            assert store.state.is_well
            hold(store, ANOTHER)
            assert (disk / "data" / MARKER).read_bytes() == MARK
        assert logs[-1]["event"] == "the store takes new blobs again"

    def test_full_at_the_first_start(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", "size=1m,nr_inodes=20") as disk:
            taken = [disk / f"file{number}" for number in range(18)]
            for path in taken:
                path.touch()
            with capture_logs(), real_store(disk / "data") as store:
                assert store.state.condition is Condition.FULL
                for path in taken:
                    path.unlink()
                store.tend()
                assert store.state.is_well
                hold(store, CONTENT)

    def test_inodes_are_made_room_for(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", "size=8m,nr_inodes=40") as disk, real_store(disk / "data") as store:
            for seed in range(40):
                hold(store, content_of(10, seed))
            assert holds(store, content_of(10, 39))
            assert not holds(store, content_of(10, 0))
            assert store.statistics().evicted > 20
            assert store.state.is_well

    def test_the_file_system_goes_and_comes_back(self, tmp_path: Path) -> None:
        """Nothing is written beneath where it was mounted."""
        image, data = tmp_path / "image", tmp_path / "data"
        data.mkdir()
        image.mkdir()
        mount(image, "size=1m")
        found: list[BlobInfo] = []
        try:
            subprocess.run(["mount", "--bind", image, data], check=True)
            with capture_logs(), real_store(data) as store:
                store.on_found = found.append
                hold(store, CONTENT)
                subprocess.run(["umount", "-l", data], check=True)
                store.tend()
                assert store.state.condition is Condition.FAILING
                assert "mount it again" in store.state.cause
                with pytest.raises(StoreBrokenError):
                    create(store, ANOTHER)
                assert store.acquire(DIGEST) is None
                assert files_in(data) == []
                subprocess.run(["mount", "--bind", image, data], check=True)
                store.tend()
                assert store.state.is_well
                assert reads(store)
                assert [blob.digest for blob in found] == [DIGEST]
                hold(store, ANOTHER)
        finally:
            subprocess.run(["umount", "-l", data], check=False)
            subprocess.run(["umount", "-l", image], check=True)


def real_store(directory: Path, min_free_bytes: int = 0) -> _RealStore:
    return _RealStore(directory, min_free_bytes)


class _RealStore:
    """A store that asks the real disk for its room."""

    def __init__(self, directory: Path, min_free_bytes: int) -> None:
        self._store = Store.open(directory, max_bytes=10**9, min_free_bytes=min_free_bytes, ttl_s=0)

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()
