"""What the scheduler says, and to whom: pulls, leases, lost pieces, long piece maps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from msgspec import structs

from scheduler.core.events import Answered, Connected, Instruction, Received, Send, Tick
from scheduler.core.lease_policy import LEASE_ATTEMPTS, MAX_PATIENCE, REFUSAL_S, SILENCES
from scheduler.core.scheduler import Scheduler
from scheduler.core.settings import SchedulerSettings
from scheduler.protocol.codec import ToHost
from scheduler.protocol.connection import Closing
from scheduler.protocol.from_host import (
    Announce,
    Bye,
    DigestReport,
    Disproved,
    Holding,
    InlineBlob,
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
    DigestRun,
    Failed,
    Joined,
    Lease,
    LeaseRevoked,
    Neighbours,
    OriginRefused,
    PieceDigests,
    Reset,
    Sized,
    Welcome,
)
from tests.scheduler.messages_for_pull import (
    JOIN,
    MIB,
    P0,
    P1,
    P2,
    P3,
    PIECE,
    WITHIN,
    D,
    add,
    all_landed,
    digests,
    joined,
    one_with_a_lease,
    remove,
    two_with_leases,
)
from tests.scheduler.playbook import SETTINGS, VANISHES, Passes, Playbook, hello


def test_a_host_cannot_use_the_lease_of_another_host() -> None:
    for message in (
        LeasePieces(1, D, 0, P1),
        Length(1, D, 2 * MIB),
        LeaseEnded(1, D, LeaseOutcome.REFUSED, 403),
        LeaseEnded(1, D, LeaseOutcome.FAILED),
    ):
        play = one_with_a_lease() >> ("b", message) >> ("a", LeasePieces(1, D, 0, P0))
        play = play << ("a", digests(0, P0)) << ("b", digests(0, P0))
        assert play << ("b", Lease(2, D, 1, 1, 2, WITHIN)) << ("a", Lease(3, D, 1, 2, 3, WITHIN))


def test_two_hosts_pull_and_a_third_comes_late() -> None:
    assert (
        all_landed()
        >> ("a", Sealed(D, 1))
        >> ("b", Sealed(D, 1))
        >> ("c", hello("c"))
        << ("c", Welcome(1))
        >> ("c", JOIN)
        << ("c", joined("b", "a", sealed=True))
        << ("c", digests(0, P0 + P1 + P2 + P3))
        << ("a", add("c"))
        << ("b", add("c"))
    )


def test_leases_begin_with_one_piece_for_one_host_and_each_piece_that_lands_makes_room_for_another() -> None:
    play = Playbook("a", "b", "c", settings=replace(SETTINGS, leases_per_blob=3))
    play = play >> ("a", JOIN) << ("a", joined()) << ("a", Lease(1, D, 1, 0, 1, WITHIN))
    play = play >> ("b", JOIN) << ("b", joined("a")) << ("a", add("b"))
    play = play >> ("c", JOIN) << ("c", joined("a", "b")) << ("a", add("c")) << ("b", add("c"))
    play = play >> ("a", LeasePieces(1, D, 0, P0))
    for host in "abc":
        play = play << (host, digests(0, P0))
    play = play << ("b", Lease(2, D, 1, 1, 2, WITHIN)) << ("c", Lease(3, D, 1, 2, 3, WITHIN))
    play = play >> Passes(1) >> ("b", LeasePieces(2, D, 1, P1))
    for host in "abc":
        play = play << (host, digests(1, P1))
    assert play << ("a", Lease(4, D, 1, 3, 4, WITHIN))


def test_a_host_that_is_alone_gets_several_pieces_in_a_lease() -> None:
    size = 16 * PIECE
    play = Playbook("a", settings=replace(SETTINGS, lease_pieces=4, leases_per_host=2))
    play = play >> ("a", structs.replace(JOIN, size_bytes=size)) << ("a", joined(size=size))
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN))
    play = play >> ("a", LeasePieces(1, D, 0, P0)) << ("a", digests(0, P0))
    play = play << ("a", Lease(2, D, 1, 1, 3, WITHIN)) << ("a", Lease(3, D, 1, 3, 5, WITHIN))
    assert (
        play
        >> Passes(1)
        >> ("a", LeasePieces(2, D, 1, P1 + P2))
        << ("a", digests(1, P1 + P2))
        << (
            "a",
            Lease(4, D, 1, 5, 7, WITHIN),
        )
    )


def test_a_piece_is_told_as_it_lands_and_the_lease_goes_on() -> None:
    size = 16 * PIECE
    play = Playbook("a", "b") >> ("a", structs.replace(JOIN, size_bytes=size)) << ("a", joined(size=size))
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN)) >> ("a", LeasePieces(1, D, 0, P0)) << ("a", digests(0, P0))
    play = (
        play
        << ("a", Lease(2, D, 1, 1, 3, WITHIN))
        >> ("b", structs.replace(JOIN, size_bytes=size))
        << ("b", joined("a", size=size))
    )
    play = play << ("a", add("b")) << ("b", digests(0, P0)) << ("b", Lease(3, D, 1, 3, 4, WITHIN))
    play = play >> Passes(WITHIN - 1) >> ("a", LeasePieces(2, D, 2, P2))
    play = play << ("a", digests(2, P2)) << ("b", digests(2, P2))
    play = play >> Passes(WITHIN - 1) >> ("a", LeasePieces(2, D, 1, P1))
    play = play << ("a", digests(1, P1)) << ("b", digests(1, P1))
    assert play << ("a", Lease(4, D, 1, 3, 4, WITHIN)), "piece 3, with which b is late, is for a too"


def test_the_first_lease_finds_out_the_length() -> None:
    unknown = structs.replace(JOIN, size_bytes=None)
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
        >> ("a", LeasePieces(1, D, 0, P0))
        << ("a", digests(0, P0))
        << ("b", digests(0, P0))
        << ("b", Lease(2, D, 1, 2, 3, WITHIN))
    )


def test_a_first_lease_of_more_pieces_than_there_are() -> None:
    assert (
        Playbook("a")
        >> ("a", structs.replace(JOIN, size_bytes=None))
        << ("a", joined(size=None))
        << ("a", Lease(1, D, 1, 0, 2, WITHIN))
        >> ("a", Length(1, D, 100_000))
        << ("a", Sized(D, 1, 100_000))
        >> ("a", LeasePieces(1, D, 0, P0))
        << ("a", digests(0, P0))
    )


def late() -> Playbook:
    """Host a has let the time of its lease pass, and b has a lease of the same piece."""
    play = Playbook("a", "b", settings=replace(SETTINGS, leases_per_blob=1)) >> ("a", JOIN) << ("a", joined())
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN)) >> ("b", JOIN) << ("b", joined("a")) << ("a", add("b"))
    return play >> Passes(WITHIN) << ("b", Lease(2, D, 1, 0, 1, 2 * WITHIN))


def test_a_lease_that_brings_nothing_in_time_is_another_hosts_as_well() -> None:
    play = late() >> ("b", LeasePieces(2, D, 0, P0)) << ("a", LeaseRevoked(1, D))
    play = play << ("a", digests(0, P0)) << ("b", digests(0, P0)) << ("b", Lease(3, D, 1, 1, 2, WITHIN))
    assert play >> ("a", LeasePieces(1, D, 0, P1)), "the lease has ended"
    assert play.scheduler.statistics().leases_overdue == 1


def test_what_a_host_had_said_when_its_time_was_over_is_waited_for() -> None:
    play = Playbook("a", "b", settings=replace(SETTINGS, leases_per_blob=1)) >> ("a", JOIN) << ("a", joined())
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN)) >> ("b", JOIN) << ("b", joined("a")) << ("a", add("b"))
    play.frozen.add("a")
    play = play >> Passes(WITHIN) >> ("a", LeasePieces(1, D, 0, P0))
    play = play << ("a", digests(0, P0)) << ("b", digests(0, P0)) << ("b", Lease(2, D, 1, 1, 2, WITHIN))
    play.tell(Answered(1, 1))
    assert play, "nothing left the origin twice"
    assert play.scheduler.statistics().leases_overdue == 0


def test_an_answer_that_does_not_come_is_waited_for_in_bounded_time() -> None:
    play = Playbook("a", "b", settings=replace(SETTINGS, leases_per_blob=1)) >> ("a", JOIN) << ("a", joined())
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN)) >> ("b", JOIN) << ("b", joined("a")) << ("a", add("b"))
    play.frozen.add("a")
    play = play >> Passes(WITHIN + SETTINGS.answer_s - 0.01)
    play.tell(Answered(2, 1))  # it is not this host that was asked
    assert play >> Passes(0.01) << ("b", Lease(2, D, 1, 0, 1, 2 * WITHIN))


def test_a_host_that_is_late_is_heard_if_it_comes_first_after_all() -> None:
    play = late() >> Passes(1) >> ("a", LeasePieces(1, D, 0, P0)) << ("b", LeaseRevoked(2, D))
    assert play << ("a", digests(0, P0)) << ("b", digests(0, P0)) << ("b", Lease(3, D, 1, 1, 2, 2 * WITHIN))


def test_late_leases_end_with_their_time_their_host_or_their_generation() -> None:
    play = late() >> Passes(2 * WITHIN) << ("b", LeaseRevoked(2, D)) << ("b", Lease(3, D, 1, 0, 1, 4 * WITHIN))
    assert play >> Passes(2 * WITHIN) << ("a", LeaseRevoked(1, D))
    assert not play.scheduler._state.leases.late
    for ending in (Leave(D), VANISHES):
        play = late() >> ("a", ending)
        assert not play.scheduler._state.leases.late
    play = late() >> ("a", LeasePieces(1, D, 0, P0)) >> ("b", structs.replace(JOIN, size_bytes=2 * MIB))
    assert not play.scheduler._state.leases.late


def test_a_tiny_blob_may_come_from_a_host_that_is_late() -> None:
    data = b"tiny"
    digest = hashlib.sha256(data).digest()
    join = structs.replace(JOIN, digest=digest, size_bytes=len(data))
    play = Playbook("a", "b", settings=replace(SETTINGS, opening_s=1.0)) >> ("a", join) >> ("b", join)
    _ = play >> Passes(1.01)
    assert len(play.scheduler._state.leases.late) == 1
    _ = play >> ("a", InlineBlob(digest, data))
    assert play.scheduler.statistics().inline_blobs == 1
    assert not play.scheduler._state.leases.late
    assert not play.scheduler._state.leases.active


@pytest.mark.parametrize(
    ("size_bytes", "at_most_s"), [(None, 1.5), (10_000, 1.6), (1 << 20, 2.0), (1 << 30, 7.0), (200 << 30, 7.0)]
)
def test_the_time_of_a_lease_is_by_the_size_of_a_piece(size_bytes: int | None, at_most_s: float) -> None:
    scheduler = Scheduler(SchedulerSettings())
    scheduler.handle(Connected(1, hello("a")), 0.0)
    told = scheduler.handle(Received(1, structs.replace(JOIN, size_bytes=size_bytes)), 0.0)
    (lease,) = [each.message for each in told if isinstance(each, Send) and isinstance(each.message, Lease)]
    assert at_most_s / 2 < lease.within_s <= at_most_s


def test_what_all_newcomers_are_told_of_a_map_ends_with_its_generation() -> None:
    scheduler = Scheduler(SETTINGS)
    for number, host in enumerate("abcd", 1):
        scheduler.handle(Connected(number, hello(host), f"192.0.2.{number}"), 0.0)
    scheduler.handle(Received(1, Announce((Holding(D, MIB, True),))), 0.0)
    scheduler.handle(Received(2, JOIN), 0.0)
    scheduler.handle(Received(1, DigestReport(D, 0, P0 + P1 + P2 + P3, last=True)), 0.1)
    assert digests(0, P0 + P1 + P2 + P3) in messages(scheduler.handle(Received(3, JOIN), 0.2))
    assert Reset(D, 2) in messages(scheduler.handle(Received(2, Disproved(D, 1)), 0.3))
    scheduler.validate()
    assert not [each for each in messages(scheduler.handle(Received(4, JOIN), 0.4)) if isinstance(each, PieceDigests)]


def messages(told: Sequence[Instruction]) -> list[ToHost]:
    return [each.message for each in told if isinstance(each, Send)]


def test_silent_hosts_of_one_address_cost_a_pull_their_shortest_time_once_and_share_their_leases() -> None:
    settings = SchedulerSettings(leases_per_host=3, settle_s=0.0)
    scheduler = Scheduler(settings)
    for number in range(1, 6):
        scheduler.handle(Connected(number, hello(f"silent-{number}"), "192.0.2.66"), 0.0)
        scheduler.handle(Received(number, JOIN), 0.0)
        scheduler.handle(Received(number, structs.replace(JOIN, digest=bytes([number]) * 32)), 0.0)
    assert scheduler.statistics().leases == settings.leases_per_host
    scheduler.handle(Connected(9, hello("honest"), "192.0.2.7"), 0.1)
    scheduler.handle(Received(9, JOIN), 0.1)
    for at_most_s in (2.0, 2.0 + settings.answer_s):  # it is pinged first, and answers nothing
        due = scheduler.next_deadline()
        assert due is not None
        assert due < at_most_s
        told = scheduler.handle(Tick(), due)
    of_blob = [each for each in told if isinstance(each, Send) and isinstance(each.message, Lease)]
    assert [each.connections for each in of_blob if each.message.digest == D] == [(9,)]  # type: ignore[union-attr]


def test_a_host_that_the_origin_refuses_gets_its_own_answer_and_no_other_lease_there() -> None:
    other = Join(b"e" * 32, "docker.io", "library/app", MIB)
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, leases_per_blob=1))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 1, WITHIN))
        >> ("b", JOIN)
        << ("b", joined("a"))
        << ("a", add("b"))
        >> ("a", LeaseEnded(1, D, LeaseOutcome.REFUSED, 401))
        << ("a", OriginRefused(D, 401))
        << ("b", Lease(2, D, 1, 0, 1, WITHIN))
        << ("b", remove("a"))
        >> ("a", other)
        << ("a", Joined(other.digest, 1, MIB, False, ()))
        << ("a", Failed(other.digest, 401, "no host is left that could get it from the origin"))
        >> ("b", LeaseEnded(2, D, LeaseOutcome.REFUSED, 404))
        << ("b", OriginRefused(D, 404))
        >> Passes(REFUSAL_S)
        >> ("a", other)
        << ("a", Joined(other.digest, 1, MIB, False, ()))
        << ("a", Lease(3, other.digest, 1, 0, 1, WITHIN))
    )


def test_an_origin_that_is_slow_for_everybody_has_more_time_with_each_lease_and_the_swarm_does_not_fail() -> None:
    play = Playbook("a", settings=replace(SETTINGS, leases_per_blob=1)) >> ("a", JOIN) << ("a", joined())
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN))
    for number, times in enumerate((1, 2, 4, 4, 4, 4, 4), 1):
        play = play >> Passes(times * WITHIN) << ("a", LeaseRevoked(number, D))
        play = play << ("a", Lease(number + 1, D, 1, 0, 1, WITHIN * min(MAX_PATIENCE, 2 * times)))
    play = play >> Passes(WITHIN + 1) >> ("a", LeasePieces(8, D, 0, P0)) << ("a", digests(0, P0))
    play = play << ("a", Lease(9, D, 1, 1, 2, MAX_PATIENCE * WITHIN)) >> ("a", LeasePieces(9, D, 1, P1))
    assert play << ("a", Lease(10, D, 1, 2, 3, WITHIN)), "the usual time again, since that one came in it"


def test_leases_that_expire_fail_the_swarm_in_the_end() -> None:
    play = Playbook("a", settings=replace(SETTINGS, leases_per_blob=1)) >> ("a", JOIN) << ("a", joined())
    play = play << ("a", Lease(1, D, 1, 0, 1, WITHIN))
    expiring = LEASE_ATTEMPTS * SILENCES
    for number in range(1, expiring + 1):
        play = play >> Passes(WITHIN * min(MAX_PATIENCE, 2 ** (number - 1))) << ("a", LeaseRevoked(number, D))
        if number < expiring:
            play = play << ("a", Lease(number + 1, D, 1, 0, 1, WITHIN * min(MAX_PATIENCE, 2**number)))
    assert play << ("a", Failed(D, 0, f"{expiring} hosts in a row got nothing from the origin"))


def test_an_origin_that_is_down_is_a_clear_failure_for_everybody() -> None:
    play = two_with_leases() >> ("a", LeaseEnded(3, D, LeaseOutcome.FAILED, 503))
    play = play << ("a", Lease(4, D, 1, 2, 3, WITHIN))
    for lease in (4, 5, 6):
        play = (
            play >> ("a", LeaseEnded(lease, D, LeaseOutcome.FAILED, 503)) << ("a", Lease(lease + 1, D, 1, 2, 3, WITHIN))
        )
    failed = Failed(D, 503, "5 hosts in a row got nothing from the origin")
    assert play >> ("a", LeaseEnded(7, D, LeaseOutcome.FAILED, 503)) << ("a", failed) << ("b", failed)


def test_an_origin_that_dies_once_all_has_left_it_harms_nobody() -> None:
    assert all_landed() >> Passes(3600) >> ("a", Sealed(D, 1)) >> ("b", Sealed(D, 1))


def test_hosts_that_leave_or_vanish_hand_back_their_leases() -> None:
    for going in (Leave(D), Bye(), VANISHES, LeaseEnded(1, D, LeaseOutcome.RETURNED)):
        play = one_with_a_lease() >> ("a", going) << ("b", Lease(2, D, 1, 0, 1, WITHIN))
        if not isinstance(going, LeaseEnded):
            play = play << ("b", remove("a"))
        assert play


def test_a_piece_that_was_lost_with_its_holder_is_leased_again() -> None:
    assert (
        all_landed()
        >> ("b", Progress(D, 1, bytes([0b1110])))
        >> ("a", VANISHES)
        << ("b", remove("a"))
        >> Passes(SETTINGS.orphan_s)
        << ("b", Lease(5, D, 1, 0, 1, WITHIN))
        >> ("b", LeasePieces(5, D, 0, P0))
    )


def test_where_there_are_many_hosts_they_report_rarer_and_a_lost_piece_waits_for_them() -> None:
    play = all_landed(replace(SETTINGS, unhurried_hosts=2))
    play = play >> ("c", hello("c")) << ("c", Welcome(1, progress_s=1.5 * SETTINGS.progress_s))
    play = play >> ("d", hello("d")) << ("d", Welcome(1, progress_s=2 * SETTINGS.progress_s))
    play = play >> ("b", Progress(D, 1, bytes([0b1110]))) >> ("a", VANISHES) << ("b", remove("a"))
    assert play >> Passes(2 * SETTINGS.orphan_s - 0.1)
    assert play >> Passes(0.1) << ("b", Lease(5, D, 1, 0, 1, WITHIN))


def test_a_piece_whose_holder_reports_in_time_is_not_leased_again() -> None:
    assert all_landed() >> ("a", VANISHES) << ("b", remove("a")) >> ("b", Progress(D, 1, bytes([0b1111]))) >> Passes(60)


def test_a_starving_member_does_not_wait_for_a_lost_piece() -> None:
    assert (
        all_landed()
        >> ("a", VANISHES)
        << ("b", remove("a"))
        >> ("b", Progress(D, 1, bytes([0b1010]), starving=True))
        << ("b", Lease(5, D, 1, 0, 1, WITHIN))
    )


def test_leases_of_one_origin_are_limited_over_all_blobs() -> None:
    e = b"e" * 32
    assert (
        Playbook("a", "b", settings=replace(SETTINGS, leases_per_origin=1))
        >> ("a", JOIN)
        << ("a", joined())
        << ("a", Lease(1, D, 1, 0, 1, WITHIN))
        >> ("b", structs.replace(JOIN, digest=e))
        << ("b", Joined(e, 1, MIB, False, ()))
        >> ("a", Leave(D))
        << ("b", Lease(2, e, 1, 0, 1, WITHIN))
    )


def test_what_contradicts_the_blob_ends_the_connection_of_its_sender_only() -> None:
    wrong = (
        LeasePieces(3, D, 1, P1),  # of another's lease
        LeasePieces(3, D, 2, P2 + P3),
        LeasePieces(3, b"e" * 32, 2, P2),
        Progress(D, 1, b"\x10"),
    )
    for message in wrong:
        play = two_with_leases() >> ("a", message) << ("a", Closing.MALFORMED)
        assert play << ("b", remove("a"))


def test_a_large_swarm_is_told_in_slices_and_everybody_hears_everything() -> None:
    hosts = [f"h{number}" for number in range(40)]
    play = Playbook(*hosts, settings=replace(SETTINGS, fanout_slice=8, fanout_per_s=80.0))
    digests_sent: dict[str, list[DigestRun]] = {host: [] for host in hosts}
    most, pieces = 0, (P0, P1, P2, P3)

    def listen() -> None:
        nonlocal most
        told = [(host, message.runs) for host, message in play._got if isinstance(message, PieceDigests)]
        most = max(most, len(told))
        for host, runs in told:
            digests_sent[host] += runs

    for host in hosts:
        _ = play >> (host, JOIN)
    while active := play.scheduler._state.leases.active:
        lease = min(active.values(), key=lambda lease: lease.id)
        index = (lease.left & -lease.left).bit_length() - 1
        _ = play >> (lease.member.host.id, LeasePieces(lease.id, D, index, pieces[index]))
        listen()
    for _ in range(40):
        _ = play >> Passes(0.1)
        listen()
    for runs in digests_sent.values():
        told = {
            run.first + at: run.digests[32 * at : 32 * at + 32] for run in runs for at in range(len(run.digests) // 32)
        }
        assert told == dict(enumerate(pieces))
    assert most <= 8 + SETTINGS.degree_high


def test_in_a_large_swarm_the_neighbours_of_a_publisher_hear_its_digests_at_once() -> None:
    hosts = [f"h{number}" for number in range(40)]
    play = Playbook(*hosts, settings=replace(SETTINGS, fanout_slice=1, fanout_per_s=1.0))
    neighbours: dict[str, set[str]] = {host: set() for host in hosts}
    for host in hosts:
        _ = play >> (host, JOIN)
        for other, message in play._got:
            if isinstance(message, Joined):
                neighbours[other] = {added.host for added in message.neighbours}
            elif isinstance(message, Neighbours):
                neighbours[other] = neighbours[other] - set(message.remove) | {added.host for added in message.add}
    _ = play >> ("h0", LeasePieces(1, D, 0, P0))
    told = {host for host, message in play._got if message == digests(0, P0)}
    assert 5 < len(neighbours["h0"]) < 30
    assert neighbours["h0"] <= told
    assert len(told - neighbours["h0"]) <= 1  # the first slice of all others
