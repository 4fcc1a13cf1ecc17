"""What a scheduler changes of the process that it runs in, it restores."""

from __future__ import annotations

import asyncio
import gc

from scheduler.core.scheduler import Scheduler
from scheduler.shell.server import SchedulerServer


def test_full_collections_are_rare_as_long_as_a_scheduler_serves() -> None:
    before = gc.get_threshold()

    async def main() -> tuple[int, int, int]:
        async with SchedulerServer(Scheduler()).serving("127.0.0.1", 0):
            return gc.get_threshold()

    young, middle, old = asyncio.run(main())
    assert (young, middle) == before[:2]
    assert old > before[2]
    assert gc.get_threshold() == before
