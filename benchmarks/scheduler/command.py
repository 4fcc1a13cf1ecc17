"""`scheduler`: the scheduler's cost of a host, by real messages to the real process.

Rules:
1. A join is that of a connected host: its Join, and all messages that follow from it. These are Joined with the
   neighbours, the digests of all pieces, and the messages to the new neighbours. Hosts join a blob of 1 GiB whose
   pieces are known already.
2. A rate is that of one core: joins over the CPU seconds that the scheduler's process took for them. It does not depend
   on a free core. The report has the rate by the clock beside it, which includes the work of the hosts.
3. Each sample is of a newly started scheduler.
4. The growth of a join's cost is that of rule 1 alone: without the heartbeats of all hosts, which are many among 10,000
   and none among 100 in the time that the joins take. A heartbeat costs what it does while all hosts are idle.
5. With TLS and without, a host reconnects and joins: TCP, TLS 1.3 with a resumed session and the host's certificate,
   Hello, and a join as above. Both kinds do so in turns at the same scheduler.
6. `joins_vs_bare` has the joins of rule 4 beside those of the same shell around a core that decides nothing
   (`benchmarks.scheduler.bare`), in turns. What it lacks of 1 is the price of the decisions, on any machine.
7. Several schedulers are compared with one by `benchmarks.scheduler.several`, and `benchmarks.scheduler.held` loads
   them with as many connections as there are to be.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import uvloop

from benchmarks import programs
from benchmarks.arguments import within
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.procfs import cpu_s, memory_mib, settled_rss_mib
from benchmarks.report import Bar, Figure, ratios
from benchmarks.scheduler import held, several
from benchmarks.scheduler.load_host import LoadHost
from benchmarks.scheduler.load_hosts import FIRST_HOSTS, REPORTS, LoadHosts, allow_connections, reports
from benchmarks.scheduler.load_tls import TlsConnection, tickets
from p2pd.demo.process import command, neutral_environ
from scheduler.protocol.fields import MAX_SCHEDULERS

BARS = {
    "joins_per_s": Bar(">=", 3000),
    "join_p99_ms": Bar("<=", 50),
    "kib_per_member": Bar("<=", 10),
    "cost_growth": Bar("<=", 1.3),
    "joins_tls_vs_open": Bar(">=", 0.8),
}

FEW_HOSTS = 100
FEW_HOSTS_BLOBS = 25
"""Swarms that a hundred hosts join, one swarm after the other: 2,000 joins are counted."""

RECONNECTS = 3
LATENCY_LOAD = 0.8
IDLE_S = 12.0
"""Three heartbeats."""

LEAVING_S = 0.5
"""How long the scheduler has to notice that a crowd has hung up."""


@dataclass(frozen=True, slots=True)
class SchedulerTestbed:
    hosts: int
    tls_hosts: int
    runs: int
    directory: Path
    schedulers: int
    several_hosts: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurements of one scheduler. Latencies are in seconds, one for each join."""

    connect_cpu_s: float
    join_cpu_s: float
    heartbeats_cpu_s: float
    """Of the heartbeats that came in the time of a join: a part of `join_cpu_s`."""
    joins_per_s: float
    latencies_s: Sequence[float]
    progress_cpu_s: float
    idle_cpu_s: float
    """Of a host that is connected, in each second."""
    connection_kib: float
    member_kib: float

    @property
    def bare_join_cpu_s(self) -> float:
        """Of a join and all messages that follow from it."""
        return self.join_cpu_s - self.heartbeats_cpu_s


@contextmanager
def scheduler(bed: SchedulerTestbed, hosts: int, more: int = 0) -> Iterator[tuple[int, LoadHosts]]:
    """The process id of `p2pd scheduler`, and its hosts, which are not connected yet. `more` hosts may follow."""
    allow_connections(hosts + more)
    listen, admin = programs.free_address(), programs.free_address()
    words = command("scheduler", {"data": bed.directory / "data", "listen": listen, "admin": admin})
    with programs.running("p2pd scheduler", words, admin, bed.directory / "log", neutral_environ()) as program:
        programs.wait_until_served(program, "/readyz", [200])
        with _crowd(listen, hosts) as crowd:
            yield program.pid, crowd


