"""Which hosts of a site may ask other sites for which pieces, and get leases of them."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from scheduler.core.events import Received
from scheduler.core.gateways import GATEWAY_S
from scheduler.core.members import Member
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.from_host import Announce, Holding, LeaseEnded, LeaseOutcome, LeasePieces, Leave, Progress
from scheduler.protocol.geometry import ALL_SHARES
from scheduler.protocol.to_host import (
    Gateway,
    Joined,
    Lease,
    Neighbour,
    Neighbours,
    OriginRefused,
    RequestDigests,
    Welcome,
)
from tests.scheduler.messages_for_pull import JOIN, MIB, P0, P1, WITHIN, D, digests
from tests.scheduler.playbook import SETTINGS as USUAL
from tests.scheduler.playbook import VANISHES, Passes, Playbook, hello

SETTINGS = replace(USUAL, gateways=2)
LOW, HIGH = 0b0000_1111, 0b1111_0000
"""The shares of the first and the second gateway of a site; the blob's four pieces are all in the first half."""


def with_hosts(*hosts: str, settings: SchedulerSettings = SETTINGS) -> Playbook:
    """Hosts that are connected. The first letter of a name is the site."""
    play = Playbook(settings=settings)
    for host in hosts:
        play = play >> (host, hello(host, site=host[0])) << (host, Welcome(1))
    return play


def seen(host: str, distance: int) -> Neighbour:
    return Neighbour(host, f"{host}:1", distance)


def joined(*neighbours: Neighbour) -> Joined:
    return Joined(D, 1, MIB, sealed=False, neighbours=neighbours)


def add(host: str, distance: int) -> Neighbours:
    return Neighbours(D, (seen(host, distance),), ())


def two_sites() -> Playbook:
    """a1 and a2 want the blob, and then b1, in another site: a1 and a2 share the pieces, b1 has all shares."""
    return (
        with_hosts("a1", "a2", "b1")
        >> ("a1", JOIN)
        << ("a1", joined())
        << ("a1", Lease(1, D, 1, 0, 1, WITHIN))
        >> ("a2", JOIN)
        << ("a2", joined(seen("a1", 0)))
        << ("a1", add("a2", 0))
        >> ("b1", JOIN)
        << ("b1", joined(seen("a1", 3), seen("a2", 3)))
        << ("a1", add("b1", 3))
        << ("a2", add("b1", 3))
        << ("a1", Gateway(D, LOW))
        << ("a2", Gateway(D, HIGH))
        << ("b1", Gateway(D, ALL_SHARES))
    )


def test_hosts_of_one_site_are_told_nothing() -> None:
    assert (
        with_hosts("a1", "a2")
        >> ("a1", JOIN)
        << ("a1", joined())
        << ("a1", Lease(1, D, 1, 0, 1, WITHIN))
        >> ("a2", JOIN)
        << ("a2", joined(seen("a1", 0)))
        << ("a1", add("a2", 0))
    )


def test_when_a_second_site_comes_all_are_told_their_shares() -> None:
    assert two_sites()


def test_a_host_that_comes_later_asks_its_own_site_only() -> None:
    assert (
        two_sites()
        >> ("a3", hello("a3", site="a"))
        << ("a3", Welcome(1))
        >> ("a3", JOIN)
        << ("a3", joined(seen("a1", 0), seen("a2", 0)))
        << ("a1", add("a3", 0))
        << ("a2", add("a3", 0))
        << ("a3", Gateway(D, 0))
    )


def test_leases_are_for_the_gateways_of_their_pieces() -> None:
    assert (
        two_sites()
        >> ("a1", LeasePieces(1, D, 0, P0))
        << ("a1", digests(0, P0))
        << ("a2", digests(0, P0))
        << ("b1", digests(0, P0))
        << ("b1", Lease(2, D, 1, 1, 2, WITHIN))
        << ("a1", Lease(3, D, 1, 2, 3, WITHIN))
        >> Passes(1)
        >> ("b1", LeasePieces(2, D, 1, P1))
        << ("a1", digests(1, P1))
        << ("a2", digests(1, P1))
        << ("b1", digests(1, P1))
        << ("b1", Lease(4, D, 1, 3, 4, WITHIN))
    )


