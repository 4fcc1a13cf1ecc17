"""`profile`: where a host's CPU time goes at full speed: from an origin, from a neighbour, and to a neighbour.

Rules:
1. Nothing limits the host: origin, client, neighbour and host are on loopback. From an origin, curl takes the bytes to
   /dev/null meanwhile; from a neighbour, the client reads afterwards (`benchmarks.transfer`). The profiles include
   the sending to the client.
2. Figures are CPU seconds per GiB; `sides` has them by stage, user and system time apart (`benchmarks.profile.stages`).
3. Each is measured with files on a file system in memory and on a disk, and each of these on memory that was touched
   just before and on memory that was left alone. A virtual machine may give free memory back to its host after some
   seconds, and then gets it page by page while a file is written. `touch_s_per_gib` shows which kind of memory there
   was: the CPU seconds that touching a sample of it took. Both are equal where nothing takes free memory back.
"""

from __future__ import annotations

import argparse
import mmap
import resource
import ssl
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import load, programs
from benchmarks.arguments import GIB, MIB
from benchmarks.command import Command, Measure
from benchmarks.datapath.command import UNCOUNTED, add_arguments, settle, touch_free_memory
from benchmarks.load import BenchmarkBlob
from benchmarks.profile.sampler import HostProfile, perf_works, profiled
from benchmarks.profile.stages import STAGES
from benchmarks.report import Figure, Report
from benchmarks.testbed import Testbed, testbed
from benchmarks.transfer.command import fetch, is_complete, pair, wait

MEMORY: Final = Path("/dev/shm")  # noqa: S108 (files there are in a directory of their own)
PLACES: Final = ("memory", "disk")
TOUCHED: Final = ("touched", "untouched")
HOSTS: Final = {"origin": "from an origin", "receiver": "from a neighbour", "sender": "to a neighbour"}
LEFT_ALONE_S: Final = 5.0
"""Linux reports free pages to the hypervisor two seconds after they were set free (mm/page_reporting.c)."""

TOUCH_SAMPLE_BYTES: Final = 64 * MIB


def figure_name(host: str, place: str, touched: str) -> str:
    return f"cpu_s_per_gib.{host}.{place}.{touched}"


class ProfileTestbed:
    """A testbed for each place of files, opened at the first use."""

    def __init__(self, size_bytes: int, runs: int, workdir: Path | None, stack: ExitStack) -> None:
        self._open = partial(testbed, size_bytes, runs)
        self._below = {"memory": MEMORY, "disk": workdir}
        self._stack = stack
        self._beds: dict[str, Testbed] = {}

    def at(self, place: str) -> Testbed:
        """Raises UnmeasurableError if there is no room for the files."""
        if place not in self._beds:
            self._beds[place] = self._stack.enter_context(self._open(self._below[place], None))
        return self._beds[place]


def prepare(touched: str, size_bytes: int) -> float:
    """Touch the memory of the next run's files, or leave it alone; returns the CPU seconds for touching 1 GiB of it."""
    settle(3 * size_bytes)
    if touched == "untouched":
        time.sleep(LEFT_ALONE_S)
    return touch_s_per_gib()


