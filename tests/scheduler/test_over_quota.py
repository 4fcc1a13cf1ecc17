"""Hosts that want thousands of blobs and bring nothing: others get at the origin, and the scheduler has time."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from scheduler.core.events import Connected, Event, Received, Send, Tick
from scheduler.core.members import Host, Member, Source, Topology
from scheduler.core.over_quota import TRIED, OverQuota
from scheduler.core.rng import Rng
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.core.swarm import Swarm
from scheduler.protocol.fields import DIGEST_BYTES
from scheduler.protocol.from_host import Hello, Join, LeaseEnded, LeaseOutcome, LeasePieces
from scheduler.protocol.to_host import Lease

GOOD = 100
SIZE = 64 << 20
PIECES = 500
SETTINGS = SchedulerSettings(settle_s=0.0)


class Crowd:
    """Hosts with certificates that want made-up blobs of one origin, and bring nothing."""

    def __init__(self, hosts: int, blobs: int, size_bytes: int | None) -> None:
        self.core = Scheduler(SETTINGS)
        self.now = 1.0
        self.leases: dict[int, list[Lease]] = {}
        self.tell(Tick())
        for host in range(hosts):
            self.connect(host)
            for blob in range(blobs):
                self.join(host, bytes([host]) + blob.to_bytes(31), size_bytes)

    def connect(self, host: int) -> None:
        self.tell(Connected(host, Hello(f"h{host}", 1, 1, f"h{host}:1"), certified=True))

    def join(self, host: int, digest: bytes, size_bytes: int | None = SIZE) -> None:
        self.tell(Received(host, Join(digest, "docker.io", "library/app", size_bytes)))

    def tell(self, event: Event) -> None:
        for each in self.core.handle(event, self.now):
            if isinstance(each, Send) and isinstance(each.message, Lease):
                for host in each.connections:
                    self.leases.setdefault(host, []).append(each.message)

    def waits_for_lease(self, host: int) -> float:
        """Seconds until a host has a lease."""
        began = self.now
        while host not in self.leases:
            due = self.core.next_deadline()
            assert due is not None
            self.now = max(self.now, due)
            self.tell(Tick())
        self.core.validate()
        return self.now - began


@pytest.mark.parametrize("size_bytes", [None, SIZE])
@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_a_host_gets_a_lease_soon(hosts: int, size_bytes: int | None) -> None:
    crowd = Crowd(hosts, 300, size_bytes)
    crowd.connect(GOOD)
    crowd.join(GOOD, b"g" * 32)
    assert crowd.waits_for_lease(GOOD) <= 5.0


def test_also_for_a_blob_that_one_of_them_has_asked_for_before() -> None:
    crowd = Crowd(2, 300, SIZE)
    crowd.join(0, b"g" * 32)
    crowd.connect(GOOD)
    crowd.join(GOOD, b"g" * 32)
    assert crowd.waits_for_lease(GOOD) <= 5.0


def test_silent_hosts_have_one_lease_each_while_others_wait() -> None:
    crowd = Crowd(2, 300, SIZE)
    crowd.connect(GOOD)
    for blob in range(40):
        crowd.join(GOOD, b"g" * 31 + bytes([blob]))
    crowd.waits_for_lease(GOOD)
    active = crowd.core._state.leases
    hosts = crowd.core._state.hosts
    assert [active.of_host(hosts[host]) for host in (0, 1)] == [1, 1]
    assert active.of_host(hosts[GOOD]) == SETTINGS.leases_per_host


def test_the_end_of_a_lease_has_few_swarms_tried() -> None:
    crowd = Crowd(1, 1000, SIZE)
    state = crowd.core._state
    lease = crowd.leases[0][0]
    assert len(state.over_quota.next(state.leases.active[lease.lease].member)) == 2
    crowd.tell(Received(0, LeaseEnded(lease.lease, lease.digest, LeaseOutcome.RETURNED)))
    crowd.core.validate()


def _calls_for_each_piece(hosts: int) -> float:
    """Calls that a piece costs the core: each host wants a blob of its own, and brings what it is leased at once."""
    crowd = Crowd(hosts, 1, SIZE)
    state, calls, pieces = crowd.core._state, 0, 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    profiler = sys.getprofile()
    sys.setprofile(count)
    try:
        while state.leases.active and pieces < PIECES:
            number, lease = next(iter(state.leases.active.items()))
            for piece in range(lease.pieces.bit_length())[-lease.pieces.bit_count() :]:
                pieces += 1
                published = LeasePieces(number, lease.digest, piece, bytes(DIGEST_BYTES))
                crowd.tell(Received(lease.member.host.connection, published))
    finally:
        sys.setprofile(profiler)
    crowd.core.validate()
    return calls / pieces


def test_a_piece_costs_the_same_however_many_swarms_wait_for_its_origin() -> None:
    assert _calls_for_each_piece(128) <= 3 * _calls_for_each_piece(4)


def _member(host: str, upstream: str) -> Member:
    made = Member(Host(1, host, "a:1", Topology("", "", ""), 0.0))
    made.source = Source(upstream, "app")
    return made


def _swarm(number: int) -> Swarm:
    return Swarm(number.to_bytes(32), SETTINGS, Rng(0))


def test_lines_take_turns_however_many_there_are() -> None:
    queue = OverQuota()
    lines = 3 * TRIED
    swarms = [_swarm(number) for number in range(lines)]
    for number, swarm in enumerate(swarms):
        queue.add(swarm, [_member(f"h{number}", "docker.io")])
    ended = _member("h", "docker.io")
    assert [swarm for _ in range(3) for swarm in queue.next(ended)] == swarms
    assert queue.next(ended) == swarms[:TRIED]
    for swarm in swarms:
        queue.discard(swarm)
        queue.validate()
    assert queue.next(ended) == []


def test_the_line_that_was_served_comes_last() -> None:
    queue = OverQuota()
    swarms, members = [_swarm(number) for number in range(3)], [_member(host, "docker.io") for host in "aab"]
    for swarm, member in zip(swarms, members, strict=True):
        queue.add(swarm, [member])
    assert queue.next(_member("c", "docker.io")) == [swarms[0], swarms[2]]
    assert queue.after(swarms[0])[:2] == [swarms[2], swarms[1]]
    queue.validate()


def test_a_swarm_that_is_a_clients_now_waits_among_those_of_clients() -> None:
    queue, swarm, member = OverQuota(), _swarm(0), _member("a", "docker.io")
    swarm.wanting.add(member)
    queue.add(swarm, [member])
    assert queue.of_background("docker.io") == [swarm]
    swarm.foreground = 1
    queue.add(swarm, [member])
    assert queue.of_background("docker.io") == []
    assert queue.next(member) == [swarm, swarm]


def test_clients_swarms_are_tried_first() -> None:
    queue, ahead, other, member = OverQuota(), _swarm(0), _swarm(1), _member("a", "docker.io")
    ahead.wanting.add(_member("b", "docker.io"))
    queue.add(ahead, [member])
    queue.add(other, [member])
    assert queue.next(member) == [other, other, ahead, ahead]


def test_a_silent_host_is_not_held_back_for_preheats_of_others() -> None:
    queue, ahead, member = OverQuota(), _swarm(0), _member("a", "docker.io")
    ahead.wanting.add(member)
    queue.add(ahead, [_member("b", "docker.io")])
    assert not queue.others_wait(member)
    member.background = True
    assert queue.others_wait(member)


def _wanted(number: int) -> Swarm:
    swarm = _swarm(number)
    swarm.place = number
    return swarm


def test_in_a_line_the_blob_comes_first_that_was_wanted_first() -> None:
    queue, member = OverQuota(), _member("a", "docker.io")
    swarms = [_wanted(number) for number in range(1, 5)]
    for swarm in reversed(swarms):
        queue.add(swarm, [member])
    tried = []
    for _ in swarms:
        tried.append(queue.next(_member("c", "docker.io"))[0])
        queue.discard(tried[-1])
    assert tried == swarms
    queue.add(swarms[2], [member])
    queue.add(swarms[0], [member])
    assert queue.next(_member("c", "docker.io")) == [swarms[0]]
    queue.validate()


def test_a_blob_that_all_hosts_want_waits_in_the_line_that_is_tried_next() -> None:
    queue, members = OverQuota(), [_member(host, "docker.io") for host in "abc"]
    oldest, ended = _wanted(1), _member("d", "docker.io")
    for number, member in enumerate(members, 2):
        queue.add(_wanted(number), [member])
    queue.add(oldest, members)
    for _ in range(5):
        assert queue.next(ended)[0] is oldest
        queue.after(oldest)
        queue.add(oldest, members)
        queue.validate()
