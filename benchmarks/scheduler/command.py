"""`scheduler`: the scheduler's cost of a host, by real messages to the real process.

Rules:
1. A join is that of a connected host: its Join, and all messages that follow from it. These are Joined with the
   neighbours, the digests of all pieces, and the messages to the new neighbours. Hosts join a blob of 1 GiB whose
   pieces are known already.
2. A rate is that of one core: joins over the CPU seconds that the scheduler's process took for them. It does not depend
   on a free core. The report has the rate by the clock beside it, which includes the work of the hosts.
3. Each sample is of a newly started scheduler.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import uvloop

from benchmarks import programs
from benchmarks.command import Command, Measure
from benchmarks.procfs import cpu_s, memory_mib, settled_rss_mib
from benchmarks.report import Bar, Figure, ratios
from benchmarks.scheduler.load_hosts import FIRST_HOSTS, PIECES, LoadHosts, allow_connections
from p2pd.demo.process import command, neutral_environ

BARS = {
    "joins_per_s": Bar(">=", 2000),
    "join_p99_ms": Bar("<=", 50),
    "kib_per_member": Bar("<=", 10),
    "cost_growth": Bar("<=", 1.5),
}

FEW_HOSTS = 100
FEW_HOSTS_BLOBS = 25
"""Swarms that a hundred hosts join, one swarm after the other: 2,000 joins are counted."""

REPORTS = 4
LATENCY_LOAD = 0.8


@dataclass(frozen=True, slots=True)
class SchedulerTestbed:
    hosts: int
    runs: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurements of one scheduler. Latencies are in seconds, one for each join."""

    connect_cpu_s: float
    join_cpu_s: float
    joins_per_s: float
    latencies_s: Sequence[float]
    progress_cpu_s: float
    member_kib: float


@contextmanager
def scheduler(bed: SchedulerTestbed, hosts: int) -> Iterator[tuple[int, LoadHosts]]:
    """The process id of `p2pd scheduler`, and its hosts, which are not connected yet."""
    allow_connections(hosts)
    listen, admin = programs.free_address(), programs.free_address()
    words = command("scheduler", {"data": bed.directory / "data", "listen": listen, "admin": admin})
    with programs.running("p2pd scheduler", words, admin, bed.directory / "log", neutral_environ()) as program:
        programs.wait_until_served(program, "/readyz", [200])
        crowd = LoadHosts(listen, hosts)
        try:
            yield program.pid, crowd
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
    rest = await crowd.first_join(blob(1))
    before_s, started = cpu_s(pid), time.perf_counter()
    await crowd.join(rest, blob(1))
    seconds = time.perf_counter() - started
    await crowd.settle(crowd.hosts)
    join_cpu_s = (cpu_s(pid) - before_s) / len(rest)
    member_kib = 1024 * (memory_mib(pid, "VmRSS") - rss_mib) / hosts
    before_s = cpu_s(pid)
    await crowd.progress(blob(1), reports())
    progress_cpu_s = (cpu_s(pid) - before_s) / (hosts * REPORTS)
    rest = await crowd.first_join(blob(2))
    latencies_s = await crowd.join_at(rest, blob(2), LATENCY_LOAD / join_cpu_s)
    return Sample(connect_cpu_s, join_cpu_s, len(rest) / seconds, latencies_s, progress_cpu_s, member_kib)


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


def reports() -> list[bytes]:
    """The bitfields that a host reports while it pulls: more and more pieces, in random places."""
    return [
        sum(1 << piece for piece in range(PIECES) if piece % REPORTS <= number).to_bytes((PIECES + 7) // 8, "little")
        for number in range(REPORTS)
    ]


def measure(bed: SchedulerTestbed) -> list[Figure]:
    """The testbed. All figures come from the same schedulers, because making the hosts is most of the work."""
    samples, few = [], []
    for _ in range(bed.runs):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            with scheduler(bed, FEW_HOSTS) as (pid, crowd):
                few.append(runner.run(_few_join_cpu_s(pid, crowd)))
            with scheduler(bed, bed.hosts) as (pid, crowd):
                samples.append(runner.run(_many(pid, crowd)))
    join_cpu_s = [sample.join_cpu_s for sample in samples]
    percentiles_ms = [
        [1000 * second for second in statistics.quantiles(sample.latencies_s, n=100)] for sample in samples
    ]
    by_clock = {"by_clock_per_s": statistics.median(sample.joins_per_s for sample in samples)}
    offered = {"offered_per_s": LATENCY_LOAD / statistics.median(join_cpu_s)}
    costs = {f"cpu_us_at_{FEW_HOSTS}": 1e6 * statistics.median(few)}
    return [
        _figure("joins_per_s", [1 / cost for cost in join_cpu_s], by_clock),
        _figure("cpu_us_per_join", [1e6 * cost for cost in join_cpu_s]),
        _figure("cpu_us_per_connection", [1e6 * sample.connect_cpu_s for sample in samples]),
        _figure("cpu_us_per_progress", [1e6 * sample.progress_cpu_s for sample in samples]),
        _figure("join_p50_ms", [each[49] for each in percentiles_ms], offered),
        _figure("join_p99_ms", [each[98] for each in percentiles_ms], offered),
        _figure("kib_per_member", [sample.member_kib for sample in samples]),
        _figure("cost_growth", ratios(join_cpu_s, few), costs),
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


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[SchedulerTestbed]:
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=options.workdir) as directory:
        yield SchedulerTestbed(options.hosts, options.runs, Path(directory))


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("p2pd", "uvloop", "wsproto", "msgpack")}


COMMAND = Command(
    name="scheduler",
    summary="what hosts cost the scheduler",
    measures=(
        Measure(
            (
                "joins_per_s",
                "cpu_us_per_join",
                "cpu_us_per_connection",
                "cpu_us_per_progress",
                "join_p50_ms",
                "join_p99_ms",
                "kib_per_member",
                "cost_growth",
            ),
            measure,
        ),
    ),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
