"""Hosts whose clocks differ: a core goes by how much time passes, and never by what a clock shows.

No message has a point in time in it: `scheduler.protocol.fields.Seconds` is the only check of a time, of a duration.
"""

from __future__ import annotations

from typing import Any

import pytest

from peer.core.download import Download
from peer.core.member import Member
from peer.core.origin_events import ReaderMoved, SourceAdded, Tick
from peer.core.swarm_events import Begun, FromNeighbour, FromScheduler, Prepared
from scheduler.core.events import Connected, Received
from scheduler.core.events import Tick as SchedulerTick
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.from_host import Hello
from tests.peer.member_playbook import JOIN, PATIENCE_S, SIZE, D, digests, holds, joined

HOUR_S = 3600.0


def what_a_member_does(started: float) -> list[tuple[float, Any]]:
    """What it does, and when from its start, with a neighbour that answers nothing, for an hour."""
    member = Member(Download(4, 30.0), D, "docker.io", "library/app", PATIENCE_S)
    events: list[Any] = [SourceAdded(0), ReaderMoved(1, 0, None), Begun(connected=True, size_bytes=SIZE), Prepared()]
    events += [FromScheduler(joined("b", "c")), FromNeighbour("b", holds(0, 1)), FromNeighbour("c", holds(0))]
    done = [(0.0, each) for event in [*events, FromScheduler(digests(0, 1))] for each in member.handle(event, started)]
    while (due := member.next_deadline()) is not None and due - started <= HOUR_S:
        done += [(due - started, each) for each in member.handle(Tick(), due)]
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


@pytest.mark.parametrize("does", [what_a_member_does, what_a_scheduler_does])
@pytest.mark.parametrize("started", [1.0, 2.0**20, 2.0**31])
def test_it_does_the_same_at_the_same_distances(does: Any, started: float) -> None:
    expected, done = does(0.0), does(started)
    assert [each for _, each in done] == [each for _, each in expected]
    assert [at for at, _ in done] == pytest.approx([at for at, _ in expected], abs=1e-3)
    assert max(at for at, _ in expected) > PATIENCE_S, "time has passed"
