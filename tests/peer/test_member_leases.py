"""How a member joins, and what it does with leases, conversation by conversation."""

from __future__ import annotations

from dataclasses import replace

from peer.core.member import RESIZED
from peer.core.origin_events import (
    Ended,
    Outcome,
    Phase,
    PieceLanded,
    ReaderMoved,
    ReturnSlot,
    SlotGranted,
    SourceAdded,
    StartTransfer,
    Stopped,
    StopTransfer,
    TransferEnded,
    TransferOpened,
    WantSlot,
)
from peer.core.standing import ASKED, State
from peer.core.swarm_events import (
    AddNeighbour,
    Begun,
    FetchEnded,
    FetchOutcome,
    GiveUp,
    OriginOpened,
    Prepare,
    Prepared,
    RemoveNeighbour,
    Resized,
    SchedulerFound,
)
from scheduler.protocol.from_host import (
    Announce,
    Fault,
    Holding,
    Join,
    LeaseEnded,
    LeaseOutcome,
    LeasePieces,
    Length,
    NeighbourFailed,
)
from scheduler.protocol.to_host import (
    LeaseRevoked,
    OriginRefused,
    Sized,
)
from tests.peer.member_playbook import (
    JOIN,
    PATIENCE_S,
    PIECE,
    SIZE,
    D,
    Passes,
    Playbook,
    beginning,
    digest,
    fetching,
    gained,
    joined,
    lease,
    leased,
    neighbour,
    progress,
    with_neighbours,
)


def told_a_length(size_bytes: int) -> Playbook:
    """A download that knows no length but the one that the scheduler has told."""
    playbook = Playbook() >> SourceAdded(0) >> ReaderMoved(1, 0, None) >> Begun(connected=True)
    playbook = playbook << replace(JOIN, size_bytes=None) >> joined(size_bytes=size_bytes) << Prepare(size_bytes)
    return playbook >> Prepared()


