"""The costs of a running process, by stage and by thread.

Rules:
1. perf samples the process where it works, by the clock, because a virtual machine may have no counters. Else the
   kernel's count for each thread tells the event loop from the threads of pools, and no more (`/proc/PID/task`).
2. The sum over all stages is the kernel's count for the process, in steps of 10 ms, whatever perf's samples add up to.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.command import UnmeasurableError
from benchmarks.procfs import TICKS_PER_S
from benchmarks.profile.stages import EVENT_LOOP, POOL_THREADS, Cost, costs, samples

SAMPLES_PER_S: Final = 997
"""Of each core. No round number: a timer of the program does not beat with it."""

PERF: Final = ("perf", "record", "--quiet", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-g")
BOUND_S: Final = 60.0


def perf_works(directory: Path) -> bool:
    """Whether perf is there, and the kernel lets it sample."""
    if shutil.which("perf") is None:
        return False
    trial = directory / "trial.perf"
    words = [*PERF, "-o", str(trial), "--", "true"]
    works = subprocess.run(words, capture_output=True, timeout=BOUND_S, check=False).returncode == 0
    trial.unlink(missing_ok=True)
    return works


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """The kernel's counts of one thread so far, from proc(5)'s stat and status."""

    user_s: float
    system_s: float
    page_faults: int
    waits: int


def thread_counts(pid: int) -> dict[int, ThreadCounts]:
    """The counts of all threads by their ids; the first thread has the id of the process."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            status = (task / "status").read_text()
            waits = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
            faults = int(fields[7]) + int(fields[9])
            counts[int(task.name)] = ThreadCounts(
                int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S, faults, waits
            )
    return counts


@dataclass(slots=True)
class HostProfile:
    """What a process did while it was sampled: CPU seconds by stage, page faults, and the waits of its threads.

    A wait is a wake-up too: a thread that waited was woken.
    """

    stages: dict[str, Cost] = field(default_factory=dict)
    page_faults: int = 0
    waits: int = 0

    @property
    def total(self) -> Cost:
        return Cost(
            sum(cost.user_s for cost in self.stages.values()), sum(cost.system_s for cost in self.stages.values())
        )


@contextmanager
def profiled(pid: int, directory: Path, *, perf: bool) -> Iterator[HostProfile]:
    """Sample a process while the block runs. The profile is filled in afterwards. Raises UnmeasurableError."""
    profile = HostProfile()
    before = thread_counts(pid)
    recorded = directory / f"{pid}.perf"
    try:
        if perf:
            with _recording(pid, recorded):
                yield profile
        else:
            yield profile
        _fill(profile, pid, before, thread_counts(pid))
        if perf and (stages := _sampled(pid, recorded, profile.total)):
            profile.stages = stages
    finally:
        recorded.unlink(missing_ok=True)


def _fill(profile: HostProfile, pid: int, before: dict[int, ThreadCounts], now: dict[int, ThreadCounts]) -> None:
    """Counts by thread. Those of threads that have ended in between are lost: p2pd's pools keep their threads."""
    none = ThreadCounts(0.0, 0.0, 0, 0)
    for stage in (EVENT_LOOP, POOL_THREADS):
        pairs = [
            (counts, before.get(task, none)) for task, counts in now.items() if (task == pid) == (stage == EVENT_LOOP)
        ]
        profile.stages[stage] = Cost(
            sum(counts.user_s - earlier.user_s for counts, earlier in pairs),
            sum(counts.system_s - earlier.system_s for counts, earlier in pairs),
        )
        profile.page_faults += sum(counts.page_faults - earlier.page_faults for counts, earlier in pairs)
        profile.waits += sum(counts.waits - earlier.waits for counts, earlier in pairs)


@contextmanager
def _recording(pid: int, recorded: Path) -> Iterator[None]:
    """perf, which samples the process from the start of the block to its end. Raises UnmeasurableError."""
    orders, order = os.pipe()
    answer, answers = os.pipe()
    words = [*PERF, "-o", str(recorded), "-p", str(pid), "-D", "-1", "--control", f"fd:{orders},{answers}"]
    recording = subprocess.Popen(
        words, pass_fds=(orders, answers), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    os.close(orders)
    os.close(answers)
    try:
        os.write(order, b"enable\n")
        if not os.read(answer, 16):
            raise UnmeasurableError(f"perf cannot sample process {pid}: {recording.communicate()[1].strip()[-300:]}")
        yield
    finally:
        recording.send_signal(signal.SIGINT)  # without effect on an ended process
        recording.communicate(timeout=BOUND_S)
        os.close(order)
        os.close(answer)


def _sampled(pid: int, recorded: Path, total: Cost) -> dict[str, Cost]:
    words = ["perf", "script", "--no-inline", "-i", str(recorded), "-F", "tid,ip,sym,dso"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=10 * BOUND_S, check=False)
    if done.returncode != 0:
        raise UnmeasurableError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")
    return costs(samples(done.stdout.splitlines()), pid, total)
