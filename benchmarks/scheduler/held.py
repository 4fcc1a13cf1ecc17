"""As many connections as there are to be, held at once at several schedulers that share a Redis.

Each host is connected to one of the schedulers, as it is if all its blobs are there, and says what a host says:

1. Hello, and what it holds: `HELD` blobs that its party holds.
2. It joins a blob of 1 GiB, which `PARTY` hosts want, reports its progress four times, says that the blob is whole, and
   leaves the swarm.
3. Some hosts join a second blob, at a rate that leaves most of two cores idle: so long does an answer take.
4. One host in `OWNERS` joins a blob that nobody else wants: a swarm of its own.

A cost is in the CPU seconds of the schedulers, and in the growth of their resident memory. So it depends little on what
else the machine does, which has the load and the schedulers on the same cores. It contains what all connections cost
meanwhile by being there, so it is higher where all of it takes longer. The rates by the clock are those of all.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.procfs import cpu_s, memory_mib, settled_rss_mib
from benchmarks.report import Figure, rounded
from benchmarks.scheduler import load_processes as load
from benchmarks.scheduler.load_hosts import FIRST_HOSTS, allow_connections, reports
from benchmarks.scheduler.several import Member, blobs_of, schedulers

PARTY: Final = 1000
HELD: Final = 10
OWNERS: Final = 100
OWN_BYTES: Final = 64 * 2**20
"""A blob of 64 pieces."""

PER_PROCESS: Final = 4000
"""Hosts in a process of the load. One that has too few cores answers pings late, and its hosts are given up."""

IDLE_S: Final = 12.0
"""Three heartbeats."""

OFFERED: Final = 0.25
"""Cores that the joins may take of all schedulers together while answers are timed."""

TIMED: Final = 10_000
"""Joins whose answers are timed: enough for a 99th percentile."""

FIGURES: Final = ("connections_held",)


def parties(members: Sequence[Member], hosts: int) -> list[load.Party]:
    """The hosts divided among the schedulers, and those of each into parties, each with blobs of its scheduler."""
    found: list[load.Party] = []
    each = math.ceil(hosts / len(members) / PARTY)
    own = PARTY // OWNERS
    blobs = blobs_of([member.id for member in members], each * (HELD + 2 + own))
    for number in range(each):
        for turn, member in enumerate(members):
            its = hosts // len(members) + (turn < hosts % len(members))
            count = its // each + (number < its % each)
            some = iter(blobs[member.id][number::each])
            held, wanted = (tuple(next(some) for _ in range(size)) for size in (HELD, 2))
            first = found[-1].first + found[-1].hosts if found else 0
            found.append(load.Party(member.address, first, count, held, wanted, tuple(some)[: count // OWNERS]))
    return found


class _Costs:
    """CPU seconds and MiB of the schedulers, from one look to the next."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._pids = [member.pid for member in members]
        self._cpu_s = [cpu_s(pid) for pid in self._pids]
        self._rss_mib = [settled_rss_mib(pid) for pid in self._pids]
        self._started = time.perf_counter()
        self.cpu_s: list[float] = []
        self.all_cpu_s = 0.0
        """Of all looks."""
        self.grown_mib = 0.0
        self.rss_mib = self._rss_mib
        self.took_s = 0.0

    def look(self) -> None:
        now_s = [cpu_s(pid) for pid in self._pids]
        rss_mib = [memory_mib(pid, "VmRSS") for pid in self._pids]
        now = time.perf_counter()
        self.took_s, self._started = now - self._started, now
        self.cpu_s = [after - before for after, before in zip(now_s, self._cpu_s, strict=True)]
        self.all_cpu_s += sum(self.cpu_s)
        self.grown_mib = sum(rss_mib) - sum(self.rss_mib)
        self._cpu_s, self.rss_mib = now_s, rss_mib

    def us(self, count: float) -> float:
        """CPU of each of so many events since the last look."""
        return 1e6 * sum(self.cpu_s) / count

    def kib(self, count: float) -> float:
        return 1024 * self.grown_mib / count


