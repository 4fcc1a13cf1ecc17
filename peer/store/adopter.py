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
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from peer.errors import StoreError
from peer.oci.digest import Digest
from peer.store.adopted import AdoptedBlob, ContentStore, Reading, Records, share
from peer.store.check import Signature
from peer.store.disk import NO_FILES
from peer.store.scrubber import give_way
from peer.store.store import Store

log = structlog.get_logger("peer.store")

LOOK_EVERY_S: Final = 30.0
HAND_OVER_S: Final = 5.0
"""A runtime that has just taken a blob in may lose it again, as by a pull that fails."""
DEBOUNCE_MS: Final = 400
"""Changes within this time cause one look."""
WATCHED_BY_MS: Final = 1000
"""The watch has begun by then."""
READERS: Final = 2
"""One reads 1.3 GiB a second, as it is hashed: less than a fast disk does."""
READ_BYTES: Final = 16 * 1024 * 1024
BESIDE_CLIENTS: Final = 8 * 1024 * 1024
"""Bytes per second, as many as the scrubber reads by default."""
BESIDE_CLIENTS_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AdoptStatistics:
    """`unread` files are still to be read. `wrong` have other bytes than their names say. `unreadable`: by directory,
    why it, or a file in it, cannot be read."""

    blobs: int = 0
    size_bytes: int = 0
    unread: int = 0
    read_bytes: int = 0
    wrong: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Unread:
    content: ContentStore
    signature: Signature


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
        self._unread: dict[str, _Unread] = {}
        """The newest file is the last."""
        self._reading: set[str] = set()
        """No look takes one of these up: its record may be there already."""
        self._refused: dict[str, Signature] = {}
        """Files with other bytes than their names say."""
        self._failed: set[str] = set()
        """Files that could not be read when they were looked at last."""
        self._not_shared: set[str] = set()
        self._unreadable: dict[str, str] = {}
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
            unreadable=tuple(sorted(self._unreadable.items())),
        )

    def load(self) -> None:
        """Hold at once what was read before a restart and has not changed. Reads no content."""
        self._compare(self._listed())

    async def run(self) -> None:
        """Until it is cancelled. Returns at once if there are no directories."""
        await asyncio.to_thread(self.forget_gone)
        if not self._contents:
            return
        with ThreadPoolExecutor(READERS, "adopter", give_way) as thread:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._read_for_ever(thread))
                await self._look_for_ever()

    def forget_gone(self) -> None:
        """Remove the records of files that are gone; none while a directory cannot be read, as before it is mounted."""
        listed = self._listed()
        if not self._unreadable:
            self._records.forget_others(frozenset(name for files in listed.values() for name in files or ()))

    async def look(self) -> None:
        """See what is there now, let go of what is gone, and hand over what is due."""
        self._compare(await asyncio.to_thread(self._listed))
        for name in list(self._unsettled):
            await self._settle(name)

    async def read_all(self, thread: ThreadPoolExecutor | None = None) -> None:
        """Read the files that `look` has found, until none is left."""
        while self._unread:
            name, found = self._unread.popitem()
            blob = None
            self._reading.add(name)
            try:
                blob = await self._read(found.content, name, thread)
            except FileNotFoundError:
                pass  # the runtime has removed it
            except (OSError, StoreError) as error:
                self._failed.add(name)
                self._tell_unreadable(found.content, error)
            finally:
                self._reading.discard(name)
            if blob is not None:
                self._hold(name, blob)
                await self._settle(name)

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
            self._failed.clear()

    def _rest_s(self) -> float:
        now = time.monotonic()
        due = (self._since[name] + self._hand_over_s - now for name in self._unsettled)
        return min((each for each in due if each > 0), default=LOOK_EVERY_S) + 0.01

    def _listed(self) -> dict[ContentStore, dict[str, Signature] | None]:
        """What each directory has; None where that is not known now."""
        listed: dict[ContentStore, dict[str, Signature] | None] = {}
        for content in self._contents:
            try:
                listed[content] = content.files()
                self._unreadable.pop(str(content.path), None)
            except OSError as error:
                listed[content] = None if error.errno in NO_FILES else {}
                self._tell_unreadable(content, error)
        return listed

    def _compare(self, listed: dict[ContentStore, dict[str, Signature] | None]) -> None:
        for name, held in list(self._held.items()):
            files = listed[held.content]
            if files is not None and (files.get(name) != held.signature or held.discarded):
                self._let_go(name)
        self._unread = {
            name: each
            for name, each in self._unread.items()
            if (listed[each.content] or {}).get(name) == each.signature
        }
        for content, files in listed.items():
            for name, signature in (files or {}).items():
                if (
                    name in self._held
                    or ((waits := self._unread.get(name)) is not None and waits.content is content)
                    or name in self._reading
                    or name in self._failed
                    or self._refused.get(name) == signature
                ):
                    continue
                blob = self._records.known(content, name, signature)
                if blob is not None:
                    self._unread.pop(name, None)  # of another directory
                    self._hold(name, blob)
                    self._adopt_if_free(blob)
                elif waits is None:
                    self._unread[name] = _Unread(content, signature)
        self._unread = dict(sorted(self._unread.items(), key=lambda each: each[1].signature.mtime_ns))
        there = {name for files in listed.values() for name in files or ()}
        self._refused = {name: each for name, each in self._refused.items() if name in there}

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
            await asyncio.to_thread(self._store.adopt, blob)
            self._unsettled.discard(name)

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

    async def _read(self, content: ContentStore, name: str, thread: ThreadPoolExecutor | None) -> AdoptedBlob | None:
        """The blob, if the file is one. Raises OSError, StoreError."""
        loop = asyncio.get_running_loop()
        reading = await loop.run_in_executor(thread, Reading, content, name)
        try:
            while not reading.is_over:
                is_busy = self.is_busy()
                most_bytes = BESIDE_CLIENTS_BYTES if is_busy else READ_BYTES
                got = await loop.run_in_executor(thread, reading.go_on, most_bytes)
                self._read_bytes += got
                if is_busy:
                    await self._sleep(got / BESIDE_CLIENTS * READERS)
            header = await loop.run_in_executor(thread, reading.header)
            if header is not None:
                return await loop.run_in_executor(thread, self._records.add, content, reading, header)
            if await loop.run_in_executor(thread, reading.is_unchanged):
                self._refused[name] = reading.signature
                log.warning("a file of a container runtime is not what its name says", path=str(content.blobs / name))
            return None
        finally:
            reading.close()

    def _tell_unreadable(self, content: ContentStore, error: OSError | StoreError) -> None:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        path = str(content.path)
        if self._unreadable.get(path) != why:
            self._unreadable[path] = why
            log.warning("not all that a container runtime holds can be read", path=path, cause=why)

    # -- being told ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Have a look caused by each change, as long as the system tells of changes."""
        from watchfiles import awatch  # only where something is adopted: 6 MiB

        while True:
            inodes = {each.blobs: _inode(each.blobs) for each in self._contents}
            if not any(inodes.values()):
                await self._sleep(WATCHED_BY_MS / 1000)
                continue
            begun = False
            try:
                async for changes in awatch(
                    *(path for path, inode in inodes.items() if inode),
                    watch_filter=None,
                    debounce=DEBOUNCE_MS,
                    step=DEBOUNCE_MS // 2,
                    recursive=False,
                    yield_on_timeout=True,
                    rust_timeout=WATCHED_BY_MS,
                    ignore_permission_denied=True,
                ):
                    if changes or not begun:  # what was changed before the watch began is seen once it has
                        self._changed.set()
                    begun = True
                    if any(_inode(path) != inode for path, inode in inodes.items()):
                        break  # a directory has come, gone, or is another one
            except (OSError, RuntimeError) as error:
                log.warning("changes of what runtimes hold are noticed later", cause=str(error), within_s=LOOK_EVERY_S)
                await self._sleep(LOOK_EVERY_S)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
