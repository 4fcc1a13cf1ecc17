"""What may be asked of a daemon while it runs: to read its settings again, what is in force, and to end.

A reload reads all sources again, as the start did. What is wrong in them changes nothing. Of what is right, the keys
that this daemon takes up while it runs are in force at once; what else has changed is told, and waits for a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from p2pd.config.changes import Reloaded, changes, in_force
from p2pd.config.settings import KEYS
from p2pd.config.values import ConfigError
from p2pd.daemon import logs

if TYPE_CHECKING:
    from p2pd.config.settings import Settings
    from p2pd.config.sources import Loaded, Sources

log = logs.get("p2pd.daemon")

LOOK_EVERY_S = 0.1

Prepare = Callable[["Settings"], Callable[[], None]]
"""Makes, in a thread, all that new settings need; returns what puts them in force on the loop. Raises ConfigError."""


class Control:
    """On the event loop. `takes_up` are the keys that can change while the daemon runs."""

    def __init__(self, sources: Sources, loaded: Loaded, takes_up: Collection[str]) -> None:
        self.stop = asyncio.Event()
        """The daemon is to end in order."""
        self.prepare: Prepare | None = None
        """None until the daemon is ready for new settings."""
        self.drained: Callable[[], bool] | None = None
        """Begins to drain at its first call; returns whether nothing is under way any more."""
        self.used_bytes: Callable[[], int] = lambda: 0
        """What the blobs of this node take."""
        self._draining = False
        self._sources = sources
        self._loaded = loaded
        self._takes_up = takes_up
        self._one_at_a_time = asyncio.Lock()

    def not_ready(self) -> list[str]:
        """What stands in the way of new work, for `/readyz`."""
        return ["p2pd is stopping"] if self.stop.is_set() else ["p2pd is draining"] if self._draining else []

    async def drain(self, timeout_s: float) -> bool:
        """Begin nothing new, finish what is under way, and stop; at the latest after `timeout_s`.

        Returns whether all was finished. What was not has the grace that it has after SIGTERM.
        """
        if self.drained is None:
            return False
        self._draining = True
        log.info("draining", timeout_s=timeout_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.drained() and not self.stop.is_set():  # noqa: ASYNC110 # that a pull ends, time tells
                    await asyncio.sleep(LOOK_EVERY_S)
        finished = self.drained()
        if not finished:
            log.warning("not all was finished in time", timeout_s=timeout_s)
        self.stop.set()
        return finished

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._loaded.settings

    def in_force(self) -> list[dict[str, str | None]]:
        """Each key with its value and where the value is from (None: the default). Secrets are hidden."""
        return in_force(self._loaded, self.used_bytes())

    async def reload(self) -> Reloaded:
        """Read the settings again. Raises ConfigError, with the text that a start would end with."""
        async with self._one_at_a_time:
            before = self._loaded
            read = await asyncio.to_thread(self._sources.read)
            after = replace(before.settings, **{key: getattr(read.settings, key) for key in self._takes_up})
            if self.prepare is not None:
                commit = await asyncio.to_thread(self.prepare, after)
                commit()
            logs.set_level(after.log_level)
            waiting = {key for key in KEYS if getattr(after, key) != getattr(read.settings, key)}
            places = {key: place for key, place in read.places.items() if key not in waiting}
            places |= {key: place for key, place in before.places.items() if key in waiting}
            self._loaded = structs.replace(before, settings=after, places=places)
            found = Reloaded(changes(before.settings, after), changes(after, read.settings))
        _tell(found)
        return found

    async def reload_by_signal(self) -> None:
        """As `reload`; what is wrong is logged."""
        try:
            await self.reload()
        except ConfigError as error:
            log.warning("not reloaded, all stays as it was", problems=str(error).splitlines())


def _tell(found: Reloaded) -> None:
    log.info("reloaded", changed=[str(each) for each in found.changed])
    if found.needs_restart:
        log.warning("changed, and needs a restart", keys=[str(each) for each in found.needs_restart])
