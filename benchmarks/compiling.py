"""The simulator and the cores that it plays, compiled: the same code, made into C by mypyc, in about half the time.

Rules:
1. What is compiled is a copy, in `build/compiled`, of the sources as they are now; nothing else ever runs it.
2. A process either runs all of the compiled modules or none. Where they cannot be compiled (there is no C compiler),
   the simulation is interpreted: that takes longer and comes to the same figures.
"""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import shutil
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
            "download",
            "exchange",
            "fetches",
            "leases",
            "member",
            "neighbours",
            "origin_events",
            "piece_book",
            "piece_sets",
            "pieces",
            "reports",
            "standing",
            "swarm_events",
            "uplink",
            "choker",
        )
    ),
    *(f"p2pd/simulation/{name}.py" for name in ("bandwidth", "cluster", "event_queue", "host", "origin", "pull")),
)
"""Where the time goes."""

COMPILES_S: Final = 300.0


@contextmanager
def simulating(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes that simulate compiled, if that can be done here."""
    compiled = compiled_path()
    before = list(sys.path)
    if compiled is None:
        print("the simulator could not be compiled: simulations take about twice as long", file=sys.stderr, flush=True)
    else:
        sys.path.insert(0, str(compiled))  # a process that is spawned begins with the path of this one
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            yield pool
    finally:
        sys.path[:] = before


def compiled_path() -> Path | None:
    """Where the compiled packages are, made if they are not there yet; None if they cannot be made."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "compiling.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes meanwhile finds what was made
        return _make_compiled()


def _make_compiled() -> Path | None:
    sources = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    name = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + sys.version.encode()).hexdigest()[:16]
    directory = ROOT / "build" / "compiled" / name
    if directory.is_dir():
        return directory
    shutil.rmtree(directory.parent, ignore_errors=True)
    making = directory.with_suffix(f".{os.getpid()}")
    for path in sources:
        copy = making / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (making / "mypy.ini").write_text("[mypy]\nignore_missing_imports = True\n")
    command = [sys.executable, "-m", "mypyc", *MODULES]
    log = directory.parent / "log"
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command,
                cwd=making,
                env={**os.environ, "PYTHONPATH": str(making)},
                stdout=output,
                stderr=output,
                timeout=COMPILES_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode != 0 or not _works(making):
        return None
    making.rename(directory)
    return directory


def _works(directory: Path) -> bool:
    """Whether what was compiled can be imported, and is what would be."""
    ask = "import p2pd.simulation.cluster; print(p2pd.simulation.cluster.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=directory, capture_output=True, text=True, timeout=COMPILES_S, check=False
    )
    return done.returncode == 0 and not done.stdout.strip().endswith(".py")
