"""`datapath`: the cost of p2pd on the way from an origin to a client of the same machine.

Rules:
1. Two programs are measured in turns, A B A B, with the same client on the same cores, and compared pair by pair.
2. Before a timed run, the dirty pages of earlier runs are written, and the memory for its files is touched (`settle`):
   no run pays for another.
3. With `--origin-rate` the kernel limits the origin's link (`benchmarks.testbed`). The figures are then those of cold
   pulls, unless others are named, and have bars of their own: the bars of cold pulls on loopback are for an origin that
   is as fast as the machine. `origin_goodput_share` shows how much of its link the origin can use.
4. A large blob is pulled cold once, and then removed from p2pd's store so that the disk does not fill.
"""

from __future__ import annotations

import argparse
import http
import mmap
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path

from benchmarks import load, programs
from benchmarks.arguments import GIB, bytes_per_s, size
from benchmarks.command import Command, Measure
from benchmarks.load import BenchmarkBlob
from benchmarks.procfs import PeakRss, Spent, busy_share, cpu_s, machine_cpu_s, settled_rss_mib
from benchmarks.report import Bar, Figure, ratios
from benchmarks.testbed import Testbed, stored_url, testbed

BARS = {
    "warm_vs_nginx": Bar(">=", 0.95),
    "warm_cpu_vs_nginx": Bar("<=", 1.3),
    "cold_vs_direct": Bar("<=", 1.1),
    "cold_vs_pull_through": Bar("<=", 0.9),
    "small_vs_registry": Bar(">=", 10),
    "cpu_s_per_gib.cold": Bar("<=", 1.9),
    "reread_share": Bar("<=", 0.02),
    "rss_mib.idle": Bar("<=", 48),
    "rss_mib.busy": Bar("<=", 100),
    "ready_s": Bar("<=", 0.6),
    "first_byte_ms": Bar("<=", 20),
}

LIMITED_BARS = {bytes_per_s("1gbit"): Bar("<=", 1.02), bytes_per_s("5gbit"): Bar("<=", 1.1)}
"""The bars of `cold_vs_direct` by the rate of the origin's link."""

FLOORS = ("bare_cold_vs_direct", "cpu_s_per_gib.bare")
"""What a cache takes that decides nothing."""

LIMITED = (
    "cold_vs_direct",
    "cpu_s_per_gib.cold",
    "reread_share",
    "origin_goodput_share",
    "cpu_share",
    *FLOORS,
    "cold_vs_pull_through",
)
SMALL_BYTES = 2048
SMALL_REQUESTS = 10_000
REGISTRY_REQUESTS = 2_000
"""For these the registry takes longer than p2pd for all. Its rate is the same with both numbers."""
SMALL_CONNECTIONS = 16
BUSY_PULLS = 8
FIRST_BYTE_BYTES = 8 * 2**20
FIRST_BYTE_PAIRS_PER_RUN = 4
"""Samples of a first byte. Each takes milliseconds and not seconds, so a steady median costs little."""

Client = Callable[[str, BenchmarkBlob, Path], float]
"""A function that GETs the blob's URL into a file and returns the seconds."""


UNCOUNTED = 1
"""First samples that are not counted. They compile modules, open connections, and make a virtual machine get the memory
for its page cache, which takes longer than filling that memory."""


def bar(name: str, origin_rate: float | None) -> Bar | None:
    """The bar of a figure, for this rate of the origin's link."""
    if origin_rate is not None and name in LIMITED:
        return LIMITED_BARS.get(origin_rate) if name == "cold_vs_direct" else None
    return BARS.get(name)


def figure(
    name: str, samples: Sequence[float], origin_rate: float | None = None, /, **sides: Sequence[float]
) -> Figure:
    """`samples` with their bar and the medians of the two sides."""
    medians = {side: statistics.median(values) for side, values in sides.items()}
    return Figure(name, samples, bar(name, origin_rate), medians)


def _ratio(name: str, origin_rate: float | None = None, /, **sides: Sequence[float]) -> Figure:
    """The first side over the second, measured in turns, without the samples that are not counted."""
    counted = {side: samples[UNCOUNTED:] for side, samples in sides.items()}
    ours, theirs = counted.values()
    return figure(name, ratios(ours, theirs), origin_rate, **counted)


