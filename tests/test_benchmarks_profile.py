"""The profile's arithmetic: which stage a sample is of, how the CPU time is apportioned, and what is printed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.profile import command, stages
from benchmarks.profile.sampler import perf_works, profiled, thread_counts
from benchmarks.profile.stages import Cost, Frame, Sample, costs, samples
from benchmarks.report import Figure, Report

KERNEL = "[kernel.kallsyms]"
PYTHON = "/usr/lib/libpython3.11.so.1.0"
LOOP, POOL = 100, 101

SCRIPT = f"""\
    {POOL}
\tffffffff815 copy_folio_from_iter_atomic ({KERNEL})
\tffffffff816 __x64_sys_pwrite64 ({KERNEL})
\t         fa8 [unknown] ([unknown])

    {LOOP}
\t          24 <core::fmt::Formatter as Debug>::fmt (/a place/blake3.cpython-311-x86_64-linux-gnu.so)

"""


def sample(*frames: tuple[str, str], task: int = POOL) -> Sample:
    return Sample(task, [Frame(*frame) for frame in frames])


def test_samples_are_read_from_perf_s_output() -> None:
    first, second = samples(SCRIPT.splitlines())
    assert first.task == POOL
    assert [frame.symbol for frame in first.frames] == [
        "copy_folio_from_iter_atomic",
        "__x64_sys_pwrite64",
        "[unknown]",
    ]
    assert second.frames == [
        Frame("<core::fmt::Formatter as Debug>::fmt", "/a place/blake3.cpython-311-x86_64-linux-gnu.so")
    ]


@pytest.mark.parametrize(
    ("symbols", "stage"),
    [
        (
            ("copy_folio_from_iter_atomic", "shmem_file_write_iter", "__x64_sys_pwrite64", "do_syscall_64"),
            stages.PWRITE,
        ),
        (("copyout", "tcp_recvmsg", "__x64_sys_recvfrom"), stages.SOCKET),
        # The other end of a loopback connection receives while this end sends.
        (("tcp_v4_rcv", "handle_softirqs", "tcp_sendmsg", "__x64_sys_sendfile64"), stages.SENDING),
        (("tcp_v4_rcv", "handle_softirqs", "asm_sysvec_apic_timer_interrupt"), stages.INTERRUPTS),
        (("filemap_read", "__arm64_sys_pread64"), stages.REREADING),
        (("_copy_to_iter", "do_preadv", "do_syscall_64"), stages.REREADING),  # the call's own function is a tail call
        (("futex_wake", "__x64_sys_futex"), stages.HAND_OVER),
        (("clear_page_erms", "handle_mm_fault", "exc_page_fault", "asm_exc_page_fault"), stages.PAGE_FAULTS),
        (("ep_poll", "__x64_sys_epoll_wait"), stages.EVENT_LOOP),
        (("do_unlinkat", "__x64_sys_unlinkat"), stages.OTHER),
    ],
)
def test_a_sample_in_the_kernel_is_of_its_system_call(symbols: tuple[str, ...], stage: str) -> None:
    found = sample(*((symbol, KERNEL) for symbol in symbols), ("PyEval", PYTHON))
    assert found.in_kernel
    assert found.stage(LOOP) == stage


@pytest.mark.parametrize(
    ("frame", "task", "stage"),
    [
        (("_blake3_hash_many_avx512", "/lib/blake3.cpython-311-x86_64-linux-gnu.so"), POOL, stages.BLAKE3),
        (("[unknown]", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"), POOL, stages.SHA256),
        (("take_gil", PYTHON), POOL, stages.HAND_OVER),
        (("_PyEval_EvalFrameDefault", PYTHON), LOOP, stages.EVENT_LOOP),
        (("_PyEval_EvalFrameDefault", PYTHON), POOL, stages.POOL_THREADS),
        (("[unknown]", "[vdso]"), LOOP, stages.EVENT_LOOP),
    ],
)
def test_a_sample_in_user_space_is_of_its_library_or_of_its_thread(
    frame: tuple[str, str], task: int, stage: str
) -> None:
    found = sample(frame, task=task)
    assert not found.in_kernel
    assert found.stage(LOOP) == stage


def test_the_kernel_s_count_is_apportioned_by_samples() -> None:
    taken = [
        *3 * [sample(("x", "/usr/lib/libcrypto.so.3"))],
        sample(("copy", KERNEL), ("__x64_sys_pwrite64", KERNEL)),
    ]
    found = costs(taken, LOOP, Cost(1.5, 0.5))
    assert found[stages.SHA256] == Cost(1.5, 0.0)
    assert found[stages.PWRITE] == Cost(0.0, 0.5)
    assert sum(cost.user_s + cost.system_s for cost in found.values()) == pytest.approx(2.0)


def test_without_samples_nothing_is_apportioned() -> None:
    assert costs([], LOOP, Cost(1.0, 1.0)) == {}


def hash_for_a_while() -> None:
    """As long as it takes for a tick of 10 ms to be counted."""
    before = os.times()
    while os.times().user + os.times().system < before.user + before.system + 0.05:
        hashlib.sha256(bytes(2**20)).digest()


def test_without_perf_the_threads_are_told_apart(tmp_path: Path) -> None:
    with profiled(os.getpid(), tmp_path, perf=False) as profile:
        hash_for_a_while()
    assert set(profile.stages) == {stages.EVENT_LOOP, stages.POOL_THREADS}
    assert profile.total.user_s + profile.total.system_s > 0
    assert os.getpid() in thread_counts(os.getpid())


def test_perf_tells_the_stages(tmp_path: Path) -> None:
    """A process that hashes by OpenSSL and does nothing else. Where perf may not sample, its thread is told."""
    perf = perf_works(tmp_path)
    code = "import hashlib\nwhile True: hashlib.sha256(bytes(2**22)).digest()"
    with subprocess.Popen([sys.executable, "-c", code]) as hashing:
        try:
            with profiled(hashing.pid, tmp_path, perf=perf) as profile:
                before = thread_counts(hashing.pid)[hashing.pid].user_s
                while thread_counts(hashing.pid)[hashing.pid].user_s < before + 0.1:
                    pass
        finally:
            hashing.kill()
    stage = stages.SHA256 if perf else stages.EVENT_LOOP
    assert profile.stages[stage].user_s > profile.total.user_s / 2
    assert list(tmp_path.iterdir()) == []


def test_each_host_has_a_table_with_all_kinds_of_memory() -> None:
    sides = {"SHA-256.user": 0.5, "pwrite.system": 0.25, "gib_s": 0.75}
    figures = [
        Figure(command.figure_name("origin", place, touched), [1.75], None, sides)
        for place in command.PLACES
        for touched in command.TOUCHED
    ]
    text = io.StringIO()
    command.print_report(Report("profile", {"cores": 2}, {}, figures), Console(file=text))
    told = text.getvalue()
    assert "from an origin: CPU seconds per GiB" in told
    assert "from a neighbour" not in told
    assert told.count("untouched") == told.count("touched") / 2 == 4
    for row in ("SHA-256", "0.500", "pwrite", "0.250", "all", "1.750", "gib_s"):
        assert row in told
    assert "BLAKE3" not in told


def test_every_host_is_measured_once_with_each_kind_of_memory() -> None:
    names = [
        command.figure_name(host, place, touched)
        for host in command.HOSTS
        for place in command.PLACES
        for touched in command.TOUCHED
    ]
    assert sorted(command.COMMAND.figures) == sorted(names)
