"""Hosts whose clocks differ: a core goes by how much time passes, and never by what a clock shows.

No message has a point in time in it: `scheduler.protocol.fields.Seconds` is the only check of a time, of a duration.
"""

from __future__ import annotations

from typing import Any

import pytest

from peer.core.events import (
    FromNeighbour,
    FromScheduler,
    PiecesHeld,
    Prepared,
    ReaderMoved,
    SchedulerFound,
    SchedulerLost,
    Tick,
)
from peer.core.host import HostMachine, HostSettings
from scheduler.core.events import Connected, Received
from scheduler.core.events import Tick as SchedulerTick
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.from_host import Hello
from tests.peer.host_playbook import JOIN, SCHEDULER_TIMEOUT_S, D, digests, holds, joined, source

HOUR_S = 3600.0


def what_a_host_does(started: float) -> list[tuple[float, Any]]:
    """What it does, and when from its start, with a neighbour that answers nothing, for an hour.

    Its scheduler is there for the first half of it.
    """
    host = HostMachine(HostSettings(scheduler_timeout_s=SCHEDULER_TIMEOUT_S))
    events: list[Any] = [SchedulerLost(), SchedulerFound(), source(), ReaderMoved(D, 1, 0, None)]
    events += [PiecesHeld(D), Prepared(D), FromScheduler(joined("b", "c"))]
    events += [FromNeighbour("b", holds(0, 1)), FromNeighbour("c", holds(0)), FromScheduler(digests(0, 1))]
    done = [(0.0, each) for event in events for each in host.handle(event, started)]
    for until_s, event in ((HOUR_S / 2, SchedulerLost()), (HOUR_S, Tick())):
        while (due := host.next_deadline()) - started <= until_s:
            done += [(due - started, each) for each in host.handle(Tick(), due)]
        done += [(until_s, each) for each in host.handle(event, started + until_s)]
    return done


def what_a_scheduler_does(started: float) -> list[tuple[float, Any]]:
    """What it does, and when from its start, for hosts that join and then say nothing, for an hour."""
    scheduler = Scheduler()
    done: list[tuple[float, Any]] = []
    for number in range(3):
        done += [
            (0.0, each) for each in scheduler.handle(Connected(number, Hello(f"host-{number}", 1, 1, "a:1")), started)
        ]
        done += [(0.0, each) for each in scheduler.handle(Received(number, JOIN), started)]
    while (due := scheduler.next_deadline()) is not None and due - started <= HOUR_S:
        done += [(due - started, each) for each in scheduler.handle(SchedulerTick(), due)]
    return done


@pytest.mark.parametrize("does", [what_a_host_does, what_a_scheduler_does])
@pytest.mark.parametrize("started", [1.0, 2.0**20, 2.0**31])
def test_it_does_the_same_at_the_same_distances(does: Any, started: float) -> None:
    expected, done = does(0.0), does(started)
    assert [each for _, each in done] == [each for _, each in expected]
    assert [at for at, _ in done] == pytest.approx([at for at, _ in expected], abs=1e-3)
    assert max(at for at, _ in expected) > SCHEDULER_TIMEOUT_S, "time has passed"
