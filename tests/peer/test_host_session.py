"""The connection to the scheduler as all downloads see it: without one for too long, each asks the origin."""

from __future__ import annotations

import math

from msgspec.structs import replace

from peer.core.events import (
    Ended,
    Outcome,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    ReaderMoved,
    Recover,
    SchedulerFound,
    SchedulerLost,
    StoreFailed,
)
from peer.core.host import HostSettings
from peer.core.session import SessionState
from scheduler.protocol.from_host import Announce, DigestReport, Holding, LeasePieces
from scheduler.protocol.link import Bitfield
from scheduler.protocol.to_host import Failed, Gateway, Neighbours, OriginRefused, RequestDigests, Sized
from tests.peer.host_playbook import (
    JOIN,
    PIECE,
    SCHEDULER_TIMEOUT_S,
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
    gained,
    holds,
    joined,
    lease,
    left,
    met,
    neighbour,
    opened,
    progress,
    range_ended,
    received,
    source,
    told,
    with_neighbours,
)


def of_two_blobs(playbook: Playbook) -> Playbook:
    """Two downloads that know their blobs' lengths."""
    for blob in (D, E):
        playbook = playbook >> source(blob=blob) << Recover(blob) >> PiecesHeld(blob) << Prepare(blob, SIZE)
        if playbook.machine.schedulers.state is SessionState.CONNECTED:
            playbook = playbook << replace(JOIN, digest=blob)
        playbook = playbook >> Prepared(blob)
    return playbook


class TestTheTimeout:
    def test_the_origin_is_open_to_all_downloads_once_it_has_passed(self) -> None:
        playbook = of_two_blobs(Playbook()) >> SchedulerLost() >> Passes(SCHEDULER_TIMEOUT_S - 0.1)
        assert playbook >> Passes(0.1) << asked_origin(0, 0, 4) << asked_origin(1, 0, 4, blob=E)
        assert playbook.machine.schedulers.state is SessionState.MISSING

    def test_to_members_of_a_swarm_once_it_has_passed_for_each_neighbour_too(self) -> None:
        """A neighbour that holds the whole blob asks for nothing."""
        playbook = with_neighbours("b", "c", "d") >> ("d", Bitfield(D, 1, complete=True)) >> SchedulerLost()
        playbook = playbook >> Passes(1.9) << progress(starving=True)
        playbook = playbook >> Passes(1.1) >> Passes(2 * SCHEDULER_TIMEOUT_S - 0.1)
        assert playbook >> Passes(0.1) << asked_origin(0, 0, 4)

    def test_a_host_with_a_lease_goes_on(self) -> None:
        """With every fourth piece after its last one: the other leases are of those between."""
        size = 12 * PIECE
        playbook = Playbook() >> source(size_bytes=size) << Recover(D) >> ReaderMoved(D, 1, 0, None)
        playbook = playbook >> PiecesHeld(D) << Prepare(D, size) << replace(JOIN, size_bytes=size) >> Prepared(D)
        playbook = playbook >> joined("b", size_bytes=size) << met("b") >> ("b", holds()) << told("b")
        playbook = playbook >> lease(7, 1, 2) << asked_origin(0, 1, 2) >> opened(0, 1, 2, size_bytes=size)
        playbook = playbook >> SchedulerLost() >> received(0, 1) << LeasePieces(7, D, 1, digest(1))
        playbook = playbook << gained(("b",), 1, 2) >> range_ended(0, Outcome.DONE) >> Passes(SCHEDULER_TIMEOUT_S)
        playbook = playbook << progress(1, starving=True)
        playbook = playbook << asked_origin(1, 5, 6) >> opened(1, 5, 6, size_bytes=size) >> received(1, 5)
        playbook = playbook >> range_ended(1, Outcome.DONE) << asked_origin(2, 9, 10)
        playbook = playbook >> range_ended(2, Outcome.BROKEN) << asked_origin(3, 9, 10)
        assert playbook >> Passes(SCHEDULER_TIMEOUT_S) << asked_origin(4, 0, 1)

    def test_it_begins_when_the_scheduler_is_lost(self) -> None:
        """And not with each download."""
        playbook = Playbook(connected=False) >> Passes(SCHEDULER_TIMEOUT_S - 1.0)
        assert of_two_blobs(playbook) >> Passes(1.0) << asked_origin(0, 0, 4) << asked_origin(1, 0, 4, blob=E)

    def test_a_scheduler_that_is_found_in_time_ends_it(self) -> None:
        playbook = Playbook(connected=False) >> Passes(SCHEDULER_TIMEOUT_S - 0.1) >> SchedulerFound()
        playbook = of_two_blobs(playbook)
        assert playbook >> Passes(SCHEDULER_TIMEOUT_S)
        assert playbook.machine.schedulers.next_deadline() == math.inf

    def test_it_begins_anew_with_each_loss(self) -> None:
        playbook = of_two_blobs(Playbook(connected=False)) >> Passes(SCHEDULER_TIMEOUT_S)
        playbook = playbook << asked_origin(0, 0, 4) << asked_origin(1, 0, 4, blob=E)
        playbook = playbook >> SchedulerFound() << JOIN << replace(JOIN, digest=E)
        playbook = playbook >> range_ended(0, Outcome.DONE) >> range_ended(1, Outcome.DONE, blob=E)
        playbook = playbook >> SchedulerLost() >> Passes(SCHEDULER_TIMEOUT_S - 0.1)
        assert playbook >> Passes(0.1) << asked_origin(2, 0, 4) << asked_origin(3, 0, 4, blob=E)

    def test_a_download_that_comes_later_asks_the_origin_at_once(self) -> None:
        playbook = Playbook(connected=False) >> Passes(SCHEDULER_TIMEOUT_S) >> source() << Recover(D)
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) >> Prepared(D) << asked_origin(0, 0, 4)

    def test_so_does_one_whose_store_answers_later(self) -> None:
        playbook = Playbook(connected=False) >> source() << Recover(D) >> Passes(SCHEDULER_TIMEOUT_S)
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) >> Prepared(D) << asked_origin(0, 0, 4)

    def test_so_does_each_download_of_a_host_that_never_has_a_scheduler(self) -> None:
        playbook = Playbook(HostSettings(has_scheduler=False)) >> source() << Recover(D)
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) >> Prepared(D) << asked_origin(0, 0, 4)
        assert playbook.machine.next_deadline() < math.inf  # nobody reads it


