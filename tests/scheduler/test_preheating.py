"""The shell of preheats: what is kept when, hours, bounds, and a disk that fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.core.preheat_job import JobState, Order, Target, TargetState
from scheduler.core.preheat_record import MAX_KEPT, JobRecord, PreheatStoreError, TooManyJobsError
from scheduler.core.preheats import MAX_JOBS
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.shell.preheating import Preheating, preheating
from scheduler.shell.server import SchedulerServer
from scheduler.shell.sqlite_preheats import SqlitePreheats
from tests.support.registry_server import PATIENCE_S

NOW = 1_900_000_000.0
JOB = JobRecord(Order("j1", ("alpine",), ttl_s=60.0), ("away",), NOW, NOW, NOW + 3600.0)


class Noon:
    """It is noon, and stays so."""

    def now(self) -> float:
        return NOW

    def of_day(self, seconds: float) -> float:
        return (12 * 3600.0 + seconds - NOW) % 86_400.0


Test = Callable[[Preheating, Scheduler], Awaitable[None]]


def run(test: Test, directory: Path | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), served(directory) as (service, core):
            await test(service, core)

    asyncio.run(main())


@asynccontextmanager
async def served(directory: Path | None) -> AsyncIterator[tuple[Preheating, Scheduler]]:
    core = Scheduler(SchedulerSettings(settle_s=0.0))
    server = SchedulerServer(core)
    async with (
        server.serving("127.0.0.1", 0),
        preheating(core, server, SqlitePreheats.open(directory), Noon()) as service,
    ):
        yield service, core


def test_a_job_waits_for_its_hours() -> None:
    async def test(service: Preheating, core: Scheduler) -> None:
        await service.add(replace(JOB, window="22:00-05:00", ends=NOW + 1e6))
        await service.add(replace(JOB, order=replace(JOB.order, id="j2"), window="11:00-13:00"))
        now = asyncio.get_running_loop().time()
        (later, at_once) = (core.preheat(name) for name in ("j1", "j2"))
        assert later is not None
        assert at_once is not None
        assert (later.state, round(later.begins_at - now), later.open_s) == (JobState.PENDING, 36_000, 7 * 3600.0)
        assert (round(at_once.begins_at - now), at_once.open_s) == (0, 3600.0)

    run(test)


def test_jobs_are_resumed_with_their_credentials(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    async def add(service: Preheating, _: Scheduler) -> None:
        await service.add(JOB, key="k", credential="s3cret")

    async def look(service: Preheating, core: Scheduler) -> None:
        job = core.preheat("j1")
        assert job is not None
        assert job.credential == "s3cret"
        assert (await service.add(replace(JOB, order=replace(JOB.order, id="j9")), key="k")).record.id == "j1"
        await service.cancel("j1")
        view = await service.job(1)
        assert view is not None
        assert (view.record.state, view.counts) == (JobState.CANCELLED, {TargetState.CANCELLED: 1})

    run(add, tmp_path)
    files = {file.name: file for file in tmp_path.iterdir()}
    assert all(b"s3cret" not in file.read_bytes() for file in files.values())
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files.values())
    run(look, tmp_path)
    store = SqlitePreheats.open(tmp_path)
    assert store.credential("j1") == ""
    store.close()


def test_there_is_a_bound() -> None:
    async def test(service: Preheating, _: Scheduler) -> None:
        for number in range(MAX_JOBS):
            await service.add(replace(JOB, order=replace(JOB.order, id=f"n{number}")))
        with pytest.raises(TooManyJobsError):
            await service.add(JOB)
        await service.cancel("n0")
        await service.add(JOB)

    run(test)


def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    async def test(service: Preheating, _: Scheduler) -> None:
        await service.add(JOB)
        assert await service.flush()
        with sqlite3.connect(tmp_path / "preheats.db") as other:
            other.execute("ALTER TABLE targets RENAME TO gone")
        await_cancelled = service.cancel("j1")
        with pytest.raises(PreheatStoreError):
            await await_cancelled
        assert not await service.flush()
        with pytest.raises(PreheatStoreError):
            await service.add(replace(JOB, order=replace(JOB.order, id="j2")))
        with sqlite3.connect(tmp_path / "preheats.db") as other:
            other.execute("ALTER TABLE gone RENAME TO targets")
        assert await service.flush()
        view = await service.job("j1")
        assert view is not None
        assert view.counts == {TargetState.CANCELLED: 1}

    run(test, tmp_path)


def test_old_jobs_go_and_open_ones_stay() -> None:
    store = SqlitePreheats.open(None)
    store.add(JOB)
    store.keep("j1", JobState.RUNNING, "", None, [Target("a")])
    for number in range(MAX_KEPT + 2):
        name = f"n{number}"
        store.add(replace(JOB, order=replace(JOB.order, id=name)))
        store.keep(name, JobState.SUCCEEDED, "", NOW, [Target("a", state=TargetState.DONE)])
    assert store.job("j1") is not None
    assert store.job("n0") is None
    assert store.targets("n0") == []
    assert [target.host for target in store.targets("j1")] == ["a"]
    store.close()


def test_a_directory_of_the_version_before_is_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    SqlitePreheats.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "preheats.db") as database:
        database.execute("ALTER TABLE jobs DROP COLUMN held")
    store = SqlitePreheats.open(tmp_path)
    store.add(JOB)
    assert store.held_images("j1") == ()
    store.close()


def test_a_directory_of_another_version_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    SqlitePreheats.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "preheats.db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(PreheatStoreError, match="another version of p2pd"):
        SqlitePreheats.open(tmp_path)
