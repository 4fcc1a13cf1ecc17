"""What a scheduler that is one of several tells hosts of the others."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from scheduler.core.events import Connected, LiveListChanged, Received
from scheduler.core.lease_policy import MAX_PATIENCE
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.from_host import PREHEAT, SCHEDULERS, Announce, DigestReport, Holding, LeasePieces
from scheduler.protocol.to_host import Lease, RequestDigests, SchedulerAt, Schedulers, Welcome
from tests.scheduler.messages_for_pull import JOIN, MIB, P0, P2, WITHIN, D, add, digests, joined
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
    play.tell(structs.replace(BOTH, epoch=3))
    assert play


def test_hosts_are_told_that_the_list_is_outdated_and_that_it_is_not_any_more() -> None:
    play = Playbook()
    play.tell(BOTH)
    play = play >> ("h", hello("h", features=FEATURES)) << ("h", Welcome(1, FEATURES))
    play = play << ("h", Schedulers(2, A.id, (A, B)))
    for outdated in (True, False):
        play.tell(structs.replace(BOTH, outdated=outdated))
        assert play << ("h", Schedulers(2, A.id, (A, B), outdated))


def test_a_host_of_an_older_version_is_served_without_the_list() -> None:
    play = Playbook()
    play.tell(BOTH)
    assert play >> ("h", hello("h", features=(PREHEAT,))) << ("h", Welcome(1, (PREHEAT,)))
    play.tell(ONE)
    assert play


def test_the_leases_of_an_origin_are_divided_among_those_that_live() -> None:
    for listed, leases in ((ONE, 4), (BOTH, 2)):
        scheduler = Scheduler(replace(SETTINGS, leases_per_origin=4, leases_per_host=8, leases_per_blob=1))
        scheduler.handle(listed, 0.0)
        scheduler.handle(Connected(1, hello("a")), 0.0)
        for number in range(6):
            scheduler.handle(Received(1, structs.replace(JOIN, digest=bytes([number]) * 32)), 0.0)
        assert scheduler.statistics().leases == leases


class TestASwarmThatHasMoved:
    """Its hosts come within a second of each other: what they hold is not to be fetched again."""

    MOVED = structs.replace(JOIN, moved=True)
    FIRST = Lease(1, D, 1, 0, 1, WITHIN)

    def play(self, *hosts: str) -> Playbook:
        return Playbook(*hosts, settings=replace(SETTINGS, moved_s=1.0))

    def test_what_hosts_hold_that_come_a_moment_later_is_not_leased(self) -> None:
        play = self.play("a", "b") >> ("a", self.MOVED) << ("a", joined()) >> Passes(0.9)
        play = play >> ("b", Announce((Holding(D, MIB, complete=False, have=b"\x01"),))) << ("b", RequestDigests(D))
        play = play << ("a", add("b")) << ("b", add("a"))
        play = play >> ("b", DigestReport(D, 0, P0, last=True)) << ("a", digests(0, P0))
        assert play >> Passes(0.1) << ("a", structs.replace(self.FIRST, first=1, stop=2))

    def test_what_hosts_fetch_already_is_leased_to_them_again(self) -> None:
        play = self.play("a", "b") >> ("a", structs.replace(self.MOVED, fetching=b"\x04"))
        play = play << ("a", joined()) << ("a", Lease(1, D, 1, 2, 3, MAX_PATIENCE * WITHIN))
        play = play >> ("b", structs.replace(self.MOVED, fetching=b"\x06")) << ("b", joined("a")) << ("a", add("b"))
        play = play << ("b", Lease(2, D, 1, 1, 2, MAX_PATIENCE * WITHIN))
        play = play >> Passes(1.0) >> ("a", LeasePieces(1, D, 2, P2)) << ("a", digests(2, P2)) << ("b", digests(2, P2))
        assert play << ("a", structs.replace(self.FIRST, lease=3)), "and no piece is under two leases"

    def test_no_host_is_leased_more_than_else_because_it_says_so(self) -> None:
        play = self.play("a") >> ("a", structs.replace(self.MOVED, fetching=b"\x0f")) << ("a", joined())
        assert play << ("a", Lease(1, D, 1, 0, 2, MAX_PATIENCE * WITHIN))

    def test_nor_in_a_swarm_that_has_been_here_for_long(self) -> None:
        play = self.play("a", "b") >> ("a", JOIN) << ("a", joined()) << ("a", self.FIRST)
        assert play >> ("b", structs.replace(self.MOVED, fetching=b"\x04")) << ("a", add("b")) << ("b", joined("a"))

    def test_leases_begin_then(self) -> None:
        assert self.play("a") >> ("a", self.MOVED) << ("a", joined()) >> Passes(1.0) << ("a", self.FIRST)

    def test_a_host_that_wants_the_blob_for_the_first_time_gets_one_at_once(self) -> None:
        assert self.play("a") >> ("a", JOIN) << ("a", joined()) << ("a", self.FIRST)

    def test_hosts_that_are_there_already_do_not_wait_for_one_that_has_moved(self) -> None:
        play = self.play("a", "b") >> ("a", JOIN) << ("a", joined()) << ("a", self.FIRST)
        play = play >> ("b", self.MOVED) << ("a", add("b")) << ("b", joined("a"))
        assert play
        assert play.scheduler._state.swarms[D].settles_at == 0.0
