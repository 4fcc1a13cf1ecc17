"""The schedulers that a node joins: those that are named, or one inside the node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from p2pd.config.settings import Settings
from p2pd.daemon.wiring import over_tls

if TYPE_CHECKING:
    from p2pd.daemon.scheduler_inside import SchedulerInside


class Schedulers(Struct, frozen=True):
    """The URLs of the schedulers to join, and the scheduler that runs inside this node, if there is one."""

    urls: tuple[str, ...]
    inside: SchedulerInside | None = None


@asynccontextmanager
async def schedulers(settings: Settings) -> AsyncIterator[Schedulers]:
    """The configured schedulers; if there are none, a scheduler inside, until the block ends. Raises ListenError."""
    if settings.is_alone:
        yield Schedulers(())
        return
    if settings.scheduler:
        yield Schedulers(tuple(over_tls(settings.scheduler)) if settings.has_certificate else settings.scheduler)
        return
    from p2pd.daemon.scheduler_inside import SchedulerInside  # a scheduler has 4 MiB, which other nodes do not need

    inside = SchedulerInside(settings)
    async with inside.serving(settings.listen) as url:
        yield Schedulers((url,), inside)
