"""Several schedulers and one: the cost of the same joins, by real messages to real processes that share a Redis.

Rules:
1. Every host wants every blob, so it is connected to each of the schedulers. Each scheduler has as many blobs as the
   others (`OWNED`), which many blobs come near to.
2. Each scheduler is taken to have a core of its own, which this machine need not have: the time of all joins is the CPU
   time of the busiest one.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import programs
from benchmarks.command import UnmeasurableError
from benchmarks.procfs import cpu_s, memory_mib, settled_rss_mib
from benchmarks.report import Bar, Figure, ratios
from benchmarks.scheduler.load_hosts import LoadHosts, allow_connections
from p2pd.demo.process import command, neutral_environ
from scheduler.protocol.rendezvous import owner_of
from scheduler.shared.live_list import id_of

OWNED: Final = 4
"""Blobs of each of several schedulers. One scheduler has them all."""

BARS: Final = {"joins_several_vs_one": Bar(">=", 2.4), "cpu_per_join_several_vs_one": Bar("<=", 1.1)}

FIGURES: Final = ("joins_per_s_several", *BARS, "cpu_per_host_several_vs_one", "kib_per_member_several")


@dataclass(frozen=True, slots=True)
class Member:
    """One of the schedulers: its process, its id, and where it listens."""

    pid: int
    id: str
    address: str


@dataclass(frozen=True, slots=True)
class Load:
    """What all schedulers together had to do. CPU seconds for the joins are of each scheduler."""

    joins: int
    join_cpu_s: Sequence[float]
    connect_cpu_s: float
    member_kib: float

    @property
    def cpu_s_per_join(self) -> float:
        return sum(self.join_cpu_s) / self.joins

    @property
    def joins_per_s(self) -> float:
        return self.joins / max(self.join_cpu_s)

    @property
    def cpu_s(self) -> float:
        """Of all that the hosts wanted."""
        return self.connect_cpu_s + sum(self.join_cpu_s)


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """A redis-server that keeps nothing; gives its URL."""
    port = programs.free_port()
    words = [programs.find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with programs.running("redis-server", words, f"127.0.0.1:{port}", directory / "redis-log") as program:
        _wait(program, lambda: _answers(port))
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def schedulers(directory: Path, count: int) -> Iterator[list[Member]]:
    """So many schedulers with one CA. One has no Redis."""
    directory.mkdir()
    with ExitStack() as stack:
        members: list[Member] = []
        flags: dict[str, object] = {"redis": stack.enter_context(redis(directory))} if count > 1 else {}
        for number in range(count):
            listen, admin, data = programs.free_address(), programs.free_address(), directory / f"data-{number}"
            words = command("scheduler", {"data": data, "listen": listen, "admin": admin, **flags})
            program = stack.enter_context(
                programs.running("p2pd scheduler", words, admin, directory / f"log-{number}", neutral_environ())
            )
            programs.wait_until_served(program, "/readyz", [200])
            authority = directory / "data-0" / "scheduler" / "authority"
            if count > 1:
                flags |= {"ca-cert": authority / "ca.crt", "ca-key": authority / "ca.key"}
            members.append(Member(program.pid, id_of(f"http://{listen}"), listen))
        yield members


def blobs_of(ids: Sequence[str], each: int) -> dict[str, list[bytes]]:
    """So many blobs of each scheduler, by rendezvous hashing."""
    found: dict[str, list[bytes]] = {name: [] for name in ids}
    for number in itertools.count(1):
        if all(len(digests) == each for digests in found.values()):
            return found
        digest = number.to_bytes(32, "big")
        owned = found[owner_of(digest, ids)]
        if len(owned) < each:
            owned.append(digest)
    raise AssertionError  # never: the numbers do not end


async def _load(members: Sequence[Member], crowds: Sequence[LoadHosts], blobs: int) -> Load:
    rss_mib = [settled_rss_mib(each.pid) for each in members]
    before_s = [cpu_s(each.pid) for each in members]
    await asyncio.gather(*(crowd.connect() for crowd in crowds))
    connect_cpu_s = sum(cpu_s(each.pid) - before for each, before in zip(members, before_s, strict=True))
    owned = blobs_of([each.id for each in members], blobs // len(members))
    joins, join_cpu_s = 0, []
    for each, crowd in zip(members, crowds, strict=True):
        total_s = 0.0
        for digest in owned[each.id]:
            rest = await crowd.first_join(digest)
            before = cpu_s(each.pid)
            await crowd.join(rest, digest)
            await crowd.settle(crowd.hosts)
            total_s += cpu_s(each.pid) - before
            joins += len(rest)
        join_cpu_s.append(total_s)
    grown_mib = sum(memory_mib(each.pid, "VmRSS") - before for each, before in zip(members, rss_mib, strict=True))
    return Load(joins, join_cpu_s, connect_cpu_s, 1024 * grown_mib / (blobs * len(crowds[0].hosts)))


def measure(directory: Path, count: int, hosts: int, runs: int) -> list[Figure]:
    """The same joins at one scheduler and at several, in turns."""
    allow_connections(count * hosts)
    found: dict[int, list[Load]] = {1: [], count: []}
    for run in range(runs):
        for schedulers_here, loads in found.items():
            with (
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
                schedulers(directory / f"{schedulers_here}-{run}", schedulers_here) as members,
                ExitStack() as stack,
            ):
                crowds = [LoadHosts(member.address, hosts) for member in members]
                for crowd in crowds:
                    stack.callback(crowd.leave)
                loads.append(runner.run(_load(members, crowds, OWNED * count)))
    one, several = found[1], found[count]

    def against(name: str, of: Callable[[Load], float], unit: str, scale: float = 1.0) -> Figure:
        ours, theirs = [of(each) for each in several], [of(each) for each in one]
        sides = {f"{count}_{unit}": scale * statistics.median(ours), f"one_{unit}": scale * statistics.median(theirs)}
        return Figure(name, ratios(ours, theirs), BARS.get(name), sides)

    return [
        Figure("joins_per_s_several", [each.joins_per_s for each in several]),
        against("joins_several_vs_one", lambda load: load.joins_per_s, "joins_per_s"),
        against("cpu_per_join_several_vs_one", lambda load: load.cpu_s_per_join, "us", 1e6),
        against("cpu_per_host_several_vs_one", lambda load: load.cpu_s / hosts, "us", 1e6),
        Figure(
            "kib_per_member_several",
            [each.member_kib for each in several],
            None,
            {"one_kib": statistics.median(each.member_kib for each in one)},
        ),
    ]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(program: programs.Program, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + programs.START_BOUND_S
    while not holds():
        if time.monotonic() > deadline:
            raise UnmeasurableError(f"{program.name} did not answer within {programs.START_BOUND_S:g} s")
        time.sleep(programs.POLL_INTERVAL_S)
