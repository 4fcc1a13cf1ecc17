"""`failover`: one of several schedulers is killed with SIGKILL while real hosts pull, and what that costs them.

Rules:
1. Schedulers share a Redis. Each owns about as many of the blobs as the others. The first one is killed once a third of
   the bytes has left the registry, whose link the kernel limits, and is not there again before the pull ends.
2. A host is alone from the kill on, until each blob that it lacks and that was at the scheduler that is gone has one
   that has answered. The host's own log says when: both times are of the machine's clock.
3. Copies are what the registry's access log has, over the length of the blobs.
4. All hosts fetch the same blobs in the same order, AT_ONCE at a time. Every client gets what it asked
   for, or nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks import programs
from benchmarks.arguments import MIB, bytes_per_s, positive, size, within
from benchmarks.cluster.image import got_bytes
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.load import BenchmarkBlob
from benchmarks.namespaces import network
from benchmarks.receive import receive
from benchmarks.report import Bar, Figure
from benchmarks.scheduler.several import redis
from benchmarks.testbed import REGISTRY_PORT, push_random
from p2pd.demo.process import command, neutral_environ
from scheduler.protocol.fields import MAX_SCHEDULERS

BARS: Final = {"alone_s": Bar("<=", 2.0), "copies": Bar("<=", 1.02)}
KILLED_AT: Final = 1 / 3
"""The part of the bytes that has left the registry by then."""

AT_ONCE: Final = 8
"""Blobs that each client fetches at a time: more than a runtime, so that many have no scheduler for a moment."""

BOUND_S: Final = 300.0
LOOK_EVERY_S: Final = 0.02
HAS_ONE: Final = "all blobs on their way have a scheduler again"
"""What a host's log says (`peer.host_schedulers`)."""


@dataclass(frozen=True, slots=True)
class Failover:
    """What one pull showed. `alone_s`: of each host that had lost a scheduler for something that it lacked."""

    alone_s: Sequence[float]
    copies: float
    overdue: int
    """The leases of the other schedulers that brought nothing in time: a machine that stalls has some."""


@dataclass(slots=True)
class FailoverTestbed:
    """A registry behind a link of its own, and the host that all the rest runs at."""

    directory: Path
    origin: programs.Program
    address: str
    options: argparse.Namespace
    runs: int
    _count: int = field(default=0)

    def pull(self) -> Failover:
        """One pull by new hosts and new schedulers, of new blobs. Raises UnmeasurableError."""
        self._count += 1
        place = self.directory / f"run-{self._count}"
        place.mkdir()
        blobs = [push_random(self.origin, self.options.size) for _ in range(self.options.blobs)]
        with ExitStack() as stack:
            schedulers = [*_schedulers(stack, place, self.options.schedulers)]
            hosts = [*_hosts(stack, place, self.options.hosts, self.origin, [url for _, url in schedulers])]
            before, whole = self._sent_bytes(), sum(blob.size_bytes for blob in blobs)
            clients = stack.enter_context(ThreadPoolExecutor(AT_ONCE * len(hosts)))
            pulls = [clients.submit(_get, host, blob) for blob in blobs for host in hosts]
            self._wait(lambda: self._sent_bytes() - before >= KILLED_AT * whole)
            killed_at = time.time()
            os.kill(schedulers[0][0].pid, signal.SIGKILL)
            if all(each.done() for each in pulls):
                raise UnmeasurableError("the pull was over before a scheduler was killed: give a larger --size")
            for each in pulls:
                each.result(BOUND_S)
            copies = (self._sent_bytes() - before) / whole
            overdue = sum(_overdue(program) for program, _ in schedulers[1:])
        told = [_logged_at(place / f"host-{number}" / "log", HAS_ONE) for number in range(len(hosts))]
        alone_s = [max(times) - killed_at for times in told if times]
        if not alone_s:
            raise UnmeasurableError("no host lacked a blob of the scheduler that was killed: give more --blobs")
        return Failover(alone_s, copies, overdue)

    def _sent_bytes(self) -> int:
        return got_bytes(self.origin.log.read_text(), {self.address})

    def _wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + BOUND_S
        while not holds():
            if time.monotonic() > deadline:
                raise UnmeasurableError(f"the registry did not send a third of the blobs within {BOUND_S:.0f} s")
            time.sleep(LOOK_EVERY_S)


