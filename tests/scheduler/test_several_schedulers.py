"""What a scheduler that is one of several tells hosts of the others."""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.events import LiveListChanged
from scheduler.protocol.from_host import PREHEAT, SCHEDULERS, Announce, DigestReport, Holding
from scheduler.protocol.to_host import Lease, RequestDigests, SchedulerAt, Schedulers, Welcome
from tests.scheduler.messages_for_pull import JOIN, MIB, P0, WITHIN, D, add, digests, joined
from tests.scheduler.playbook import SETTINGS, Passes, Playbook, hello

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


def test_hosts_are_told_that_the_list_is_outdated_and_that_it_is_not_any_more() -> None:
    play = Playbook()
    play.tell(BOTH)
    play = play >> ("h", hello("h", features=FEATURES)) << ("h", Welcome(1, FEATURES))
    play = play << ("h", Schedulers(2, A.id, (A, B)))
    for outdated in (True, False):
        play.tell(replace(BOTH, outdated=outdated))
        assert play << ("h", Schedulers(2, A.id, (A, B), outdated))


def test_a_host_of_an_older_version_is_served_without_the_list() -> None:
    play = Playbook()
    play.tell(BOTH)
    assert play >> ("h", hello("h", features=(PREHEAT,))) << ("h", Welcome(1, (PREHEAT,)))
    play.tell(ONE)
    assert play


class TestASwarmThatHasMoved:
    """Its hosts come within a second of each other: what they hold is not to be fetched again."""

    MOVED = replace(JOIN, moved=True)
    FIRST = Lease(1, D, 1, 0, 1, WITHIN)

    def play(self, *hosts: str) -> Playbook:
        return Playbook(*hosts, settings=replace(SETTINGS, moved_s=1.0))

    def test_what_hosts_hold_that_come_a_moment_later_is_not_leased(self) -> None:
        play = self.play("a", "b") >> ("a", self.MOVED) << ("a", joined()) >> Passes(0.9)
        play = play >> ("b", Announce((Holding(D, MIB, complete=False, have=b"\x01"),))) << ("b", RequestDigests(D))
        play = play << ("a", add("b")) << ("b", add("a"))
        play = play >> ("b", DigestReport(D, 0, P0, last=True)) << ("a", digests(0, P0))
        assert play >> Passes(0.1) << ("a", replace(self.FIRST, first=1, stop=2))

    def test_leases_begin_then(self) -> None:
        assert self.play("a") >> ("a", self.MOVED) << ("a", joined()) >> Passes(1.0) << ("a", self.FIRST)

    def test_a_host_that_wants_the_blob_for_the_first_time_gets_one_at_once(self) -> None:
        assert self.play("a") >> ("a", JOIN) << ("a", joined()) << ("a", self.FIRST)

    def test_hosts_that_are_there_already_do_not_wait_for_one_that_has_moved(self) -> None:
        play = self.play("a", "b") >> ("a", JOIN) << ("a", joined()) << ("a", self.FIRST)
        play = play >> ("b", self.MOVED) << ("a", add("b")) << ("b", joined("a"))
        assert play
        assert play.scheduler._state.swarms[D].settles_at == 0.0
