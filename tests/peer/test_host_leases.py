"""How a host joins a blob's swarm, and what it does with leases, conversation by conversation."""

from __future__ import annotations

from msgspec import structs

from peer.core.events import (
    CancelRange,
    Ended,
    Outcome,
    PeerOutcome,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    RangeEnded,
    ReaderMoved,
    Recover,
    ReleaseLink,
    SchedulerFound,
    SchedulerLost,
    Stopped,
)
from peer.core.host import HostMachine, HostSettings
from peer.core.membership import ANSWER_FACTOR, MembershipState
from peer.core.swarm_member import RESIZED
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
from scheduler.protocol.to_host import LeaseRevoked, OriginRefused, Sized
from tests.peer.host_playbook import (
    JOIN,
    PIECE,
    SCHEDULER_TIMEOUT_S,
    SETTINGS,
    SIZE,
    D,
    E,
    Passes,
    Playbook,
    asked,
    asked_origin,
    beginning,
    digest,
    digests,
    failed,
    fetching,
    gained,
    holds,
    joined,
    lease,
    leased,
    left,
    met,
    opened,
    progress,
    range_ended,
    received,
    source,
    told,
    with_neighbours,
)


def of_unknown_length() -> Playbook:
    """A download that has asked the scheduler how long the blob is."""
    playbook = Playbook() >> source(size_bytes=None) << Recover(D) >> ReaderMoved(D, 1, 0, None)
    return playbook >> PiecesHeld(D) << structs.replace(JOIN, size_bytes=None)


def told_a_length(size_bytes: int) -> Playbook:
    """A download that knows no length but the one that the scheduler has told."""
    return of_unknown_length() >> joined(size_bytes=size_bytes) << Prepare(D, size_bytes) >> Prepared(D)