def settle(needed_bytes: int) -> None:
    """Prepare a timed run: write all dirty pages, and touch the memory that the run's files will take.

    A virtual machine may give its free memory back to its host. Getting 1 GiB again for the page cache took 1.2 s here,
    and filling it 0.2 s. Without this preparation, a run would pay for the memory that the run before set free. At most
    a quarter of the memory is touched.
    """
    os.sync()
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _touch(min(needed_bytes, memory_bytes // 4))


def touch_free_memory(size_bytes: int) -> None:
    """Touch the memory of a dozen blobs, once for all runs; at most three quarters of what is free.

    Which free pages a file gets is the kernel's choice: after `settle` alone a receiver's file got untouched ones in
    every second run of `transfer`, and writing it took 2.5 CPU-s for each GiB, else 0.7.
    """
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _touch(min(12 * size_bytes, free_bytes * 3 // 4))


def _touch(size_bytes: int) -> None:
    mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


@contextmanager
def _quiet(output: Path, size_bytes: int) -> Iterator[None]:
    """The frame of a timed run that fills p2pd's file and the client's with a blob. The output is removed."""
    settle(3 * size_bytes)
    try:
        yield
    finally:
        if output.is_file():
            output.unlink()


def to_null(url: str, blob: BenchmarkBlob, _output: Path) -> float:
    return load.curl_s(url, blob)


def warm(bed: Testbed) -> list[Figure]:
    """A held blob, fetched by curl to /dev/null. nginx sends the same bytes from a file."""
    [blob] = bed.blobs(1, bed.size_bytes)
    nginx_rates, p2pd_rates, nginx_cpu, p2pd_cpu = [], [], [], []
    size_gib = blob.size_bytes / GIB
    with bed.nginx() as nginx, bed.p2pd() as p2pd:
        load.curl_s(p2pd.blob_url(blob), blob)  # now p2pd holds it
        for _ in range(UNCOUNTED + bed.runs):
            os.sync()
            with Spent(nginx.pid) as by_nginx:
                nginx_rates.append(size_gib / load.curl_s(stored_url(nginx, blob), blob))
            with Spent(p2pd.pid) as by_p2pd:
                p2pd_rates.append(size_gib / load.curl_s(p2pd.blob_url(blob), blob))
            nginx_cpu.append(by_nginx.s / size_gib)
            p2pd_cpu.append(by_p2pd.s / size_gib)
    return [
        _ratio("warm_vs_nginx", p2pd_gib_per_s=p2pd_rates, nginx_gib_per_s=nginx_rates),
        _ratio("warm_cpu_vs_nginx", p2pd_s_per_gib=p2pd_cpu, nginx_s_per_gib=nginx_cpu),
        figure("cpu_s_per_gib.warm", p2pd_cpu[UNCOUNTED:]),
    ]


def cold(name: str, client: Client) -> Callable[[Testbed], list[Figure]]:
    """A cold blob through p2pd against the same blob from the origin itself, by one client."""

    def run(bed: Testbed) -> list[Figure]:
        direct_s, p2pd_s, cpu, cpu_shares = [], [], [], []
        with bed.p2pd() as p2pd:
            for blob in bed.blobs(UNCOUNTED + bed.runs, bed.size_bytes):
                # Neither side shall wait for the origin's disk on a machine that cannot cache all blobs.
                bed.read_at_origin(blob)
                with _quiet(bed.output, bed.size_bytes):
                    direct_s.append(client(bed.origin.blob_url(blob.digest), blob, bed.output))
                with _quiet(bed.output, bed.size_bytes):
                    cpu_before_s, machine_before = cpu_s(p2pd.pid), machine_cpu_s()
                    p2pd_s.append(client(p2pd.blob_url(blob), blob, bed.output))
                    cpu_shares.append(busy_share(machine_before))
                p2pd.forget(blob)  # after this, no work of the pull is left
                cpu.append((cpu_s(p2pd.pid) - cpu_before_s) / (blob.size_bytes / GIB))
            reread_bytes = programs.metric(p2pd.admin, programs.REREAD)
        figures = [
            _ratio(name, bed.origin_rate, p2pd_s=p2pd_s, direct_s=direct_s),
            figure("cpu_s_per_gib.cold", cpu[UNCOUNTED:], bed.origin_rate),
            figure("reread_share", [reread_bytes / (bed.size_bytes * len(cpu))], bed.origin_rate),
            figure("cpu_share", cpu_shares[UNCOUNTED:], bed.origin_rate),
        ]
        if bed.origin_rate is not None:
            shares = [bed.size_bytes / seconds / bed.origin_rate for seconds in direct_s[UNCOUNTED:]]
            figures.append(Figure("origin_goodput_share", shares))
        return figures

    return run


def bare_cold(bed: Testbed) -> list[Figure]:
    """A cold blob through a cache that decides nothing, as `cold`: what any takes that verifies what it holds."""
    direct_s, bare_s, cpu = [], [], []
    with bed.bare_cache() as bare:
        for blob in bed.blobs(UNCOUNTED + bed.runs, bed.size_bytes):
            bed.read_at_origin(blob)
            with _quiet(bed.output, bed.size_bytes):
                direct_s.append(load.curl_s(bed.origin.blob_url(blob.digest), blob, bed.output))
            with _quiet(bed.output, bed.size_bytes), Spent(bare.pid) as by_bare:
                bare_s.append(load.curl_s(bare.blob_url(blob.digest), blob, bed.output))
            cpu.append(by_bare.s / (blob.size_bytes / GIB))
    return [
        _ratio("bare_cold_vs_direct", bed.origin_rate, bare_s=bare_s, direct_s=direct_s),
        figure("cpu_s_per_gib.bare", cpu[UNCOUNTED:], bed.origin_rate),
    ]


def cold_vs_pull_through(bed: Testbed) -> list[Figure]:
    """A cold blob through p2pd against docker-registry as a pull-through cache, by curl to a file."""
    cache_s, p2pd_s, cache_cpu, p2pd_cpu = [], [], [], []
    size_gib = bed.size_bytes / GIB
    with bed.p2pd() as p2pd:
        for blob in bed.blobs(UNCOUNTED + bed.runs, bed.size_bytes):
            # A new cache for each run: after its client is served, it goes on fetching for its own disk.
            with bed.pull_through() as cache, _quiet(bed.output, bed.size_bytes), Spent(cache.pid) as by_cache:
                cache_s.append(load.curl_s(cache.blob_url(blob.digest), blob, bed.output))
            with Spent(p2pd.pid) as by_p2pd:
                with _quiet(bed.output, bed.size_bytes):
                    p2pd_s.append(load.curl_s(p2pd.blob_url(blob), blob, bed.output))
                p2pd.forget(blob)  # after this, no work of the pull is left
            cache_cpu.append(by_cache.s / size_gib)
            p2pd_cpu.append(by_p2pd.s / size_gib)
    return [
        _ratio("cold_vs_pull_through", bed.origin_rate, p2pd_s=p2pd_s, pull_through_s=cache_s),
        _ratio("cold_cpu_vs_pull_through", bed.origin_rate, p2pd_s_per_gib=p2pd_cpu, pull_through_s_per_gib=cache_cpu),
    ]


def small_vs_registry(bed: Testbed) -> list[Figure]:
    """Requests for a held blob of 2 KiB over 16 kept-alive connections: 10,000, and of the registry fewer."""
    [blob] = bed.blobs(1, SMALL_BYTES)
    registry_rates, p2pd_rates = [], []
    with bed.p2pd() as p2pd:
        load.curl_s(p2pd.blob_url(blob), blob)  # now p2pd holds it
        for _ in range(UNCOUNTED + bed.runs):
            registry_rates.append(_small_rate(bed.origin.blob_url(blob.digest), REGISTRY_REQUESTS))
            p2pd_rates.append(_small_rate(p2pd.blob_url(blob), SMALL_REQUESTS))
    return [_ratio("small_vs_registry", p2pd_per_s=p2pd_rates, registry_per_s=registry_rates)]


def _small_rate(url: str, requests: int) -> float:
    return load.small_requests_per_s(url, requests, SMALL_CONNECTIONS)


def rss_busy(bed: Testbed) -> list[Figure]:
    """The peak of resident memory of a newly started p2pd during eight cold pulls at once."""
    blobs = bed.blobs(BUSY_PULLS, bed.size_bytes)
    samples = []
    for _ in range(bed.runs):
        os.sync()
        with bed.p2pd() as p2pd:
            with PeakRss(p2pd.pid) as peak:
                load.curl_together([(p2pd.blob_url(blob), blob) for blob in blobs])
            samples.append(peak.mib)
    return [figure("rss_mib.busy", samples)]


def started(bed: Testbed) -> list[Figure]:
    """Seconds from exec to the first answer, to a /v2/ request, and the resident memory after it.

    Beside them, what the libraries of a node take that serve nothing.
    """
    ready_s, rss_mib, libraries_s, libraries_mib = [], [], [], []
    for _ in range(UNCOUNTED + bed.runs):
        with bed.p2pd_starting() as p2pd:
            ready_s.append(p2pd.wait_until_serving())
            rss_mib.append(settled_rss_mib(p2pd.pid))
        with programs.libraries(bed.directory / "libraries") as program:
            libraries_s.append(programs.wait_until_served(program, "/", (http.HTTPStatus.NOT_FOUND,)))
            libraries_mib.append(settled_rss_mib(program.pid))
    return [
        figure("ready_s", ready_s[UNCOUNTED:], libraries_s=libraries_s[UNCOUNTED:]),
        figure("rss_mib.idle", rss_mib[UNCOUNTED:], libraries_mib=libraries_mib[UNCOUNTED:]),
    ]


def first_byte(name: str, size_bytes: int) -> Callable[[Testbed], list[Figure]]:
    """The delay of a cold body's first byte, compared with the origin itself."""

    def run(bed: Testbed) -> list[Figure]:
        direct_ms, p2pd_ms = [], []
        with bed.p2pd() as p2pd:
            for blob in bed.blobs(UNCOUNTED + FIRST_BYTE_PAIRS_PER_RUN * bed.runs, size_bytes):
                direct_ms.append(1000 * load.first_byte_s(bed.origin.blob_url(blob.digest), blob))
                p2pd_ms.append(1000 * load.first_byte_s(p2pd.blob_url(blob), blob))
        counted = {"p2pd_ms": p2pd_ms[UNCOUNTED:], "direct_ms": direct_ms[UNCOUNTED:]}
        return [figure(name, [ours - theirs for ours, theirs in zip(*counted.values(), strict=True)], **counted)]

    return run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=size, default="1GiB", help="length of the large blobs (default %(default)s)")


def add_datapath_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--origin-rate",
        type=bytes_per_s,
        metavar="RATE",
        help="limit the origin's link by the kernel, as root: 1gbit or 5gbit for the bars (default: no limit)",
    )


def open_testbed(options: argparse.Namespace) -> AbstractContextManager[Testbed]:
    touch_free_memory(options.size)
    return testbed(options.size, options.runs, options.workdir, None)


def open_datapath_testbed(options: argparse.Namespace) -> AbstractContextManager[Testbed]:
    if options.origin_rate is not None:
        options.only = options.only or list(LIMITED)
    touch_free_memory(options.size)
    return testbed(options.size, options.runs, options.workdir, options.origin_rate)


def versions() -> dict[str, str]:
    """The versions of p2pd, of the libraries of its data path, and of the compared programs."""
    packages = ("p2pd", "aiohttp", "aiofastnet", "uvloop", "blake3")
    return {name: metadata.version(name) for name in packages} | programs.versions()


COMMAND = Command(
    name="datapath",
    summary="p2pd between an origin and a client, beside nginx and docker-registry",
    measures=(
        Measure(("ready_s", "rss_mib.idle"), started),
        Measure(("first_byte_ms",), first_byte("first_byte_ms", FIRST_BYTE_BYTES)),
        Measure(("first_byte_ms.small",), first_byte("first_byte_ms.small", SMALL_BYTES)),
        Measure(("small_vs_registry",), small_vs_registry),
        Measure(("warm_vs_nginx", "warm_cpu_vs_nginx", "cpu_s_per_gib.warm"), warm),
        Measure(
            ("cold_vs_direct", "cpu_s_per_gib.cold", "reread_share", "origin_goodput_share", "cpu_share"),
            cold("cold_vs_direct", load.curl_s),
        ),
        Measure(FLOORS, bare_cold),
        Measure(("cold_vs_direct_null",), cold("cold_vs_direct_null", to_null)),
        Measure(("cold_vs_direct_runtime",), cold("cold_vs_direct_runtime", load.runtime_s)),
        Measure(("cold_vs_pull_through", "cold_cpu_vs_pull_through"), cold_vs_pull_through),
        Measure(("rss_mib.busy",), rss_busy),
    ),
    add_arguments=add_datapath_arguments,
    testbed=open_datapath_testbed,
    versions=versions,
)
