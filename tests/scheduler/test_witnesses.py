"""Many ids at one address are one witness: what they say together counts as what one of them says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scheduler.core.events import Connected, Disconnected, Received
from scheduler.core.members import network_of
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import Announce, Fault, Hello, Holding, Join, NeighbourFailed, Progress

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


def _holdings(core: Scheduler, number: int) -> None:
    parts = [Holding(bytes([blob]) * 32, 1 << 38, complete=False, have=b"\1" * 8192) for blob in range(20)]
    core.handle(Received(number, Announce(tuple(parts))), 1.0)


def _joins(core: Scheduler, number: int) -> None:
    for blob in range(20):
        core.handle(Received(number, Join(bytes([blob]) * 32, "docker.io", "library/app", SIZE)), 1.0)


def _progress(core: Scheduler, number: int) -> None:
    core.handle(Received(number, Join(BLOB, "docker.io", "library/app", 1 << 38)), 1.0)
    core.handle(Received(number, Progress(BLOB, 1, b"\1" * 8192)), 1.0)


@pytest.mark.parametrize("say", [_holdings, _joins, _progress])
@pytest.mark.parametrize("network", ["10.0.0.2", "2001:db8::1"])
def test_what_they_hold_is_bounded_for_all_of_them(say: Callable[[Scheduler, int], None], network: str) -> None:
    bound = 300_000
    core = Scheduler(SchedulerSettings(leases_per_blob=0, witness_bytes=bound))
    for number in range(1, 60):
        _connect(core, number, network)
        say(core, number)
        core._state.held.validate()
    held = core._state.held
    assert 0.9 * bound < held.taken <= bound
    _connect(core, 60, "10.0.0.3")
    say(core, 60)
    assert held.taken > bound, "another machine has as much"
    for number in range(1, 61):
        core.handle(Disconnected(number), 2.0)
        core._state.held.validate()
    assert held.taken == 0


def test_hosts_with_certificates_have_the_bounds_of_one_host_each() -> None:
    core = Scheduler(SchedulerSettings(leases_per_blob=0))
    core.handle(Connected(1, Hello("a", 1, 1, "a:1"), "10.0.0.1", certified=True), 1.0)
    for say in (_holdings, _joins, _progress):
        say(core, 1)
    assert core._state.held.taken == 0
