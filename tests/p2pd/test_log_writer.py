"""The thread that writes the log: who logs never waits, and what is lost is counted and told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from p2pd.daemon.log_writer import LogWriter
from tests.support.registry_server import PATIENCE_S


def notice(count: int) -> str:
    return f"{count} lost"


def read_lines(descriptor: int, last: str) -> list[str]:
    """Reads until the line `last` has come."""
    text = b""
    while not text.endswith(f"{last}\n".encode()):
        part = os.read(descriptor, 65536)
        assert part, text
        text += part
    return text.decode().splitlines()


def put_many(writer: LogWriter, count: int) -> None:
    for number in range(count):
        writer.put(f"line {number}")


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fill(self) -> int:
        """Fill the pipe; returns the bytes that it took."""
        os.set_blocking(self.writing, False)
        count = 0
        try:
            while True:
                count += os.write(self.writing, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writing, True)
            return count


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reading, pipe.writing):
        with suppress(OSError):  # the test has closed it
            os.close(descriptor)


def test_lines_come_in_order(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, notice)
    for number in range(100):
        writer.put(f"line {number}")
    writer.close(PATIENCE_S)
    assert read_lines(pipe.reading, "line 99") == [f"line {number}" for number in range(100)]
    assert writer.dropped == 0


def test_nobody_waits_for_a_reader_that_has_stopped_and_what_is_lost_is_told(pipe: Pipe) -> None:
    filled = pipe.fill()
    writer = LogWriter(pipe.writing, notice, max_waiting=3)
    caller = threading.Thread(target=put_many, args=(writer, 50), daemon=True)
    caller.start()
    caller.join(PATIENCE_S)
    assert not caller.is_alive()
    assert writer.dropped >= 50 - 3 - 1  # three wait, and one may be in the thread's hands
    for _ in range(filled // 4096):
        os.read(pipe.reading, 4096)
    writer.close(PATIENCE_S)
    os.close(pipe.writing)
    with open(pipe.reading, closefd=False) as log:
        lines = log.read().splitlines()
    lost = [int(line.split()[0]) for line in lines if line.endswith(" lost")]
    assert sum(lost) == writer.dropped
    assert len(lines) - len(lost) == 50 - writer.dropped


def test_a_stopped_reader_delays_the_end_by_no_more_than_the_bound(pipe: Pipe) -> None:
    pipe.fill()
    writer = LogWriter(pipe.writing, notice)
    writer.put("line")
    writer.close(within_s=0.01)  # and returns


def test_a_closed_pipe_costs_the_lines_and_nothing_else(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, notice)
    os.close(pipe.reading)
    writer.put("one")
    writer.put("two")
    writer.close(PATIENCE_S)
    assert writer.dropped == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_the_lines_and_the_count_is_told_once_there_is_room(pipe: Pipe) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(full, notice)
    writer.put("lost")
    while not writer.dropped:
        pass
    os.dup2(pipe.writing, full)  # there is room
    writer.put("kept")
    writer.close(PATIENCE_S)
    assert read_lines(pipe.reading, "kept") == ["1 lost", "kept"]
    os.close(full)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.writing, False)
    writer = LogWriter(pipe.writing, notice)
    writer.put("line")
    while b"line\n" not in os.read(pipe.reading, 4096):
        pass
    writer.close(PATIENCE_S)
    assert writer.dropped == 0


PROGRAM = """
import sys
from p2pd.daemon import logs
logs.setup("info", "json")
log = logs.get("test")
for number in range(int(sys.argv[1])):
    log.info("line", number=number, text="x" * 100)
print("done", flush=True)
"""


def program(lines: int, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(lines)], stdout=subprocess.PIPE, stderr=stderr)


def test_a_program_goes_on_and_ends_while_nobody_reads_its_log(pipe: Pipe) -> None:
    with program(20_000, pipe.writing) as running:
        assert running.stdout is not None
        assert running.stdout.read() == b"done\n"
        assert running.wait(PATIENCE_S) == 0


def test_the_last_lines_of_a_program_come_out() -> None:
    with program(100, subprocess.PIPE) as running:
        _, log = running.communicate(timeout=PATIENCE_S)
    assert len(log.splitlines()) == 100
