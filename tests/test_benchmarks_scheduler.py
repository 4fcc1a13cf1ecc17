"""What the scheduler's benchmark decides: which blobs several schedulers have, and what their figures are."""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address

from benchmarks import __main__
from benchmarks.scheduler.bare import LINKS, BareCore
from benchmarks.scheduler.command import COMMAND, Sample
from benchmarks.scheduler.held import OWNERS, PARTY, parties
from benchmarks.scheduler.load_hosts import SIZE_BYTES, LoadHosts
from benchmarks.scheduler.load_processes import (
    ANNOUNCE,
    CONNECT,
    COUNTS,
    FIRST_JOIN,
    JOIN,
    LEAVE,
    SEAL,
    Counts,
    LoadProcesses,
    Party,
    load_processes,
    source_of,
)
from benchmarks.scheduler.several import OWNED, Load, Member, blobs_of
from scheduler.core.events import Connected, Received, Send
from scheduler.core.scheduler import Scheduler
from scheduler.protocol.codec import TO_HOST
from scheduler.protocol.from_host import Hello, Join, LeasePieces
from scheduler.protocol.rendezvous import owner_of
from scheduler.protocol.to_host import Lease, PieceDigests
from scheduler.shell.server import SchedulerServer

IDS = [f"{number:016x}" for number in range(3)]


def test_each_of_several_has_as_many_blobs_as_the_others_and_they_are_its_own() -> None:
    found = blobs_of(IDS, OWNED)
    assert [len(digests) for digests in found.values()] == [OWNED] * 3
    assert all(owner_of(digest, IDS) == name for name, digests in found.items() for digest in digests)
    assert blobs_of(IDS[:1], OWNED).keys() == {IDS[0]}


def test_a_rate_is_that_of_the_busiest_and_a_cost_is_of_all() -> None:
    load = Load(joins=100, join_cpu_s=(0.5, 0.25, 0.25), connect_cpu_s=0.5, member_kib=1.0)
    assert (load.joins_per_s, load.cpu_s_per_join, load.cpu_s) == (200.0, 0.01, 1.5)


def test_heartbeats_are_no_part_of_a_join() -> None:
    sample = Sample(
        connect_cpu_s=0.1,
        join_cpu_s=0.375,
        heartbeats_cpu_s=0.125,
        joins_per_s=1.0,
        latencies_s=(),
        progress_cpu_s=0.1,
        idle_cpu_s=0.1,
        connection_kib=1.0,
        member_kib=1.0,
    )
    assert sample.bare_join_cpu_s == 0.25


