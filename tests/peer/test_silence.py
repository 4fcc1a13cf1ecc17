"""A scheduler that says nothing although it was spoken to, and one that is merely slow, or whose host is."""

from __future__ import annotations

import asyncio

import pytest

from peer.net import silence
from peer.net.silence import Silence
from tests.support.node import asynchronous


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "QUIET_S", 0.01)
    monkeypatch.setattr(silence, "SILENT_S", 0.02)
    monkeypatch.setattr(silence, "STEP_S", 0.01)
    monkeypatch.setattr(silence, "LATE_S", 10.0)


class Scheduler:
    """Answers the first pings, and then no more."""

    def __init__(self, answers: int) -> None:
        self.silence = Silence()
        self.answers = answers
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.pings <= self.answers:
            self.silence.heard()
            self.silence.said()


@asynchronous
async def test_one_that_answers_no_ping_is_silent() -> None:
    scheduler = Scheduler(answers=3)
    scheduler.silence.said()
    await scheduler.silence.wait(scheduler.ping)
    assert scheduler.pings == 4


@asynchronous
async def test_one_that_does_not_read_is_silent() -> None:
    scheduler = Silence()
    scheduler.said()
    await scheduler.wait(asyncio.Event().wait)  # type: ignore[arg-type] # what it returns is of no interest


@asynchronous
async def test_a_host_that_says_nothing_asks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(answers=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await scheduler.silence.wait(scheduler.ping)
    pings_before = scheduler.pings
    monkeypatch.setattr(silence, "HEARTBEAT_S", 0.01)
    await scheduler.silence.wait(scheduler.ping)
    assert (pings_before, scheduler.pings) == (0, 1)


@asynchronous
async def test_a_host_that_is_busy_itself_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timers are due before it has read what came meanwhile."""
    monkeypatch.setattr(silence, "LATE_S", -1.0)
    scheduler = Silence()
    scheduler.said()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await scheduler.wait(asyncio.Event().wait)  # type: ignore[arg-type] # what it returns is of no interest
