"""What a scheduler that is one of several tells hosts of the others."""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.events import LiveListChanged
from scheduler.protocol.from_host import PREHEAT, SCHEDULERS
from scheduler.protocol.to_host import SchedulerAt, Schedulers, Welcome
from tests.scheduler.playbook import Playbook, hello

A = SchedulerAt("00000000000000aa", "http://a:65003")
B = SchedulerAt("00000000000000bb", "https://b:65003")
ONE = LiveListChanged(1, A.id, (A,))
BOTH = LiveListChanged(2, A.id, (A, B))
FEATURES = (PREHEAT, SCHEDULERS)


def test_a_scheduler_by_itself_says_nothing_of_others() -> None:
    assert Playbook() >> ("h", hello("h", features=FEATURES)) << ("h", Welcome(1, (PREHEAT,)))


def test_hosts_are_told_the_list_when_they_come_and_each_change() -> None:
    play = Playbook()
    play.tell(ONE)
    assert (
        play
        >> ("h", hello("h", features=FEATURES))
        << ("h", Welcome(1, FEATURES))
        << (
            "h",
            Schedulers(1, A.id, (A,)),
        )
    )
    play.tell(BOTH)
    assert play << ("h", Schedulers(2, A.id, (A, B)))


def test_a_list_that_is_the_same_is_not_told_again() -> None:
    play = Playbook()
    play.tell(BOTH)
    _ = play >> ("h", hello("h", features=FEATURES)) << ("h", Welcome(1, FEATURES))
    assert play << ("h", Schedulers(2, A.id, (A, B)))
    play.tell(replace(BOTH, epoch=3))
    assert play


def test_a_host_of_an_older_version_is_served_without_the_list() -> None:
    play = Playbook()
    play.tell(BOTH)
    assert play >> ("h", hello("h", features=(PREHEAT,))) << ("h", Welcome(1, (PREHEAT,)))
    play.tell(ONE)
    assert play
