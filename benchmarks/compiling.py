"""The simulator and its cores, compiled to C by mypyc: the same code takes about half the time.

Rules:
1. The compiled code is a copy of the present sources, in `build/compiled`; nothing else ever runs it.
2. MYPYC_OPT_LEVEL=0 (mypyc's own variable) spares the C compiler's optimization; the code is slower.
3. A process runs all of the compiled modules or none. If they cannot be compiled (there is no C compiler), the
   simulation is interpreted, which takes longer and gives the same figures.
"""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.programs import ROOT

PACKAGES: Final = ("peer", "scheduler", "p2pd")
MODULES: Final = (
    *(
        f"peer/core/{name}.py"
        for name in (
            "choker",
            "download",
            "events",
            "host",
            "leases",
            "link_book",
            "membership",
            "neighbours",
            "origin_requests",
            "origin_slots",
            "outbox",
            "peer_requests",
            "phase",
            "picker",
            "piece_sets",
            "pieces",
            "publisher",
            "readers",
            "reports",
            "scheduler_set",
            "session",
            "spot_checks",
            "swarm_member",
            "uplink",
        )
    ),
    *(
        f"scheduler/core/{name}.py"
        for name in (
            "gateways",
            "graph",
            "lease_policy",
            "leases",
            "members",
            "membership",
            "piece_digests",
            "piece_map",
        )
    ),
    *(
        f"p2pd/simulation/{name}.py"
        for name in ("bandwidth", "blobs", "cluster", "event_queue", "host", "network", "origin", "schedulers")
    ),
)
"""The modules that take the time."""

MYPY: Final = """
[mypy]
ignore_missing_imports = True
follow_imports = skip

[mypy-peer.*,scheduler.*,p2pd.*,trio.*]
follow_imports = normal
"""
"""mypy reads what the modules call. The C is the same as when it reads all that those packages import in turn."""

HUGE_PAGES: Final = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Python's own allocator asks for none. With them a simulation takes an eighth less (docs/decisions, 0064)."""

NICE: Final = 10
"""Real processes that are measured meanwhile come first."""

COMPILES_S: Final = 900.0
"""Even on a machine that is busy otherwise: interpreted, the largest simulation takes longer than that."""


@contextmanager
def simulating(count: int, *, compiled: bool = True) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that simulate with compiled code, if it can be compiled here; or at once, not `compiled`."""
    path = compiled_path() if compiled else None
    if compiled and path is None:
        print("the simulator could not be compiled: simulations take about twice as long", file=sys.stderr, flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=os.nice, initargs=(NICE,)) as pool:
        with _spawning([] if path is None else [str(path)]):
            for _ in range(count):
                pool.submit(os.getpid)  # with the first tasks all processes are spawned
        yield pool


@contextmanager
def _spawning(path: list[str]) -> Iterator[None]:
    """A process that is spawned meanwhile has this path before all others, and its memory in huge pages."""
    path_before, environment_before = list(sys.path), dict(os.environ)
    sys.path[:0] = path
    os.environ |= HUGE_PAGES
    try:
        yield
    finally:
        sys.path[:] = path_before
        for name in HUGE_PAGES:
            del os.environ[name]
        os.environ |= environment_before


def compiled_path() -> Path | None:
    """The directory of the compiled packages, which are compiled if they are missing; None if that fails."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "compiling.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process that waited for the lock finds the finished packages
        return _make_compiled()


def _make_compiled() -> Path | None:
    sources = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    how = sys.version + os.environ.get("MYPYC_OPT_LEVEL", "")
    read = (*sources, Path(__file__), ROOT / "benchmarks" / "extensions.py")
    name = hashlib.sha256(b"".join(path.read_bytes() for path in read) + how.encode()).hexdigest()[:16]
    directory = ROOT / "build" / "compiled" / name
    if directory.is_dir():
        return directory
    shutil.rmtree(directory.parent, ignore_errors=True)
    making = directory.with_suffix(f".{os.getpid()}")
    for path in sources:
        copy = making / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (making / "mypy.ini").write_text(MYPY)
    with (directory.parent / "log").open("w") as output:
        compiling = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.extensions", *MODULES],
            cwd=making,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(making), str(ROOT)))},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            compiling.wait(COMPILES_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if compiling.poll() is None:
                os.killpg(compiling.pid, signal.SIGKILL)  # of the C compilers too
    if compiling.wait() != 0 or not _works(making):
        return None
    making.rename(directory)
    return directory


def _works(directory: Path) -> bool:
    """Whether the compiled packages are imported from this directory, all of them compiled."""
    ask = "import p2pd.simulation.cluster; print(p2pd.simulation.cluster.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=directory, capture_output=True, text=True, timeout=COMPILES_S, check=False
    )
    return done.returncode == 0 and not done.stdout.strip().endswith(".py")
