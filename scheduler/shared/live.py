"""Keeps a scheduler on the live list, and tells what changes. On the event loop.

One task beats, looks, and waits for the next change or for the next beat, whichever comes first. A beat is proof that
the event loop turns, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

import structlog

from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.errors import SharedStateError
from scheduler.shared.live_list import LiveList, Membership

log = structlog.get_logger("scheduler.live")

CHANGES_APART_S: Final = 0.05
"""However often the list changes, a scheduler looks at it no more often than that."""


class LiveStore(Protocol):
    """Where the list and the beats are. Each method raises SharedStateError within `CALL_S`."""

    async def look(self, beat: str) -> tuple[LiveList, Mapping[str, int]]:
        """Raise this beat by one ("": none), and return the list and all beats."""
        ...

    async def replace(self, stored: LiveList, wanted: LiveList) -> bool:
        """Set the list if it is as it was when it was looked at. Returns whether it is set."""
        ...

    async def changed(self, within_s: float) -> None:
        """Wait until something may have changed, or for that long."""
        ...

    async def close(self) -> None: ...


class Live:
    """A scheduler's place on the list.

    `tell` is called with each list that is another one, and with whether it is outdated by now. It must not block.
    """

    def __init__(self, membership: Membership, store: LiveStore, tell: Callable[[LiveList, bool], None]) -> None:
        self._membership: Final = membership
        self._store: Final = store
        self._tell: Final = tell
        self._told = LiveList(), False
        self._failed_at: float | None = None
        """The Unix time since which the store has failed: for people."""
        self._failure = ""
        self._leaves = False

    @property
    def known(self) -> LiveList:
        """The latest list."""
        return self._membership.known

    @property
    def name(self) -> str:
        """The name of this process on the list; "" while its lease is over, or before it has joined."""
        return self._membership.beat if self._is_listed else ""

    def runs(self, name: str) -> bool:
        """Whether this scheduler does what one of all does, under this name.

        By its own list: whatever comes of it in Redis counts only if the list there has the same epoch.
        """
        ids = [each.id for each in self.known.entries]
        return self._is_listed and bool(ids) and owner_of(name.encode(), ids) == self._membership.id

    @property
    def _is_listed(self) -> bool:
        return self._membership.is_on_list(asyncio.get_running_loop().time())

    @property
    def is_reached(self) -> bool:
        """Whether the latest call was answered."""
        return self._failed_at is None

    @property
    def is_stopping(self) -> bool:
        return self._leaves

    def not_ready(self) -> list[str]:
        """Why nothing new may be promised now; empty while this scheduler is on the list."""
        if self._is_listed:
            return []
        if self._failed_at is not None:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._failed_at))
            return [f"redis is unreachable since {since}: {self._failure}"]
        return [self._membership.problem or "this scheduler is not on the list of those that live yet"]

    async def run(self) -> None:
        """Stay on the list, until cancelled or until this scheduler leaves."""
        while not self._leaves:
            await self.beat()
            await self._wait()

    async def beat(self) -> None:
        """One beat and look. Never raises SharedStateError: a failure is told once, and so is its end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            stored, beats = await self._store.look(self._membership.beat)
            wanted = self._membership.looked(began, loop.time(), stored, beats)
            if wanted is not None and await self._store.replace(stored, wanted):
                self._membership.was_set(began, wanted)
        except SharedStateError as error:
            self._failure = str(error)
            if self._failed_at is None:
                self._failed_at = time.time()
                log.warning(
                    "redis cannot be used: what is under way goes on, nothing new is promised", reason=str(error)
                )
            self._tell_change(outdated=self._membership.is_outdated(loop.time()))
            return
        if self._failed_at is not None:
            log.info("redis can be used again", after_s=round(time.time() - self._failed_at, 1))
            self._failed_at = None
        self._tell_change(outdated=False)

    def stop(self) -> None:
        """Have `run` end soon, also if the library swallows that it is cancelled."""
        self._leaves = True

    async def leave(self) -> None:
        """Take this scheduler off the list, so that the others need not wait for its lease to end. `run` has ended."""
        with suppress(SharedStateError):
            stored, _ = await self._store.look("")
            wanted = self._membership.leaving(stored)
            if wanted is not None:
                await self._store.replace(stored, wanted)

    def _tell_change(self, *, outdated: bool) -> None:
        known = self._membership.known
        if (known, outdated) == self._told or known.entry(self._membership.id) is None:
            return
        self._told = known, outdated
        log.info("live list", epoch=known.epoch, schedulers=[each.url for each in known.entries], outdated=outdated)
        self._tell(known, outdated)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time() + self._membership.pace.beat_s
        await asyncio.sleep(CHANGES_APART_S)
        try:
            await self._store.changed(max(0.0, next_at - loop.time()))
        except SharedStateError:
            await asyncio.sleep(max(0.0, next_at - loop.time()))
