"""What the scheduler says of ids, versions, and of hosts that others complain of."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from unittest.mock import ANY

from msgspec import structs

from scheduler.core.events import Close, Connected, Received, Send, Tick
from scheduler.core.members import Identity, Member
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import (
    Corrupt,
    Fault,
    InlineBlob,
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
from tests.scheduler.playbook import PROBED, SETTINGS, VANISHES, Passes, Playbook, hello


def test_a_connected_host_keeps_its_id_whoever_says_its_id_and_address() -> None:
    assert (
        Playbook("a")
        >> Passes(60)
        >> ("a", hello("a"))
        << ("a", PROBED)
        << ("a", Closing.ID_IN_USE)
        >> ("a", hello("a", address="other:1"))
        << ("a", PROBED)
        << ("a", Closing.ID_IN_USE)
    )


def test_an_id_is_free_once_its_host_has_vanished() -> None:
    assert Playbook("a") >> ("a", VANISHES) >> ("a", hello("a", address="other:1")) << ("a", Welcome(1))


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


def test_reports_of_corrupt_pieces_quarantine_nobody_and_three_witnesses_end_a_membership() -> None:
    play = Playbook("liar", "b", "c", "victim", settings=replace(SETTINGS, leases_per_blob=0))
    for host in ("liar", "b", "c", "victim"):
        _ = play >> (host, JOIN)
    report = Corrupt(D, 1, 0, "victim")
    for _ in range(10):
        _ = play >> ("liar", report)
    assert [member.host.id for member in linked(play, "victim")] == ["b", "c"]
    _ = play >> ("b", report)
    assert play.scheduler.statistics().members == 4
    _ = play >> ("c", report)
    assert play.scheduler.statistics().members == 3
    assert play.scheduler.statistics().hosts == 4
    assert play.scheduler.statistics().quarantined == 0


def test_many_ids_at_one_address_are_one_reporter() -> None:
    scheduler = Scheduler(replace(SETTINGS, leases_per_blob=0))
    for number, host in enumerate(("victim", "a", "b", "c", "d"), 1):
        scheduler.handle(Connected(number, hello(host), "192.0.2.7"), 0.0)
        scheduler.handle(Received(number, JOIN), 0.0)
    for number in range(2, 6):
        scheduler.handle(Received(number, Corrupt(D, 1, 0, "victim")), 0.0)
    scheduler.validate()
    assert scheduler.statistics().members == 5


def linked(play: Playbook, host: str) -> list[Member]:
    (swarm,) = play.scheduler._state.swarms.values()
    return next(list(member.links) for member in swarm.members.values() if member.host.id == host)


def test_what_a_sender_of_corrupt_pieces_told_is_not_fetched_again_where_others_hold_it() -> None:
    play = Playbook("a", "b", "c", "victim", settings=replace(SETTINGS, leases_per_blob=1))
    _ = play >> ("victim", JOIN) >> ("victim", LeasePieces(1, D, 0, P0)) >> ("victim", LeasePieces(2, D, 1, P1))
    for host in "abc":
        _ = play >> (host, JOIN)
    _ = play >> ("a", Progress(D, 1, b"\x01"))
    for host in "abc":
        _ = play >> (host, Corrupt(D, 1, 1, "victim"))
    swarm = play.scheduler._state.swarms[D]
    assert swarm.generation == 1
    assert play.scheduler.statistics().leases_given == 4  # its third one went to another host
    _ = play >> Passes(SETTINGS.orphan_s)
    assert swarm.unleased == 0b1010  # piece 1, which nobody else is known to hold, and what nobody has fetched yet


def test_a_lie_under_the_id_of_another_host_does_not_shut_that_host_out() -> None:
    data = b"tiny"
    join = structs.replace(JOIN, digest=hashlib.sha256(data).digest(), size_bytes=len(data))
    scheduler = Scheduler(SETTINGS)
    scheduler.handle(Connected(1, hello("a"), "192.0.2.66"), 0.0)
    scheduler.handle(Received(1, join), 0.0)
    lied = scheduler.handle(Received(1, InlineBlob(join.digest, b"lies")), 0.0)
    assert Close(1, Closing.QUARANTINED, ANY) in lied
    assert Close(2, Closing.QUARANTINED, ANY) in scheduler.handle(Connected(2, hello("a"), "192.0.2.66"), 1.0)
    (welcome,) = scheduler.handle(Connected(3, hello("a"), "192.0.2.7"), 1.0)
    assert isinstance(welcome, Send)
    (welcome,) = scheduler.handle(Connected(4, hello("b"), "192.0.2.66"), 1.0)
    assert isinstance(welcome, Send)


def test_a_lie_that_is_found_out_later_is_not_that_of_the_host_that_has_the_id_now() -> None:
    scheduler = Scheduler(SETTINGS)
    scheduler.handle(Connected(1, hello("a"), "192.0.2.7"), 0.0)
    scheduler._state.to_quarantine[Identity("a", "192.0.2.66")] = "lied before it left"
    assert scheduler.handle(Tick(), 1.0) == []
    assert scheduler.statistics().quarantined == 1
    assert scheduler.statistics().hosts == 1