class TestAScheduler:
    def test_each_download_joins_at_one_that_is_found(self) -> None:
        playbook = of_two_blobs(Playbook(connected=False)) >> SchedulerFound() << JOIN << replace(JOIN, digest=E)
        assert playbook.machine.schedulers.state is SessionState.CONNECTED

    def test_one_whose_store_has_not_answered_joins_then(self) -> None:
        playbook = Playbook(connected=False) >> source() << Recover(D) >> SchedulerFound()
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN

    def test_one_that_was_found_and_lost_meanwhile_is_not_joined(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> SchedulerLost()
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE)

    def test_it_says_how_often_it_wants_to_hear_of_progress(self) -> None:
        playbook = beginning(Playbook(connected=False) >> SchedulerFound(progress_s=7.0)) >> joined("b") << met("b")
        playbook = playbook >> digests(0, 1) >> ("b", holds(0, 1)) << asked(0, "b", 0) << asked(1, "b", 1) << told("b")
        playbook = playbook >> received(0, 0) >> Passes(4.9)
        assert playbook >> Passes(2.1) << progress(0)


class TestWhatIsSaidWhileTheStoreIsAsked:
    """The scheduler may know this host as a member, from a download of the blob that has ended."""

    def test_is_heard_afterwards(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> Neighbours(D, (neighbour("b"),), ()) >> Gateway(D, 0)
        playbook = playbook >> RequestDigests(D) >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN << met("b")
        assert playbook << DigestReport(D, 0, b"", last=True)
        assert playbook.download.picker.neighbours.open_far == 0

    def test_a_lease_too(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> lease(7, 0, 2) >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN
        assert playbook >> joined() >> Prepared(D) << asked_origin(0, 0, 2)

    def test_in_the_order_in_which_it_was_said(self) -> None:
        playbook = Playbook() >> source(size_bytes=None) << Recover(D)
        playbook = playbook >> joined("b", size_bytes=None) >> Sized(D, 1, SIZE) >> digests(0)
        playbook = playbook >> PiecesHeld(D) << replace(JOIN, size_bytes=None) << met("b") << Prepare(D, SIZE)
        assert playbook >> Prepared(D) >> ("b", holds(0)) << asked(0, "b", 0) << told("b")

    def test_what_is_held_is_told_before_it(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> joined("b") >> digests(2)
        playbook = playbook >> PiecesHeld(D, SIZE, PIECE, {2: digest(2)})
        playbook = playbook << Announce((Holding(D, SIZE, complete=False, have=b"\x04"),)) << JOIN << met("b")
        assert playbook << gained(("b",), 2, 3)

    def test_nothing_after_a_message_that_ends_the_download(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> joined() >> Failed(D, 503, "no") >> Failed(D, 503, "no")
        playbook = playbook >> RequestDigests(D) >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN << left()
        assert playbook << Ended(D, Phase.FAILED, "no", 503, discard=True)

    def test_nothing_if_the_store_fails(self) -> None:
        playbook = Playbook() >> source() << Recover(D) >> joined("b") >> OriginRefused(D, 401)
        assert playbook >> StoreFailed(D) << left() << Ended(D, Phase.FAILED, discard=False) >> PiecesHeld(D)

    def test_news_of_neighbours_are_of_no_use_yet(self) -> None:
        assert Playbook() >> source() << Recover(D) >> ("b", holds(0)) >> Passes(1.0)
