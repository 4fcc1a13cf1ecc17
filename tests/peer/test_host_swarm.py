"""What a host does with the neighbours of a blob that is on its way, and how it ends, conversation by conversation."""

from __future__ import annotations

import math

from peer.core.events import (
    BlobVerified,
    CancelPiece,
    CancelRange,
    Draining,
    Ended,
    LinkLost,
    Outcome,
    PeerOutcome,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    ReaderLeft,
    ReaderMoved,
    Recover,
    ReleaseLink,
    RequestPiece,
    SchedulerFound,
    SchedulerLost,
    SendInlineBlob,
    Stopped,
    StoreInlineBlob,
    TellNeighbours,
)
from peer.core.membership import MembershipState
from peer.core.neighbours import BUSY_S
from peer.core.peer_requests import HEDGE_LEAST_S
from peer.core.reports import STARVING_AFTER_S
from peer.core.swarm_member import MAP_DISPROVED, RESIZED
from scheduler.protocol.from_host import (
    Announce,
    Corrupt,
    DigestReport,
    Disproved,
    Fault,
    Holding,
    Join,
    LeasePieces,
    NeighbourFailed,
    Sealed,
)
from scheduler.protocol.link import DontHave, Unchoke
from scheduler.protocol.to_host import DigestRun, Failed, InlineBlob, Neighbours, PieceDigests, RequestDigests, Reset
from tests.peer.host_playbook import (
    JOIN,
    PIECE,
    SCHEDULER_TIMEOUT_S,
    SETTINGS,
    SIZE,
    WHOLE,
    D,
    Passes,
    Playbook,
    asked,
    asked_origin,
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
    neighbour,
    opened,
    progress,
    range_ended,
    received,
    source,
    told,
    whole,
    with_neighbours,
)

CANCELLED = PeerOutcome.CANCELLED
CHOKED = PeerOutcome.CHOKED
GONE = PeerOutcome.GONE


def served_last() -> Playbook:
    """Pieces 0 and 1 have come from b, which has 2 and 3 too, and has said that others come first now."""
    playbook = fetching() >> digests(2, 3) >> ("b", holds(0, 1, 2, 3))
    for index in range(2):
        playbook = playbook >> received(index, index, choked=True) << gained(("c",), index, index + 1)
    return playbook


