"""What the scheduler says, and to whom: pulls, leases, lost pieces, long piece maps."""

from __future__ import annotations

from dataclasses import replace

from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import (
    Bye,
    Join,
    LeaseEnded,
    LeaseOutcome,
    LeasePieces,
    Leave,
    Length,
    Progress,
    Sealed,
)
from scheduler.protocol.to_host import (
    Failed,
    Joined,
    Lease,
    LeaseRevoked,
    OriginRefused,
    PieceDigests,
    Run,
    Sized,
    Welcome,
)
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook, hello
from tests.scheduler.pulls import (
    JOIN,
    MIB,
    P0,
    P1,
    P2,
    P3,
    WITHIN,
    D,
    add,
    all_landed,
    digests,
    joined,
    remove,
    two_with_leases,
)


def test_two_hosts_pull_and_a_third_comes_late() -> None:
    assert (
        all_landed()
        >> ("a", Sealed(D, 1))
        >> ("b", Sealed(D, 1))
        >> ("c", hello("c"))
        << ("c", Welcome(1))
        >> ("c", JOIN)
        << ("c", joined("a", "b", sealed=True))
        << ("c", digests(0, P0 + P1 + P2 + P3))
        << ("a", add("c"))
        << ("b", add("c"))
    )


def test_a_piece_is_told_as_it_lands_and_the_lease_goes_on() -> None:
    assert (
        two_with_leases()
        >> ("a", LeasePieces(1, D, 1, P1))
        << ("a", digests(1, P1))
        << ("b", digests(1, P1))
        >> Passes(WITHIN - 1)
        >> ("a", LeasePieces(1, D, 0, P0))
        << ("a", digests(0, P0))
        << ("b", digests(0, P0))
        >> Passes(1)
        << ("b", LeaseRevoked(2, D))
        << ("a", Lease(3, D, 1, 2, 4, WITHIN))
    )


def test_the_first_lease_finds_out_the_length() -> None:
    unknown = replace(JOIN, size_bytes=None)
    assert (
        Playbook("a", "b")
        >> ("a", unknown)
        << ("a", joined(size=None))
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("b", unknown)
        << ("b", joined("a", size=None))
        << ("a", add("b"))
        >> ("a", Length(1, D, MIB))
        << ("a", Sized(D, 1, MIB))
        << ("b", Sized(D, 1, MIB))
        << ("b", Lease(2, D, 1, 2, 4, WITHIN))
    )


def test_a_first_lease_of_more_pieces_than_there_are() -> None:
    assert (
        Playbook("a")
        >> ("a", replace(JOIN, size_bytes=None))
        << ("a", joined(size=None))
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("a", Length(1, D, 100_000))
        << ("a", Sized(D, 1, 100_000))
        >> ("a", LeasePieces(1, D, 0, P0))
        << ("a", digests(0, P0))
    )


def test_a_lease_that_brings_nothing_goes_to_another_host() -> None:
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, leases_per_blob=1))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("b", JOIN)
        << ("b", joined("a"))
        << ("a", add("b"))
        >> Passes(WITHIN)
        << ("a", LeaseRevoked(1, D))
        << ("b", Lease(2, D, 1, 0, 2, WITHIN))
        >> ("a", LeasePieces(1, D, 0, P0))  # it was too late, and does not count
        >> ("b", LeasePieces(2, D, 0, P0))
        << ("a", digests(0, P0))
        << ("b", digests(0, P0))
    )


def test_a_host_that_the_origin_refuses_gets_its_own_answer_and_no_other_lease_there() -> None:
    other = Join(b"e" * 32, "docker.io", "library/app", MIB)
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, leases_per_blob=1))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("b", JOIN)
        << ("b", joined("a"))
        << ("a", add("b"))
        >> ("a", LeaseEnded(1, D, LeaseOutcome.REFUSED, 401))
        << ("a", OriginRefused(D, 401))
        << ("b", Lease(2, D, 1, 0, 2, WITHIN))
        << ("b", remove("a"))
        >> ("a", other)
        << ("a", Joined(other.digest, 1, MIB, False, ()))
        << ("a", Failed(other.digest, 401, "no host is left that could get it from the origin"))
        >> Passes(SETTINGS.refusal_s)
        << ("b", LeaseRevoked(2, D))
        << ("b", Lease(3, D, 1, 0, 2, WITHIN))
        << ("b", LeaseRevoked(3, D))
        << ("b", Lease(4, D, 1, 0, 2, WITHIN))
        << ("b", LeaseRevoked(4, D))
        << ("b", Lease(5, D, 1, 0, 2, WITHIN))
        << ("b", LeaseRevoked(5, D))
        << ("b", Lease(6, D, 1, 0, 2, WITHIN))
        << ("b", LeaseRevoked(6, D))
        << ("b", Failed(D, 401, "5 hosts in a row got nothing from the origin"))
        >> ("a", other)
        << ("a", Joined(other.digest, 1, MIB, False, ()))
        << ("a", Lease(7, other.digest, 1, 0, 2, WITHIN))
    )


