"""New publishers are checked: who is asked, what is held back, and what follows from each answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from scheduler.core.events import Close, Connected, Event, Received, Send, Tick
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.core.spot_checks import CHECK_S, CHECKERS, MIN_MEMBERS, MIN_PIECES, SLICES
from scheduler.protocol.codec import FromHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import FEATURES, Bye, Hello, Join, LeasePieces, Leave, Sealed, SpotChecked, SpotResult
from scheduler.protocol.geometry import MIN_PIECE_BYTES, piece_count, piece_length
from scheduler.protocol.to_host import Lease, Neighbours, PieceDigests, SpotCheck

D = b"d" * 32
SIZE = MIN_PIECES * MIN_PIECE_BYTES
RIGHT, WRONG, UNKNOWN = SpotResult.RIGHT, SpotResult.WRONG, SpotResult.UNKNOWN


def right(piece: int) -> bytes:
    return bytes([piece + 1]) * 32


class Crowd:
    """Hosts that have joined one swarm, and all that the scheduler has told them since."""

    def __init__(self, hosts: int = MIN_MEMBERS + 4, size_bytes: int = SIZE, old: Collection[int] = ()) -> None:
        """`old` are hosts from before there were checks."""
        self.scheduler = Scheduler(SchedulerSettings(leases_per_blob=1, leases_per_host=1, settle_s=0.0))
        self.now = 10.0
        self.told: list[tuple[int, Any]] = []
        self.closed: dict[int, Closing] = {}
        self.size_bytes = size_bytes
        self.enter(range(1, hosts + 1), old)

    def enter(self, hosts: range, old: Collection[int] = ()) -> None:
        """Hosts connect, and join the swarm."""
        for host in hosts:
            features = () if host in old else FEATURES
            self._play(Connected(host, Hello(f"h{host}", 1, 1, f"h{host}:1", features=features)))
        for host in hosts:
            self.say(host, Join(D, "docker.io", "library/app", self.size_bytes))

    def say(self, host: int, message: FromHost) -> None:
        self._play(Received(host, message))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._play(Tick())

    def heard(self, kind: type[Any]) -> list[tuple[int, Any]]:
        """All messages of a type, each with the host that was told."""
        return [(host, message) for host, message in self.told if isinstance(message, kind)]

    def publish(self, digest: bytes | None = None) -> tuple[int, Lease]:
        """The host with the latest lease publishes its piece. Returns the host, and the lease."""
        host, lease = self.heard(Lease)[-1]
        for piece in range(lease.first, lease.stop):
            self.say(host, LeasePieces(lease.lease, D, piece, digest or right(piece)))
        return host, lease

    def answer(self, *results: SpotResult) -> list[int]:
        """The latest checkers answer. Returns all of them."""
        checks = self.heard(SpotCheck)[-CHECKERS:]
        for (host, check), result in zip(checks, results, strict=False):
            self.say(host, SpotChecked(D, check.generation, check.piece, result))
        return [host for host, _ in checks]

    def go_on(self) -> None:
        """All pieces are published as they are, and all checks confirm them."""
        while self.scheduler.statistics().leases:
            checks = len(self.heard(SpotCheck))
            self.publish()
            if len(self.heard(SpotCheck)) > checks:
                self.answer(RIGHT, RIGHT)

    def _play(self, event: Event) -> None:
        for instruction in self.scheduler.handle(event, self.now):
            if isinstance(instruction, Send):
                self.told += [(host, instruction.message) for host in instruction.connections]
            elif isinstance(instruction, Close):
                self.closed[instruction.connection] = instruction.closing
        self.scheduler.validate()


def test_the_first_digest_of_a_publisher_is_told_to_its_checkers_alone() -> None:
    crowd = Crowd()
    publisher, lease = crowd.publish()
    checks = crowd.heard(SpotCheck)
    assert len({host for host, _ in checks} - {publisher}) == CHECKERS
    assert not crowd.heard(PieceDigests)
    for _, check in checks:
        assert (check.piece, check.piece_digest) == (lease.first, right(lease.first))
        assert check.stop - check.start == MIN_PIECE_BYTES // SLICES
        assert check == checks[0][1], "all compare the same bytes: honest hosts agree"


def test_confirmed_it_is_told_to_all_and_the_publisher_is_checked_no_more() -> None:
    crowd = Crowd()
    publisher, _ = crowd.publish()
    crowd.answer(RIGHT)
    assert not crowd.heard(PieceDigests)
    crowd.answer(UNKNOWN, RIGHT)
    assert {host for host, _ in crowd.heard(PieceDigests)} >= set(range(1, MIN_MEMBERS + 5)) - {publisher}


def test_contradicted_the_piece_goes_to_another_host_and_nobody_is_accused_yet() -> None:
    crowd = Crowd()
    publisher, lease = crowd.publish(b"\xff" * 32)
    checkers = crowd.answer(WRONG)
    assert not crowd.heard(PieceDigests)
    crowd.publish()
    host, again = crowd.heard(Lease)[-1]
    assert again.first == lease.first
    assert host not in (publisher, checkers[0])
    assert not crowd.closed


@pytest.mark.parametrize("liar_publishes", [True, False])
def test_the_sha256_says_which_of_the_two_was_wrong(liar_publishes: bool) -> None:
    crowd = Crowd()
    publisher, _ = crowd.publish(b"\xff" * 32 if liar_publishes else None)
    checker = crowd.answer(WRONG)[0]
    liar = publisher if liar_publishes else checker
    crowd.go_on()
    assert not crowd.closed
    for host in set(range(1, MIN_MEMBERS + 5)) - {liar}:
        crowd.say(host, Sealed(D, 1))
    assert crowd.closed == {liar: Closing.QUARANTINED}


def test_silence_of_all_checkers_confirms_nothing_and_accuses_nobody() -> None:
    crowd = Crowd()
    _, lease = crowd.publish()
    crowd.wait(CHECK_S)
    assert not crowd.heard(PieceDigests)
    for _ in range(3):  # the lease that was open has become late meanwhile, and its piece was leased once more
        crowd.publish()
    assert [each.first for _, each in crowd.heard(Lease)].count(lease.first) == 2
    assert not crowd.closed


def test_a_checker_that_leaves_is_not_waited_for() -> None:
    crowd = Crowd()
    crowd.publish()
    checkers = crowd.answer(RIGHT)
    crowd.say(checkers[1], Leave(D))
    assert crowd.heard(PieceDigests)


def test_hosts_that_join_leave_a_publisher_its_checkers() -> None:
    """A checker that is no neighbour of the publisher any more would never get the piece."""
    crowd = Crowd(hosts=14)
    publisher, _ = crowd.publish()
    checkers = {host for host, _ in crowd.heard(SpotCheck)}
    crowd.told.clear()
    crowd.enter(range(15, 60))
    lost = {f"h{host}" for host in checkers}
    assert not any(lost & set(message.remove) for host, message in crowd.heard(Neighbours) if host == publisher)


def test_where_all_are_silent_checks_end_and_the_blob_goes_on() -> None:
    crowd = Crowd()
    for _ in range(20):
        crowd.publish()
        crowd.wait(CHECK_S)
    assert crowd.heard(PieceDigests)


def test_hosts_that_know_no_checks_are_not_asked_for_any() -> None:
    """In a rolling upgrade: a piece would wait for their answers, which never come."""
    hosts = range(1, MIN_MEMBERS + 5)
    crowd = Crowd(len(hosts), old=hosts)
    crowd.publish()
    assert not crowd.heard(SpotCheck)
    assert crowd.heard(PieceDigests), "it is believed at once, since nobody can check it"
    new = hosts[-3:]
    crowd = Crowd(len(hosts), old=hosts[:-3])
    crowd.publish()
    assert {host for host, _ in crowd.heard(SpotCheck)} <= set(new)


def test_a_publisher_that_leaves_takes_its_digest_with_it() -> None:
    crowd = Crowd()
    publisher, lease = crowd.publish()
    crowd.say(publisher, Bye())
    crowd.answer(RIGHT, RIGHT)
    assert not crowd.heard(PieceDigests)
    crowd.publish()
    assert crowd.heard(Lease)[-1][1].first == lease.first


@pytest.mark.parametrize(("hosts", "size_bytes"), [(MIN_MEMBERS - 1, SIZE), (20, SIZE // 2)])
def test_small_swarms_and_small_blobs_are_not_checked(hosts: int, size_bytes: int) -> None:
    crowd = Crowd(hosts, size_bytes)
    crowd.publish()
    assert not crowd.heard(SpotCheck)
    assert crowd.heard(PieceDigests)


def test_checks_of_honest_hosts_take_a_hundredth_of_the_blob_at_most() -> None:
    crowd = Crowd(40)
    crowd.go_on()
    taken = sum(check.stop - check.start for _, check in crowd.heard(SpotCheck))
    assert 0 < taken <= SIZE / 100
    assert piece_count(SIZE, piece_length(SIZE)) == MIN_PIECES


def test_one_whose_digests_were_right_is_checked_in_few_of_the_next_blobs() -> None:
    crowd = Crowd()
    crowd.go_on()
    for host in range(1, MIN_MEMBERS + 5):
        crowd.say(host, Sealed(D, 1))
    proved = {host for host, _ in crowd.heard(Lease)}
    checked = 0
    for number in range(40):
        blob = bytes([number]) * 32
        for host in proved:
            crowd.say(host, Join(blob, "docker.io", "library/app", SIZE))
        host, lease = crowd.heard(Lease)[-1]
        assert lease.digest == blob
        before = len(crowd.heard(SpotCheck))
        crowd.say(host, LeasePieces(lease.lease, blob, lease.first, right(lease.first)))
        checked += len(crowd.heard(SpotCheck)) > before
        for host in proved:
            crowd.say(host, Leave(blob))
    assert len(proved) >= MIN_MEMBERS
    assert 0 < checked < 15