class TestFetching:
    def test_a_piece_is_asked_for_once_its_digest_is_known_and_somebody_holds_it(self) -> None:
        playbook = with_neighbours("b") >> ("b", holds(0, 1)) >> digests(1)
        assert playbook << asked(0, "b", 1)

    def test_what_is_received_is_offered_to_those_without_it_and_makes_room_for_the_next(self) -> None:
        playbook = fetching() >> digests(2) >> ("b", holds(0, 1, 2))
        assert playbook >> received(0, 0) << gained(("c",), 0, 1) << asked(2, "b", 2)

    def test_a_choked_host_asks_again_a_little_later(self) -> None:
        playbook = fetching() >> failed(0, CHOKED) >> Passes(BUSY_S)
        assert playbook << asked(2, "b", 0)

    def test_a_choked_host_that_is_unchoked_asks_at_once(self) -> None:
        playbook = fetching() >> failed(0, CHOKED) >> failed(1, CHOKED) >> Passes(0.1)
        playbook = playbook >> ("b", Unchoke(D)) << asked(2, "b", 0) << asked(3, "b", 1)
        assert playbook >> ("b", Unchoke(D))

    def test_a_neighbour_that_chokes_with_a_piece_is_left_alone_until_it_unchokes(self) -> None:
        assert served_last() >> Passes(0.1) >> ("b", Unchoke(D)) << asked(2, "b", 2) << asked(3, "b", 3)

    def test_or_for_a_while_if_it_never_does_that(self) -> None:
        playbook = fetching() >> digests(2) >> ("b", holds(0, 1, 2))
        playbook = playbook >> received(0, 0, choked=True) << gained(("c",), 0, 1)
        playbook = playbook >> Passes(BUSY_S - 0.1) << progress(0)
        assert playbook >> Passes(0.1) << asked(2, "b", 2)

    def test_others_are_asked_meanwhile(self) -> None:
        assert served_last() >> ("c", holds(2)) << asked(2, "c", 2)

    def test_an_unchoke_that_overtakes_the_choke(self) -> None:
        playbook = fetching() >> ("b", Unchoke(D)) >> failed(0, CHOKED)
        assert playbook << asked(2, "b", 0)

    def test_an_unchoke_that_overtakes_the_piece_with_the_choke(self) -> None:
        playbook = fetching() >> digests(2) >> ("b", holds(0, 1, 2)) >> ("b", Unchoke(D))
        assert playbook >> received(0, 0, choked=True) << gained(("c",), 0, 1) << asked(2, "b", 2)

    def test_who_unchokes_is_asked_for_what_is_missing_by_then(self) -> None:
        """It was refused for piece 0, which the origin brings since."""
        playbook = fetching() >> failed(0, CHOKED) >> failed(1, CHOKED)
        playbook = playbook >> lease(7, 0, 1) << asked_origin(2, 0, 1)
        assert playbook >> ("b", Unchoke(D)) << asked(3, "b", 1)

    def test_an_unchoke_of_a_neighbour_that_has_nothing_of_use(self) -> None:
        assert fetching() >> ("c", Unchoke(D)) >> ("nobody", Unchoke(D))

    def test_news_of_a_neighbour_that_chokes_change_nothing_until_it_unchokes(self) -> None:
        playbook = fetching() >> digests(2) >> failed(0, CHOKED) >> ("b", holds(0, 1, 2))
        playbook = playbook >> received(1, 1) << gained(("c",), 1, 2)
        assert playbook >> ("b", Unchoke(D)) << asked(2, "b", 0) << asked(3, "b", 2)

    def test_the_neighbour_that_sent_a_piece_is_free_before_anything_is_asked(self) -> None:
        """Else another would be asked for the next piece."""
        playbook = fetching() >> digests(2) >> ("c", holds(2)) << asked(2, "c", 2)
        playbook = playbook >> digests(3) >> ("b", holds(0, 1, 3))
        playbook = playbook >> received(0, 0) << gained(("c",), 0, 1)
        assert playbook >> received(1, 1) << gained(("c",), 1, 2) << asked(3, "b", 3)

    def test_the_only_one_that_has_a_piece_is_asked_for_ever_however_often_it_chokes(self) -> None:
        playbook = fetching()
        for number in range(30):
            playbook.machine.handle(failed(2 * number, CHOKED), playbook.now)
            playbook.machine.handle(failed(2 * number + 1, CHOKED), playbook.now)
            playbook.now += BUSY_S
            out = playbook.machine.handle(source(), playbook.now)
            assert sum(isinstance(instruction, RequestPiece) for instruction in out) == 2
        assert "b" in playbook.download.picker.neighbours

    def test_one_that_is_gone_is_replaced_at_once(self) -> None:
        assert (
            fetching()
            >> failed(0, GONE)
            << CancelPiece(D, 1)
            << ReleaseLink("b")
            << NeighbourFailed(D, "b", Fault.GONE)
            >> failed(1, CANCELLED)
            >> Neighbours(D, (neighbour("e"),), ())
            << met("e")
            >> ("e", WHOLE)
            << asked(2, "e", 0)
            << asked(3, "e", 1)
            << told("e")
        )

    def test_one_whose_link_is_lost(self) -> None:
        playbook = fetching() >> LinkLost("b") << CancelPiece(D, 0) << CancelPiece(D, 1)
        assert playbook << NeighbourFailed(D, "b", Fault.GONE)
        assert playbook.machine.links.hosts() == ("c",)

    def test_one_that_sends_other_bytes_is_reported_and_dropped(self) -> None:
        corrupt = Corrupt(D, 1, 0, "b")
        assert fetching() >> failed(0, PeerOutcome.CORRUPT) << corrupt << CancelPiece(D, 1) << ReleaseLink("b")

    def test_one_that_the_scheduler_takes_away(self) -> None:
        parted = fetching() >> Neighbours(D, (), ("b",)) << CancelPiece(D, 0) << CancelPiece(D, 1) << ReleaseLink("b")
        assert parted >> ("b", holds(2)) >> digests(2)

    def test_one_that_has_moved_has_no_more_requests_than_before(self) -> None:
        moved = fetching() >> Neighbours(D, (neighbour("b"),), ("b",))
        moved = moved << CancelPiece(D, 0) << CancelPiece(D, 1) << ReleaseLink("b") << met("b")
        moved = moved >> digests(2) >> ("b", holds(2)) << told("b")
        assert moved >> failed(0, CANCELLED) << asked(2, "b", 2)

    def test_one_that_serves_nothing_any_more(self) -> None:
        assert with_neighbours("b") >> ("b", holds(0)) >> ("b", DontHave(D)) >> digests(0)

    def test_the_tail_is_asked_of_two(self) -> None:
        assert (
            with_neighbours("b", "c", "e")
            >> digests(0)
            >> ("b", holds(0))
            << asked(0, "b", 0)
            >> ("c", holds(0))
            >> Passes(HEDGE_LEAST_S)
            << asked(1, "c", 0)
            >> received(1, 0)
            << gained(("e",), 0, 1)
            << CancelPiece(D, 0)
        )

    def test_nothing_is_hedged_while_there_is_something_else_to_ask_for(self) -> None:
        playbook = fetching() >> Neighbours(D, (neighbour("e"),), ()) << met("e")
        assert playbook >> digests(2) >> ("b", holds(0, 1, 2)) >> Passes(1.0)

    def test_what_the_origin_brings_is_not_asked_of_neighbours(self) -> None:
        assert leased() >> digests(0, 1) >> ("b", holds(0, 1))

    def test_what_neighbours_bring_is_not_asked_of_the_origin(self) -> None:
        assert fetching() >> lease(7, 0, 4) << asked_origin(2, 2, 4)


