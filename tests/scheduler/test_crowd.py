"""Which connection has to go when there are too many."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.shell.connection import HostConnection
from scheduler.shell.crowd import Crowd
from tests.scheduler.test_connection import FakeOwner

STRANGER, IDLE, SPOKEN = range(3)


def crowd(*connections: tuple[str, int]) -> tuple[Crowd, list[HostConnection]]:
    """Connections in the order in which they came: the address, and how far each has got."""
    made, of = [], Crowd()
    for number, (address, standing) in enumerate(connections):
        connection = HostConnection(FakeOwner(), number, 10)
        connection.host = connection.network = address
        connection.greeted, connection.has_spoken = standing >= IDLE, standing == SPOKEN
        of.add(connection)
        made.append(connection)
    return of, made


@pytest.mark.parametrize(
    ("connections", "goes"),
    [
        ([("x", IDLE), ("x", STRANGER), ("x", STRANGER), ("x", IDLE), ("y", STRANGER)], 2),
        ([("x", SPOKEN), ("x", IDLE), ("x", IDLE), ("x", SPOKEN), ("y", STRANGER)], 2),
        ([("x", SPOKEN), ("x", SPOKEN), ("y", SPOKEN), ("y", STRANGER), ("x", SPOKEN), ("z", STRANGER)], 4),
        ([("y", IDLE), ("x", SPOKEN), ("x", SPOKEN), ("y", STRANGER), ("x", SPOKEN), ("z", STRANGER)], 4),
        ([("x", IDLE), ("x", STRANGER)], 0),
        ([("x", SPOKEN), ("x", STRANGER)], None),
        ([("x", SPOKEN), ("y", STRANGER)], None),
    ],
)
def test_who_goes(connections: list[tuple[str, int]], goes: int | None) -> None:
    of, made = crowd(*connections)
    assert of.least_welcome(made[-1]) is (None if goes is None else made[goes])


def test_a_connection_that_ends_and_one_with_a_certificate_do_not_count() -> None:
    of, made = crowd(("x", IDLE), ("x", IDLE), ("x", STRANGER))
    of.discard(made[1])
    of.discard(made[1])
    made[0].ended_at = 1.0
    assert of.least_welcome(made[2]) is None
    for connection in made:
        of.discard(connection)
    assert of.least_welcome(made[2]) is None


def _calls(of: Crowd, newest: HostConnection) -> int:
    """Calls that it takes to find who goes."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    profiler = sys.getprofile()
    sys.setprofile(count)
    try:
        of.least_welcome(newest)
    finally:
        sys.setprofile(profiler)
    return calls


def test_to_find_who_goes_takes_no_longer_among_many() -> None:
    few, many = (crowd(*[("x", SPOKEN)] * count, ("y", STRANGER)) for count in (3, 300))
    assert _calls(many[0], many[1][-1]) == _calls(few[0], few[1][-1])


@given(st.lists(st.tuples(st.sampled_from(["add", "step", "discard"]), st.integers(0, 9), st.sampled_from("xyz"))))
def test_who_goes_is_of_a_network_with_the_most_and_has_got_least_far(events: list[tuple[str, int, str]]) -> None:
    of, present = Crowd(), list[HostConnection]()
    for number, (what, index, network) in enumerate(events):
        if what == "add" or not present:
            present.append(HostConnection(FakeOwner(), number, 10))
            present[-1].network = network
            of.add(present[-1])
            continue
        connection = present.pop(index % len(present))
        if what == "discard":
            of.discard(connection)
            continue
        connection.greeted, connection.has_spoken = True, connection.greeted
        of.stepped(connection)
        present.append(connection)
    newest = HostConnection(FakeOwner(), len(events), 10)
    newest.network = "new"
    of.add(newest)
    counts = Counter(each.network for each in [*present, newest])
    goes = of.least_welcome(newest)
    if goes is None:
        assert max(counts.values()) == 1
        return
    assert counts[goes.network] == max(counts.values())
    standing = [(each.greeted, each.has_spoken) for each in present if each.network == goes.network]
    same = [each for each in present if (each.network, each.greeted, each.has_spoken) == (
        goes.network, goes.greeted, goes.has_spoken)]  # fmt: skip
    assert (goes.greeted, goes.has_spoken) == min(standing)
    assert goes is same[-1]