class TestJoining:
    def test_nothing_is_asked_of_the_origin_before_it_has_begun(self) -> None:
        assert Playbook() >> SourceAdded(0) >> ReaderMoved(1, 0, None)

    def test_the_origin_is_closed_until_the_scheduler_says_otherwise(self) -> None:
        assert beginning() >> joined() >> Passes(0.9)

    def test_without_an_answer_the_origin_is_open_after_some_patience(self) -> None:
        assert beginning() >> Passes(ASKED * PATIENCE_S - 0.1) >> Passes(0.1) << WantSlot(0)

    def test_without_a_scheduler_the_origin_is_open_after_patience(self) -> None:
        begun = Begun(connected=False, size_bytes=SIZE)
        playbook = Playbook() >> SourceAdded(0) >> begun << Prepare(SIZE) >> Prepared()
        assert playbook >> Passes(PATIENCE_S) << WantSlot(0)

    def test_a_scheduler_that_comes_and_goes_does_not_put_it_off(self) -> None:
        playbook = beginning()
        for _ in range(2):
            playbook = playbook >> Passes(ASKED * PATIENCE_S / 2 - 0.1) >> SchedulerFound() << JOIN
        assert playbook >> Passes(0.2) << WantSlot(0)

    def test_a_scheduler_that_is_found_closes_it_again(self) -> None:
        playbook = beginning() >> OriginOpened() << WantSlot(0) >> SchedulerFound() << JOIN
        assert playbook >> SlotGranted(0) << ReturnSlot()

    def test_a_length_that_nobody_knew(self) -> None:
        assert (
            Playbook()
            >> SourceAdded(0)
            >> Begun(connected=True)
            << Join(D, "docker.io", "library/app", None)
            >> joined("b", size_bytes=None)
            << AddNeighbour(neighbour("b"))
            >> lease(7, 0, 4)
            << WantSlot(0)
            >> SlotGranted(0)
            << StartTransfer(0, 0, 0, None)
            >> TransferOpened(0, SIZE, PIECE, 0, 4)
            << Length(7, D, SIZE)
            >> Sized(D, 1, SIZE)
            >> PieceLanded(0, 0, digest(0))
            << LeasePieces(7, D, 0, digest(0))
            << gained(("b",), 0, 1)
        )

    def test_another_length_than_the_one_that_is_known(self) -> None:
        assert (
            beginning()
            >> joined(size_bytes=SIZE + 1)
            << GiveUp(RESIZED, tainted=True)
            >> Stopped()
            << Ended(Phase.ABANDONED)
        )

    def test_another_length_from_the_origin(self) -> None:
        playbook = leased() >> TransferOpened(0, SIZE - 1, PIECE, 0, 2) << GiveUp(RESIZED, tainted=True)
        assert playbook >> Stopped() << StopTransfer(0) << Ended(Phase.ABANDONED)

    def test_a_length_of_the_swarms_that_the_origin_contradicts(self) -> None:
        """The host begins anew with the origin's, which it tells in the answer to the lease: so the liar is found."""
        playbook = Playbook() >> SourceAdded(0) >> ReaderMoved(1, 0, None) >> Begun(connected=True)
        playbook = playbook << replace(JOIN, size_bytes=None) >> joined(size_bytes=2 * SIZE) << Prepare(2 * SIZE)
        playbook = (
            playbook >> Prepared() >> lease(7, 0, 4) << WantSlot(0) >> SlotGranted(0) << StartTransfer(0, 0, 0, 4)
        )
        playbook = playbook >> Resized(0, SIZE) << Length(7, D, SIZE) << GiveUp(RESIZED, tainted=True)
        assert playbook >> Stopped() << StopTransfer(0) << Ended(Phase.ABANDONED)
        assert playbook.member.own_size_bytes == SIZE

    def test_a_length_of_our_own_that_the_origin_contradicts_is_the_origins_fault(self) -> None:
        assert leased() >> Resized(0, SIZE - 1)

    def test_what_the_swarm_alone_has_said_of_the_length_is_not_ours_to_tell(self) -> None:
        playbook = told_a_length(2 * SIZE)
        assert playbook >> Sized(D, 2, SIZE) << GiveUp(RESIZED, tainted=True)
        assert playbook.member.own_size_bytes is None

    def test_neighbours_of_another_scheduler_are_parted_with(self) -> None:
        playbook = with_neighbours("b", "c") >> SchedulerFound() << JOIN
        assert (
            playbook
            >> joined("c", "e")
            << RemoveNeighbour("b")
            << AddNeighbour(neighbour("c"))
            << AddNeighbour(neighbour("e"))
        )