class TestNewsAndReports:
    def test_what_is_held_is_told_coarsely(self) -> None:
        playbook = fetching() >> received(0, 0) << gained(("c",), 0, 1) >> failed(1, CHOKED)
        assert playbook >> ("b", Unchoke(D)) << asked(2, "b", 1) >> Passes(2.0) << progress(0)

    def test_starving_is_told_again_after_twice_as_long(self) -> None:
        playbook = with_neighbours() >> Passes(STARVING_AFTER_S) << progress(starving=True)
        playbook = playbook >> Passes(2 * STARVING_AFTER_S - 0.1)
        playbook = playbook >> Passes(0.1) << progress(starving=True)
        assert playbook >> Passes(4 * STARVING_AFTER_S) << progress(starving=True)

    def test_news_of_a_generation_that_comes_before_the_scheduler_tells_of_it(self) -> None:
        playbook = with_neighbours("b") >> ("b", holds(0, generation=2)) >> Reset(D, 2)
        assert playbook >> digests(0, generation=2) << asked(0, "b", 0)

    def test_a_scheduler_that_has_restarted_learns_everything_again(self) -> None:
        assert (
            fetching()
            >> received(0, 0)
            << gained(("c",), 0, 1)
            >> SchedulerFound()
            << Announce((Holding(D, SIZE, complete=False, have=b"\x01"),))
            << JOIN
            >> joined("b", "c")
            << told("b", 0)
            << told("c", 0)
            >> RequestDigests(D)
            << DigestReport(D, 0, digest(0) + digest(1), last=True)
        )

    def test_a_recall_of_nothing(self) -> None:
        assert with_neighbours() >> RequestDigests(D) << DigestReport(D, 0, b"", last=True)

    def test_what_an_earlier_download_left_is_announced_told_and_offered(self) -> None:
        """The scheduler has never heard of these pieces, and would lease them to be fetched once more."""
        assert (
            Playbook()
            >> source()
            << Recover(D)
            >> PiecesHeld(D, SIZE, PIECE, {2: digest(2)})
            << Announce((Holding(D, SIZE, complete=False, have=b"\x04"),))
            << JOIN
            >> joined("b")
            << met("b")
            << progress()
            >> RequestDigests(D)
            << DigestReport(D, 2, digest(2), last=True)
            >> digests(2)
            << gained(("b",), 2, 3)
        )

    def test_a_late_piece_of_an_earlier_request_counts_as_held(self) -> None:
        """It was asked for by a download that has ended, and came into the file that this one took over."""
        playbook = with_neighbours("b") >> digests(0) >> received(99, 0) << gained(("b",), 0, 1)
        assert playbook >> ("b", holds(0))  # it is not asked for
        assert playbook.machine.may_serve(D, 0, PIECE)

    def test_though_not_as_the_origins(self) -> None:
        """Whose it was, nobody knows any more: this host does not vouch for its digest."""
        playbook = with_neighbours("b") >> received(99, 0) >> lease(7, 0, 2) << asked_origin(0, 1, 2)
        assert playbook.download.pieces.from_origin == 0


