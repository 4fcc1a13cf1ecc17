"""Clients come before preheats at an origin: what the scheduler gives to whom, and takes back."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from scheduler.core.clients_first import CALM_S, FLOOR_S, ClientsFirst
from scheduler.core.rng import Rng
from scheduler.core.settings import SchedulerSettings
from scheduler.core.swarm import Swarm
from scheduler.protocol.from_host import Join, LeaseEnded, LeaseOutcome, LeasePieces, Leave, Priority
from scheduler.protocol.to_host import DigestRun, Joined, Lease, LeaseRevoked, PieceDigests
from tests.scheduler.messages_for_pull import MIB, P0, P1, WITHIN, D, add, joined
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook

E = b"e" * 32
F = b"f" * 32
AHEAD = Join(E, "docker.io", "library/app", MIB, background=True)
PULL = Join(D, "docker.io", "library/app", MIB)
MANY = replace(SETTINGS, leases_per_host=4)


def joins(play: Playbook, host: str, join: Join) -> Playbook:
    return play >> (host, join) << (host, Joined(join.digest, 1, join.size_bytes, sealed=False, neighbours=()))


def preheating(settings: SchedulerSettings = MANY) -> Playbook:
    """Host a preheats E, and has the first lease of it; b and c are there."""
    play = Playbook("a", "b", "c", settings=settings)
    return joins(play, "a", AHEAD) << ("a", Lease(1, E, 1, 0, 1, WITHIN))


def beside_a_pull() -> Playbook:
    """Host b pulls D for a client, and what a preheats has given way."""
    play = joins(preheating(), "b", PULL) << ("b", Lease(2, D, 1, 0, 1, WITHIN))
    return play << ("a", LeaseRevoked(1, E, at_once=True))


def test_a_preheat_alone_has_leases() -> None:
    play = preheating() >> ("a", LeasePieces(1, E, 0, P0)) << ("a", PieceDigests(E, 1, (DigestRun(0, P0),)))
    assert play << ("a", Lease(2, E, 1, 1, 2, WITHIN)) << ("a", Lease(3, E, 1, 2, 3, WITHIN))


def test_what_a_preheat_has_under_way_ends_when_a_client_comes() -> None:
    assert beside_a_pull()


def test_also_when_clients_could_have_no_lease_otherwise() -> None:
    play = joins(preheating(replace(MANY, leases_per_origin=1)), "b", PULL) << ("a", LeaseRevoked(1, E, at_once=True))
    assert play << ("b", Lease(2, D, 1, 0, 1, WITHIN))


def test_a_preheat_waits_while_a_client_has_leases() -> None:
    assert beside_a_pull() >> Passes(WITHIN - 0.1)
    assert joins(beside_a_pull(), "c", structs.replace(AHEAD, digest=F))


def test_a_preheat_goes_on_a_moment_after_the_last_client() -> None:
    play = beside_a_pull() >> ("b", LeaseEnded(2, D, LeaseOutcome.RETURNED)) << ("b", Lease(3, D, 1, 0, 1, WITHIN))
    play = play >> ("b", Leave(D)) >> Passes(CALM_S - 0.1)
    assert play >> Passes(0.1) << ("a", Lease(4, E, 1, 0, 1, WITHIN))


def test_a_client_that_comes_within_that_moment_finds_the_origin_free() -> None:
    play = joins(beside_a_pull() >> ("b", VANISHES) >> Passes(CALM_S / 2), "c", PULL)
    assert play << ("c", Lease(3, D, 1, 0, 1, WITHIN)) >> Passes(CALM_S)


def test_a_preheat_gets_a_piece_now_and_then_all_the_same() -> None:
    play = beside_a_pull()
    for number in range(int(FLOOR_S / 10) - 1):  # so that the client's lease is not late
        play = play >> Passes(10.0) >> ("b", LeaseEnded(2 + number, D, LeaseOutcome.RETURNED))
        play = play << ("b", Lease(3 + number, D, 1, 0, 1, WITHIN))
    play = play >> Passes(10.0) << ("a", Lease(5, E, 1, 0, 1, WITHIN))
    play = play >> ("a", LeasePieces(5, E, 0, P0)) << ("a", PieceDigests(E, 1, (DigestRun(0, P0),)))
    assert play >> Passes(1.0)  # and no second one


def test_that_piece_is_not_taken_back_for_the_next_client() -> None:
    play = beside_a_pull()
    for number in range(2):
        play = play >> Passes(10.0) >> ("b", LeaseEnded(2 + number, D, LeaseOutcome.RETURNED))
        play = play << ("b", Lease(3 + number, D, 1, 0, 1, WITHIN))
    play = play >> Passes(10.0) << ("a", Lease(5, E, 1, 0, 1, WITHIN))
    assert joins(play, "c", structs.replace(PULL, digest=F)) << ("c", Lease(6, F, 1, 0, 1, WITHIN))


def test_a_host_whose_client_comes_is_a_client() -> None:
    play = beside_a_pull() >> ("a", Priority(E, background=False)) << ("a", Lease(3, E, 1, 0, 1, WITHIN))
    assert (
        play
        >> ("a", LeasePieces(3, E, 0, P0))
        << ("a", PieceDigests(E, 1, (DigestRun(0, P0),)))
        << (
            "a",
            Lease(4, E, 1, 1, 2, WITHIN),
        )
        << ("a", Lease(5, E, 1, 2, 3, WITHIN))
    )


def test_and_a_host_whose_client_leaves_is_none_any_more() -> None:
    play = beside_a_pull() >> ("a", Priority(E, background=False)) << ("a", Lease(3, E, 1, 0, 1, WITHIN))
    play = play >> ("a", Priority(E, background=True)) >> ("a", LeasePieces(3, E, 0, P0))
    assert play << ("a", PieceDigests(E, 1, (DigestRun(0, P0),)))


def test_a_client_of_one_host_counts_for_the_swarm() -> None:
    """What hosts preheat that a client pulls is the client's, whoever fetches it."""
    play = Playbook("a", "b", settings=MANY) >> ("a", structs.replace(AHEAD, digest=D)) << ("a", joined())
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN)) >> ("b", PULL) << ("b", joined("a"))
    play = play << ("a", add("b")) >> ("a", LeasePieces(1, D, 0, P0))
    told = PieceDigests(D, 1, (DigestRun(0, P0),))
    play = (
        play << ("a", told) << ("b", told) << ("b", Lease(2, D, 1, 1, 2, WITHIN)) << ("a", Lease(3, D, 1, 2, 3, WITHIN))
    )
    assert play