class TestLeases:
    def test_what_lands_is_published_at_once_and_neighbours_may_have_it(self) -> None:
        playbook = (
            leased()
            >> PieceLanded(0, 0, digest(0))
            << LeasePieces(7, D, 0, digest(0))
            << gained(("b",), 0, 1)
            >> PieceLanded(0, 1, digest(1))
            << LeasePieces(7, D, 1, digest(1))
            << gained(("b",), 1, 2)
            >> TransferEnded(0, Outcome.DONE)
        )
        assert playbook
        assert playbook.member.may_serve(0, 2 * PIECE)
        assert not playbook.member.may_serve(PIECE, 2 * PIECE + 1)
        assert not playbook.member.may_serve(0, SIZE + 1)

    def test_a_piece_that_lands_twice_is_published_once(self) -> None:
        landed = PieceLanded(0, 0, digest(0))
        playbook = leased() >> landed << LeasePieces(7, D, 0, digest(0)) << gained(("b",), 0, 1)
        assert playbook >> landed

    def test_what_fails_is_for_another_host(self) -> None:
        playbook = leased() >> TransferEnded(0, Outcome.BROKEN)
        assert playbook << LeaseEnded(7, D, LeaseOutcome.FAILED)

    def test_a_refusal_is_told_with_its_status_and_the_client_gets_it(self) -> None:
        assert (
            leased()
            >> TransferEnded(0, Outcome.REFUSED, 401)
            << LeaseEnded(7, D, LeaseOutcome.REFUSED, 401)
            >> OriginRefused(D, 401)
            << Ended(Phase.FAILED)
        )

    def test_a_client_with_other_credentials_goes_on_at_the_origin(self) -> None:
        playbook = leased() >> SourceAdded(1) >> OriginRefused(D, 401)
        assert playbook << WantSlot(0)
        assert playbook.member.standing.state is State.EXPELLED
        assert playbook >> SchedulerFound()

    def test_a_revoked_lease_is_stopped(self) -> None:
        playbook = leased() >> LeaseRevoked(7, D) << StopTransfer(0) >> TransferEnded(0, Outcome.BROKEN)
        assert playbook >> Passes(0.5)

    def test_a_lease_of_another_generation_goes_back(self) -> None:
        returned = LeaseEnded(7, D, LeaseOutcome.RETURNED)
        assert with_neighbours() >> lease(7, 0, 2, generation=2) << progress() << returned

    def test_a_lease_for_a_host_that_cannot_ask_the_origin_at_all(self) -> None:
        playbook = leased() >> TransferEnded(0, Outcome.REFUSED) << LeaseEnded(7, D, LeaseOutcome.FAILED)
        assert playbook >> lease(8, 0, 2) << progress() << LeaseEnded(8, D, LeaseOutcome.FAILED)

    def test_a_lease_that_came_before_joined_is_kept(self) -> None:
        playbook = beginning() >> lease(7, 0, 2, generation=2) >> joined(generation=2)
        assert playbook << WantSlot(0)

    def test_a_lease_of_what_the_origin_sent_before_is_answered_at_once(self) -> None:
        playbook = (
            beginning()
            >> OriginOpened()
            << WantSlot(0)
            >> SlotGranted(0)
            << StartTransfer(0, 0, 0, 4)
            >> TransferOpened(0, SIZE, PIECE, 0, 4)
            >> PieceLanded(0, 0, digest(0))
            >> PieceLanded(0, 1, digest(1))
            >> SchedulerFound()
            << Announce((Holding(D, SIZE, complete=False, have=b"\x03"),))
            << JOIN
            >> joined("b")
            << AddNeighbour(neighbour("b"))
            << StopTransfer(0)
            << progress()
        )
        published = LeasePieces(7, D, 0, digest(0) + digest(1))
        assert playbook >> lease(7, 0, 2) << published << gained(("b",), 0, 2)

    def test_a_lease_of_what_others_sent_goes_back_as_this_host_cannot_vouch_for_it(self) -> None:
        assert (
            fetching()
            >> PieceLanded(None, 0, digest(0))
            << gained(("c",), 0, 1)
            >> FetchEnded(0, FetchOutcome.LANDED)
            >> lease(7, 0, 1)
            << progress(0)
            << LeaseEnded(7, D, LeaseOutcome.RETURNED)
        )

    def test_the_rest_of_such_a_lease_is_seen_to(self) -> None:
        playbook = fetching() >> PieceLanded(None, 0, digest(0)) << gained(("c",), 0, 1)
        playbook = playbook >> FetchEnded(0, FetchOutcome.LANDED) >> FetchEnded(1, FetchOutcome.GONE)
        playbook = playbook << RemoveNeighbour("b") << NeighbourFailed(D, "b", Fault.GONE)
        playbook = playbook >> lease(7, 0, 2) << WantSlot(0) >> SlotGranted(0) << StartTransfer(0, 0, 1, 2)
        playbook = playbook >> TransferOpened(0, SIZE, PIECE, 1, 2)
        assert (
            playbook
            >> PieceLanded(0, 1, digest(1))
            << LeasePieces(7, D, 1, digest(1))
            << progress(0, 1)
            << LeaseEnded(7, D, LeaseOutcome.RETURNED)
            << gained(("c",), 1, 2)
        )

    def test_so_does_one_of_what_others_are_sending(self) -> None:
        assert (
            fetching()
            >> lease(7, 0, 2)
            >> PieceLanded(None, 0, digest(0))
            << gained(("c",), 0, 1)
            >> PieceLanded(None, 1, digest(1))
            << progress(0, 1)
            << LeaseEnded(7, D, LeaseOutcome.RETURNED)
            << gained(("c",), 1, 2)
        )
