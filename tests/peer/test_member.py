"""What a member does with neighbours, and how it ends, conversation by conversation."""

from __future__ import annotations

from peer.core.fetches import HEDGE_LEAST_S
from peer.core.member import DISPROVED
from peer.core.neighbours import BUSY_S
from peer.core.origin_events import (
    BlobVerified,
    Ended,
    Phase,
    PieceLanded,
    SlotGranted,
    SourceAdded,
    StartTransfer,
    Stopped,
    StopTransfer,
    TransferOpened,
    WantSlot,
)
from peer.core.reports import STARVING_AFTER_S
from peer.core.standing import State
from peer.core.swarm_events import (
    AddNeighbour,
    Begun,
    Fetch,
    FetchEnded,
    FetchOutcome,
    GiveUp,
    NeighbourLost,
    Prepare,
    Prepared,
    RemoveNeighbour,
    SchedulerFound,
    SendInlineBlob,
    StopFetch,
    StoreInlineBlob,
    TellNeighbours,
)
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
from scheduler.protocol.inline_blob import InlineBlob
from scheduler.protocol.link import DontHave, Unchoke
from scheduler.protocol.to_host import (
    DigestRun,
    Failed,
    Neighbours,
    PieceDigests,
    RequestDigests,
    Reset,
)
from tests.peer.member_playbook import (
    JOIN,
    PIECE,
    SIZE,
    WHOLE,
    D,
    Passes,
    Playbook,
    digest,
    digests,
    fetching,
    gained,
    holds,
    joined,
    lease,
    leased,
    neighbour,
    progress,
    whole,
    with_neighbours,
)


def served_last() -> Playbook:
    """Pieces 0 and 1 have come from b, which has 2 and 3 too, and has said that others come first now."""
    playbook = fetching() >> digests(2, 3) >> ("b", holds(0, 1, 2, 3))
    for index in range(2):
        playbook = playbook >> PieceLanded(None, index, digest(index)) << gained(("c",), index, index + 1)
        playbook = playbook >> FetchEnded(index, FetchOutcome.LANDED, busy=True)
    return playbook


