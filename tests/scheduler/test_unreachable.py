"""A host that others cannot reach is told so: nobody else would notice that it advertises a wrong address."""

from __future__ import annotations

from scheduler.core.events import Received, Send
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import Fault, NeighbourFailed
from scheduler.protocol.to_host import Unreachable
from tests.scheduler.messages_for_pull import JOIN, D
from tests.scheduler.playbook import Playbook

SETTINGS = SchedulerSettings(leases_per_blob=0)


def told(play: Playbook, reporter: int, fault: Fault = Fault.GONE) -> list[Send]:
    """What the first host is told of a report about it."""
    instructions = play.scheduler.handle(Received(reporter, NeighbourFailed(D, "a", fault)), play.now)
    return [each for each in instructions if isinstance(each, Send) and isinstance(each.message, Unreachable)]


def swarm_of(*hosts: str) -> Playbook:
    play = Playbook(*hosts, settings=SETTINGS)
    for host in hosts:
        _ = play >> (host, JOIN)
    return play


def test_three_reports_are_told_once() -> None:
    play = swarm_of("a", "b", "c", "d", "e")
    assert [told(play, reporter) for reporter in (2, 3)] == [[], []]
    assert told(play, 4) == [Send((1,), Unreachable(3))]
    assert told(play, 5) == []


def test_in_a_small_cluster_all_others_are_enough() -> None:
    assert told(swarm_of("a", "b"), 2) == [Send((1,), Unreachable(1))]


def test_a_slow_host_is_reachable() -> None:
    assert told(swarm_of("a", "b"), 2, Fault.SLOW) == []
