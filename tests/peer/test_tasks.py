"""Background tasks: none outlives the block, none takes the others down; shared work is done once."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from peer.errors import OriginUnreachableError
from peer.tasks import BackgroundTasks, SingleFlight, next_second
from tests.support.registry_server import PATIENCE_S
from tests.support.virtual_loop import run_in_virtual_time


async def _for_ever(began: asyncio.Event, ended: asyncio.Event) -> None:
    try:
        began.set()
        await asyncio.Event().wait()
    finally:
        ended.set()


class TestBackground:
    def test_the_block_ends_what_it_started(self) -> None:
        async def scene() -> None:
            began, ended = asyncio.Event(), asyncio.Event()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                background.start(_for_ever(began, ended))
                await began.wait()
            assert ended.is_set()

        asyncio.run(scene())

    def test_a_task_that_had_no_time_to_begin_leaves_nothing_behind(self) -> None:
        async def scene() -> None:
            began = asyncio.Event()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                background.start(_for_ever(began, asyncio.Event()))
            assert not began.is_set()

        asyncio.run(scene())

    def test_what_an_ending_task_starts_does_not_keep_the_block(self) -> None:
        async def scene() -> None:
            began, second = asyncio.Event(), asyncio.Event()

            async def restarting(background: BackgroundTasks) -> None:
                try:
                    await _for_ever(began, asyncio.Event())
                finally:
                    background.start(_for_ever(second, asyncio.Event()))

            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                background.start(restarting(background))
                await began.wait()
            assert not second.is_set()

        asyncio.run(scene())

    def test_a_defect_is_logged_and_the_others_go_on(self) -> None:
        async def defect() -> None:
            raise ZeroDivisionError

        async def scene() -> None:
            began, ended = asyncio.Event(), asyncio.Event()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                background.start(defect())
                background.start(_for_ever(began, ended))
                await began.wait()
                assert not ended.is_set()

        with capture_logs() as logs:
            asyncio.run(scene())
        assert [(log["event"], log["log_level"]) for log in logs] == [("a background task failed", "error")]

    def test_a_block_that_fails_ends_them_too(self) -> None:
        async def scene() -> None:
            began, ended = asyncio.Event(), asyncio.Event()
            try:
                async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                    background.start(_for_ever(began, ended))
                    await began.wait()
                    raise ZeroDivisionError
            finally:
                assert ended.is_set()

        with pytest.raises(ZeroDivisionError):
            asyncio.run(scene())


class _Work:
    """Work that ends when it is told to, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.begun += 1
        self.began.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return f"result {self.begun}"


class TestShared:
    def test_what_many_want_at_once_is_done_once(self) -> None:
        async def scene() -> None:
            work = _Work()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                shared = SingleFlight[str, str](background)
                async with asyncio.TaskGroup() as callers:
                    tasks = [callers.create_task(shared.get("key", work)) for _ in range(10)]
                    other = callers.create_task(shared.get("other", work))
                    await work.began.wait()
                    work.may_end.set()
                assert {task.result() for task in tasks} == {"result 2"}
                assert other.result() == "result 2"
            assert work.begun == 2  # once for each key

        asyncio.run(scene())

    def test_what_is_wanted_later_is_done_again(self) -> None:
        async def scene() -> None:
            work = _Work()
            work.may_end.set()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                shared = SingleFlight[str, str](background)
                assert [await shared.get("key", work), await shared.get("key", work)] == ["result 1", "result 2"]

        asyncio.run(scene())

    def test_it_goes_on_when_who_began_it_goes_away(self) -> None:
        async def scene() -> None:
            work = _Work()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                shared = SingleFlight[str, str](background)
                async with asyncio.TaskGroup() as callers:
                    first = callers.create_task(shared.get("key", work))
                    await work.began.wait()
                    second = callers.create_task(shared.get("key", work))
                    first.cancel()
                    await asyncio.wait([first])
                    work.may_end.set()
                assert second.result() == "result 1"

        asyncio.run(scene())

    def test_an_error_is_everybodys_and_not_remembered(self) -> None:
        async def scene() -> None:
            work = _Work()
            work.error = OriginUnreachableError("gone")
            work.may_end.set()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                shared = SingleFlight[str, str](background)
                outcomes = await asyncio.gather(*(shared.get("key", work) for _ in range(3)), return_exceptions=True)
                assert outcomes == [work.error] * 3
                work.error = None
                assert await shared.get("key", work) == "result 2"

        asyncio.run(scene())

    def test_an_error_that_nobody_waits_for_any_longer_is_no_noise(self) -> None:
        async def scene() -> None:
            work = _Work()
            work.error = OriginUnreachableError("gone")
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                shared = SingleFlight[str, str](background)
                async with asyncio.TaskGroup() as callers:
                    only = callers.create_task(shared.get("key", work))
                    await work.began.wait()
                    only.cancel()
                work.may_end.set()

        with capture_logs() as logs:
            asyncio.run(scene())
        assert logs == []

    def test_after_a_defect_nobody_waits_for_ever(self) -> None:
        async def scene() -> None:
            work = _Work()
            work.error = ZeroDivisionError()
            work.may_end.set()
            async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as background:
                shared = SingleFlight[str, str](background)
                with pytest.raises(asyncio.CancelledError):
                    await shared.get("key", work)
                work.error = None
                assert await shared.get("key", work) == "result 2"

        with capture_logs() as logs:
            asyncio.run(scene())
        assert [log["event"] for log in logs] == ["a background task failed"]


def test_all_that_is_done_once_a_second_is_done_at_the_same_time_and_nothing_twice() -> None:
    seen: dict[float, list[float]] = {}

    async def looks(begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        for _ in range(3):
            seen.setdefault(await next_second(), []).append(asyncio.get_running_loop().time())

    async def main() -> None:
        await asyncio.gather(*(looks(begins_s) for begins_s in (0.0, 0.3, 0.499)))

    run_in_virtual_time(main())
    assert [[second] * 3 for second in seen] == list(seen.values())


def test_a_second_that_has_just_begun_or_is_about_to_is_not_waited_for() -> None:
    """A timer may be early by what the clock cannot tell apart."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        second = await next_second()
        for begins_at in (second + 1 - 1e-9, second + 2, second + 3.4):
            await asyncio.sleep(begins_at - loop.time())
            assert await next_second() == round(begins_at) + 1

    run_in_virtual_time(main())