class TestFetching:
    def test_a_piece_is_asked_for_once_its_digest_is_known_and_somebody_holds_it(self) -> None:
        playbook = with_neighbours("b") >> ("b", holds(0, 1)) >> digests(1)
        assert playbook << Fetch(0, "b", 1, digest(1))

    def test_what_lands_is_offered_to_those_without_it_and_makes_room_for_the_next(self) -> None:
        assert (
            fetching()
            >> digests(2)
            >> ("b", holds(0, 1, 2))
            >> PieceLanded(None, 0, digest(0))
            << gained(("c",), 0, 1)
            >> FetchEnded(0, FetchOutcome.LANDED)
            << Fetch(2, "b", 2, digest(2))
        )

    def test_a_busy_neighbour_is_asked_again_a_little_later(self) -> None:
        playbook = fetching() >> FetchEnded(0, FetchOutcome.BUSY) >> Passes(BUSY_S)
        assert playbook << Fetch(2, "b", 0, digest(0))

    def test_a_busy_neighbour_that_says_that_it_has_room_is_asked_at_once(self) -> None:
        playbook = fetching() >> FetchEnded(0, FetchOutcome.BUSY) >> FetchEnded(1, FetchOutcome.BUSY) >> Passes(0.1)
        playbook = playbook >> ("b", Unchoke(D)) << Fetch(2, "b", 0, digest(0)) << Fetch(3, "b", 1, digest(1))
        assert playbook >> ("b", Unchoke(D))

    def test_a_neighbour_that_says_with_a_piece_that_others_come_first_is_left_alone_until_it_has_room(self) -> None:
        playbook = served_last()
        assert (
            playbook >> Passes(0.1) >> ("b", Unchoke(D)) << Fetch(2, "b", 2, digest(2)) << Fetch(3, "b", 3, digest(3))
        )

    def test_or_for_a_while_if_it_never_says_that(self) -> None:
        playbook = fetching() >> digests(2) >> ("b", holds(0, 1, 2))
        playbook = playbook >> PieceLanded(None, 0, digest(0)) << gained(("c",), 0, 1)
        playbook = playbook >> FetchEnded(0, FetchOutcome.LANDED, busy=True) >> Passes(BUSY_S - 0.1) << progress(0)
        assert playbook >> Passes(0.1) << Fetch(2, "b", 2, digest(2))

    def test_others_are_asked_meanwhile(self) -> None:
        assert served_last() >> ("c", holds(2)) << Fetch(2, "c", 2, digest(2))

    def test_room_that_overtakes_a_refusal(self) -> None:
        playbook = fetching() >> ("b", Unchoke(D)) >> FetchEnded(0, FetchOutcome.BUSY)
        assert playbook << Fetch(2, "b", 0, digest(0))

    def test_room_that_overtakes_a_piece(self) -> None:
        playbook = fetching() >> digests(2) >> ("b", holds(0, 1, 2)) >> ("b", Unchoke(D))
        playbook = playbook >> PieceLanded(None, 0, digest(0)) << gained(("c",), 0, 1)
        assert playbook >> FetchEnded(0, FetchOutcome.LANDED, busy=True) << Fetch(2, "b", 2, digest(2))

    def test_who_has_room_is_asked_for_what_is_missing_by_then(self) -> None:
        """It was refused for piece 0, which the origin brings since."""
        playbook = fetching() >> FetchEnded(0, FetchOutcome.BUSY) >> FetchEnded(1, FetchOutcome.BUSY)
        playbook = playbook >> lease(7, 0, 1) << WantSlot(0) >> SlotGranted(0) << StartTransfer(0, 0, 0, 1)
        assert playbook >> ("b", Unchoke(D)) << Fetch(2, "b", 1, digest(1))

    def test_room_at_a_neighbour_that_has_nothing_of_use(self) -> None:
        assert fetching() >> ("c", Unchoke(D)) >> ("nobody", Unchoke(D))

    def test_news_of_a_busy_neighbour_change_nothing_until_it_has_room(self) -> None:
        playbook = fetching() >> digests(2) >> FetchEnded(0, FetchOutcome.BUSY) >> ("b", holds(0, 1, 2))
        playbook = playbook >> PieceLanded(None, 1, digest(1)) << gained(("c",), 1, 2)
        playbook = playbook >> FetchEnded(1, FetchOutcome.LANDED)
        assert playbook >> ("b", Unchoke(D)) << Fetch(2, "b", 0, digest(0)) << Fetch(3, "b", 2, digest(2))

    def test_what_a_fetch_brings_is_followed_by_its_end_before_anything_is_asked(self) -> None:
        """The neighbour is free only then; before, another would be asked for the next piece."""
        playbook = fetching() >> digests(2) >> ("c", holds(2))
        playbook = playbook << Fetch(2, "c", 2, digest(2)) >> digests(3) >> ("b", holds(0, 1, 3))
        assert playbook >> PieceLanded(None, 0, digest(0)) << gained(("c",), 0, 1)
        assert playbook >> FetchEnded(0, FetchOutcome.LANDED)

    def test_the_only_one_that_has_a_piece_is_asked_for_ever_however_full_it_is(self) -> None:
        playbook = fetching()
        for number in range(30):
            playbook.member.handle(FetchEnded(2 * number, FetchOutcome.BUSY), playbook.now)
            playbook.member.handle(FetchEnded(2 * number + 1, FetchOutcome.BUSY), playbook.now)
            playbook.now += BUSY_S
            out = playbook.member.handle(SourceAdded(0), playbook.now)
            assert sum(isinstance(instruction, Fetch) for instruction in out) == 2
        assert "b" in playbook.member.exchange.neighbours

    def test_one_that_is_gone_is_replaced_at_once(self) -> None:
        assert (
            fetching()
            >> FetchEnded(0, FetchOutcome.GONE)
            << StopFetch(1)
            << RemoveNeighbour("b")
            << NeighbourFailed(D, "b", Fault.GONE)
            >> FetchEnded(1, FetchOutcome.STOPPED)
            >> Neighbours(D, (neighbour("e"),), ())
            << AddNeighbour(neighbour("e"))
            >> ("e", WHOLE)
            << Fetch(2, "e", 0, digest(0))
            << Fetch(3, "e", 1, digest(1))
        )

    def test_one_whose_link_is_lost(self) -> None:
        failed = NeighbourFailed(D, "b", Fault.GONE)
        assert fetching() >> NeighbourLost("b") << StopFetch(0) << StopFetch(1) << RemoveNeighbour("b") << failed

    def test_one_that_sends_other_bytes_is_reported_and_dropped(self) -> None:
        corrupt = Corrupt(D, 1, 0, "b")
        assert fetching() >> FetchEnded(0, FetchOutcome.CORRUPT) << corrupt << StopFetch(1) << RemoveNeighbour("b")

    def test_one_that_the_scheduler_takes_away(self) -> None:
        parted = fetching() >> Neighbours(D, (), ("b",)) << StopFetch(0) << StopFetch(1) << RemoveNeighbour("b")
        assert parted >> ("b", holds(2)) >> digests(2)

    def test_one_that_has_moved_has_no_more_requests_than_before(self) -> None:
        moved = fetching() >> Neighbours(D, (neighbour("b"),), ("b",))
        moved = moved << StopFetch(0) << StopFetch(1) << RemoveNeighbour("b") << AddNeighbour(neighbour("b"))
        assert (
            moved >> digests(2) >> ("b", holds(2)) >> FetchEnded(0, FetchOutcome.STOPPED) << Fetch(2, "b", 2, digest(2))
        )

    def test_one_that_serves_nothing_any_more(self) -> None:
        assert with_neighbours("b") >> ("b", holds(0)) >> ("b", DontHave(D)) >> digests(0)

    def test_the_tail_is_asked_of_two(self) -> None:
        assert (
            with_neighbours("b", "c", "e")
            >> digests(0)
            >> ("b", holds(0))
            << Fetch(0, "b", 0, digest(0))
            >> ("c", holds(0))
            >> Passes(HEDGE_LEAST_S)
            << Fetch(1, "c", 0, digest(0))
            >> PieceLanded(None, 0, digest(0))
            << gained(("e",), 0, 1)
            >> FetchEnded(1, FetchOutcome.LANDED)
            << StopFetch(0)
        )

    def test_nothing_is_hedged_while_there_is_something_else_to_ask_for(self) -> None:
        playbook = fetching() >> Neighbours(D, (neighbour("e"),), ()) << AddNeighbour(neighbour("e"))
        assert playbook >> digests(2) >> ("b", holds(0, 1, 2)) >> Passes(1.0)

    def test_what_the_origin_brings_is_not_asked_of_neighbours(self) -> None:
        assert leased() >> digests(0, 1) >> ("b", holds(0, 1))

    def test_what_neighbours_bring_is_not_asked_of_the_origin(self) -> None:
        playbook = fetching() >> lease(7, 0, 4) << WantSlot(0)
        assert playbook >> SlotGranted(0) << StartTransfer(0, 0, 2, 4)


