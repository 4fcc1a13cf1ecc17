"""What hosts make the scheduler keep with a few bytes is bounded: for each host, for each address, and in all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from msgspec import structs

from scheduler.core.budget import SWARM_BYTES, Budget
from scheduler.core.events import Close, Connected, Received
from scheduler.core.piece_map import PieceMap
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.core.story import Story
from scheduler.protocol.codec import FromHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import Announce, Holding, Leave, Need
from scheduler.protocol.geometry import MAX_BLOB_BYTES, MAX_PIECES
from scheduler.shell.bounds import Bounds
from tests.scheduler.messages_for_pull import JOIN
from tests.scheduler.playbook import SETTINGS, hello

MIB = 1 << 20
SMALL = replace(SETTINGS, witness_bytes=20 * SWARM_BYTES, claimed_bytes=50 * SWARM_BYTES)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


@contextmanager
def takes_at_most(bound_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= bound_bytes, f"{grown / MIB:.1f} MiB"


def said(number: int, what: str) -> FromHost:
    match what:
        case "a part":
            return Announce((Holding(digest(number), MAX_BLOB_BYTES, complete=False, have=b"\x01"),))
        case "wanted":
            return structs.replace(JOIN, digest=digest(number), size_bytes=MAX_BLOB_BYTES)
        case _:
            return Need(digest(number), MAX_PIECES - 1, MAX_PIECES)


@pytest.mark.parametrize("what", ["a part", "wanted", "needed"])
def test_what_one_host_says_takes_no_more_than_its_share(what: str) -> None:
    scheduler = Scheduler(SchedulerSettings(witness_bytes=8 * MIB))
    scheduler.handle(Connected(1, hello("a"), "192.0.2.66"), 0.0)
    with takes_at_most(16 * MIB):
        for number in range(2000):
            scheduler.handle(Received(1, said(number, what)), 0.0)
    scheduler.validate()


def test_a_map_grows_as_digests_arrive() -> None:
    with takes_at_most(64 * 1024):
        PieceMap(MAX_PIECES, Story())


@pytest.mark.parametrize(("addresses", "swarms"), [(1, 20), (3, 50)])
def test_the_hosts_of_one_address_share_what_one_has_and_all_have_a_bound_too(addresses: int, swarms: int) -> None:
    scheduler = Scheduler(SMALL)
    for number in range(120):
        scheduler.handle(Connected(number, hello(f"h{number}"), f"192.0.2.{number % addresses}"), 0.0)
        scheduler.handle(Received(number, structs.replace(JOIN, digest=digest(number), size_bytes=None)), 0.0)
        scheduler.validate()
    assert scheduler.statistics().swarms == swarms


def test_a_host_with_a_certificate_has_a_share_of_its_own_and_what_ends_is_given_back() -> None:
    scheduler = Scheduler(SMALL)
    for number in range(30):
        scheduler.handle(Connected(number, hello(f"h{number}"), "192.0.2.7", certified=number >= 25), 0.0)
        scheduler.handle(Received(number, structs.replace(JOIN, digest=digest(number), size_bytes=None)), 0.0)
    assert scheduler.statistics().swarms == 25
    for number in range(30):
        scheduler.handle(Received(number, Leave(digest(number))), 0.0)
    assert scheduler._state.budget.taken == 0


def test_a_length_beyond_the_share_ends_the_connection() -> None:
    scheduler = Scheduler(replace(SMALL, witness_bytes=2 * SWARM_BYTES))
    scheduler.handle(Connected(1, hello("a"), "192.0.2.7"), 0.0)
    told = scheduler.handle(Received(1, structs.replace(JOIN, size_bytes=MAX_BLOB_BYTES)), 0.0)
    assert [each.closing for each in told if isinstance(each, Close)] == [Closing.MALFORMED]
    scheduler.validate()


def test_charges() -> None:
    budget = Budget(each=10, in_all=15)
    assert budget.take("a", 10)
    assert not budget.take("a", 1)
    assert not budget.take("b", 6)
    assert budget.take("b", 5)
    budget.validate()
    budget.give_back({"a": 4})
    assert budget.take("b", 4)
    assert budget.taken == 15
    budget.validate()


def test_a_claimed_length_takes_no_map() -> None:
    scheduler = Scheduler(SETTINGS)
    scheduler.handle(Connected(1, hello("a"), "192.0.2.66"), 0.0)
    with takes_at_most(10 * 64 * 1024):
        for number in range(10):
            scheduler.handle(Received(1, said(number, "wanted")), 0.0)


def test_half_of_100_000_hosts_have_room_beside_what_they_claim() -> None:
    """Where two of three schedulers are left. The limit is that of docker/helm."""
    limit, interpreter, connection = 1024 * MIB, 64 * MIB, 6350
    connections = Bounds().connections
    assert connections >= 100_000 // 2
    assert interpreter + connections * connection + SchedulerSettings().claimed_bytes <= limit