class TestTheEnd:
    def test_a_right_blob_is_sealed_and_neighbours_are_told(self) -> None:
        playbook = whole() >> BlobVerified(D, ok=True) << Sealed(D, 1, SIZE) << TellNeighbours(("b",), WHOLE)
        assert playbook << CancelRange(D, 0) << Ended(D, Phase.COMPLETE)

    def test_a_map_that_a_right_blob_contradicts_is_disproved(self) -> None:
        other = PieceDigests(D, 1, (DigestRun(0, b"x" * 32),))
        playbook = whole() >> other >> BlobVerified(D, ok=True) << Disproved(D, 1) << Sealed(D, 1, SIZE)
        assert playbook << TellNeighbours(("b",), WHOLE) << CancelRange(D, 0) << Ended(D, Phase.COMPLETE)

    def test_a_wrong_blob_that_all_came_from_the_origin_is_the_origins(self) -> None:
        playbook = whole() >> BlobVerified(D, ok=False) << Disproved(D, 1)
        assert playbook << CancelRange(D, 0) << left("b") << Ended(D, Phase.FAILED, discard=True)

    def test_a_wrong_blob_without_a_map_that_says_so_is_the_origins_too(self) -> None:
        other = PieceDigests(D, 1, (DigestRun(0, b"x" * 32),))
        playbook = whole() >> other >> BlobVerified(D, ok=False)
        assert playbook << CancelRange(D, 0) << left("b") << Ended(D, Phase.FAILED, discard=True)

    def test_a_wrong_blob_by_the_map_is_thrown_away_and_begins_anew(self) -> None:
        playbook = fetching() >> digests(2, 3) >> ("b", holds(0, 1, 2, 3))
        for index, next_asked in enumerate(([asked(2, "b", 2)], [asked(3, "b", 3)], [], [])):
            playbook = playbook >> received(index, index) << gained(("c",), index, index + 1) << next_asked
        playbook = playbook >> BlobVerified(D, ok=False) << Disproved(D, 1)
        playbook = playbook << Ended(D, Phase.DISPROVED, MAP_DISPROVED, discard=True) << Recover(D)
        assert playbook >> Stopped() << left("b", "c") << Ended(D, Phase.ABANDONED, discard=False)

    def test_after_a_reset_what_was_fetched_by_the_map_is_thrown_away(self) -> None:
        playbook = fetching() >> received(0, 0) << gained(("c",), 0, 1) >> ("b", DontHave(D)) >> failed(1, CANCELLED)
        playbook = playbook >> Reset(D, 2) << Ended(D, Phase.DISPROVED, MAP_DISPROVED, discard=True) << Recover(D)
        assert playbook >> Stopped() << left("b", "c") << Ended(D, Phase.ABANDONED, discard=False)

    def test_so_is_what_is_on_its_way(self) -> None:
        playbook = fetching() >> Reset(D, 2) << CancelPiece(D, 0) << CancelPiece(D, 1)
        assert playbook << Ended(D, Phase.DISPROVED, MAP_DISPROVED, discard=True) << Recover(D)

    def test_after_a_reset_what_came_from_the_origin_is_kept(self) -> None:
        playbook = leased() >> received(0, 0) << LeasePieces(7, D, 0, digest(0)) << gained(("b",), 0, 1)
        playbook = playbook >> Reset(D, 2)
        assert playbook >> digests(0, generation=2) << gained(("b",), 0, 1, generation=2)

    def test_a_swarm_that_failed_in_order(self) -> None:
        playbook = with_neighbours() >> Failed(D, 503, "no")
        assert playbook << left() << Ended(D, Phase.FAILED, "no", 503, discard=True)

    def test_a_swarm_that_failed_in_doubt_leaves_it_to_the_origin(self) -> None:
        playbook = with_neighbours() >> Reset(D, 2) >> Failed(D, 0, "nobody can tell")
        assert playbook << asked_origin(0, 0, 4)
        assert playbook.download.member.membership.state is MembershipState.ORIGIN_ONLY

    def test_what_was_received_stays_in_the_store_though_the_download_ends(self) -> None:
        playbook = leased() >> received(0, 0) << LeasePieces(7, D, 0, digest(0)) << gained(("b",), 0, 1)
        assert playbook >> Stopped() << CancelRange(D, 0) << left("b") << Ended(D, Phase.ABANDONED)

    def test_nobody_has_read_it_for_too_long(self) -> None:
        linger_s = SETTINGS.linger_s
        playbook = Playbook() >> source() << Recover(D) >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN
        playbook = playbook >> ReaderMoved(D, 1, 0, None) >> ReaderMoved(D, 2, 0, None) >> ReaderLeft(D, 1)
        playbook = playbook >> joined() >> lease(7, 0, 4) >> Passes(linger_s)  # somebody does
        playbook = playbook >> ReaderLeft(D, 2) >> Passes(linger_s - 0.1) >> ReaderMoved(D, 3, 0, None) >> Passes(0.2)
        playbook = playbook >> ReaderLeft(D, 3) >> Passes(linger_s - 0.1)
        assert playbook >> Passes(0.1) << left() << Ended(D, Phase.ABANDONED, discard=True)

    def test_a_host_that_drains_gives_back_what_no_client_waits_for(self) -> None:
        """The lease goes back with the membership."""
        playbook = leased() >> ReaderLeft(D, 1)
        assert playbook >> Draining() << CancelRange(D, 0) << left("b") << Ended(D, Phase.ABANDONED, discard=True)
        ahead = leased() >> ReaderMoved(D, 2, 0, None, background=True) >> ReaderLeft(D, 1)
        assert ahead >> Draining() << CancelRange(D, 0) << left("b") << Ended(D, Phase.ABANDONED, discard=True)

    def test_what_a_client_waits_for_goes_on_until_it_leaves(self) -> None:
        playbook = leased() >> Draining() >> received(0, 0) << LeasePieces(7, D, 0, digest(0)) << gained(("b",), 0, 1)
        assert playbook >> ReaderLeft(D, 1) << CancelRange(D, 0) << left("b") << Ended(D, Phase.ABANDONED)

    def test_nothing_more_is_asked_by_one_that_ends(self) -> None:
        """The last source refuses piece 0, which b holds too."""
        playbook = leased() >> digests(0) >> ("b", holds(0)) >> SchedulerLost() >> Passes(SCHEDULER_TIMEOUT_S)
        playbook = playbook >> Passes(SCHEDULER_TIMEOUT_S)
        playbook = playbook << asked_origin(1, 2, 4) >> range_ended(1, Outcome.BROKEN) << asked_origin(2, 2, 4)
        playbook = playbook >> range_ended(0, Outcome.REFUSED) << CancelRange(D, 2) << left("b")
        assert playbook << Ended(D, Phase.FAILED, discard=True)

    def test_nothing_comes_of_what_is_said_afterwards(self) -> None:
        ended = with_neighbours("b") >> Stopped() << left("b") << Ended(D, Phase.ABANDONED, discard=True)
        assert ended >> digests(0) >> ("b", holds(0)) >> received(0, 0) >> opened(0, 0, 2) >> Passes(100.0)
        assert ended.machine.next_deadline() == math.inf