class TestNewsAndReports:
    def test_what_is_held_is_told_coarsely(self) -> None:
        playbook = fetching() >> PieceLanded(None, 0, digest(0)) << gained(("c",), 0, 1)
        playbook = playbook >> FetchEnded(0, FetchOutcome.LANDED) >> FetchEnded(1, FetchOutcome.BUSY)
        assert playbook >> ("b", Unchoke(D)) << Fetch(2, "b", 1, digest(1)) >> Passes(2.0) << progress(0)

    def test_starving_is_told_again_and_again(self) -> None:
        playbook = with_neighbours() >> Passes(STARVING_AFTER_S) << progress(starving=True)
        assert playbook >> Passes(STARVING_AFTER_S) << progress(starving=True)

    def test_news_of_a_generation_that_comes_before_the_scheduler_tells_of_it(self) -> None:
        playbook = with_neighbours("b") >> ("b", holds(0, generation=2)) >> Reset(D, 2)
        assert playbook >> digests(0, generation=2) << Fetch(0, "b", 0, digest(0))

    def test_what_a_neighbour_is_told_that_was_just_met(self) -> None:
        playbook = fetching() >> PieceLanded(None, 1, digest(1)) << gained(("c",), 1, 2)
        assert playbook
        assert playbook.member.holds() == holds(1)

    def test_a_scheduler_that_has_restarted_learns_everything_again(self) -> None:
        assert (
            fetching()
            >> PieceLanded(None, 0, digest(0))
            << gained(("c",), 0, 1)
            >> FetchEnded(0, FetchOutcome.LANDED)
            >> SchedulerFound()
            << Announce((Holding(D, SIZE, complete=False, have=b"\x01"),))
            << JOIN
            >> joined("b", "c")
            << AddNeighbour(neighbour("b"))
            << AddNeighbour(neighbour("c"))
            >> RequestDigests(D)
            << DigestReport(D, 0, digest(0) + digest(1), last=True)
        )

    def test_a_recall_of_nothing(self) -> None:
        assert with_neighbours() >> RequestDigests(D) << DigestReport(D, 0, b"", last=True)

    def test_what_an_earlier_download_left_is_announced_told_and_offered(self) -> None:
        """The scheduler has never heard of these pieces, and would lease them to be fetched once more."""
        playbook = Playbook() >> SourceAdded(0)
        playbook.member.download.learn_geometry(SIZE, PIECE)
        assert (
            playbook
            >> PieceLanded(None, 2, digest(2))
            >> Prepared()
            >> Begun(connected=True, size_bytes=SIZE)
            << Announce((Holding(D, SIZE, complete=False, have=b"\x04"),))
            << JOIN
            >> joined("b")
            << AddNeighbour(neighbour("b"))
            << progress()
            >> RequestDigests(D)
            << DigestReport(D, 2, digest(2), last=True)
            >> digests(2)
            << gained(("b",), 2, 3)
        )