def followed(playbook: Playbook) -> Playbook:
    """a2 is the gateway of its site instead of a1, and its neighbours part with that one."""
    return (
        playbook
        << ("a2", Lease(2, D, 1, 0, 1, WITHIN))
        << ("a2", Neighbours(D, (), ("a1",)))
        << ("b1", Neighbours(D, (), ("a1",)))
        << ("a2", Gateway(D, ALL_SHARES))
    )


def test_a_gateway_that_leaves_is_followed_by_another_of_its_site() -> None:
    for goes in (VANISHES, Leave(D)):
        assert followed(two_sites() >> ("a1", goes))


def test_a_gateway_that_the_origin_refuses_is_followed_by_another() -> None:
    refused = ("a1", LeaseEnded(1, D, LeaseOutcome.REFUSED, 403))
    assert followed(two_sites() >> refused << ("a1", OriginRefused(D, 403)))


def test_the_last_of_a_site_takes_its_shares_along_and_the_next_one_gets_all() -> None:
    assert (
        two_sites()
        >> ("b1", Leave(D))
        << ("a1", Neighbours(D, (), ("b1",)))
        << ("a2", Neighbours(D, (), ("b1",)))
        >> ("b1", JOIN)
        << ("b1", joined(seen("a1", 3), seen("a2", 3)))
        << ("a1", add("b1", 3))
        << ("a2", add("b1", 3))
        << ("b1", Gateway(D, ALL_SHARES))
    )


def starving(have: int = 0) -> Progress:
    return Progress(D, 1, bytes([have]), starving=True)


def test_a_starving_host_replaces_a_gateway_that_brings_nothing() -> None:
    assert GATEWAY_S < WITHIN
    assert (
        two_sites()
        >> Passes(GATEWAY_S - 1)
        >> ("a2", starving())
        >> Passes(1)
        >> ("a2", starving())
        << ("a1", Gateway(D, 0))
        << ("a2", Gateway(D, ALL_SHARES))
    )


def test_gateways_that_bring_something_stay() -> None:
    play = two_sites() >> Passes(GATEWAY_S - 1) >> ("a1", LeasePieces(1, D, 0, P0))
    for host in ("a1", "a2", "b1"):
        play = play << (host, digests(0, P0))
    play = play << ("b1", Lease(2, D, 1, 1, 2, WITHIN)) << ("a1", Lease(3, D, 1, 2, 3, WITHIN))
    assert play >> ("a2", Progress(D, 1, b"\1")) >> Passes(2) >> ("a2", starving(0b1))


def test_a_gateway_that_starves_itself_is_followed_by_another() -> None:
    assert (
        two_sites()
        >> Passes(GATEWAY_S - 1)
        >> ("a2", Progress(D, 1, b"\1"))
        >> Passes(1)
        >> ("a1", starving())
        << ("a1", Gateway(D, 0))
        << ("a2", Gateway(D, ALL_SHARES))
    )


def test_a_host_that_comes_back_for_the_blob_is_told_its_shares_again() -> None:
    assert two_sites() >> ("a2", JOIN) << ("a2", joined(seen("a1", 0), seen("b1", 3))) << ("a2", Gateway(D, HIGH))


def test_where_one_site_holds_the_blob_those_that_want_it_in_another_have_a_gateway() -> None:
    assert (
        with_hosts("a1", "b1", "b2", settings=replace(SETTINGS, gateways=1))
        >> ("a1", Announce((Holding(D, MIB, complete=True),)))
        >> ("b1", JOIN)
        << ("b1", joined(seen("a1", 3)))
        << ("a1", RequestDigests(D))
        << ("a1", add("b1", 3))
        << ("b1", Gateway(D, ALL_SHARES))
        >> ("b2", JOIN)
        << ("b2", joined(seen("b1", 0)))
        << ("b1", add("b2", 0))
        << ("b2", Gateway(D, 0))
    )


def test_a_join_does_not_look_through_the_swarm_of_one_site() -> None:
    class Unread(list[Member]):
        def __iter__(self) -> NoReturn:
            raise AssertionError("a join costs as much as the swarm has members")

    play = with_hosts("a1", "a2", "a3")
    scheduler = play.scheduler
    for connection in (1, 2):
        scheduler.handle(Received(connection, JOIN), 1000.0)
    wanting = scheduler._state.swarms[D].wanting
    wanting.items = Unread(wanting.items)
    assert scheduler.handle(Received(3, JOIN), 1000.0)
