"""The adopter: finds what container runtimes hold, reads it once, and has the store hold it where it lies.

Three tasks: one is told of changes (inotify), one looks through the directories, one reads new files.

Rules:
1. A change only causes a look. So one that was missed is found by the next look, `LOOK_EVERY_S` later at most.
2. New files are read the newest first, `READERS` at a time, by threads of the lowest priority. While a client waits for
   something that is on its way, they read `BESIDE_CLIENTS` bytes a second.
3. A blob is not adopted while it is on its way here: the download has its own file.
4. What the store has of its own, and a runtime has taken in, is handed over after `HAND_OVER_S`: the store's file is
   removed. One that is to be kept (`keep`, or a pin) instead shares its bytes with the runtime's, and is the
   store's alone once the runtime removes its file. Where bytes cannot be shared, both files stay.
5. A directory that may not be read, or a file in it, is told once, and tried again with each look.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from peer.errors import StoreError
from peer.oci.digest import Digest
from peer.store.adopted import AdoptedBlob, ContentStore, Records, share
from peer.store.check import Signature
from peer.store.content_watch import watch
from peer.store.data_file import CHUNK_BYTES
from peer.store.disk import NO_FILES
from peer.store.reading import Reading
from peer.store.scrubber import give_way
from peer.store.store import Store

log = structlog.get_logger("peer.store")

LOOK_EVERY_S: Final = 30.0
HAND_OVER_S: Final = 5.0
"""A runtime that has just taken a blob in may lose it again, as by a pull that fails."""
READERS: Final = min(4, max(2, len(os.sched_getaffinity(0))))
"""One reads 1.3 GiB a second, as it is hashed: less than a fast disk does."""
READ_BYTES: Final = 16 * 1024 * 1024
BESIDE_CLIENTS: Final = 8 * 1024 * 1024
"""Bytes per second, as many as the scrubber reads by default."""
BESIDE_CLIENTS_BYTES: Final = 1024 * 1024
AT_A_TIME: Final = 200
"""So many files are taken up before the loop has a turn again: 10 ms."""


class AdoptStatistics(Struct, frozen=True):
    """`unread` files are still to be read. `wrong` have other bytes than their names say. `unreadable`: by directory,
    why it, or a file in it, cannot be read."""

    blobs: int = 0
    size_bytes: int = 0
    unread: int = 0
    read_bytes: int = 0
    wrong: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()


class _File(Struct, frozen=True):
    """A file that a look has found. `blob`: it was read before."""

    content: ContentStore
    name: str
    signature: Signature
    blob: AdoptedBlob | None = None


class _Seen(Struct, frozen=True):
    """What a look has found. `gone` and `stale` were held, and were to be read, and are not there as they were."""

    gone: list[AdoptedBlob]
    stale: list[_File]
    new: list[_File]
    others: list[str]
    """Names of those that were not held for a fault of theirs, and are gone."""


class Adopter:
    """Of one store. Everything runs on the event loop, but for `load`, which may be called before there is one.

    `is_arriving`: the blob is on its way here. `is_busy`: a client waits for something. `keep`: what p2pd fetched is
    not given up.
    """

    def __init__(
        self,
        store: Store,
        directories: Sequence[Path],
        *,
        keep: bool = False,
        is_arriving: Callable[[Digest], bool] = lambda _: False,
        is_busy: Callable[[], bool] = lambda: False,
        hand_over_s: float = HAND_OVER_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.keep = keep
        self.is_arriving = is_arriving
        self.is_busy = is_busy
        self._store = store
        self._contents = [ContentStore(each) for each in directories]
        self._records = Records(store.directory, store.health)
        self._hand_over_s = hand_over_s
        self._sleep = sleep
        self._held: dict[str, AdoptedBlob] = {}
        """By hex, also those of which the store has a file of its own."""
        self._unsettled: set[str] = set()
        """Those that the store does not hold by the runtime's file alone."""
        self._since: dict[str, float] = {}
        self._unread: dict[str, _File] = {}
        self._order: list[tuple[int, str]] = []
        """A heap of the unread, the newest first, and of those that are unread no longer."""
        self._reading: set[str] = set()
        """No look takes one of these up: its record may be there already."""
        self._refused: dict[str, Signature] = {}
        """Files with other bytes than their names say."""
        self._failed: set[str] = set()
        """Files that could not be read when that was tried last."""
        self._not_shared: set[str] = set()
        self._closed: dict[str, str] = {}
        """By directory, why it cannot be read."""
        self._closed_files: dict[str, str] = {}
        """By directory, why a file in it cannot be read."""
        self._read_bytes = 0
        self._changed = asyncio.Event()
        self._is_more = asyncio.Event()

    def statistics(self) -> AdoptStatistics:
        return AdoptStatistics(
            blobs=len(self._held),
            size_bytes=sum(blob.size_bytes for blob in self._held.values()),
            unread=len(self._unread) + len(self._reading),
            read_bytes=self._read_bytes,
            wrong=len(self._refused),
            unreadable=tuple(sorted({**self._closed_files, **self._closed}.items())),
        )

    def load(self) -> None:
        """Hold what was read before a restart and has not changed. Blocks, and reads no content."""
        for _ in self._take_up(self._see()):
            pass

    async def run(self) -> None:
        """Until it is cancelled. Returns at once if there are no directories."""
        await asyncio.to_thread(self.forget_gone)
        if not self._contents:
            return
        with ThreadPoolExecutor(READERS, "adopter", give_way) as thread:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(watch([each.blobs for each in self._contents], self._changed.set, self._sleep))
                tasks.create_task(self._read_for_ever(thread))
                await self._look_for_ever()

    def forget_gone(self) -> None:
        """Remove the records of files that are gone; none while a directory cannot be read, as before it is mounted."""
        listed = self._listed()
        if not self._closed:
            self._records.forget_others(frozenset(name for files in listed.values() for name in files or ()))

    async def look(self) -> None:
        """See what is there now, let go of what is gone, and hand over what is due."""
        seen = await asyncio.to_thread(self._see)
        for number, _ in enumerate(self._take_up(seen), 1):
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)
        for number, name in enumerate(list(self._unsettled), 1):
            await self._settle(name)
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)

    async def read_all(self, thread: ThreadPoolExecutor | None = None) -> None:
        """Read the files that `look` has found, until none is left."""
        scratch = bytearray(CHUNK_BYTES)
        while (file := self._next()) is not None:
            blob = None
            self._reading.add(file.name)
            try:
                with Reading(file.content, file.name, scratch, by_prefix=self._store.alone) as reading:
                    blob = await self._read(reading, thread)
                if reading.is_wrong:
                    self._refused[file.name] = reading.signature
                    path = str(file.content.blobs / file.name)
                    log.warning("a file of a container runtime is not what its name says", path=path)
            except FileNotFoundError:
                pass  # the runtime has removed it
            except (OSError, StoreError) as error:
                self._failed.add(file.name)
                self._tell(self._closed_files, file.content, error)
            else:
                if blob is not None:
                    self._hold(file.name, blob)
                    await self._settle(file.name)
            finally:
                self._reading.discard(file.name)
        self._forget_failures()

    # -- looking ---------------------------------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        while True:
            await self.look()
            if self._unread:
                self._is_more.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s()):
                    await self._changed.wait()
                    self._changed.clear()
                    continue
            self.retry()

    def retry(self) -> None:
        """Have the next look find files anew that could not be read."""
        self._failed.clear()

    def _rest_s(self) -> float:
        now = time.monotonic()
        due = (self._since[name] + self._hand_over_s - now for name in self._unsettled)
        return min((each for each in due if each > 0), default=LOOK_EVERY_S) + 0.01

    def _see(self) -> _Seen:
        """Look through the directories. In a thread: it changes nothing, and what has come since is left for later."""
        held, unread, faulty = list(self._held.values()), list(self._unread.values()), [*self._failed, *self._refused]
        listed = self._listed()
        there = [_File(content, *each) for content, files in listed.items() for each in (files or {}).items()]
        names = {file.name for file in there}
        return _Seen(
            gone=[blob for blob in held if blob.discarded or _is_another(listed[blob.content], blob)],
            stale=[file for file in unread if (listed[file.content] or {}).get(file.name) != file.signature],
            new=[replace(file, blob=self._known(file)) for file in there if self._is_new(file)],
            others=[name for name in faulty if name not in names],
        )

    def _known(self, file: _File) -> AdoptedBlob | None:
        return self._records.known(file.content, file.name, file.signature)

    def _listed(self) -> dict[ContentStore, dict[str, Signature] | None]:
        listed: dict[ContentStore, dict[str, Signature] | None] = {}
        for content in self._contents:
            try:
                listed[content] = content.files()
                self._closed.pop(str(content.path), None)
            except OSError as error:
                listed[content] = None if error.errno in NO_FILES else {}
                self._tell(self._closed, content, error)
        return listed

    def _is_new(self, file: _File) -> bool:
        waits = self._unread.get(file.name)
        return not (
            file.name in self._held
            or (waits is not None and waits.content is file.content and waits.signature == file.signature)
            or file.name in self._reading
            or file.name in self._failed
            or self._refused.get(file.name) == file.signature
        )

    def _take_up(self, seen: _Seen) -> Iterator[None]:
        """Go by what was seen, one file at a step."""
        for blob in seen.gone:
            name = blob.digest.hex
            if self._held.get(name) is blob and name not in self._reading:
                self._let_go(name)
            yield
        for file in seen.stale:
            if self._unread.get(file.name) is file:
                del self._unread[file.name]
        for name in seen.others:
            self._failed.discard(name)
            self._refused.pop(name, None)
        for file in seen.new:
            if self._is_new(file):
                if file.blob is not None:
                    self._unread.pop(file.name, None)  # of another directory
                    self._hold(file.name, file.blob)
                    self._adopt_if_free(file.blob)
                elif file.name not in self._unread:
                    self._unread[file.name] = file
                    heapq.heappush(self._order, (-file.signature.mtime_ns, file.name))
            yield
        self._forget_failures()

    def _next(self) -> _File | None:
        """The newest of those that are to be read."""
        while self._order:
            _, name = heapq.heappop(self._order)
            if (file := self._unread.pop(name, None)) is not None:
                return file
        return None

    def _forget_failures(self) -> None:
        if not (self._failed or self._unread or self._reading):
            self._closed_files.clear()

    def _hold(self, name: str, blob: AdoptedBlob) -> None:
        self._held[name] = blob
        self._unsettled.add(name)
        self._since[name] = time.monotonic()

    def _let_go(self, name: str) -> None:
        blob = self._held.pop(name)
        self._since.pop(name, None)
        self._unsettled.discard(name)
        self._not_shared.discard(name)
        ours = self._store.own(blob.digest)
        if ours is not None and ours.is_shared:
            self._store.set_shared(ours, is_shared=False)
        self._store.let_go(blob)

    # -- handing over ----------------------------------------------------------------------------------------------

    def _adopt_if_free(self, blob: AdoptedBlob) -> None:
        """Have the store hold it, unless the store has it, or a download of it is under way."""
        ours = self._store.own(blob.digest)
        is_rest = ours is not None and not (ours.whole or ours.pinned)  # of an earlier download
        if (is_rest or self._store.peek(blob.digest) is None) and not self.is_arriving(blob.digest):
            self._store.adopt(blob)

    async def _settle(self, name: str) -> None:
        blob = self._held.get(name)
        if blob is None:
            return
        self._adopt_if_free(blob)
        ours = self._store.own(blob.digest)
        if ours is None and self._store.peek(blob.digest) is not None:
            self._unsettled.discard(name)
        if ours is None or not ours.is_stored or ours.pinned:
            return
        if self.keep or self._store.is_kept(blob.digest):
            if not ours.is_shared and name not in self._not_shared:
                shared = await asyncio.to_thread(self._share, blob, ours.data_path)
                self._store.set_shared(ours, is_shared=shared)
                if not shared:
                    self._not_shared.add(name)
        elif time.monotonic() - self._since.get(name, 0.0) >= self._hand_over_s:
            await asyncio.to_thread(self._hand_over, blob)
            self._unsettled.discard(name)

    def _hand_over(self, blob: AdoptedBlob) -> None:
        self._store.adopt(blob)
        self._records.renew(blob)  # the store's name of it may have been a hard link

    def _share(self, blob: AdoptedBlob, ours: Path) -> bool:
        if not share(blob, ours):
            return False
        self._records.renew(blob)
        return True

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _read_for_ever(self, thread: ThreadPoolExecutor) -> None:
        while True:
            await self._is_more.wait()
            self._is_more.clear()
            began, before = time.monotonic(), self._read_bytes
            async with asyncio.TaskGroup() as readers:
                for _ in range(READERS):
                    readers.create_task(self.read_all(thread))
            seconds, read_bytes = time.monotonic() - began, self._read_bytes - before
            if read_bytes:
                log.info("read through what runtimes hold", read_bytes=read_bytes, seconds=round(seconds, 3))

    async def _read(self, reading: Reading, thread: ThreadPoolExecutor | None) -> AdoptedBlob | None:
        """The blob, if the file is one. Raises OSError, StoreError."""
        loop, blob = asyncio.get_running_loop(), None
        while not reading.is_over:
            is_busy, before = self.is_busy(), reading.read_bytes
            most_bytes = BESIDE_CLIENTS_BYTES if is_busy else READ_BYTES
            blob = await loop.run_in_executor(thread, self._read_on, reading, most_bytes)
            self._read_bytes += reading.read_bytes - before
            if is_busy:
                await self._sleep((reading.read_bytes - before) / BESIDE_CLIENTS * READERS)
        return blob

    def _read_on(self, reading: Reading, most_bytes: int) -> AdoptedBlob | None:
        """Read some more; the blob, once all was read and was right."""
        reading.go_on(most_bytes)
        return None if reading.header is None else self._records.add(reading.content, reading.header, reading.pieces)

    def _tell(self, told: dict[str, str], content: ContentStore, error: OSError | StoreError) -> None:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        path = str(content.path)
        if told.get(path) != why:
            told[path] = why
            log.warning("not all that a container runtime holds can be read", path=path, cause=why)


def _is_another(files: dict[str, Signature] | None, blob: AdoptedBlob) -> bool:
    """Whether the directory is known to have another file than the blob's now, or none."""
    return files is not None and files.get(blob.digest.hex) != blob.signature