def _facts(members: Sequence[Member], crowd: load.LoadProcesses, shares: Sequence[load.Party]) -> dict[str, float]:
    """What all that the hosts say costs, in the order in which they say it. It is told as it is known."""
    hosts = sum(party.hosts for party in shares)
    joins = hosts - FIRST_HOSTS * len(shares)
    own = sum(len(party.own) for party in shares)
    facts: dict[str, float] = {}

    def note(**found: float) -> None:
        facts.update(found)
        print(*(f"{name} {rounded(value):g}" for name, value in found.items()), sep=", ", file=sys.stderr, flush=True)

    note(schedulers=len(members), load_processes=len(crowd.pids), swarms=2 * len(shares) + own)
    costs = _Costs(members)

    crowd.do(load.CONNECT)
    costs.look()
    note(connect_s=costs.took_s, us_per_connection=costs.us(hosts), kib_per_connection=costs.kib(hosts))
    time.sleep(IDLE_S)
    costs.look()
    note(us_per_idle_s=costs.us(hosts * costs.took_s))

    crowd.do(load.ANNOUNCE)
    costs.look()
    note(us_per_holding=costs.us(HELD * hosts), kib_per_holding=costs.kib(HELD * hosts))

    crowd.do(load.FIRST_JOIN, 0)
    costs.look()
    begun_mib = costs.grown_mib
    crowd.do(load.JOIN, 0)
    costs.look()
    join_s = sum(costs.cpu_s) / joins
    note(us_per_join=costs.us(joins), joins_per_s_of_a_core=1 / join_s, joins_per_s_by_clock=joins / costs.took_s)
    note(share_of_the_busiest=max(costs.cpu_s) / sum(costs.cpu_s))
    note(kib_per_member=1024 * (begun_mib + costs.grown_mib) / hosts)

    said = reports()
    crowd.do(load.PROGRESS, 0, said)
    costs.look()
    note(us_per_report=costs.us(hosts * len(said)))
    crowd.do(load.SEAL, 0)
    costs.look()
    note(us_per_sealed=costs.us(hosts), mib_of_the_largest=max(costs.rss_mib))

    crowd.do(load.FIRST_JOIN, 1)
    per_s, timed = OFFERED / join_s, math.ceil(TIMED / len(shares))
    waits_s = [wait for some in crowd.do(load.JOIN_AT, 1, timed, per_s / crowd.parallel) for wait in some]
    percentiles = statistics.quantiles(waits_s, n=100)
    note(offered_per_s=per_s, p50_ms=1000 * percentiles[49], p99_ms=1000 * percentiles[98])

    costs.look()
    crowd.do(load.GIVE_UP, 0)
    costs.look()
    note(us_per_leave=costs.us(hosts))

    crowd.do(load.JOIN_OWN, OWN_BYTES)
    costs.look()
    note(us_per_swarm=costs.us(own), kib_per_swarm=costs.kib(own))

    counts: list[load.Counts] = crowd.do(load.COUNTS)
    for why in {each.why for each in counts if each.why}:
        print(why, file=sys.stderr)
    messages = sum(each.said + each.heard for each in counts)
    note(messages=messages, us_per_message=1e6 * costs.all_cpu_s / messages)
    note(lost=sum(each.lost for each in counts), failures=sum(each.failures for each in counts))
    note(connected=sum(each.connected for each in counts))
    note(load_mib=sum(memory_mib(pid, "VmRSS") for pid in crowd.pids))

    costs.look()
    crowd.do(load.LEAVE)
    _wait_for_calm(members)
    costs.look()
    note(us_per_disconnect=costs.us(hosts))
    return facts


def _wait_for_calm(members: Sequence[Member]) -> None:
    """Wait until the schedulers have noticed that all hosts are gone: they use no core any more."""
    before = [cpu_s(member.pid) for member in members]
    while True:
        time.sleep(2.0)
        after = [cpu_s(member.pid) for member in members]
        if sum(after) - sum(before) < 0.2 * len(members):
            return
        before = after


@contextmanager
def _crowd(
    directory: Path, count: int, hosts: int
) -> Iterator[tuple[list[Member], load.LoadProcesses, list[load.Party]]]:
    allow_connections(math.ceil(hosts / count))
    with schedulers(directory, count) as members:
        shares = parties(members, hosts)
        with load.load_processes(shares, max(2, math.ceil(hosts / PER_PROCESS))) as crowd:
            yield members, crowd, shares


def measure(directory: Path, count: int, hosts: int, runs: int) -> list[Figure]:
    """Hold the connections; each run with schedulers of its own."""
    samples = []
    for run in range(runs):
        with _crowd(directory / f"held-{run}", count, hosts) as (members, crowd, shares):
            samples.append(_facts(members, crowd, shares))
    sides = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    return [Figure("connections_held", [sample["connected"] for sample in samples], None, sides)]
