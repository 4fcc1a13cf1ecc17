"""Connecting to a host with several addresses: one that leads nowhere does not hide one that works."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from peer.origin import dialing
from peer.origin.dialing import ATTEMPT_DELAY_S, Address, Dialer, in_order
from tests.support.ports import refusing
from tests.support.registry_server import PATIENCE_S

PLACE = ("registry.test", 443)
TRIES = 20
"""Of which one is quick, on a machine that does much else too."""


def v4(host: str, port: int) -> Address:
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port)


def v6(host: str, port: int) -> Address:
    return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port, 0, 0)


@contextlib.contextmanager
def listening() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        yield v4(*server.getsockname())


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address at which an attempt gets no answer: the queue of its listener is full."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        yield v4(*full.getsockname())


@pytest.fixture
def refused() -> Iterator[Address]:
    with refusing() as port:
        yield v4("127.0.0.1", port)


def connected_to(dialer: Dialer, timeout_s: float = PATIENCE_S) -> object:
    with dialer.connect(PLACE, timeout_s) as connected:
        assert connected.gettimeout() == timeout_s
        return connected.getpeername()


def took_s(dialer: Dialer, to: Address) -> float:
    began = time.monotonic()
    assert connected_to(dialer) == to[3]
    return time.monotonic() - began


def test_the_families_take_turns_and_what_worked_comes_first() -> None:
    a, b, c = (v6(f"2001:db8::{number}", 443) for number in (1, 2, 3))
    d, e = (v4(f"192.0.2.{number}", 443) for number in (1, 2))
    assert in_order([a, b, c, d, e]) == [a, d, b, e, c]
    assert in_order([d, e, a]) == [d, a, e]
    assert in_order([a, b, c, d, e], e[3]) == [e, a, d, b, c]
    assert in_order([a, b, c, d, e], e[3], a[3]) == [e, d, b, c, a]


def test_addresses_without_an_answer_cost_a_moment_each_and_once(silent: Address) -> None:
    with listening() as good:
        dialer = Dialer(lambda *_: [silent, silent, good])
        assert took_s(dialer, good) >= 2 * ATTEMPT_DELAY_S
        assert min(took_s(dialer, good) for _ in range(TRIES)) < ATTEMPT_DELAY_S


def test_an_address_that_refuses_costs_nothing(refused: Address) -> None:
    with listening() as good:
        dialers = [Dialer(lambda *_: [refused] * 9 + [good]) for _ in range(TRIES)]
        assert min(took_s(each, good) for each in dialers) < ATTEMPT_DELAY_S


def test_what_worked_once_may_fail_later(refused: Address) -> None:
    with listening() as good, listening() as other:
        answers = [[good, other], [good, other], [refused, other]]
        dialer = Dialer(lambda *_: answers.pop(0))
        assert [connected_to(dialer) for _ in range(3)] == [good[3], good[3], other[3]]


def test_all_addresses_share_the_time(silent: Address) -> None:
    with pytest.raises(TimeoutError):
        Dialer(lambda *_: [silent] * 9).connect(PLACE, 0.05)


def test_the_last_error_is_told(refused: Address) -> None:
    unknown: Address = (9999, socket.SOCK_STREAM, 0, ("x", 1))
    with pytest.raises(ConnectionRefusedError):
        Dialer(lambda *_: [unknown, refused]).connect(PLACE, PATIENCE_S)
    with pytest.raises(OSError, match="no address"):
        Dialer(lambda *_: []).connect(PLACE, PATIENCE_S)


def test_a_family_that_this_machine_lacks_is_passed_over() -> None:
    with listening() as good:
        unknown: Address = (9999, socket.SOCK_STREAM, 0, ("x", 1))
        assert connected_to(Dialer(lambda *_: [unknown, good])) == good[3]


def test_so_many_hosts_are_remembered_and_no_more() -> None:
    with listening() as good:
        dialer = Dialer(lambda *_: [good])
        for number in range(dialing._MOST_REMEMBERED + 1):
            dialer.connect((f"host-{number}", 443), PATIENCE_S).close()
        assert len(dialer._worked) == dialing._MOST_REMEMBERED


def test_an_address_is_resolved() -> None:
    assert dialing.resolve("127.0.0.1", 443) == [v4("127.0.0.1", 443)]