def touch_s_per_gib() -> float:
    """The CPU seconds for touching a sample of the free memory, as 1 GiB of it would take."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    mmap.mmap(-1, TOUCH_SAMPLE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()
    after = resource.getrusage(resource.RUSAGE_SELF)
    taken_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken_s * GIB / TOUCH_SAMPLE_BYTES


def from_origin(place: str, touched: str, beds: ProfileTestbed) -> list[Figure]:
    """A cold blob from the origin, by curl to /dev/null."""
    bed = beds.at(place)
    perf = perf_works(bed.directory)
    [blob] = bed.blobs(1, bed.size_bytes)
    profiles, rates, touch_s = [], [], []
    with bed.p2pd() as p2pd:
        for _ in range(UNCOUNTED + bed.runs):
            touch_s.append(prepare(touched, bed.size_bytes))
            with profiled(p2pd.pid, bed.directory, perf=perf) as profile:
                seconds = load.curl_s(p2pd.blob_url(blob), blob)
                wait(partial(is_complete, p2pd, blob), "has the whole blob")
            p2pd.forget(blob)
            profiles.append(profile)
            rates.append(blob.size_bytes / GIB / seconds)
    return [_figure("origin", place, touched, blob, profiles, rates, touch_s)]


def from_neighbour(place: str, touched: str, beds: ProfileTestbed) -> list[Figure]:
    """A cold blob from a neighbour, with the profiles of both hosts."""
    bed = beds.at(place)
    perf = perf_works(bed.directory)
    [blob] = bed.blobs(1, bed.size_bytes)
    sent, received, rates, touch_s = [], [], [], []
    with pair(bed) as two:
        load.curl_s(two.sender.blob_url(blob), blob)  # now the sender holds it
        for _ in range(UNCOUNTED + bed.runs):
            touch_s.append(prepare(touched, bed.size_bytes))
            with (
                profiled(two.sender.pid, bed.directory, perf=perf) as sender,
                profiled(two.receiver.pid, bed.directory, perf=perf) as receiver,
            ):
                seconds = fetch(two, blob).seconds
            two.receiver.forget(blob)
            sent.append(sender)
            received.append(receiver)
            rates.append(blob.size_bytes / GIB / seconds)
    return [
        _figure("receiver", place, touched, blob, received, rates, touch_s),
        _figure("sender", place, touched, blob, sent, rates, touch_s),
    ]


def _figure(
    host: str,
    place: str,
    touched: str,
    blob: BenchmarkBlob,
    profiles: Sequence[HostProfile],
    rates: Sequence[float],
    touch_s: Sequence[float],
) -> Figure:
    """The CPU seconds per GiB, with the medians of each stage and count."""
    counted, gib, mib = profiles[UNCOUNTED:], blob.size_bytes / GIB, blob.size_bytes / MIB
    totals = [(profile.total.user_s + profile.total.system_s) / gib for profile in counted]
    sides = {}
    for stage in STAGES:
        taken = [profile.stages[stage] for profile in counted if stage in profile.stages]
        if taken:
            sides[f"{stage}.user"] = statistics.median(cost.user_s for cost in taken) / gib
            sides[f"{stage}.system"] = statistics.median(cost.system_s for cost in taken) / gib
    sides |= {
        "gib_s": statistics.median(rates[UNCOUNTED:]),
        "page_faults_per_mib": statistics.median(profile.page_faults for profile in counted) / mib,
        "wake_ups_per_mib": statistics.median(profile.waits for profile in counted) / mib,
        "touch_s_per_gib": statistics.median(touch_s[UNCOUNTED:]),
    }
    return Figure(figure_name(host, place, touched), totals, None, sides)


def print_report(report: Report, console: Console) -> None:
    """A table for each host: a stage in each row, user and system time of each kind of memory in the columns."""
    console.width = max(console.width, 110)
    figures = {figure.name: figure for figure in report.figures}
    kinds = [(place, touched) for place in PLACES for touched in TOUCHED]
    for host, meaning in HOSTS.items():
        shown = [(kind, figures[name]) for kind in kinds if (name := figure_name(host, *kind)) in figures]
        if not shown:
            continue
        table = Table(title=f"{meaning}: CPU seconds per GiB", title_justify="left", box=SIMPLE)
        table.add_column("stage", no_wrap=True)
        for (place, touched), _ in shown:
            for share in ("user", "system"):
                table.add_column(f"{place}\n{touched}\n{share}", justify="right", no_wrap=True)
        for stage in STAGES:
            parts = [figure.sides.get(f"{stage}.{share}", 0.0) for _, figure in shown for share in ("user", "system")]
            if any(parts):
                table.add_row(stage, *(f"{part:.3f}" for part in parts))
        table.add_section()
        table.add_row("all", *(cell for _, figure in shown for cell in ("", f"{figure.value:.3f}")))
        counts = [name for name in shown[0][1].sides if not name.endswith((".user", ".system"))]
        for name in counts:
            table.add_row(name, *(cell for _, figure in shown for cell in ("", f"{figure.sides[name]:.3g}")))
        console.print(table)
    for name, facts in {"machine": report.machine, "versions": report.versions}.items():
        console.print(f"{name}: {', '.join(f'{key} {value}' for key, value in facts.items())}")


def _measures() -> Iterator[Measure[ProfileTestbed]]:
    ways: tuple[tuple[tuple[str, ...], Callable[[str, str, ProfileTestbed], list[Figure]]], ...] = (
        (("origin",), from_origin),
        (("receiver", "sender"), from_neighbour),
    )
    for place in PLACES:
        for touched in TOUCHED:
            for hosts, run in ways:
                names = tuple(figure_name(host, place, touched) for host in hosts)
                yield Measure(names, partial(run, place, touched))


def add_profile_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.set_defaults(runs=3)


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[ProfileTestbed]:
    touch_free_memory(options.size)
    with ExitStack() as stack:
        yield ProfileTestbed(options.size, options.runs, options.workdir, stack)


def versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in ("p2pd", "aiohttp", "aiofastnet", "uvloop", "blake3")}
    return found | {"openssl": ssl.OPENSSL_VERSION.split()[1]} | programs.versions()


COMMAND = Command(
    name="profile",
    summary="the CPU time of a host at full speed, by stage, from an origin and from a neighbour",
    measures=tuple(_measures()),
    add_arguments=add_profile_arguments,
    testbed=open_testbed,
    versions=versions,
    show=print_report,
)
