"""`transfer`: from host to host. Two p2pd run on loopback, and one of them holds the blob; the origin sends nothing.

Rules:
1. The time and the CPU seconds are from a client's request until the whole blob is verified and in the store. The
   client reads its bytes afterwards: the swarm is measured, and not the way to a client (`datapath`).
2. The reference fetches the same blob, in pieces of the same length, from nginx (sendfile): one floor for the receiver,
   and one for the sender. Both transfer in turns, and the samples are compared in pairs.
3. The receiver's count of bytes by source shows that the origin sent nothing.
4. What encryption costs is measured between pairs of hosts that do it in different ways, in turns (`encrypted`).
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import load, programs
from benchmarks.arguments import GIB
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.datapath.command import UNCOUNTED, add_arguments, open_testbed, settle
from benchmarks.load import BenchmarkBlob
from benchmarks.procfs import Spent, cpu_s
from benchmarks.report import Bar, Figure, ratios
from benchmarks.testbed import Subject, Testbed, stored_url
from p2pd.demo.process import command, neutral_environ
from peer.errors import StoreBrokenError
from peer.oci.digest import Digest
from peer.store.record import peek
from scheduler.protocol.geometry import piece_count, piece_length

BARS = {
    "vs_limit": Bar(">=", 0.9),
    "vs_libtorrent": Bar(">=", 3),
    "latency_ms": Bar("<", 15),
    "encrypted_vs_plain": Bar(">=", 0.8),
    "more_cpu_s_per_gib.sender": Bar("<=", 0.35),
    "more_cpu_s_per_gib.receiver": Bar("<=", 0.35),
}

WAYS = ("open", "plain", "encrypted", "tls")
"""How pieces go: between hosts without certificates, and as `pieces` has it between hosts with certificates."""

ENCRYPTED_FIGURES = (
    "encrypted_vs_plain",
    "more_cpu_s_per_gib.sender",
    "more_cpu_s_per_gib.receiver",
    *(f"{name}.{way}" for way in WAYS for name in ("gib_s", "cpu_s_per_gib.sender", "cpu_s_per_gib.receiver")),
)

TINY_BYTES = 4096
LATENCIES_PER_RUN = 10
POLL_INTERVAL_S = 0.02
"""The interval of polls. The measured time grows by half of it on average. A poll that is answered takes half a
millisecond of the receiver's event loop, and much longer where other programs use the cores (`is_complete`)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two hosts of one cluster. `peer` is the sender's peer address."""

    sender: Subject
    receiver: Subject
    peer: str


@contextmanager
def pair(bed: Testbed) -> Iterator[Pair]:
    """Two p2pd with empty stores, which have joined one scheduler."""
    listen, peer = programs.free_address(), programs.free_address()
    sides: dict[str, dict[str, str | None]] = {
        "sender": {"listen": listen, "peer": peer},
        "receiver": {"scheduler": f"http://{listen}"},
    }
    with _running(bed, sides, bed.directory, peer) as two:
        yield two


@contextmanager
def certified_pair(bed: Testbed, pieces: str) -> Iterator[Pair]:
    """Two p2pd with empty stores, which have joined one scheduler with a token."""
    directory = bed.directory / pieces
    listen, peer, admin = (programs.free_address() for _ in range(3))
    data = directory / "scheduler"
    directory.mkdir()
    words = command("scheduler", {"data": data, "listen": listen, "admin": admin})
    with programs.running("p2pd scheduler", words, admin, directory / "log", neutral_environ()) as scheduler:
        programs.wait_until_served(scheduler, "/healthz", (http.HTTPStatus.OK,))
        made = subprocess.run(
            [sys.executable, "-m", "p2pd", "token", "create", "--data", str(data)],
            cwd=programs.ROOT,
            env=neutral_environ(),
            capture_output=True,
            text=True,
            check=True,
        )
        common = {"scheduler": f"https://{listen}", "join": made.stdout.strip(), "pieces": pieces}
        sides: dict[str, dict[str, str | None]] = {"sender": {**common, "peer": peer}, "receiver": {**common}}
        with _running(bed, sides, directory, peer) as two:
            yield two


@contextmanager
def _running(bed: Testbed, sides: dict[str, dict[str, str | None]], below: Path, peer: str) -> Iterator[Pair]:
    directories = {name: below / name for name in sides}
    try:
        with (
            programs.p2pd(directories["sender"], bed.origin, sides["sender"]) as sender,
            programs.p2pd(directories["receiver"], bed.origin, sides["receiver"]) as receiver,
        ):
            data = {name: directory / "data" for name, directory in directories.items()}
            two = Pair(Subject(*sender, data["sender"]), Subject(*receiver, data["receiver"]), peer)
            for subject in (two.sender, two.receiver):
                subject.wait_until_serving()
                wait(partial(_is_connected, subject), "found a scheduler")
            yield two
    finally:
        for directory in directories.values():
            shutil.rmtree(directory, ignore_errors=True)


def _is_connected(subject: Subject) -> bool:
    return bool(status(subject)["swarm"]["scheduler_connected"])


def status(subject: Subject) -> Any:
    return _admin(subject, "/status")


@dataclass(frozen=True, slots=True)
class Fetched:
    """Seconds by the clock, and CPU seconds of both hosts."""

    seconds: float
    sender_cpu_s: float
    receiver_cpu_s: float


def fetch(two: Pair, blob: BenchmarkBlob) -> Fetched:
    """Let the receiver fetch a whole blob that the sender holds. Raises UnmeasurableError."""
    before = status(two.receiver)["downloads"]
    with closing(http.client.HTTPConnection(two.receiver.program.address, timeout=load.TRANSFER_BOUND_S)) as client:
        cpu_before_s = cpu_s(two.sender.pid), cpu_s(two.receiver.pid)
        started = time.perf_counter()
        client.request("GET", f"/v2/{programs.REPOSITORY}/blobs/{blob.digest}")
        response = client.getresponse()
        wait(lambda: is_complete(two.receiver, blob), "has the whole blob")
        fetched = Fetched(
            time.perf_counter() - started,
            cpu_s(two.sender.pid) - cpu_before_s[0],
            cpu_s(two.receiver.pid) - cpu_before_s[1],
        )
        taken = sum(len(part) for part in iter(lambda: response.read(2**20), b""))
    after = status(two.receiver)["downloads"]
    if after["origin_bytes"] != before["origin_bytes"] or after["peer_bytes"] - before["peer_bytes"] < blob.size_bytes:
        raise UnmeasurableError(f"{blob.digest} did not come from the other host: {before} {after}")
    if (response.status, taken) != (http.HTTPStatus.OK, blob.size_bytes):
        raise UnmeasurableError(f"the client got {response.status} and {taken} of {blob.size_bytes} bytes")
    return fetched


def limit_s(url: str, blob: BenchmarkBlob, output: Path) -> tuple[float, float]:
    """Seconds by the clock and CPU seconds of the bare reference. Raises UnmeasurableError."""
    piece_bytes = piece_length(blob.size_bytes)
    answer = run("benchmarks.transfer.raw_receiver", url, str(blob.size_bytes), str(piece_bytes), str(output))
    if answer["digest"] != blob.digest:
        raise UnmeasurableError(f"{url} gave bytes with the digest {answer['digest']}")
    return float(answer["seconds"]), float(answer["cpu_s"])


def run(module: str, *arguments: str) -> Any:
    """The JSON that a module of the benchmarks prints in a process of its own. Raises UnmeasurableError."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=programs.ROOT, capture_output=True, text=True, timeout=load.TRANSFER_BOUND_S, check=False
    )
    if done.returncode != 0:
        raise UnmeasurableError(f"{module} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def transfer(bed: Testbed) -> list[Figure]:
    """p2pd and the bare reference, in turns."""
    [blob] = bed.blobs(1, bed.size_bytes)
    size_gib = blob.size_bytes / GIB
    rates, limits, limit_cpu, limit_sent_cpu, sent_cpu, received_cpu = [], [], [], [], [], []
    with pair(bed) as two, bed.nginx() as nginx:
        load.curl_s(two.sender.blob_url(blob), blob)  # now the sender holds it
        for _ in range(UNCOUNTED + bed.runs):
            settle(2 * blob.size_bytes)
            with Spent(nginx.pid) as by_nginx:
                seconds, cpu = limit_s(stored_url(nginx, blob), blob, bed.output)
            limits.append(size_gib / seconds)
            limit_cpu.append(cpu / size_gib)
            limit_sent_cpu.append(by_nginx.s / size_gib)
            bed.output.unlink()
            settle(2 * blob.size_bytes)
            fetched = fetch(two, blob)
            rates.append(size_gib / fetched.seconds)
            sent_cpu.append(fetched.sender_cpu_s / size_gib)
            received_cpu.append(fetched.receiver_cpu_s / size_gib)
            two.receiver.forget(blob)
    rates, limits = rates[UNCOUNTED:], limits[UNCOUNTED:]
    return [
        Figure("gib_s", rates),
        Figure("limit_gib_s", limits),
        Figure("vs_limit", ratios(rates, limits), BARS["vs_limit"]),
        Figure("cpu_s_per_gib.sender", sent_cpu[UNCOUNTED:]),
        Figure("cpu_s_per_gib.receiver", received_cpu[UNCOUNTED:]),
        Figure("cpu_s_per_gib.limit", limit_cpu[UNCOUNTED:]),
        Figure("cpu_s_per_gib.nginx", limit_sent_cpu[UNCOUNTED:]),
    ]


def encrypted(bed: Testbed) -> list[Figure]:
    """p2pd in all `WAYS`, in turns."""
    [blob] = bed.blobs(1, bed.size_bytes)
    size_gib = blob.size_bytes / GIB
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    sent: dict[str, list[float]] = {way: [] for way in WAYS}
    received: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        pairs = {way: stack.enter_context(certified_pair(bed, way) if way != "open" else pair(bed)) for way in WAYS}
        for two in pairs.values():
            load.curl_s(two.sender.blob_url(blob), blob)  # now the sender holds it
        for run in range(UNCOUNTED + bed.runs):
            for way in WAYS[:: 1 if run % 2 else -1]:
                settle(2 * blob.size_bytes)
                fetched = fetch(pairs[way], blob)
                pairs[way].receiver.forget(blob)
                if run >= UNCOUNTED:
                    rates[way].append(size_gib / fetched.seconds)
                    sent[way].append(fetched.sender_cpu_s / size_gib)
                    received[way].append(fetched.receiver_cpu_s / size_gib)
    figures = [
        _bound("encrypted_vs_plain", ratios(rates["encrypted"], rates["open"])),
        _bound("more_cpu_s_per_gib.sender", _more(sent)),
        _bound("more_cpu_s_per_gib.receiver", _more(received)),
    ]
    for way in WAYS:
        figures += [
            Figure(f"gib_s.{way}", rates[way]),
            Figure(f"cpu_s_per_gib.sender.{way}", sent[way]),
            Figure(f"cpu_s_per_gib.receiver.{way}", received[way]),
        ]
    return figures


def _bound(name: str, samples: list[float]) -> Figure:
    return Figure(name, samples, BARS[name])


def _more(samples: dict[str, list[float]]) -> list[float]:
    """What encryption costs, run by run."""
    return [ours - plain for ours, plain in zip(samples["encrypted"], samples["open"], strict=True)]


def vs_libtorrent(bed: Testbed) -> list[Figure]:
    """p2pd and libtorrent, in turns."""
    if importlib.util.find_spec("libtorrent") is None:
        raise UnmeasurableError("libtorrent is not installed: pip install 'p2pd[bench]'")
    [blob] = bed.blobs(1, bed.size_bytes)
    size_gib = blob.size_bytes / GIB
    rates, torrent_rates = [], []
    fetched = bed.directory / "fetched"
    with pair(bed) as two, _seed(bed, two, blob) as (torrent, port):
        for _ in range(UNCOUNTED + bed.runs):
            fetched.mkdir()
            settle(2 * blob.size_bytes)
            torrent_rates.append(
                size_gib / run("benchmarks.transfer.torrent", "fetch", str(torrent), port, str(fetched))["seconds"]
            )
            shutil.rmtree(fetched)
            settle(2 * blob.size_bytes)
            rates.append(size_gib / fetch(two, blob).seconds)
            two.receiver.forget(blob)
    rates, torrent_rates = rates[UNCOUNTED:], torrent_rates[UNCOUNTED:]
    return [
        Figure("libtorrent_gib_s", torrent_rates),
        Figure("vs_libtorrent", ratios(rates, torrent_rates), BARS["vs_libtorrent"]),
    ]


@contextmanager
def _seed(bed: Testbed, two: Pair, blob: BenchmarkBlob) -> Iterator[tuple[Path, str]]:
    """A libtorrent that seeds a blob which the sender holds too; yields the torrent and the port."""
    content, torrent = bed.directory / "seeded", bed.directory / "seeded.torrent"
    load.curl_s(two.sender.blob_url(blob), blob, content)
    command = [sys.executable, "-m", "benchmarks.transfer.torrent", "seed", str(content), str(torrent)]
    with subprocess.Popen(
        command, cwd=programs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as seeding:
        try:
            assert seeding.stdout is not None
            port = seeding.stdout.readline().strip()
            if not port:
                raise UnmeasurableError("libtorrent could not seed")
            yield torrent, port
        finally:
            seeding.kill()
            content.unlink(missing_ok=True)
            torrent.unlink(missing_ok=True)


def latency(bed: Testbed) -> list[Figure]:
    """The time from a request for a tiny blob, held only by the neighbour, to its last byte, with connecting."""
    samples = []
    with pair(bed) as two:
        for blob in bed.blobs(UNCOUNTED + LATENCIES_PER_RUN * bed.runs, TINY_BYTES):
            load.curl_s(two.sender.blob_url(blob), blob)
            samples.append(1000 * load.whole_s(two.receiver.blob_url(blob), blob))
        if origin_bytes := status(two.receiver)["downloads"]["origin_bytes"]:
            raise UnmeasurableError(f"{origin_bytes} bytes came from the origin")
    return [Figure("latency_ms", samples[UNCOUNTED:], BARS["latency_ms"])]


def is_complete(subject: Subject, blob: BenchmarkBlob) -> bool:
    """Whether p2pd holds the whole blob, verified. Its event loop is asked only once all pieces are in the record."""
    return _has_all_pieces(subject, blob) and any(
        row["complete"] for row in _admin(subject, "/cache") if row["digest"] == blob.digest
    )


def _has_all_pieces(subject: Subject, blob: BenchmarkBlob) -> bool:
    name = Digest(blob.digest).hex
    try:
        header, entries, _ = peek(subject.data / "blobs" / name[:2] / f"{name}.record")
    except (StoreBrokenError, OSError):
        return False  # it was not begun, or just now
    return entries >= piece_count(header.size_bytes, header.piece_length)


def _admin(subject: Subject, path: str) -> Any:
    with closing(http.client.HTTPConnection(subject.admin, timeout=load.TRANSFER_BOUND_S)) as connection:
        connection.request("GET", path, headers=subject.secret())
        return json.loads(connection.getresponse().read())


def wait(ask: Callable[[], object], what: str) -> None:
    """Ask until the answer is true. Raises UnmeasurableError."""
    deadline = time.monotonic() + load.TRANSFER_BOUND_S
    while not ask():
        if time.monotonic() > deadline:
            raise UnmeasurableError(f"not within {load.TRANSFER_BOUND_S:g} s: p2pd {what}")
        time.sleep(POLL_INTERVAL_S)


def versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in ("p2pd", "aiohttp", "aiofastnet", "uvloop", "blake3")}
    if importlib.util.find_spec("libtorrent") is not None:
        found["libtorrent"] = metadata.version("libtorrent")
    return found | programs.versions()


def add_transfer_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--encrypted",
        dest="only",
        action="store_const",
        const=list(ENCRYPTED_FIGURES),
        help="measure only what encryption costs: all ways in which pieces go, in turns",
    )


COMMAND = Command(
    name="transfer",
    summary="from host to host, beside what the machine can do and libtorrent",
    measures=(
        Measure(("latency_ms",), latency),
        Measure(
            (
                "gib_s",
                "limit_gib_s",
                "vs_limit",
                "cpu_s_per_gib.sender",
                "cpu_s_per_gib.receiver",
                "cpu_s_per_gib.limit",
                "cpu_s_per_gib.nginx",
            ),
            transfer,
        ),
        Measure(ENCRYPTED_FIGURES, encrypted),
        Measure(("libtorrent_gib_s", "vs_libtorrent"), vs_libtorrent),
    ),
    add_arguments=add_transfer_arguments,
    testbed=open_testbed,
    versions=versions,
)