def _schedulers(stack: ExitStack, place: Path, count: int) -> Iterator[tuple[programs.Program, str]]:
    """Each with the URL at which hosts reach it."""
    flags: dict[str, object] = {"redis": stack.enter_context(redis(place))}
    authority = place / "scheduler-0" / "scheduler" / "authority"
    for number in range(count):
        listen, admin, data = programs.free_address(), programs.free_address(), place / f"scheduler-{number}"
        words = command("scheduler", {"data": data, "listen": listen, "admin": admin, **flags})
        log = place / f"scheduler-{number}.log"
        program = stack.enter_context(programs.running("p2pd scheduler", words, admin, log, neutral_environ()))
        programs.wait_until_served(program, "/readyz", [200])
        flags |= {"ca-cert": authority / "ca.crt", "ca-key": authority / "ca.key"}
        yield program, f"http://{listen}"


def _hosts(
    stack: ExitStack, place: Path, count: int, origin: programs.Program, urls: Sequence[str]
) -> Iterator[programs.Program]:
    """Hosts that are connected to a scheduler."""
    for number in range(count):
        directory = place / f"host-{number}"
        directory.mkdir()
        mirror, admin = programs.free_address(), programs.free_address()
        flags = {
            "data": directory / "data",
            "mirror": mirror,
            "admin": admin,
            "peer": programs.free_address(),
            "upstream": f"docker.io=http://{origin.address}",
            "scheduler": urls,
            "allow-open": None,
            "min-free-bytes": 0,
        }
        words = command("run", flags)
        host = stack.enter_context(programs.running("p2pd", words, mirror, directory / "log", neutral_environ()))
        programs.wait_until_served(host, "/v2/", [200])
        deadline = time.monotonic() + programs.START_BOUND_S
        while not programs.answer(admin, "/status")["swarm"]["scheduler_connected"]:
            if time.monotonic() > deadline:
                raise UnmeasurableError(f"a host found no scheduler within {programs.START_BOUND_S:g} s")
            time.sleep(LOOK_EVERY_S)
        yield host


def _get(host: programs.Program, blob: BenchmarkBlob) -> None:
    connection = HTTPConnection(host.address, timeout=BOUND_S)
    received = receive(connection, f"/v2/{programs.REPOSITORY}/blobs/{blob.digest}", len)
    connection.close()
    if received.digest != blob.digest:
        raise UnmeasurableError(f"a client got status {received.status} and {received.size_bytes} bytes of a blob")


def _overdue(scheduler: programs.Program) -> int:
    return int(programs.answer(scheduler.address, "/status")["scheduler"]["leases_overdue"])


def _logged_at(log: Path, event: str) -> list[float]:
    """The Unix times of an event in a daemon's log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [datetime.fromisoformat(each["timestamp"]).timestamp() for each in lines if each.get("event") == event]


def failover(bed: FailoverTestbed) -> list[Figure]:
    """So many pulls, each with new schedulers."""
    pulls = [bed.pull() for _ in range(bed.runs)]
    median_s = statistics.median(alone_s for each in pulls for alone_s in each.alone_s)
    hosts = statistics.median(len(each.alone_s) for each in pulls)
    overdue = statistics.median(each.overdue for each in pulls)
    longest_s = [max(each.alone_s) for each in pulls]
    return [
        Figure("alone_s", longest_s, BARS["alone_s"], {"median_s": median_s, "hosts": hosts}),
        Figure("copies", [each.copies for each in pulls], BARS["copies"], {"leases_overdue": overdue}),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", type=within(2, 64), default=8, help="(default %(default)s)")
    parser.add_argument("--schedulers", type=within(2, MAX_SCHEDULERS), default=3, help="(default %(default)s)")
    parser.add_argument("--blobs", type=positive, default=9, help="that each host pulls (default %(default)s)")
    parser.add_argument("--size", type=size, default=32 * MIB, help="of each blob (default 32MiB)")
    parser.add_argument(
        "--origin-rate", type=bytes_per_s, default="100mbit", help="of the registry's link (default %(default)s)"
    )
    parser.set_defaults(runs=3)


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[FailoverTestbed]:
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=options.workdir) as directory, ExitStack() as stack:
        net = stack.enter_context(network())
        registry, here = net.host(up=options.origin_rate), net.host()
        stack.enter_context(here.entered())
        running = programs.docker_registry(
            Path(directory) / "origin", address=f"{registry.address}:{REGISTRY_PORT}", access_log=True
        )
        origin = registry.call(stack.enter_context, running)
        yield FailoverTestbed(Path(directory), origin, here.address, options, options.runs)


def versions() -> Mapping[str, str]:
    return {"p2pd": metadata.version("p2pd"), **programs.versions()}


COMMAND = Command(
    name="failover",
    summary="one of several schedulers is killed while real hosts pull: for how long they are alone, and copies",
    measures=(Measure(("alone_s", "copies"), failover),),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