class Sink(asyncio.Transport):
    """Keeps what a host sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))


def test_heartbeats_that_are_answered_are_counted() -> None:
    crowd, line = LoadHosts("127.0.0.1:1", 2), Sink()
    host = crowd.hosts[0]
    host.connection_made(line)
    host.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + 2 * b"\x89\x00")
    assert crowd.pings == 2
    assert line.sent[-2:] == 2 * [b"\x8a\x80" + bytes(4)]


def test_every_figure_is_measured_once() -> None:
    assert len(set(COMMAND.figures)) == len(COMMAND.figures)


def test_three_are_compared_with_one() -> None:
    options = __main__.parser().parse_args(["scheduler"])
    assert (options.schedulers, options.hosts, options.several_hosts) == (3, 10_000, 2000)


def test_a_bare_join_is_answered_as_a_join_is() -> None:
    """The same messages, to as many hosts, of nearly the same length: else the floor is that of something else."""

    def answers(core: Scheduler | BareCore) -> list[Send]:
        def handle(event: Connected | Received, now: float) -> list[Send]:
            return [each for each in core.handle(event, now) if isinstance(each, Send)]

        def of(number: int) -> str:
            return f"host-{number:04}"

        hosts = range(1000, 1100)
        for number in hosts:
            hello = Hello(of(number), 1, 1, f"{of(number)}:1")
            handle(Connected(number, hello, certified=True), 1.0)
        join = Join(bytes(32), "docker.io", "library/app", SIZE_BYTES)
        said: list[Send] = []
        for number in hosts:
            said = handle(Received(number, join), 2.0)
            for lease in [each.message for each in said if isinstance(each.message, Lease)]:
                digests = bytes(32 * (lease.stop - lease.first))
                handle(Received(number, LeasePieces(lease.lease, bytes(32), lease.first, digests)), 2.0)
        return said

    ours, bare = answers(Scheduler()), answers(BareCore())
    assert [type(each.message) for each in bare if not isinstance(each.message, PieceDigests)] == [
        type(each.message) for each in ours if not isinstance(each.message, PieceDigests)
    ]
    assert [len(each.connections) for each in bare] == [1] * (2 + LINKS)
    lengths = [len(TO_HOST.encode(each.message)) for each in bare if not isinstance(each.message, PieceDigests)]
    assert lengths == [len(TO_HOST.encode(each.message)) for each in ours if not isinstance(each.message, PieceDigests)]


MEMBERS = [Member(number, name, f"127.0.0.1:{number}") for number, name in enumerate(IDS)]


def test_hosts_are_divided_among_the_schedulers_and_each_party_has_blobs_of_its_own() -> None:
    hosts = 3 * PARTY * 2 + 100
    found = parties(MEMBERS, hosts)
    assert sum(party.hosts for party in found) == hosts
    assert max(party.hosts for party in found) <= PARTY
    by_address = Counter({member.address: 0 for member in MEMBERS})
    for party in found:
        by_address[party.address] += party.hosts
        name = next(member.id for member in MEMBERS if member.address == party.address)
        assert all(owner_of(blob, IDS) == name for blob in (*party.held, *party.wanted, *party.own))
        assert len(party.own) == party.hosts // OWNERS
    assert max(by_address.values()) - min(by_address.values()) <= 1
    blobs = [blob for party in found for blob in (*party.held, *party.wanted, *party.own)]
    assert len(set(blobs)) == len(blobs)
    assert [party.first for party in found] == [sum(each.hosts for each in found[:at]) for at in range(len(found))]


def test_each_of_many_hosts_has_an_address_of_the_loopback_network() -> None:
    addresses = [ip_address(source_of(number)) for number in (0, 1, 255, 65_535, 65_536, 99_999)]
    assert len(set(addresses)) == len(addresses)
    assert all(address.is_loopback for address in addresses)
    assert ip_address("127.0.0.1") not in addresses


def test_processes_do_what_they_are_told_with_each_party_and_hosts_that_are_lost_do_not_end_it() -> None:
    async def main() -> tuple[list[Counts], list[Counts]]:
        async with SchedulerServer(Scheduler()).serving("127.0.0.1", 0) as port:
            shares = [
                Party(f"127.0.0.1:{port}", first, 24, (bytes(32),), (bytes([first]) * 32,), ()) for first in (1, 101)
            ]
            with load_processes(shares, 2) as crowd:
                for what, arguments in ((CONNECT, ()), (ANNOUNCE, ()), (FIRST_JOIN, (0,)), (JOIN, (0,)), (SEAL, (0,))):
                    await asyncio.to_thread(crowd.do, what, *arguments)
                return await asyncio.to_thread(crowd.do, COUNTS), await asyncio.to_thread(_after_leave, crowd)

    before, after = asyncio.run(main())
    assert [(each.connected, each.lost, each.failures) for each in before] == [(24, 0, 0)] * 2
    assert all(each.said > 4 * 24 and each.heard > 2 * 24 for each in before)
    assert [each.connected for each in after] == [0, 0]


def _after_leave(crowd: LoadProcesses) -> list[Counts]:
    """Hosts that are gone still have an answer to whatever they are told to do."""
    crowd.do(LEAVE)
    crowd.do(SEAL, 0)
    return crowd.do(COUNTS)
