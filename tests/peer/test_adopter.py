"""What a container runtime holds, held by the store where it lies: read once, checked, handed over, let go."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from structlog.testing import capture_logs

from peer.errors import BlobAdoptedError, StoreBrokenError, StoreError
from peer.oci.digest import Digest
from peer.oci.manifest import OCI_IMAGE
from peer.store import Blob, Store
from peer.store.adopted import AdoptedBlob, ContentStore
from peer.store.adopter import BESIDE_CLIENTS, BESIDE_CLIENTS_BYTES, READERS, Adopter
from peer.store.check import Signature
from peer.store.content_watch import AGAIN_AFTER_S, watch
from peer.tasks import BackgroundTasks
from tests.peer.download_fixtures import run
from tests.peer.fakes import content_of
from tests.peer.origin_conformance import digest_of
from tests.peer.store_fixtures import a_store, files_in, flip, hold, hold_part, open_store
from tests.support.registry_server import PATIENCE_S

SMALL, LARGE = content_of(5000, 1), content_of(3_000_000, 2)
DIGEST = digest_of(LARGE)


class Runtime:
    """The content store of a container runtime, as containerd writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (path / "ingest").mkdir()

    def put(self, content: bytes, name: str = "") -> Path:
        new = self.path / "ingest" / "data"
        new.write_bytes(content)
        new.chmod(0o444)
        return new.rename(self.blobs / (name or digest_of(content).hex))

    def collect(self, content: bytes) -> None:
        (self.blobs / digest_of(content).hex).unlink()