class TestTinyBlobs:
    def test_the_whole_of_it_comes_from_the_scheduler_and_does_not_go_back(self) -> None:
        tiny = Join(D, "docker.io", "library/app", 4)
        playbook = Playbook() >> source(size_bytes=4) << Recover(D) >> PiecesHeld(D) << Prepare(D, 4) << tiny
        playbook = playbook >> Prepared(D) >> joined(size_bytes=4)
        playbook = playbook >> InlineBlob(D, b"tiny") << StoreInlineBlob(D, b"tiny")
        playbook = playbook >> PiecesHeld(D, 4, PIECE, {0: digest(0)}, verified=True) << Sealed(D, 1)
        assert playbook << TellNeighbours((), WHOLE) << Ended(D, Phase.COMPLETE)

    def test_of_another_length_than_was_said_the_download_begins_anew(self) -> None:
        tiny = Join(D, "docker.io", "library/app", 4)
        playbook = Playbook() >> source(size_bytes=4) << Recover(D) >> PiecesHeld(D) << Prepare(D, 4) << tiny
        playbook = playbook >> Prepared(D) >> PiecesHeld(D, 5, PIECE, {0: digest(0)}, verified=True)
        assert playbook << Ended(D, Phase.DISPROVED, RESIZED, discard=True) << Recover(D)

    def test_other_bytes_than_the_blob_has_do_not_end_it_well(self) -> None:
        playbook = Playbook() >> source(size_bytes=4) << Recover(D) >> PiecesHeld(D) << Prepare(D, 4)
        playbook = playbook << Join(D, "docker.io", "library/app", 4) >> Prepared(D) >> joined(size_bytes=4)
        playbook = playbook >> PiecesHeld(D, 4, PIECE, {0: digest(0)}, verified=False)
        assert playbook << left() << Ended(D, Phase.FAILED, discard=True)

    def test_who_fetched_it_sends_it_to_the_scheduler(self) -> None:
        tiny = Join(D, "docker.io", "library/app", 4)
        playbook = Playbook() >> source(size_bytes=4) << Recover(D) >> PiecesHeld(D) << Prepare(D, 4) << tiny
        playbook = playbook >> Prepared(D) >> joined(size_bytes=4) >> lease(7, 0, 4) << asked_origin(0, 0, 1)
        playbook = playbook >> opened(0, 0, 1, size_bytes=4) >> received(0, 0)
        playbook = playbook >> BlobVerified(D, ok=True) << SendInlineBlob(D)
        assert playbook << TellNeighbours((), WHOLE) << CancelRange(D, 0) << Ended(D, Phase.COMPLETE)