def test_another_origin_is_not_concerned() -> None:
    play = joins(preheating(), "b", structs.replace(PULL, upstream="quay.io")) << ("b", Lease(2, D, 1, 0, 1, WITHIN))
    assert (
        play
        >> ("a", LeasePieces(1, E, 0, P1))
        << ("a", PieceDigests(E, 1, (DigestRun(0, P1),)))
        << (
            "a",
            Lease(3, E, 1, 1, 2, WITHIN),
        )
        << ("a", Lease(4, E, 1, 2, 3, WITHIN))
    )


def test_origins_that_clients_used_once_are_forgotten() -> None:
    swarm, book = Swarm(D, SchedulerSettings(), Rng(1)), ClientsFirst()
    for number in range(100):
        assert book.note(swarm, frozenset([f"r{number}"]), number * 10.0)[0] == [f"r{number}"]
        book.validate()
    assert (len(book._next_piece_at), len(book._came)) == (2, 3)


def test_clients_that_come_and_go_do_not_take_back_every_piece() -> None:
    swarm, book = Swarm(D, SchedulerSettings(), Rng(1)), ClientsFirst()
    taken_back = []
    for number in range(40):
        taken_back.append(bool(book.note(swarm, frozenset(["r"]), number * 3.0)[0]))
        book.note(swarm, frozenset(), number * 3.0)
    assert [number * 3.0 for number, is_taken in enumerate(taken_back) if not is_taken] == [30.0, 60.0, 90.0]
    assert book.note(swarm, frozenset(["r"]), 400.0)[0] == ["r"], "after a time without clients it is as at first"


def test_that_piece_is_one_though_a_host_that_is_alone_gets_more() -> None:
    large, size = structs.replace(AHEAD, size_bytes=16 * MIB), 16 * MIB
    play = Playbook("a", "b", settings=MANY) >> ("a", large) << ("a", joined_of(E, size))
    play = play << ("a", Lease(1, E, 1, 0, 1, WITHIN)) >> ("a", LeasePieces(1, E, 0, P0))
    play = play << ("a", PieceDigests(E, 1, (DigestRun(0, P0),)))
    play = play << ("a", Lease(2, E, 1, 1, 3, WITHIN)) << ("a", Lease(3, E, 1, 3, 5, WITHIN))
    play = joins(play, "b", PULL) << ("b", Lease(4, D, 1, 0, 1, WITHIN))
    play = play << ("a", LeaseRevoked(2, E, at_once=True)) << ("a", LeaseRevoked(3, E, at_once=True))
    for number in range(2):
        play = play >> Passes(10.0) >> ("b", LeaseEnded(4 + number, D, LeaseOutcome.RETURNED))
        play = play << ("b", Lease(5 + number, D, 1, 0, 1, WITHIN))
    assert play >> Passes(10.0) << ("a", Lease(7, E, 1, 1, 2, WITHIN))


def test_a_client_that_only_waited_for_a_lease_has_ended_when_it_leaves() -> None:
    play = joins(Playbook("a", "b"), "b", structs.replace(PULL, upstream="quay.io")) << (
        "b",
        Lease(1, D, 1, 0, 1, WITHIN),
    )
    play = joins(play, "b", structs.replace(PULL, digest=F))  # a host has one lease at a time here
    play = joins(play, "a", AHEAD) >> ("b", Leave(F)) >> Passes(CALM_S - 0.1)
    assert play >> Passes(0.1) << ("a", Lease(2, E, 1, 0, 1, WITHIN))


def test_a_blob_that_waits_as_a_preheats_does_not_wait_behind_others_once_a_client_comes() -> None:
    play = joins(Playbook("a", "b", settings=replace(MANY, leases_per_origin=1)), "b", PULL)
    play = play << ("b", Lease(1, D, 1, 0, 1, WITHIN))
    play = joins(joins(play, "a", AHEAD), "a", structs.replace(AHEAD, digest=F)) >> ("a", Priority(F, background=False))
    assert play >> ("b", VANISHES) << ("a", Lease(2, F, 1, 0, 1, WITHIN))


def joined_of(digest: bytes, size_bytes: int) -> Joined:
    return Joined(digest, 1, size_bytes, sealed=False, neighbours=())