@pytest.fixture(params=[False, True], ids=["of a host with others", "alone"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with a_store(tmp_path / "store", alone=request.param) as store:
        yield store


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path / "content")


def adopter(store: Store, runtime: Runtime, **given: Any) -> Adopter:
    return Adopter(store, [runtime.path], **{"hand_over_s": 0.0, **given})


def look(adopter: Adopter) -> None:
    """Once, and read what is new."""

    async def scene() -> None:
        await adopter.look()
        await adopter.read_all()

    run(scene)


def read(store: Store, content: bytes) -> bytes | None:
    blob = store.acquire(digest_of(content))
    if blob is None:
        return None
    try:
        if not blob.is_checked(0, blob.size_bytes):
            blob.check(0, blob.size_bytes)
        return blob.read(0, blob.size_bytes)
    finally:
        blob.release()


def test_what_the_runtime_has_is_held_and_not_stored(store: Store, runtime: Runtime) -> None:
    found: list[Digest] = []
    store.on_found = lambda blob: found.append(blob.digest)
    for content in (SMALL, LARGE):
        runtime.put(content)
    look(adopter(store, runtime))
    assert sorted(found) == sorted(map(digest_of, (SMALL, LARGE)))
    assert [(each.adopted, each.complete) for each in store.blobs()] == [(True, True)] * 2
    assert (read(store, SMALL), read(store, LARGE)) == (SMALL, LARGE)
    said = store.statistics()
    assert (said.used_bytes, said.adopted_bytes) == (0, len(SMALL) + len(LARGE))
    assert not files_in(store.directory / "blobs")


def test_a_restart_reads_nothing_again(tmp_path: Path, runtime: Runtime) -> None:
    runtime.put(LARGE)
    with a_store(tmp_path / "store") as store:
        look(adopter(store, runtime))
    with a_store(tmp_path / "store") as store:
        again = adopter(store, runtime)
        again.load()
        assert store.peek(DIGEST) is not None
        look(again)
        assert (again.statistics().read_bytes, again.statistics().blobs) == (0, 1)
        assert read(store, LARGE) == LARGE


def _touched(path: Path) -> None:
    os.utime(path, (1, 1))


def _copied(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("change", [_touched, _copied])
def test_a_file_that_is_another_after_a_restart_is_read_anew(
    tmp_path: Path, runtime: Runtime, change: Callable[[Path], None]
) -> None:
    file = runtime.put(LARGE)
    with a_store(tmp_path / "store") as store:
        look(adopter(store, runtime))
    change(file)
    with a_store(tmp_path / "store") as store:
        again = adopter(store, runtime)
        again.load()
        assert store.peek(DIGEST) is None
        look(again)
        assert again.statistics().read_bytes == len(LARGE)


def test_a_record_of_a_file_that_went_meanwhile_is_removed(tmp_path: Path, runtime: Runtime) -> None:
    runtime.put(LARGE)
    with a_store(tmp_path / "store") as store:
        look(adopter(store, runtime))
        assert files_in(store.directory / "adopted")
    runtime.collect(LARGE)
    with a_store(tmp_path / "store") as store:
        adopter(store, runtime).forget_gone()
        assert not files_in(store.directory / "adopted")


def test_a_file_that_lies_is_never_held(store: Store, runtime: Runtime) -> None:
    runtime.put(b"not what it says", name=DIGEST.hex)
    adopting = adopter(store, runtime)
    with capture_logs() as logs:
        look(adopting)
        look(adopting)
    assert store.peek(DIGEST) is None
    assert [each["event"] for each in logs] == ["a file of a container runtime is not what its name says"]
    assert adopting.statistics().read_bytes == 16, "it is read once"


def test_no_link_is_followed_and_nothing_else_counts(tmp_path: Path, store: Store, runtime: Runtime) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(LARGE)
    (runtime.blobs / DIGEST.hex).symlink_to(elsewhere)
    os.mkfifo(runtime.blobs / digest_of(b"a pipe").hex)
    (runtime.blobs / digest_of(b"a folder").hex).mkdir()
    (runtime.blobs / DIGEST.hex.upper()).write_bytes(LARGE)
    (runtime.path / "ingest" / DIGEST.hex).write_bytes(LARGE)
    look(adopter(store, runtime))
    assert store.blobs() == []


def test_no_link_in_the_path_within_the_content_store_is_followed(tmp_path: Path, store: Store) -> None:
    real = Runtime(tmp_path / "real")
    real.put(LARGE)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "blobs").symlink_to(real.path / "blobs")
    with capture_logs():
        look(Adopter(store, [linked]))
    assert store.blobs() == []


def test_a_file_that_is_written_to_is_not_served(store: Store, runtime: Runtime) -> None:
    file = runtime.put(LARGE)
    adopting = adopter(store, runtime)
    look(adopting)
    file.chmod(0o644)
    flip(file, 100)
    with pytest.raises(StoreError):
        read(store, LARGE)
    with capture_logs():
        look(adopting)
    assert store.peek(DIGEST) is None


def test_a_file_that_changes_while_it_is_read_is_read_again(store: Store, runtime: Runtime) -> None:
    file = runtime.put(LARGE)
    adopting = adopter(store, runtime, is_busy=lambda: True, sleep=lambda _: _sleep(lambda: os.utime(file, (9, 9))))
    look(adopting)
    assert store.peek(DIGEST) is None
    adopting.is_busy = lambda: False
    look(adopting)
    assert store.peek(DIGEST) is not None


async def _sleep(then: Callable[[], object]) -> None:
    then()


class LooksAfterEachStep(ThreadPoolExecutor):
    """Has the adopter look at its directories before it hears that a step of reading has ended."""

    def __init__(self, adopting: Adopter) -> None:
        super().__init__(1)
        self._adopting, self._loop = adopting, asyncio.get_running_loop()

    def submit(self, step: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
        def both() -> Any:
            found = step(*args, **more)
            asyncio.run_coroutine_threadsafe(self._adopting.look(), self._loop).result()
            return found

        return super().submit(both)


def test_a_look_at_any_time_leaves_one_blob_of_a_file(store: Store, runtime: Runtime) -> None:
    runtime.put(LARGE)
    adopting = adopter(store, runtime)

    async def scene() -> None:
        await adopting.look()
        with LooksAfterEachStep(adopting) as thread:
            await adopting.read_all(thread)

    run(scene)
    assert adopting.statistics().read_bytes == len(LARGE)
    runtime.collect(LARGE)
    look(adopting)
    assert store.peek(DIGEST) is None


def test_what_the_runtime_collects_is_let_go_and_served_to_its_end(store: Store, runtime: Runtime) -> None:
    removed: list[Digest] = []
    store.on_removed = removed.append
    runtime.put(LARGE)
    adopting = adopter(store, runtime)
    look(adopting)
    blob = store.acquire(DIGEST)
    assert blob is not None
    runtime.collect(LARGE)
    look(adopting)
    assert (removed, store.peek(DIGEST)) == ([DIGEST], None)
    assert blob.read(0, len(LARGE)) == LARGE
    blob.release()
    assert not files_in(store.directory / "adopted")


def test_a_file_that_is_collected_before_it_is_noticed_is_no_fault(store: Store, runtime: Runtime) -> None:
    runtime.put(LARGE)
    look(adopter(store, runtime))
    runtime.collect(LARGE)
    with capture_logs() as logs:
        assert store.acquire(DIGEST) is None
    assert store.statistics().lost == 0
    assert {each["log_level"] for each in logs} == {"info"}


def test_a_manifest_is_known_as_one(store: Store, runtime: Runtime) -> None:
    manifest = b'{"schemaVersion": 2, "mediaType": "%s", "layers": []}' % OCI_IMAGE.encode()
    for content in (manifest, b'{"architecture": "amd64"}', b"{ no json"):
        runtime.put(content)
    look(adopter(store, runtime))
    assert sorted(each.media_type for each in store.blobs()) == ["", "", OCI_IMAGE]


def test_the_newest_file_is_read_first_and_each_is_looked_up_once(store: Store, runtime: Runtime) -> None:
    """A disk may have 100,000 of them, and each change there causes a look."""
    adopting = adopter(store, runtime)
    looked_up: list[str] = []
    known = adopting._records.known

    def counted(content: ContentStore, name: str, signature: Signature) -> AdoptedBlob | None:
        looked_up.append(name)
        return known(content, name, signature)

    adopting._records.known = counted  # type: ignore[method-assign]
    contents = [b"%d" % number for number in range(5)]
    for age, content in enumerate(contents):
        os.utime(runtime.put(content), (1000.0 - age, 1000.0 - age))

    async def looks() -> None:
        for _ in range(3):
            await adopting.look()

    found: list[Digest] = []
    store.on_found = lambda blob: found.append(blob.digest)
    run(looks)
    assert len(looked_up) == 5
    look(adopting)
    assert found == [digest_of(each) for each in contents]
    assert adopting.statistics().blobs == 5


def test_records_are_not_read_by_the_loop(tmp_path: Path, runtime: Runtime) -> None:
    """Nor when 100,000 files are there again, as after a restart."""
    runtime.put(LARGE)
    with a_store(tmp_path / "store") as store:
        look(adopter(store, runtime))
    with a_store(tmp_path / "store") as store:
        again = adopter(store, runtime)
        threads: list[int] = []
        known = again._records.known

        def noted(content: ContentStore, name: str, signature: Signature) -> AdoptedBlob | None:
            threads.append(threading.get_ident())
            return known(content, name, signature)

        again._records.known = noted  # type: ignore[method-assign]
        look(again)
        assert store.peek(DIGEST) is not None
        assert threads
        assert threading.get_ident() not in threads


def test_a_client_makes_reading_wait(store: Store, runtime: Runtime) -> None:
    runtime.put(LARGE)
    waits: list[float] = []

    async def rest(seconds: float) -> None:
        waits.append(seconds)

    look(adopter(store, runtime, is_busy=lambda: True, sleep=rest))
    assert len(waits) >= len(LARGE) // (2 * BESIDE_CLIENTS_BYTES)
    assert sum(waits) == pytest.approx(READERS * len(LARGE) / BESIDE_CLIENTS)


def test_what_is_on_its_way_is_adopted_once_it_is_not(store: Store, runtime: Runtime) -> None:
    runtime.put(LARGE)
    adopting = adopter(store, runtime, is_arriving=lambda _: True)
    look(adopting)
    assert store.peek(DIGEST) is None
    adopting.is_arriving = lambda _: False
    look(adopting)
    assert store.peek(DIGEST) is not None
    assert adopting.statistics().read_bytes == len(LARGE)


def test_a_download_that_has_begun_has_a_file_of_its_own(store: Store, runtime: Runtime) -> None:
    runtime.put(LARGE)
    look(adopter(store, runtime))
    blob = store.create(DIGEST, len(LARGE), "")
    assert not blob.is_adopted
    blob.release()


def test_the_rest_of_an_earlier_download_gives_way(store: Store, runtime: Runtime) -> None:
    hold_part(store, LARGE, [0])
    runtime.put(LARGE)
    look(adopter(store, runtime))
    held = store.peek(DIGEST)
    assert held is not None
    assert (held.adopted, store.statistics().used_bytes) == (True, 0)


# -- handing over ------------------------------------------------------------------------------------------------------


def test_what_p2pd_fetched_is_given_up_for_the_runtimes_file(store: Store, runtime: Runtime) -> None:
    removed: list[Digest] = []
    store.on_removed = removed.append
    hold(store, LARGE)
    ours = store.acquire(DIGEST)
    assert ours is not None
    runtime.put(LARGE)
    adopting = adopter(store, runtime)
    look(adopting)
    assert store.own(DIGEST) is ours, "it is being read"
    ours.release()
    look(adopting)
    assert (removed, read(store, LARGE)) == ([], LARGE)
    assert (store.statistics().used_bytes, files_in(store.directory / "blobs")) == (0, [])


def test_it_is_not_given_up_before_its_time(store: Store, runtime: Runtime) -> None:
    hold(store, LARGE)
    runtime.put(LARGE)
    look(adopter(store, runtime, hand_over_s=3600.0))
    assert store.own(DIGEST) is not None


@pytest.mark.parametrize("is_pinned", [True, False])
def test_what_is_to_be_kept_shares_its_bytes_and_outlives_the_runtimes_file(
    store: Store, runtime: Runtime, is_pinned: bool
) -> None:
    hold(store, LARGE)
    if is_pinned:
        assert store.keep(DIGEST, 3600.0)
    file = runtime.put(LARGE)
    adopting = adopter(store, runtime, keep=not is_pinned)
    look(adopting)
    look(adopting)
    ours = store.own(DIGEST)
    assert ours is not None
    assert ours.is_shared
    assert ours.data_path.stat().st_ino == file.stat().st_ino or _has_reflinks(file)
    assert (store.statistics().used_bytes, read(store, LARGE)) == (0, LARGE)
    assert adopting.statistics().read_bytes == len(LARGE), "our own link is no change of the file"
    runtime.collect(LARGE)
    look(adopting)
    assert (store.statistics().used_bytes, read(store, LARGE)) == (len(LARGE), LARGE)


def _has_reflinks(file: Path) -> bool:
    return file.stat().st_nlink == 1


def test_what_was_kept_and_is_given_up_is_not_read_again(store: Store, runtime: Runtime) -> None:
    """Our hard link was a name of the runtime's file: its removal changes the file's ctime."""
    removed: list[Digest] = []
    store.on_removed = removed.append
    hold(store, LARGE)
    runtime.put(LARGE)
    adopting = adopter(store, runtime, keep=True)
    look(adopting)
    adopting.keep = False
    for _ in range(2):
        look(adopting)
    held = store.peek(DIGEST)
    assert held is not None
    assert held.adopted
    assert (removed, adopting.statistics().read_bytes) == ([], len(LARGE))


def test_a_pin_on_a_runtimes_file_keeps_no_room(tmp_path: Path, runtime: Runtime) -> None:
    for content in (LARGE, SMALL):
        runtime.put(content)
    with closing(open_store(tmp_path / "store", max_bytes=len(SMALL))) as store:
        look(adopter(store, runtime))
        assert store.keep(DIGEST, 3600.0)
        assert store.keep(digest_of(SMALL), 3600.0)
        assert store.is_kept(DIGEST), "it is not forgotten either"


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_what_was_adopted_alone_has_its_blake3_when_it_is_asked_for(
    tmp_path: Path, runtime: Runtime, alone: bool, keep: bool
) -> None:
    runtime.put(LARGE)
    with a_store(tmp_path / "store", alone=True) as store:
        hold(store, LARGE)
        look(adopter(store, runtime, keep=keep))
    for _ in range(2):
        with a_store(tmp_path / "store", alone=alone) as store:
            again = adopter(store, runtime, keep=keep)
            again.load()
            look(again)
            assert again.statistics().read_bytes == 0
            blob = store.acquire(DIGEST)
            assert blob is not None
            blob.check(len(LARGE) - 1, len(LARGE))
            assert blob.record.digests() == {
                index: blake3(LARGE[slice(*blob.span(index))]).digest() for index in range(blob.count)
            }
            assert not blob.header.by_prefix
            blob.release()


def test_its_new_record_is_of_the_file_as_it_is_without_a_name_of_the_stores(tmp_path: Path, runtime: Runtime) -> None:
    """Our hard link was a name of the runtime's file: its removal changes the file's ctime."""
    runtime.put(LARGE)
    with a_store(tmp_path / "store", alone=True) as store:
        hold(store, LARGE)
        adopting = adopter(store, runtime, keep=True)
        look(adopting)
        adopting.keep = False
        look(adopting)
        blob = store.acquire(DIGEST)
        assert blob is not None
        assert blob.is_adopted
        assert len(blob.record.digests()) == blob.count
        blob.release()
    with a_store(tmp_path / "store", alone=True) as store:
        again = adopter(store, runtime, keep=True)
        again.load()
        look(again)
        assert again.statistics().read_bytes == 0


def test_what_rots_of_it_is_found(tmp_path: Path, runtime: Runtime) -> None:
    file = runtime.put(LARGE)
    with a_store(tmp_path / "store", alone=True) as store:
        look(adopter(store, runtime))
        blob = store.acquire(DIGEST)
        assert blob is not None
        flip(file, 1_000_000)
        with pytest.raises(StoreBrokenError, match="has other bytes than were stored"):
            blob.check(0, len(LARGE))
        blob.release()


def test_a_kept_file_is_known_again_after_a_restart(tmp_path: Path, runtime: Runtime) -> None:
    runtime.put(LARGE)
    with a_store(tmp_path / "store") as store:
        hold(store, LARGE)
        look(adopter(store, runtime, keep=True))
    with a_store(tmp_path / "store") as store:
        again = adopter(store, runtime, keep=True)
        again.load()
        look(again)
        assert store.statistics().used_bytes == again.statistics().read_bytes == 0
        assert not [name for name in files_in(store.directory) if name.endswith(".new")]


def test_where_bytes_cannot_be_shared_both_files_stay_until_the_pin_is_over(
    store: Store, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(store, LARGE)
    assert store.keep(DIGEST, 0.0)
    runtime.put(LARGE)
    blob = store.own(DIGEST)
    assert blob is not None
    with _immovable(blob):
        look(adopter(store, runtime, keep=True))
    assert store.own(DIGEST) is not None
    assert store.statistics().used_bytes == len(LARGE)
    look(adopter(store, runtime))
    assert store.own(DIGEST) is None


@contextmanager
def _immovable(blob: Blob) -> Iterator[None]:
    """No file can be put beside the blob's: something is in the way."""
    there = blob.data_path.with_name(f".{blob.data_path.name}.new")
    there.mkdir()
    try:
        yield
    finally:
        there.rmdir()


def test_a_file_with_another_name_is_never_written_to(tmp_path: Path) -> None:
    with a_store(tmp_path / "store") as store:
        hold_part(store, LARGE, [0])
        os.link(store.directory / "blobs" / DIGEST.hex[:2] / DIGEST.hex, tmp_path / "of-the-runtime")
        with capture_logs():
            assert store.acquire(DIGEST) is None


def test_nor_is_it_emptied_for_a_download(store: Store, runtime: Runtime) -> None:
    """A file that could not be removed with its blob, as the disk was read-only, has the name of the next one."""
    file = runtime.put(LARGE)
    ours = store.directory / "blobs" / DIGEST.hex[:2] / DIGEST.hex
    ours.parent.mkdir(mode=0o700)
    os.link(file, ours)
    store.create(DIGEST, len(LARGE), "").release()
    assert file.read_bytes() == LARGE
    assert (file.stat().st_mode & 0o777, file.stat().st_nlink) == (0o444, 1)


def test_adopted_files_make_no_room_and_are_not_removed(tmp_path: Path, runtime: Runtime) -> None:
    file = runtime.put(LARGE)
    store = open_store(tmp_path / "store", max_bytes=1000, ttl_s=1e-9)
    look(adopter(store, runtime))
    assert store.collect() == []
    with pytest.raises(BlobAdoptedError, match="its runtime removes it"):
        store.remove(DIGEST)
    assert store.verify().bad == ()
    store.close()
    assert file.read_bytes() == LARGE


def test_a_verified_file_that_is_wrong_is_let_go_and_stays(store: Store, runtime: Runtime) -> None:
    file = runtime.put(LARGE)
    look(adopter(store, runtime))
    file.chmod(0o644)
    flip(file, 100)
    with capture_logs():
        assert store.verify().bad == (DIGEST,)
    assert file.exists()


# -- directories -------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there_yet_is_looked_for(tmp_path: Path, store: Store) -> None:
    adopting = Adopter(store, [tmp_path / "content"])
    with capture_logs() as logs:
        look(adopting)
        look(adopting)
    assert len(logs) == 1
    assert adopting.statistics().unreadable
    Runtime(tmp_path / "content").put(SMALL)
    look(adopting)
    assert store.peek(digest_of(SMALL)) is not None
    assert not adopting.statistics().unreadable
    shutil.rmtree(tmp_path / "content")
    with capture_logs():
        look(adopting)
    assert store.blobs() == []


def test_nothing_read_is_forgotten_while_the_directory_is_away(tmp_path: Path, runtime: Runtime) -> None:
    runtime.put(LARGE)
    with a_store(tmp_path / "store") as store:
        look(adopter(store, runtime))
    runtime.path.rename(tmp_path / "away")
    with a_store(tmp_path / "store") as store, capture_logs():
        adopter(store, runtime).forget_gone()
    (tmp_path / "away").rename(runtime.path)
    with a_store(tmp_path / "store") as store:
        adopter(store, runtime).load()
        assert store.peek(DIGEST) is not None


class Closed(ContentStore):
    """Its files may not be read."""

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{name} {flags}")


def test_a_file_that_may_not_be_read_is_told_of_once_and_for_as_long_as_it_lasts(
    store: Store, runtime: Runtime
) -> None:
    runtime.put(SMALL)
    runtime.put(LARGE)
    adopting = adopter(store, runtime)
    adopting._contents = [Closed(runtime.path)]
    with capture_logs() as logs:
        for _ in range(3):
            look(adopting)
            assert adopting.statistics().unreadable == ((str(runtime.path), "Permission denied"),)
            adopting.retry()
    assert len(logs) == 1
    adopting._contents = [ContentStore(runtime.path)]
    look(adopting)
    assert adopting.statistics().unreadable == ()
    assert adopting.statistics().blobs == 2


def test_a_file_that_may_not_be_read_and_goes_is_told_of_no_longer(store: Store, runtime: Runtime) -> None:
    runtime.put(SMALL)
    adopting = adopter(store, runtime)
    adopting._contents = [Closed(runtime.path)]
    with capture_logs():
        look(adopting)
    runtime.collect(SMALL)
    look(adopting)
    assert adopting.statistics().unreadable == ()


def test_without_watches_changes_are_noticed_later_and_that_is_said_once(runtime: Runtime) -> None:
    waits: list[float] = []

    async def rest(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise asyncio.CancelledError

    async def scene() -> None:
        with suppress(asyncio.CancelledError):
            await watch([runtime.blobs], lambda: None, rest)

    import watchfiles  # noqa: F401  # before there are no more files

    with capture_logs() as logs:
        asyncio.run(_without_more_files(scene))
    assert waits == [AGAIN_AFTER_S] * 3
    assert ["max_user_watches" in each["event"] for each in logs] == [True]


def test_a_directory_that_comes_later_is_watched_from_then_on(tmp_path: Path) -> None:
    content = tmp_path / "content"
    changed = asyncio.Event()

    async def rest(_seconds: float) -> None:
        if not content.exists():
            Runtime(content)

    async def scene() -> None:
        async with BackgroundTasks() as tasks, asyncio.timeout(PATIENCE_S):
            tasks.start(watch([content / "blobs" / "sha256"], changed.set, rest))
            await changed.wait()

    run(scene)


async def _without_more_files(scene: Callable[[], Awaitable[None]]) -> None:
    """The process has as many files open as it may, so inotify gives no watch."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_file = os.dup(0)
    os.close(next_file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, before[1]))
    try:
        await scene()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_changes_are_noticed_by_themselves(store: Store, runtime: Runtime) -> None:
    changed = asyncio.Event()
    store.on_found = lambda _: changed.set()
    store.on_removed = lambda _: changed.set()

    async def until() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await changed.wait()
        changed.clear()

    async def scene() -> None:
        async with BackgroundTasks() as tasks:
            tasks.start(adopter(store, runtime).run())
            runtime.put(SMALL)
            await until()
            runtime.put(LARGE)
            await until()
            runtime.collect(LARGE)
            await until()

    run(scene)
    assert [each.digest for each in store.blobs()] == [digest_of(SMALL)]