class TestJoining:
    def test_nothing_is_asked_of_anybody_before_the_store_has_said_what_it_has(self) -> None:
        alone = HostMachine(HostSettings(has_scheduler=False))
        assert Playbook() >> source() << Recover(D) >> ReaderMoved(D, 1, 0, None) >> Passes(30.0)
        assert alone.handle(source(), 0.0) == [Recover(D)]

    def test_nothing_is_asked_of_anybody_before_the_blob_has_its_place(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN
        playbook = playbook >> joined() >> lease(7, 0, 2)
        assert playbook >> Prepared(D) << asked_origin(0, 0, 2)

    def test_the_origin_is_closed_until_the_scheduler_says_otherwise(self) -> None:
        assert beginning() >> joined() >> Passes(0.9)

    def test_without_an_answer_the_origin_is_open_after_some_patience(self) -> None:
        playbook = beginning() >> Passes(ANSWER_FACTOR * SCHEDULER_TIMEOUT_S - 0.1)
        assert playbook >> Passes(0.1) << asked_origin(0, 0, 4)

    def test_without_a_scheduler_the_origin_is_open_after_patience(self) -> None:
        playbook = Playbook(connected=False) >> source() << Recover(D) >> PiecesHeld(D) << Prepare(D, SIZE)
        playbook = playbook >> Prepared(D) >> Passes(SCHEDULER_TIMEOUT_S - 0.1)
        assert playbook >> Passes(0.1) << asked_origin(0, 0, 4)

    def test_a_scheduler_that_comes_and_goes_does_not_put_it_off(self) -> None:
        playbook = beginning()
        for _ in range(2):
            playbook = playbook >> Passes(ANSWER_FACTOR * SCHEDULER_TIMEOUT_S / 2 - 0.1) >> SchedulerFound() << JOIN
        assert playbook >> Passes(0.2) << asked_origin(0, 0, 4)

    def test_a_scheduler_that_is_found_closes_it_again(self) -> None:
        playbook = beginning() >> SchedulerLost() >> Passes(SCHEDULER_TIMEOUT_S) << asked_origin(0, 0, 4)
        playbook = playbook >> SchedulerFound() << JOIN
        assert playbook >> range_ended(0, Outcome.BROKEN) >> Passes(0.5)

    def test_also_to_a_download_that_waits_for_a_slot(self) -> None:
        """The slot that another blob has used is not taken."""
        playbook = Playbook(structs.replace(SETTINGS, max_ranges_per_origin=1), connected=False) >> Passes(
            SCHEDULER_TIMEOUT_S
        )
        playbook = playbook >> source(blob=E) << Recover(E) >> PiecesHeld(E) << Prepare(E, SIZE)
        playbook = playbook >> Prepared(E) << asked_origin(0, 0, 4, blob=E)
        playbook = playbook >> source() << Recover(D) >> PiecesHeld(D) << Prepare(D, SIZE) >> Prepared(D)
        playbook = playbook >> SchedulerFound() << structs.replace(JOIN, digest=E) << JOIN
        assert playbook >> range_ended(0, Outcome.DONE, blob=E)
        assert playbook.machine.slots.used() == {"docker.io": 0}

    def test_a_length_that_nobody_knew(self) -> None:
        assert (
            Playbook()
            >> source(size_bytes=None)
            << Recover(D)
            >> PiecesHeld(D)
            << Join(D, "docker.io", "library/app", None)
            >> joined("b", size_bytes=None)
            << met("b")
            >> lease(7, 0, 4)
            << asked_origin(0, 0, None)
            >> opened(0, 0, 4)
            << Length(7, D, SIZE)
            >> Sized(D, 1, SIZE)
            >> received(0, 0)
            << LeasePieces(7, D, 0, digest(0))
            << gained(("b",), 0, 1)
        )

    def test_another_length_than_the_one_that_is_known(self) -> None:
        playbook = beginning() >> joined(size_bytes=SIZE + 1) << Ended(D, Phase.DISPROVED, RESIZED, discard=True)
        playbook = playbook << Recover(D)
        assert playbook >> Stopped() << left() << Ended(D, Phase.ABANDONED, discard=False)

    def test_another_length_from_the_origin(self) -> None:
        playbook = leased() >> opened(0, 0, 2, size_bytes=SIZE - 1) << CancelRange(D, 0)
        playbook = playbook << Ended(D, Phase.DISPROVED, RESIZED, discard=True) << Recover(D)
        assert playbook >> Stopped() << left("b") << Ended(D, Phase.ABANDONED, discard=False)

    def test_a_length_of_the_swarms_that_the_origin_contradicts(self) -> None:
        """The host begins anew with the origin's, which it tells in the answer to the lease: so the liar is found."""
        playbook = told_a_length(2 * SIZE) >> lease(7, 0, 4) << asked_origin(0, 0, 4)
        playbook = playbook >> RangeEnded(D, 0, Outcome.UNUSABLE, size_bytes=SIZE) << Length(7, D, SIZE)
        playbook = playbook << Ended(D, Phase.DISPROVED, RESIZED, discard=True) << Recover(D)
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN
        assert playbook.download.member.own_size_bytes == SIZE

    def test_also_where_the_answer_begins_with_it(self) -> None:
        playbook = told_a_length(2 * SIZE) >> lease(7, 0, 4) << asked_origin(0, 0, 4)
        playbook = playbook >> opened(0, 0, 4) << Length(7, D, SIZE) << CancelRange(D, 0)
        playbook = playbook << Ended(D, Phase.DISPROVED, RESIZED, discard=True) << Recover(D)
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN

    def test_a_length_of_our_own_that_the_origin_contradicts_is_the_origins_fault(self) -> None:
        playbook = leased() >> RangeEnded(D, 0, Outcome.UNUSABLE, size_bytes=SIZE - 1)
        playbook = playbook << LeaseEnded(7, D, LeaseOutcome.FAILED)
        assert playbook << left("b") << Ended(D, Phase.FAILED, discard=True)

    def test_what_the_swarm_alone_has_said_of_the_length_is_not_ours_to_tell(self) -> None:
        playbook = told_a_length(2 * SIZE) >> Sized(D, 2, SIZE)
        playbook = playbook << Ended(D, Phase.DISPROVED, RESIZED, discard=True) << Recover(D)
        assert playbook >> PiecesHeld(D) << structs.replace(JOIN, size_bytes=None)
        assert playbook.download.member.own_size_bytes is None

    def test_neighbours_of_another_scheduler_are_parted_with(self) -> None:
        playbook = with_neighbours("b", "c") >> SchedulerFound() << JOIN
        assert playbook >> joined("c", "e") << ReleaseLink("b") << told("c") << met("e")


class TestLeases:
    def test_what_is_received_is_published_at_once_and_neighbours_may_have_it(self) -> None:
        playbook = (
            leased()
            >> received(0, 0)
            << LeasePieces(7, D, 0, digest(0))
            << gained(("b",), 0, 1)
            >> received(0, 1)
            << LeasePieces(7, D, 1, digest(1))
            << gained(("b",), 1, 2)
            >> range_ended(0, Outcome.DONE)
        )
        assert playbook
        assert playbook.machine.may_serve(D, 0, 2 * PIECE)
        assert not playbook.machine.may_serve(D, PIECE, 2 * PIECE + 1)
        assert not playbook.machine.may_serve(D, 0, SIZE + 1)
        assert not playbook.machine.may_serve(E, 0, PIECE)

    def test_a_piece_that_comes_twice_is_published_once(self) -> None:
        playbook = leased() >> received(0, 0) << LeasePieces(7, D, 0, digest(0)) << gained(("b",), 0, 1)
        assert playbook >> received(0, 0)

    def test_what_fails_is_for_another_host(self) -> None:
        playbook = leased() >> range_ended(0, Outcome.BROKEN)
        assert playbook << LeaseEnded(7, D, LeaseOutcome.FAILED)

    def test_a_refusal_is_told_with_its_status_and_the_client_gets_it(self) -> None:
        assert (
            leased()
            >> range_ended(0, Outcome.REFUSED, 401)
            << LeaseEnded(7, D, LeaseOutcome.REFUSED, 401)
            >> OriginRefused(D, 401)
            << left("b")
            << Ended(D, Phase.FAILED, discard=True)
        )

    def test_a_client_with_other_credentials_goes_on_at_the_origin(self) -> None:
        playbook = leased() >> source(1) >> OriginRefused(D, 401)
        assert playbook << asked_origin(1, 2, 4)
        assert playbook.download.member.membership.state is MembershipState.ORIGIN_ONLY
        assert playbook >> SchedulerFound()

    def test_the_request_of_a_revoked_lease_goes_on(self) -> None:
        """The origin may be slow for everybody. What comes is told once it is leased again."""
        playbook = leased() >> LeaseRevoked(7, D) >> received(0, 0) >> Passes(0.5)
        published = LeasePieces(8, D, 0, digest(0))
        assert playbook >> lease(8, 0, 2) << published << gained(("b",), 0, 1)

    def test_until_another_host_has_a_piece_of_it(self) -> None:
        playbook = leased() >> LeaseRevoked(7, D) >> digests(1) << CancelRange(D, 0)
        playbook = playbook >> range_ended(0, Outcome.BROKEN)
        assert playbook >> ("b", holds(1)) << asked(1, "b", 1)

    def test_a_credential_that_was_refused_while_another_goes_on_is_no_refusal(self) -> None:
        playbook = beginning() >> structs.replace(source(1), reserve=True) >> joined() >> lease(7, 0, 2)
        playbook = playbook << asked_origin(0, 0, 2) >> range_ended(0, Outcome.REFUSED, 401)
        playbook = playbook << LeaseEnded(7, D, LeaseOutcome.RETURNED, 401)
        assert playbook >> lease(8, 0, 2) << asked_origin(1, 0, 2, of=1)

    def test_a_lease_of_another_generation_goes_back(self) -> None:
        returned = LeaseEnded(7, D, LeaseOutcome.RETURNED)
        assert with_neighbours() >> lease(7, 0, 2, generation=2) << progress() << returned

    def test_a_lease_for_a_host_that_cannot_ask_the_origin_at_all(self) -> None:
        playbook = leased() >> range_ended(0, Outcome.REFUSED) << LeaseEnded(7, D, LeaseOutcome.FAILED)
        assert playbook >> lease(8, 0, 2) << progress() << LeaseEnded(8, D, LeaseOutcome.FAILED)

    def test_a_lease_that_came_before_joined_is_kept(self) -> None:
        playbook = beginning() >> lease(7, 0, 2, generation=2) >> joined(generation=2)
        assert playbook << asked_origin(0, 0, 2)

    def test_unless_it_was_revoked_before_joined(self) -> None:
        playbook = beginning() >> lease(7, 0, 2) >> lease(8, 2, 4) >> LeaseRevoked(7, D) >> joined()
        assert playbook << asked_origin(0, 2, 4)

    def test_a_lease_of_what_the_origin_sent_before_is_answered_at_once(self) -> None:
        playbook = (
            beginning()
            >> SchedulerLost()
            >> Passes(SCHEDULER_TIMEOUT_S)
            << asked_origin(0, 0, 4)
            >> opened(0, 0, 4)
            >> received(0, 0)
            >> received(0, 1)
            >> SchedulerFound()
            << Announce((Holding(D, SIZE, complete=False, have=b"\x03"),))
            << JOIN
            >> joined("b")
            << met("b")
            << CancelRange(D, 0)
            << progress()
        )
        published = LeasePieces(7, D, 0, digest(0) + digest(1))
        assert playbook >> lease(7, 0, 2) << published << gained(("b",), 0, 2)

    def test_a_lease_of_what_others_sent_goes_back_as_this_host_cannot_vouch_for_it(self) -> None:
        assert (
            fetching()
            >> received(0, 0)
            << gained(("c",), 0, 1)
            >> lease(7, 0, 1)
            << progress(0)
            << LeaseEnded(7, D, LeaseOutcome.RETURNED)
        )

    def test_the_rest_of_such_a_lease_is_seen_to(self) -> None:
        playbook = fetching() >> received(0, 0) << gained(("c",), 0, 1) >> failed(1, PeerOutcome.GONE)
        playbook = playbook << ReleaseLink("b") << NeighbourFailed(D, "b", Fault.GONE)
        playbook = playbook >> lease(7, 0, 2) << asked_origin(2, 1, 2) >> opened(2, 1, 2)
        assert (
            playbook
            >> received(2, 1)
            << LeasePieces(7, D, 1, digest(1))
            << progress(0, 1)
            << LeaseEnded(7, D, LeaseOutcome.RETURNED)
            << gained(("c",), 1, 2)
        )

    def test_so_does_one_of_what_others_are_sending(self) -> None:
        assert (
            fetching()
            >> lease(7, 0, 2)
            >> received(0, 0)
            << gained(("c",), 0, 1)
            >> received(1, 1)
            << progress(0, 1)
            << LeaseEnded(7, D, LeaseOutcome.RETURNED)
            << gained(("c",), 1, 2)
        )
