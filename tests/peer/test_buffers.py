"""The buffers: a budget that holds whatever threads do, and nothing kept when nothing is received."""

from __future__ import annotations

import ctypes
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peer.store.buffers import BufferPool
from tests.support.registry_server import PATIENCE_S

_MAPPING = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<stop>[0-9a-f]+) .*(?:\n(?![0-9a-f]+-).*)*?\nVmFlags: (?P<flags>.*)$", re.MULTILINE
)


def test_a_buffer_has_the_size_that_was_asked_for_and_is_writable() -> None:
    with BufferPool(100).buffer(10) as view:
        view[:] = b"0123456789"
        assert len(view) == 10


def test_a_buffer_of_nothing_is_one_all_the_same() -> None:
    with BufferPool(100).buffer(0) as view:
        assert len(view) == 1


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages")
def test_a_buffer_may_have_huge_pages() -> None:
    """The flags of its mapping have `hg` for that, and no `sh`: shared memory follows another setting."""
    with BufferPool(4 * 2**20).buffer(4 * 2**20) as view:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        flags = next(
            mapping["flags"].split()
            for mapping in _MAPPING.finditer(Path("/proc/self/smaps").read_text())
            if int(mapping["start"], 16) <= address < int(mapping["stop"], 16)
        )
    assert ("hg" in flags, "sh" in flags) == (True, False)


def test_a_buffer_is_used_again_while_another_is_out() -> None:
    pool = BufferPool(100)
    with pool.buffer(10):
        with pool.buffer(10) as view:
            view[:] = b"0123456789"
        with pool.buffer(10) as again:
            assert bytes(again) == b"0123456789"


def test_nothing_is_kept_when_nothing_is_out() -> None:
    pool = BufferPool(100)
    with pool.buffer(10) as view:
        view[:] = b"0123456789"
    with pool.buffer(10) as fresh:
        assert bytes(fresh) == bytes(10)


def test_what_is_kept_makes_room_for_another_size() -> None:
    pool = BufferPool(100)
    with pool.buffer(10):
        with pool.buffer(60):
            pass
        with pool.buffer(50), pool.buffer(40):  # the 60 would not fit beside them
            assert pool._free_bytes == 0


def test_a_buffer_larger_than_the_budget_is_given_alone() -> None:
    with BufferPool(10).buffer(11) as view:
        assert len(view) == 11


def test_a_buffer_comes_back_when_its_block_fails() -> None:
    pool = BufferPool(10)
    with pytest.raises(RuntimeError), pool.buffer(10):
        raise RuntimeError
    with pool.buffer(10):
        pass


def test_who_comes_when_the_budget_is_out_waits_for_it() -> None:
    pool = BufferPool(10)
    got = threading.Event()

    def second() -> None:
        with pool.buffer(10):
            got.set()

    with ThreadPoolExecutor(1) as threads:
        with pool.buffer(1):
            waiting = threads.submit(second)
            assert not got.is_set()
        waiting.result(PATIENCE_S)
    assert got.is_set()


def test_the_budget_holds_and_no_two_share_a_buffer() -> None:
    pool = BufferPool(4_096 * 3)
    lock = threading.Lock()
    out, most = 0, 0

    def use(seed: int) -> None:
        nonlocal out, most
        size = 4_096 * (1 + seed % 2)
        with pool.buffer(size) as view:
            with lock:
                out += size
                most = max(most, out)
            view[:] = bytes([seed % 256]) * size
            assert set(view) == {seed % 256}
            with lock:
                out -= size

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(use, seed) for seed in range(200)]:
            done.result(PATIENCE_S)
    assert most <= pool.budget_bytes


def test_a_spare_one_is_not_waited_for() -> None:
    pool = BufferPool(20)
    with pool.buffer(10), pool.spare(10) as second, pool.spare(10) as third:
        assert second is not None
        assert third is None
    with pool.spare(20) as view:
        assert view is not None
