"""Which connection has to go when there are too many."""

from __future__ import annotations

import pytest

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
