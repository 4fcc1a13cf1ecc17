"""What the scheduler says of ids, versions, and of hosts that others complain of."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import ANY

from scheduler.core.events import Close, Connected
from scheduler.core.quarantine import CORRUPT_S
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import (
    Corrupt,
    Fault,
    LeasePieces,
    NeighbourFailed,
    Progress,
)
from scheduler.protocol.to_host import (
    Welcome,
)
from tests.scheduler.messages_for_pull import (
    JOIN,
    P0,
    P1,
    D,
    add,
    joined,
)
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook, hello


def test_a_connection_is_replaced_by_a_newer_one_from_the_same_address_and_not_too_often() -> None:
    assert (
        Playbook("a")
        >> Passes(SETTINGS.takeover_s)
        >> ("a", hello("a"))
        << ("a", Closing.REPLACED)
        << ("a", Welcome(1))
        >> ("a", hello("a"))
        << ("a", Closing.ID_IN_USE)
    )


def test_a_second_host_with_the_same_id_is_turned_away() -> None:
    assert (
        Playbook("a")
        >> Passes(60)
        >> ("a", hello("a", address="other:1"))
        << ("a", Closing.ID_IN_USE)
        >> ("a", VANISHES)
    )


def test_a_host_with_a_certificate_may_come_from_another_address() -> None:
    scheduler = Scheduler(SETTINGS)
    moved = hello("a", address="other:1")
    scheduler.handle(Connected(1, hello("a"), certified=True), 0.0)
    assert Close(2, Closing.ID_IN_USE, ANY) in scheduler.handle(Connected(2, moved, certified=True), 1.0), "not so soon"
    assert Close(1, Closing.REPLACED, ANY) in scheduler.handle(Connected(3, moved, certified=True), 60.0)
    assert Close(4, Closing.ID_IN_USE, ANY) in scheduler.handle(Connected(4, hello("a")), 120.0)


def test_versions() -> None:
    assert (
        Playbook()
        >> ("new", hello("new", oldest=1, newest=9))
        << ("new", Welcome(1))
        >> ("newer", hello("newer", oldest=2, newest=9))
        << ("newer", Closing.INCOMPATIBLE)
    )


def test_a_neighbour_that_fails_is_replaced_by_another() -> None:
    settings = SchedulerSettings(degree=2, degree_low=2, degree_high=3, leases_per_blob=0)
    play = Playbook("a", "b", "c", "d", settings=settings)
    for host, there in (("a", ""), ("b", "a"), ("c", "ab")):
        play = play >> (host, JOIN) << (host, joined(*there))
        for other in there:
            play = play << (other, add(host))
    play = play >> ("d", JOIN)
    assert play.scheduler.statistics().members == 4
    swarm = play.scheduler._state.swarms[D]
    linked = {member.host.id: {other.host.id for other in member.links} for member in swarm.members.values()}
    failing = min(linked["a"])
    connection = next(host.connection for host in play.scheduler._state.hosts.values() if host.id == "a")
    assert connection == 1
    _ = play >> ("a", NeighbourFailed(D, failing, Fault.GONE))
    linked = {member.host.id: {other.host.id for other in member.links} for member in swarm.members.values()}
    assert failing not in linked["a"]
    assert len(linked["a"]) == 2


def test_one_host_cannot_have_another_quarantined_with_reports_and_three_can() -> None:
    play = Playbook("liar", "b", "c", "victim", settings=replace(SETTINGS, leases_per_blob=0))
    for host in ("liar", "b", "c", "victim"):
        _ = play >> (host, JOIN)
    report = Corrupt(D, 1, 0, "victim")
    for _ in range(10):
        _ = play >> ("liar", report)
    _ = play >> ("b", report)
    assert play.scheduler.statistics().quarantined == 0
    _ = play >> ("c", report)
    assert play.scheduler.statistics().quarantined == 1


def test_what_a_sender_of_corrupt_pieces_told_is_not_fetched_again_where_others_hold_it() -> None:
    play = Playbook("a", "b", "c", "victim", settings=replace(SETTINGS, leases_per_blob=1))
    _ = play >> ("victim", JOIN) >> ("victim", LeasePieces(1, D, 0, P0)) >> ("victim", LeasePieces(2, D, 1, P1))
    for host in "abc":
        _ = play >> (host, JOIN)
    _ = play >> ("a", Progress(D, 1, b"\x01"))
    for host in "abc":
        _ = play >> (host, Corrupt(D, 1, 1, "victim"))
    assert play.scheduler.statistics().quarantined == 1
    swarm = play.scheduler._state.swarms[D]
    assert swarm.generation == 1
    assert play.scheduler.statistics().leases_given == 4  # its third one went to another host
    _ = play >> Passes(SETTINGS.orphan_s)
    assert swarm.unleased == 0b1010  # piece 1, which nobody else is known to hold, and what nobody has fetched yet


def test_reports_grow_old() -> None:
    play = Playbook("a", "b", "c", "victim", settings=replace(SETTINGS, leases_per_blob=0))
    for host in ("a", "b", "c", "victim"):
        _ = play >> (host, JOIN)
    for host in ("a", "b", "c"):
        _ = play >> (host, Corrupt(D, 1, 0, "victim")) >> Passes(CORRUPT_S / 2)
    assert play.scheduler.statistics().quarantined == 0