@contextmanager
def bare_scheduler(bed: SchedulerTestbed, hosts: int) -> Iterator[tuple[int, LoadHosts]]:
    """The same as `scheduler`, but it decides nothing."""
    allow_connections(hosts)
    listen = programs.free_address()
    words = [sys.executable, "-m", "benchmarks.scheduler.bare", listen]
    with programs.running("bare scheduler", words, listen, bed.directory / "bare-log") as program:
        programs.wait_until_served(program, "/", [426])
        with _crowd(listen, hosts) as crowd:
            yield program.pid, crowd


@contextmanager
def _crowd(listen: str, hosts: int) -> Iterator[LoadHosts]:
    crowd = LoadHosts(listen, hosts)
    try:
        yield crowd
    finally:
        crowd.leave()


def blob(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def _many(pid: int, crowd: LoadHosts) -> Sample:
    hosts = len(crowd.hosts)
    rss_mib = settled_rss_mib(pid)
    before_s = cpu_s(pid)
    await crowd.connect()
    connect_cpu_s = (cpu_s(pid) - before_s) / hosts
    idle_cpu_s, heartbeat_cpu_s = await _idle(pid, crowd)
    connection_kib = 1024 * (memory_mib(pid, "VmRSS") - rss_mib) / hosts
    rest = await crowd.first_join(blob(1))
    join_cpu_s, heartbeats_cpu_s, seconds = await _joins(pid, crowd, rest, heartbeat_cpu_s)
    member_kib = 1024 * (memory_mib(pid, "VmRSS") - rss_mib) / hosts
    before_s = cpu_s(pid)
    await crowd.progress(blob(1), reports())
    progress_cpu_s = (cpu_s(pid) - before_s) / (hosts * REPORTS)
    rest = await crowd.first_join(blob(2))
    latencies_s = await crowd.join_at(rest, blob(2), LATENCY_LOAD / join_cpu_s)
    return Sample(
        connect_cpu_s,
        join_cpu_s,
        heartbeats_cpu_s,
        len(rest) / seconds,
        latencies_s,
        progress_cpu_s,
        idle_cpu_s,
        connection_kib,
        member_kib,
    )


async def _idle(pid: int, crowd: LoadHosts) -> tuple[float, float]:
    """CPU seconds of a host that is connected, in each second; and those of a heartbeat."""
    before_s, pings = cpu_s(pid), crowd.pings
    await asyncio.sleep(IDLE_S)
    used_s = cpu_s(pid) - before_s
    return used_s / (len(crowd.hosts) * IDLE_S), used_s / max(1, crowd.pings - pings)


async def _joins(
    pid: int, crowd: LoadHosts, hosts: Sequence[LoadHost], heartbeat_cpu_s: float
) -> tuple[float, float, float]:
    """CPU seconds of a join, and those of them that are of heartbeats; and the seconds that all joins took."""
    before_s, pings, started = cpu_s(pid), crowd.pings, time.perf_counter()
    await crowd.join(hosts, blob(1))
    seconds = time.perf_counter() - started
    await crowd.settle(crowd.hosts)
    join_cpu_s = (cpu_s(pid) - before_s) / len(hosts)
    return join_cpu_s, heartbeat_cpu_s * (crowd.pings - pings) / len(hosts), seconds


async def _at_bare_scheduler(pid: int, crowd: LoadHosts) -> float:
    """CPU seconds of a join that nothing is decided for, without heartbeats."""
    await crowd.connect()
    _, heartbeat_cpu_s = await _idle(pid, crowd)
    join_cpu_s, heartbeats_cpu_s, _ = await _joins(pid, crowd, crowd.hosts[FIRST_HOSTS:], heartbeat_cpu_s)
    return join_cpu_s - heartbeats_cpu_s


async def _few_join_cpu_s(pid: int, crowd: LoadHosts) -> float:
    """CPU seconds for each of a hundred hosts that join."""
    total_s = 0.0
    await crowd.connect()
    for number in range(1, FEW_HOSTS_BLOBS + 1):
        rest = await crowd.first_join(blob(number))
        before_s = cpu_s(pid)
        await crowd.join(rest, blob(number))
        await crowd.settle(crowd.hosts)
        total_s += cpu_s(pid) - before_s
    return total_s / (FEW_HOSTS_BLOBS * (FEW_HOSTS - FIRST_HOSTS))


@dataclass(frozen=True, slots=True)
class Reconnects:
    """CPU seconds for each host, and the growth of the scheduler's memory: hosts of one kind, at one scheduler."""

    connect_cpu_s: float
    join_cpu_s: float
    member_kib: float

    @property
    def total_s(self) -> float:
        return self.connect_cpu_s + self.join_cpu_s


async def _reconnect(pid: int, keepers: LoadHosts, crowd: LoadHosts) -> Reconnects:
    """Connect a crowd, let it join the blob that the keepers hold, and hang up."""
    hosts = len(crowd.hosts)
    rss_mib = settled_rss_mib(pid)
    before_s = cpu_s(pid)
    await crowd.connect()
    await crowd.settle(crowd.hosts)
    connected_s = cpu_s(pid)
    await crowd.join(crowd.hosts, blob(1))
    await crowd.settle(crowd.hosts)
    joined_s = cpu_s(pid)
    member_kib = 1024 * (memory_mib(pid, "VmRSS") - rss_mib) / hosts
    crowd.leave()
    await asyncio.sleep(LEAVING_S)
    await keepers.settle(keepers.hosts)
    return Reconnects((connected_s - before_s) / hosts, (joined_s - connected_s) / hosts, member_kib)


async def _with_tls(bed: SchedulerTestbed, pid: int, keepers: LoadHosts) -> tuple[Reconnects, Reconnects, Reconnects]:
    """Without TLS, with TLS and a resumed session, and with TLS and a full handshake: the last is measured once."""
    count = bed.tls_hosts
    held = tickets(bed.directory / "data" / "scheduler" / "authority", (f"tls-{number}" for number in range(count)))

    def crowd(name: str) -> LoadHosts:
        if name == "open":
            return LoadHosts(keepers.address, count, name)
        return LoadHosts(keepers.address, count, name, lambda host, number: TlsConnection(host, held[number]))

    await keepers.connect()
    await keepers.first_join(blob(1))
    full = await _reconnect(pid, keepers, crowd("tls"))
    found: dict[str, list[Reconnects]] = {"open": [], "tls": []}
    for _ in range(RECONNECTS):
        for name, samples in found.items():
            hosts = crowd(name)
            samples.append(await _reconnect(pid, keepers, hosts))
            if name == "tls" and not all(host.resumed for host in hosts.hosts):
                raise UnmeasurableError("the scheduler has not resumed every session")
    return _median(found["open"]), _median(found["tls"]), full


def _median(samples: Sequence[Reconnects]) -> Reconnects:
    return sorted(samples, key=lambda sample: sample.total_s)[len(samples) // 2]


def measure_tls(bed: SchedulerTestbed) -> list[Figure]:
    """Joins of hosts that reconnect with TLS, beside joins of hosts that reconnect without."""
    samples = []
    for _ in range(bed.runs):
        with (
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            scheduler(bed, FIRST_HOSTS, 2 * bed.tls_hosts) as (pid, keepers),
        ):
            samples.append(runner.run(_with_tls(bed, pid, keepers)))
    plain = [each[0] for each in samples]
    resumed = [each[1] for each in samples]

    def us(values: Iterable[float]) -> float:
        return 1e6 * statistics.median(values)

    parts = {
        "open_us": us(each.total_s for each in plain),
        "tls_us": us(each.total_s for each in resumed),
        "full_handshake_us": us(each[2].total_s for each in samples),
    }
    joins = {"open_us": us(each.join_cpu_s for each in plain), "tls_us": us(each.join_cpu_s for each in resumed)}
    return [
        _figure("joins_tls_vs_open", ratios([x.total_s for x in plain], [x.total_s for x in resumed]), parts),
        _figure("connected_tls_vs_open", ratios([x.join_cpu_s for x in plain], [x.join_cpu_s for x in resumed]), joins),
        _figure("kib_per_tls_member", [each[2].member_kib for each in samples]),
    ]


def measure_several(bed: SchedulerTestbed) -> list[Figure]:
    """Several schedulers beside one."""
    return several.measure(bed.directory, bed.schedulers, bed.several_hosts, bed.runs)


def measure_held(bed: SchedulerTestbed) -> list[Figure]:
    """As many connections as there are to be."""
    return held.measure(bed.directory, bed.schedulers, bed.several_hosts, bed.runs)


def measure(bed: SchedulerTestbed) -> list[Figure]:
    """The testbed. All figures come from the same schedulers, because making the hosts is most of the work."""
    samples, few, bare = [], [], []
    for _ in range(bed.runs):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            with scheduler(bed, FEW_HOSTS) as (pid, crowd):
                few.append(runner.run(_few_join_cpu_s(pid, crowd)))
            with scheduler(bed, bed.hosts) as (pid, crowd):
                samples.append(runner.run(_many(pid, crowd)))
            with bare_scheduler(bed, bed.hosts) as (pid, crowd):
                bare.append(runner.run(_at_bare_scheduler(pid, crowd)))
    join_cpu_s = [sample.join_cpu_s for sample in samples]
    percentiles_ms = [
        [1000 * second for second in statistics.quantiles(sample.latencies_s, n=100)] for sample in samples
    ]
    by_clock = {"by_clock_per_s": statistics.median(sample.joins_per_s for sample in samples)}
    offered = {"offered_per_s": LATENCY_LOAD / statistics.median(join_cpu_s)}
    bare_cpu_s = [sample.bare_join_cpu_s for sample in samples]
    costs = {
        f"cpu_us_at_{FEW_HOSTS}": 1e6 * statistics.median(few),
        f"cpu_us_at_{bed.hosts}": 1e6 * statistics.median(bare_cpu_s),
        "heartbeats_us": 1e6 * statistics.median(sample.heartbeats_cpu_s for sample in samples),
        "growth_with_heartbeats": statistics.median(ratios(join_cpu_s, few)),
    }
    beside_bare = {"cpu_us": costs[f"cpu_us_at_{bed.hosts}"], "bare_us": 1e6 * statistics.median(bare)}
    return [
        _figure("joins_per_s", [1 / cost for cost in join_cpu_s], by_clock),
        _figure("cpu_us_per_join", [1e6 * cost for cost in join_cpu_s]),
        _figure("cpu_us_per_connection", [1e6 * sample.connect_cpu_s for sample in samples]),
        _figure("cpu_us_per_idle_second", [1e6 * sample.idle_cpu_s for sample in samples]),
        _figure("cpu_us_per_progress", [1e6 * sample.progress_cpu_s for sample in samples]),
        _figure("join_p50_ms", [each[49] for each in percentiles_ms], offered),
        _figure("join_p99_ms", [each[98] for each in percentiles_ms], offered),
        _figure("kib_per_connection", [sample.connection_kib for sample in samples]),
        _figure("kib_per_member", [sample.member_kib for sample in samples]),
        _figure("cost_growth", ratios(bare_cpu_s, few), costs),
        _figure("joins_vs_bare", ratios(bare, bare_cpu_s), beside_bare),
    ]


def _figure(name: str, samples: Sequence[float], sides: dict[str, float] | None = None) -> Figure:
    return Figure(name, samples, BARS.get(name), sides or {})


def hosts(text: str) -> int:
    value = int(text)
    if value <= FIRST_HOSTS + 1:
        raise argparse.ArgumentTypeError(f"{text} is not more than {FIRST_HOSTS + 1}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", type=hosts, default=10_000, help="hosts that are connected (default %(default)s)")
    parser.add_argument("--tls-hosts", type=hosts, default=2000, help="hosts that reconnect (default %(default)s)")
    parser.add_argument(
        "--schedulers", type=within(2, MAX_SCHEDULERS), default=3, help="that share the blobs (default %(default)s)"
    )
    parser.add_argument(
        "--several-hosts", type=hosts, default=2000, help="hosts of several schedulers (default %(default)s)"
    )


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[SchedulerTestbed]:
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=options.workdir) as directory:
        yield SchedulerTestbed(
            options.hosts, options.tls_hosts, options.runs, Path(directory), options.schedulers, options.several_hosts
        )


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("p2pd", "uvloop", "wsproto", "msgspec")}


COMMAND = Command(
    name="scheduler",
    summary="what hosts cost the scheduler",
    measures=(
        Measure(
            (
                "joins_per_s",
                "cpu_us_per_join",
                "cpu_us_per_connection",
                "cpu_us_per_idle_second",
                "cpu_us_per_progress",
                "join_p50_ms",
                "join_p99_ms",
                "kib_per_connection",
                "kib_per_member",
                "cost_growth",
                "joins_vs_bare",
            ),
            measure,
        ),
        Measure(("joins_tls_vs_open", "connected_tls_vs_open", "kib_per_tls_member"), measure_tls),
        Measure(several.FIGURES, measure_several),
        Measure(held.FIGURES, measure_held),
    ),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