class TestTheEnd:
    def test_a_right_blob_is_sealed_and_neighbours_are_told(self) -> None:
        ended = TellNeighbours(("b",), WHOLE)
        assert whole() >> BlobVerified(ok=True) << Sealed(D, 1) << ended << StopTransfer(0) << Ended(Phase.COMPLETE)

    def test_a_map_that_a_right_blob_contradicts_is_disproved(self) -> None:
        other = PieceDigests(D, 1, (DigestRun(0, b"x" * 32),))
        playbook = whole() >> other >> BlobVerified(ok=True) << Disproved(D, 1) << Sealed(D, 1)
        assert playbook << TellNeighbours(("b",), WHOLE) << StopTransfer(0) << Ended(Phase.COMPLETE)

    def test_a_wrong_blob_that_all_came_from_the_origin_is_the_origins(self) -> None:
        playbook = whole() >> BlobVerified(ok=False) << Disproved(D, 1)
        assert playbook << StopTransfer(0) << Ended(Phase.FAILED)

    def test_a_wrong_blob_by_the_map_is_thrown_away(self) -> None:
        playbook = fetching() >> digests(2, 3)
        for index in range(4):
            told = ("c",) if index < 2 else ("b", "c")
            playbook = playbook >> PieceLanded(None, index, digest(index)) << gained(told, index, index + 1)
        playbook = playbook >> BlobVerified(ok=False) << Disproved(D, 1) << GiveUp(DISPROVED, tainted=True)
        assert playbook >> Stopped() << Ended(Phase.ABANDONED)

    def test_after_a_reset_what_was_fetched_by_the_map_is_thrown_away(self) -> None:
        playbook = fetching() >> PieceLanded(None, 0, digest(0)) << gained(("c",), 0, 1)
        playbook = playbook >> FetchEnded(0, FetchOutcome.LANDED) >> ("b", DontHave(D))
        playbook = playbook >> FetchEnded(1, FetchOutcome.STOPPED)
        assert playbook >> Reset(D, 2) << GiveUp(DISPROVED, tainted=True) >> Stopped() << Ended(Phase.ABANDONED)

    def test_so_is_what_is_on_its_way(self) -> None:
        assert fetching() >> Reset(D, 2) << GiveUp(DISPROVED, tainted=True)

    def test_after_a_reset_what_came_from_the_origin_is_kept(self) -> None:
        playbook = leased() >> PieceLanded(0, 0, digest(0)) << LeasePieces(7, D, 0, digest(0)) << gained(("b",), 0, 1)
        playbook = playbook >> Reset(D, 2)
        assert playbook >> digests(0, generation=2) << gained(("b",), 0, 1, generation=2)

    def test_a_swarm_that_failed_in_order(self) -> None:
        assert with_neighbours() >> Failed(D, 503, "no") << GiveUp("no", 503) >> Stopped() << Ended(Phase.ABANDONED)

    def test_a_swarm_that_failed_in_doubt_leaves_it_to_the_origin(self) -> None:
        playbook = with_neighbours() >> Reset(D, 2) >> Failed(D, 0, "nobody can tell")
        assert playbook << WantSlot(0)
        assert playbook.member.standing.state is State.EXPELLED

    def test_nothing_comes_of_what_is_said_afterwards(self) -> None:
        ended = with_neighbours("b") >> Stopped() << Ended(Phase.ABANDONED)
        assert ended >> digests(0) >> ("b", holds(0)) >> lease(7, 0, 2) >> Passes(100.0)
        assert ended.member.next_deadline() is None


class TestTinyBlobs:
    def test_the_whole_of_it_comes_from_the_scheduler_and_does_not_go_back(self) -> None:
        tiny = Join(D, "docker.io", "library/app", 4)
        playbook = Playbook() >> Begun(connected=True, size_bytes=4) << Prepare(4) << tiny >> Prepared()
        playbook = playbook >> joined(size_bytes=4) >> InlineBlob(D, b"tiny") << StoreInlineBlob(b"tiny")
        playbook = playbook >> PieceLanded(None, 0, digest(0)) >> BlobVerified(ok=True) << Sealed(D, 1)
        assert playbook << TellNeighbours((), WHOLE) << Ended(Phase.COMPLETE)

    def test_who_fetched_it_sends_it_to_the_scheduler(self) -> None:
        tiny = Join(D, "docker.io", "library/app", 4)
        playbook = Playbook() >> SourceAdded(0) >> Begun(connected=True, size_bytes=4) << Prepare(4) << tiny
        playbook = playbook >> Prepared() >> joined(size_bytes=4) >> lease(7, 0, 4) << WantSlot(0)
        playbook = playbook >> SlotGranted(0) << StartTransfer(0, 0, 0, 1) >> TransferOpened(0, 4, PIECE, 0, 1)
        playbook = playbook >> PieceLanded(0, 0, digest(0)) >> BlobVerified(ok=True) << SendInlineBlob()
        assert playbook << TellNeighbours((), WHOLE) << StopTransfer(0) << Ended(Phase.COMPLETE)
