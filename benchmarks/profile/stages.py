"""The stages of a host's work, and the stage of a sample of its CPU time.

Rules:
1. A sample is a stack of the kernel's profiler: frames with their symbol and object, the innermost first. In the kernel
   a sample belongs to the system call, or to the fault, that is under way. In user space it belongs to the library of
   the innermost frame, because Python and most libraries are compiled without frame pointers.
2. What is neither a known system call nor a known library belongs to the thread: the event loop, or a thread of a pool.
3. SHA-256 is all of OpenSSL: in an open cluster, and from an origin without TLS, OpenSSL does nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

SOCKET: Final = "socket"
BLAKE3: Final = "BLAKE3"
SHA256: Final = "SHA-256"
PWRITE: Final = "pwrite"
REREADING: Final = "re-reading"
SENDING: Final = "sending"
EVENT_LOOP: Final = "event loop"
POOL_THREADS: Final = "pool threads"
HAND_OVER: Final = "thread hand-over"
PAGE_FAULTS: Final = "page faults"
INTERRUPTS: Final = "interrupts"
OTHER: Final = "other"

STAGES: Final = (
    SOCKET,
    BLAKE3,
    SHA256,
    PWRITE,
    REREADING,
    SENDING,
    EVENT_LOOP,
    POOL_THREADS,
    HAND_OVER,
    PAGE_FAULTS,
    INTERRUPTS,
    OTHER,
)

_KERNEL: Final = (
    (INTERRUPTS, re.compile(r"^asm_(sysvec|common_interrupt)|^el1h?_.*irq")),
    (SENDING, re.compile(r"sys_sendfile|sys_send(to|msg|mmsg)|sock_write_iter|tcp_sendmsg")),
    (SOCKET, re.compile(r"sys_recv(from|msg|mmsg)|sock_read_iter|sock_recvmsg|tcp_recvmsg")),
    (PWRITE, re.compile(r"sys_pwrite|do_pwritev|sys_fallocate|sys_fdatasync|sys_fsync")),
    (REREADING, re.compile(r"sys_pread|do_preadv")),
    (HAND_OVER, re.compile(r"sys_futex|sys_sched_yield")),
    (PAGE_FAULTS, re.compile(r"page_fault|sys_(mmap|munmap|mprotect|madvise|brk|mremap)$|el0_da$")),
    (EVENT_LOOP, re.compile(r"sys_epoll|sys_p?poll|sys_p?select6?|eventfd|sys_timerfd")),
    (INTERRUPTS, re.compile(r"^exit_to_user_mode")),
)
"""By the first of these that any frame matches. An interrupt's own frames are the innermost."""

_LIBRARIES: Final = (
    (BLAKE3, re.compile(r"^_?blake3")),
    (SHA256, re.compile(r"^(libcrypto|_hashlib|_sha2|_sha256)")),
)

_HAND_OVER: Final = re.compile(r"^(take|drop)_gil|pthread_(cond|mutex|rwlock)|^(__)?lll_|sem_(wait|post)|lock_PyThread")


@dataclass(frozen=True, slots=True)
class Frame:
    """A function, and the object (a library, a program or the kernel) that has it; both may be `[unknown]`."""

    symbol: str
    object: str

    @property
    def in_kernel(self) -> bool:
        return self.object.startswith("[") and self.object not in ("[unknown]", "[vdso]", "[vsyscall]", "[heap]")


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment at which the thread `task` was running."""

    task: int
    frames: Sequence[Frame]

    @property
    def in_kernel(self) -> bool:
        return bool(self.frames) and self.frames[0].in_kernel

    def stage(self, loop: int) -> str:
        """The stage; the thread `loop` runs the event loop."""
        if self.in_kernel:
            for stage, pattern in _KERNEL:
                if any(pattern.search(frame.symbol) for frame in self.frames if frame.in_kernel):
                    return stage
            return OTHER
        if self.frames:
            library = PurePath(self.frames[0].object).name
            for stage, pattern in _LIBRARIES:
                if pattern.match(library):
                    return stage
            if _HAND_OVER.search(self.frames[0].symbol):
                return HAND_OVER
        return EVENT_LOOP if self.task == loop else POOL_THREADS


def samples(lines: Iterable[str]) -> Iterator[Sample]:
    """The samples in the output of `perf script -F tid,ip,sym,dso`: a line with the thread, then a line for each frame,
    then an empty line."""
    task: int | None = None
    frames: list[Frame] = []
    for line in lines:
        words = line.split(maxsplit=1)
        if not words:
            if task is not None:
                yield Sample(task, frames)
            task, frames = None, []
        elif task is None:
            task = int(words[0])
        else:
            symbol, _, place = (words[1] if len(words) > 1 else "").rstrip().rpartition(" (")
            frames.append(Frame(symbol, place.removesuffix(")")))
    if task is not None:
        yield Sample(task, frames)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds in user space and in the kernel."""

    user_s: float
    system_s: float


def costs(taken: Iterable[Sample], loop: int, total: Cost) -> dict[str, Cost]:
    """`total`, as the kernel counted it, apportioned to the stages by their samples; none without samples."""
    counts = {stage: [0, 0] for stage in STAGES}
    for sample in taken:
        counts[sample.stage(loop)][sample.in_kernel] += 1
    number = sum(user + system for user, system in counts.values())
    if not number:
        return {}
    each_s = (total.user_s + total.system_s) / number
    return {stage: Cost(user * each_s, system * each_s) for stage, (user, system) in counts.items()}
