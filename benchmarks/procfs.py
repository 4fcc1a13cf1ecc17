"""A process's costs by the kernel's count: CPU time and resident memory, from /proc/PID.

The counts are of the process with all its threads. They leave out its children, unless that is said: p2pd has none.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SAMPLE_INTERVAL_S = 0.05
SETTLED_SAMPLES = 20
SETTLE_BOUND_S = 10.0


def cpu_s(pid: int) -> float:
    """User and system time so far, in steps of 10 ms. Fields 14 and 15 of proc(5)'s stat; the second, the
    program's name, is in parentheses and may hold spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Spent:
    """The CPU time of a process, with its children, while the `with` block runs: `s`, at least a step of the count."""

    def __init__(self, pid: int) -> None:
        self.s = 1 / TICKS_PER_S
        self._pid = pid

    def __enter__(self) -> Self:
        self._before_s = cpu_s_with_children(self._pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.s = max(self.s, cpu_s_with_children(self._pid) - self._before_s)


def cpu_s_with_children(pid: int) -> float:
    """`cpu_s` of a process and of its children that live: a master of nginx leaves all work to them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_s(pid) + sum(cpu_s(int(child)) for child in children)


def machine_cpu_s() -> tuple[float, float]:
    """Seconds that all cores together were busy, and idle, since the machine's start. The first line of proc(5)'s stat:
    user, nice, system, idle, iowait, irq, softirq, steal; user includes the fields after these."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / TICKS_PER_S, idle / TICKS_PER_S


def busy_share(before: tuple[float, float]) -> float:
    """How busy all cores together were since `machine_cpu_s` gave `before`."""
    busy_s, idle_s = (now - then for now, then in zip(machine_cpu_s(), before, strict=True))
    return busy_s / (busy_s + idle_s)


def memory_mib(pid: int, key: str) -> float:
    """`VmRSS` or `VmHWM` (its highest value) of /proc/PID/status, which has them in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/{pid}/status has no {key}: the process has ended")


def settled_rss_mib(pid: int) -> float:
    """The resident memory once it has not changed for a second, or after ten seconds of change."""
    deadline = time.monotonic() + SETTLE_BOUND_S
    samples = [memory_mib(pid, "VmRSS")]
    while len(set(samples[-SETTLED_SAMPLES:])) > 1 or len(samples) < SETTLED_SAMPLES:
        if time.monotonic() > deadline:
            break
        time.sleep(SAMPLE_INTERVAL_S)
        samples.append(memory_mib(pid, "VmRSS"))
    return samples[-1]


class PeakRss:
    """The highest resident memory of a process while the `with` block runs; `mib` holds it afterwards.

    It is the higher of two values: the kernel's own high-water mark, reset at the start (5 into clear_refs), and
    samples at 20 Hz, since the kernel updates its mark only on some paths.
    """

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._pid = pid
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="rss")

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_INTERVAL_S):
            try:
                self.mib = max(self.mib, memory_mib(self._pid, "VmRSS"))
            except OSError:  # the process ended; the block itself notices that
                return

    def __enter__(self) -> Self:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._sampler.join()
        if error is None:
            self.mib = max(self.mib, memory_mib(self._pid, "VmHWM"))