def test_an_origin_that_is_down_is_a_clear_failure_for_everybody() -> None:
    play = two_with_leases() >> ("a", LeaseEnded(1, D, LeaseOutcome.FAILED, 503))
    play = play << ("a", Lease(3, D, 1, 0, 2, WITHIN))
    for lease in (3, 4, 5):
        play = (
            play >> ("a", LeaseEnded(lease, D, LeaseOutcome.FAILED, 503)) << ("a", Lease(lease + 1, D, 1, 0, 2, WITHIN))
        )
    failed = Failed(D, 503, "5 hosts in a row got nothing from the origin")
    assert play >> ("a", LeaseEnded(6, D, LeaseOutcome.FAILED, 503)) << ("a", failed) << ("b", failed)


def test_an_origin_that_dies_once_all_has_left_it_harms_nobody() -> None:
    assert all_landed() >> Passes(3600) >> ("a", Sealed(D, 1)) >> ("b", Sealed(D, 1))


def test_hosts_that_leave_or_vanish_hand_back_their_leases() -> None:
    for going in (Leave(D), Bye(), VANISHES, LeaseEnded(1, D, LeaseOutcome.RETURNED)):
        play = two_with_leases() >> ("b", LeasePieces(2, D, 2, P2 + P3))
        play = play << ("a", digests(2, P2 + P3)) << ("b", digests(2, P2 + P3)) >> Passes(1) >> ("a", going)
        play = play << ("b", Lease(3, D, 1, 0, 2, WITHIN))
        if not isinstance(going, LeaseEnded):
            play = play << ("b", remove("a"))
        assert play


def test_a_piece_that_was_lost_with_its_holder_is_leased_again() -> None:
    assert (
        all_landed()
        >> ("b", Progress(D, 1, bytes([0b1101])))
        >> ("a", VANISHES)
        << ("b", remove("a"))
        >> Passes(SETTINGS.orphan_s)
        << ("b", Lease(3, D, 1, 1, 2, WITHIN))
        >> ("b", LeasePieces(3, D, 1, P1))
    )


def test_a_piece_whose_holder_reports_in_time_is_not_leased_again() -> None:
    assert all_landed() >> ("a", VANISHES) << ("b", remove("a")) >> ("b", Progress(D, 1, bytes([0b1111]))) >> Passes(60)


def test_a_starving_member_does_not_wait_for_a_lost_piece() -> None:
    assert (
        all_landed()
        >> ("a", VANISHES)
        << ("b", remove("a"))
        >> ("b", Progress(D, 1, bytes([0b1100]), starving=True))
        << ("b", Lease(3, D, 1, 0, 2, WITHIN))
    )


def test_leases_of_one_origin_are_limited_over_all_blobs() -> None:
    e = b"e" * 32
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, leases_per_origin=1))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("b", replace(JOIN, digest=e))
        << ("b", Joined(e, 1, MIB, False, ()))
        >> ("a", Leave(D))
        << ("b", Lease(2, e, 1, 0, 2, WITHIN))
    )


def test_what_contradicts_the_blob_ends_the_connection_of_its_sender_only() -> None:
    wrong = (
        LeasePieces(1, D, 2, P2),  # of another's lease
        LeasePieces(1, D, 1, P1 + P2),
        LeasePieces(1, b"e" * 32, 0, P0),
        Progress(D, 1, b"\x10"),
    )
    for message in wrong:
        play = two_with_leases() >> ("a", message) << ("a", Closing.MALFORMED)
        assert play << ("b", remove("a"))


def test_a_large_swarm_is_told_in_slices_and_everybody_hears_everything() -> None:
    hosts = [f"h{number}" for number in range(40)]
    play = Playbook(*hosts, settings=replace(SETTINGS, fanout_slice=8, fanout_per_s=80.0))
    heard: dict[str, list[Run]] = {host: [] for host in hosts}
    most = 0

    def listen() -> None:
        nonlocal most
        told = [(host, message.runs) for host, message in play._got if isinstance(message, PieceDigests)]
        most = max(most, len(told))
        for host, runs in told:
            heard[host] += runs

    for host in hosts:
        _ = play >> (host, JOIN)
    for lease in list(play.scheduler._cluster.leases.active.values()):
        first = (lease.left & -lease.left).bit_length() - 1
        _ = play >> (lease.member.host.id, LeasePieces(lease.id, D, first, P0 + P1))
        listen()
    for _ in range(20):
        _ = play >> Passes(0.1)
        listen()
    assert all(set(runs) == {Run(0, P0 + P1), Run(2, P0 + P1)} for runs in heard.values())
    assert most <= 8 + SETTINGS.degree_high
