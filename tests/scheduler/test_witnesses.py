"""Many ids at one address are one witness: what they say together counts as what one of them says."""

from __future__ import annotations

import pytest

from scheduler.core.events import Connected, Received
from scheduler.core.members import network_of
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import Announce, Fault, Hello, Holding, Join, NeighbourFailed

BLOB = b"d" * 32
SIZE = 64 << 20
SEEDER, REPORTERS = 1, range(2, 12)


def _connect(core: Scheduler, number: int, seen_at: str) -> None:
    core.handle(Connected(number, Hello(f"h{number}", 1, 1, f"h{number}:1"), seen_at), 1.0)


@pytest.mark.parametrize(
    ("addresses", "stays"),
    [
        (["10.0.0.2"] * len(REPORTERS), True),
        ([f"2001:db8::{number:x}" for number in REPORTERS], True),
        ([f"10.0.0.{number}" for number in REPORTERS], False),
        ([f"2001:db8:0:{number:x}::1" for number in REPORTERS], False),
    ],
)
def test_they_do_not_take_a_seeder_out_of_its_swarm(addresses: list[str], *, stays: bool) -> None:
    core = Scheduler(SchedulerSettings(leases_per_blob=0))
    _connect(core, SEEDER, "10.0.0.1")
    core.handle(Received(SEEDER, Announce((Holding(BLOB, SIZE, complete=True),))), 1.0)
    for number, seen_at in zip(REPORTERS, addresses, strict=True):
        _connect(core, number, seen_at)
        core.handle(Received(number, Join(BLOB, "docker.io", "library/app", SIZE)), 1.0)
        core.handle(Received(number, NeighbourFailed(BLOB, f"h{SEEDER}", Fault.GONE)), 1.0)
    core.validate()
    state = core._state
    assert (BLOB in state.hosts[SEEDER].members) is stays


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("::x", "::x"),
    ],
)
def test_one_machine_has_the_addresses_of_a_network(address: str, network: str) -> None:
    assert network_of(address) == network
