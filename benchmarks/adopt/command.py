"""`adopt`: a node that starts beside a runtime's content store, and holds what is in it.

Rules:
1. Reading and adopting are measured in turns, from a page cache that has nothing of the files, and compared pair by
   pair. Reading is one `read` after the other of 1 MiB, of one file after the other.
2. The time of adopting begins with p2pd's exec, and ends when all blobs are held. Its start is part of it, which counts
   where the files are few: `--size 20GiB` is what the bar is for.
3. Hashing, SHA-256 and BLAKE3 of the same files by as many threads of the same priority, is what adopting cannot do
   without. On a machine that does other things too, adopting gives way and reading does not: adopting over hashing says
   then what p2pd is to be blamed for.
4. A start without `adopt` comes in turns with one that adopts.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from benchmarks import programs
from benchmarks.arguments import GIB, positive, size
from benchmarks.command import Command, Measure, UnmeasurableError
from benchmarks.procfs import PeakRss, cpu_s
from benchmarks.report import Bar, Figure, ratios
from benchmarks.testbed import random_chunks
from p2pd.demo.process import command, neutral_environ
from peer.store.adopter import READERS
from peer.store.scrubber import give_way

BARS: Final = {"adopt_over_read": Bar("<=", 1.0), "ready_s": Bar("<=", 0.6), "read_again_bytes": Bar("<=", 0)}
FIGURES: Final = (
    "adopt_over_read",
    "adopt_over_hash",
    "ready_s",
    "ready_over_plain",
    "cpu_s_per_gib.adopt",
    "rss_mib.adopt",
    "read_again_bytes",
)
READ_BYTES: Final = 2**20
LOOK_EVERY_S: Final = 0.1
"""Each look costs p2pd some milliseconds of CPU time."""
BOUND_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class AdoptTestbed:
    """`files` are the content store's, of `size_bytes` together."""

    directory: Path
    content: Path
    files: tuple[Path, ...]
    size_bytes: int
    runs: int

    def make_cold(self) -> None:
        """Have the page cache without the files."""
        os.sync()
        for path in self.files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def hash_s(self) -> float:
        """Reading and hashing alone."""
        self.make_cold()
        began = time.perf_counter()
        with ThreadPoolExecutor(READERS, initializer=give_way) as threads:
            for _ in threads.map(_hash, self.files):
                pass
        return time.perf_counter() - began

    def read_s(self) -> float:
        self.make_cold()
        began = time.perf_counter()
        for path in self.files:
            with path.open("rb", buffering=0) as file:
                while file.read(READ_BYTES):
                    pass
        return time.perf_counter() - began

    @contextmanager
    def p2pd(self, *, adopts: bool = True) -> Iterator[tuple[programs.Program, str]]:
        """A p2pd that has just been started, and its admin address. The directory stays from one to the next."""
        mirror, admin = programs.free_address(), programs.free_address()
        flags: dict[str, Any] = {"data": self.directory / "data", "mirror": mirror, "admin": admin}
        words = command("run", {**flags, "adopt": self.content} if adopts else flags)
        with programs.running("p2pd", words, mirror, self.directory / "log", neutral_environ()) as program:
            yield program, admin

    def adopted(self, admin: str) -> Mapping[str, Any]:
        """What the daemon says once it holds all. Raises UnmeasurableError."""
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline:
            try:
                said: Mapping[str, Any] = programs.answer(admin, "/status")["adopted"]
            except (OSError, http.client.HTTPException):
                said = {}
            if said.get("blobs") == len(self.files):
                return said
            time.sleep(LOOK_EVERY_S)
        raise UnmeasurableError(f"not all was adopted within {BOUND_S:.0f} s")


def adopt(bed: AdoptTestbed) -> list[Figure]:
    """Read all, hash all, adopt all, and start once more."""
    read_s, hash_s, adopt_s, ready_s, plain_ready_s = [], [], [], [], []
    cpu, rss_mib, again = [], [], []
    for _ in range(bed.runs):
        read_s.append(bed.read_s())
        hash_s.append(bed.hash_s())
        shutil.rmtree(bed.directory / "data", ignore_errors=True)
        with bed.p2pd(adopts=False) as (program, _):
            plain_ready_s.append(programs.wait_until_served(program, "/v2/", (200,)))
        shutil.rmtree(bed.directory / "data")
        bed.make_cold()
        with bed.p2pd() as (program, admin):
            ready_s.append(programs.wait_until_served(program, "/v2/", (200,)))
            with PeakRss(program.pid) as rss:
                bed.adopted(admin)
                adopt_s.append(time.perf_counter() - program.started)
            cpu.append(cpu_s(program.pid) / (bed.size_bytes / GIB))
            rss_mib.append(rss.mib)
        with bed.p2pd() as (_, admin):
            again.append(float(bed.adopted(admin)["read_bytes"]))
    medians = {"adopt_s": adopt_s, "read_s": read_s, "hash_s": hash_s}
    sides = {name: statistics.median(values) for name, values in medians.items()}
    return [
        Figure("adopt_over_read", ratios(adopt_s, read_s), BARS["adopt_over_read"], sides),
        Figure("adopt_over_hash", ratios(adopt_s, hash_s)),
        Figure("ready_s", ready_s, BARS["ready_s"]),
        Figure("ready_over_plain", ratios(ready_s, plain_ready_s)),
        Figure("cpu_s_per_gib.adopt", cpu),
        Figure("rss_mib.adopt", rss_mib),
        Figure("read_again_bytes", again, BARS["read_again_bytes"]),
    ]


def _hash(path: Path) -> None:
    sha256, pieces, scratch = hashlib.sha256(), blake3(), bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(scratch):
            part = memoryview(scratch)[:got]
            sha256.update(part)
            pieces.update(part)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=size, default="1GiB", help="of all blobs together (default %(default)s)")
    parser.add_argument("--blobs", type=positive, default=400, help="their number (default %(default)s)")
    parser.set_defaults(runs=3)


@contextmanager
def open_testbed(options: argparse.Namespace) -> Iterator[AdoptTestbed]:
    with tempfile.TemporaryDirectory(prefix="p2pd-benchmarks-", dir=options.workdir) as directory:
        content = Path(directory) / "content"
        blobs = content / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        if shutil.disk_usage(directory).free < options.size + 2 * GIB:
            raise UnmeasurableError(f"{directory} has no room for it: give another --workdir or a smaller --size")
        each = max(1, options.size // options.blobs)
        files = tuple(_write(blobs, each) for _ in range(options.blobs))
        yield AdoptTestbed(Path(directory), content, files, each * len(files), options.runs)


def _write(blobs: Path, size_bytes: int) -> Path:
    """A file of random bytes, named as its SHA-256."""
    new, sha256 = blobs / "new", hashlib.sha256()
    with new.open("wb") as file:
        for part in random_chunks(size_bytes):
            sha256.update(part)
            file.write(part)
    return new.rename(blobs / sha256.hexdigest())


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("p2pd", "blake3", "watchfiles")}


COMMAND = Command(
    name="adopt",
    summary="a node that starts beside a runtime's content store: adopting what is there, beside reading it",
    measures=(Measure(FIGURES, adopt),),
    add_arguments=add_arguments,
    testbed=open_testbed,
    versions=versions,
)
