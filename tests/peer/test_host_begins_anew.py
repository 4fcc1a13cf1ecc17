"""A download whose map proves wrong begins anew: with the same sources and neighbours, and nothing else."""

from __future__ import annotations

from peer.core.events import (
    BlobVerified,
    CancelPiece,
    Ended,
    LinkLost,
    LinkUp,
    Outcome,
    PeerOutcome,
    Phase,
    PiecesHeld,
    Prepare,
    Prepared,
    Recover,
    ReleaseLink,
    SchedulerLost,
)
from peer.core.swarm_member import MAP_DISPROVED
from scheduler.protocol.from_host import Disproved, Fault, LeaseEnded, LeaseOutcome, NeighbourFailed
from scheduler.protocol.link import Have, Span
from scheduler.protocol.to_host import Neighbours, Reset
from tests.peer.host_playbook import (
    JOIN,
    PIECE,
    SCHEDULER_TIMEOUT_S,
    SIZE,
    WHOLE,
    D,
    Passes,
    Playbook,
    asked,
    asked_origin,
    digests,
    failed,
    fetching,
    gained,
    holds,
    joined,
    lease,
    left,
    met,
    neighbour,
    progress,
    range_ended,
    received,
    source,
    told,
)

DISPROVED = Ended(D, Phase.DISPROVED, MAP_DISPROVED, discard=True)


def disproved(playbook: Playbook) -> Playbook:
    """The map is reset while pieces 0 and 1 are asked of b."""
    return playbook >> Reset(D, 2) << CancelPiece(D, 0) << CancelPiece(D, 1) << DISPROVED << Recover(D)


def begun_anew(playbook: Playbook) -> Playbook:
    """And the store has thrown away what was received."""
    return disproved(playbook) >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN >> Prepared(D)


def disproved_by_sha256() -> Playbook:
    """All pieces came from b, and are not the blob; it has begun anew."""
    playbook = fetching() >> digests(2, 3) >> ("b", holds(0, 1, 2, 3))
    for index, next_asked in enumerate(([asked(2, "b", 2)], [asked(3, "b", 3)], [], [])):
        playbook = playbook >> received(index, index) << gained(("c",), index, index + 1) << next_asked
    playbook = playbook >> BlobVerified(D, ok=False) << Disproved(D, 1) << DISPROVED << Recover(D)
    return playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN >> Prepared(D)


class TestSources:
    def test_all_are_kept(self) -> None:
        playbook = begun_anew(fetching() >> source(1)) >> joined(generation=2) << ReleaseLink("b") << ReleaseLink("c")
        playbook = playbook >> lease(7, 0, 4, generation=2) << asked_origin(2, 0, 4)
        playbook = playbook >> range_ended(2, Outcome.REFUSED) << LeaseEnded(7, D, LeaseOutcome.FAILED)
        assert playbook >> lease(8, 0, 4, generation=2) << asked_origin(3, 0, 4, of=1)

    def test_also_those_that_were_given_up(self) -> None:
        """The wrong map may have been why; and whoever brought the source asks again, and brings no other."""
        playbook = fetching() >> lease(7, 2, 4) << asked_origin(2, 2, 4)
        playbook = playbook >> range_ended(2, Outcome.REFUSED) << LeaseEnded(7, D, LeaseOutcome.FAILED)
        playbook = begun_anew(playbook) >> joined("b", "c", generation=2) << told("b", generation=2)
        playbook = playbook << told("c", generation=2)
        assert playbook >> lease(8, 0, 4, generation=2) << asked_origin(3, 0, 4)

    def test_each_is_at_its_own_upstream(self) -> None:
        playbook = begun_anew(fetching() >> source(1, upstream="elsewhere"))
        assert playbook
        upstreams = {number: each.upstream for number, each in playbook.download.origin.sources.items()}
        assert upstreams == {0: "docker.io", 1: "elsewhere"}

    def test_without_a_scheduler_the_origin_is_asked(self) -> None:
        playbook = disproved(fetching()) >> SchedulerLost() >> Passes(SCHEDULER_TIMEOUT_S)
        playbook = playbook >> PiecesHeld(D) << Prepare(D, SIZE) >> Prepared(D)
        assert playbook >> Passes(2 * SCHEDULER_TIMEOUT_S) << asked_origin(2, 0, 4), "once for each neighbour"


class TestNeighbours:
    def test_a_swarm_that_all_leave_forgets_who_lied(self) -> None:
        """So the host does not leave it, and its links stay."""
        playbook = begun_anew(fetching())
        assert playbook.machine.links.wanted_by(D) == ("b", "c")
        playbook = playbook >> joined("b", "c", generation=2) << told("b", generation=2) << told("c", generation=2)
        assert playbook

    def test_those_that_are_none_any_more_are_parted_with(self) -> None:
        playbook = begun_anew(fetching()) >> joined("c", "e", generation=2) << ReleaseLink("b")
        playbook = playbook << told("c", generation=2)
        assert playbook << [met("e")[0], told("e", generation=2)]

    def test_also_those_that_are_taken_away_while_the_store_is_asked(self) -> None:
        playbook = disproved(fetching()) >> Neighbours(D, (neighbour("e"),), ("b",))
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN << ReleaseLink("b") << met("e")

    def test_one_whose_link_is_lost_is_replaced(self) -> None:
        assert disproved(fetching()) >> LinkLost("b") << NeighbourFailed(D, "b", Fault.GONE)

    def test_one_that_holds_the_whole_blob_says_that_once(self) -> None:
        playbook = begun_anew(fetching() >> ("c", WHOLE)) >> joined("b", "c", generation=2)
        playbook = playbook << told("b", generation=2) << told("c", generation=2)
        assert playbook >> digests(0, generation=2) << asked(2, "c", 0)

    def test_what_one_has_told_of_the_new_map_is_not_told_again(self) -> None:
        playbook = begun_anew(fetching() >> ("c", holds(0, generation=2))) >> joined("b", "c", generation=2)
        playbook = playbook << told("b", generation=2) << told("c", generation=2)
        assert playbook >> digests(0, generation=2) << asked(2, "c", 0)

    def test_nor_what_it_tells_while_the_store_is_asked(self) -> None:
        playbook = disproved(fetching()) >> ("b", Have(D, 2, (Span(1, 2),)))
        playbook = playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN >> Prepared(D)
        playbook = playbook >> joined("b", generation=2) << ReleaseLink("c") << told("b", generation=2)
        assert playbook >> digests(0, 1, generation=2) << asked(2, "b", 1)

    def test_what_was_told_of_the_wrong_map_is_worth_nothing(self) -> None:
        playbook = begun_anew(fetching()) >> joined("b", "c", generation=2)
        playbook = playbook << told("b", generation=2) << told("c", generation=2)
        assert playbook >> digests(0, 1, generation=2) >> Passes(0.5)

    def test_also_where_a_wrong_blob_has_disproved_it(self) -> None:
        """The scheduler has told of no new map by then, and may never."""
        playbook = disproved_by_sha256() >> joined("b", "c", generation=2)
        playbook = playbook << told("b", generation=2) << told("c", generation=2)
        assert playbook >> digests(0, 1, generation=2) >> Passes(0.5)

    def test_what_was_told_of_a_map_that_still_holds(self) -> None:
        playbook = disproved_by_sha256() >> joined("b", "c") << told("b") << told("c")
        assert playbook >> digests(0, 1) << asked(4, "b", 0) << asked(5, "b", 1)

    def test_a_link_that_works_introduces_it_with_nothing(self) -> None:
        playbook = fetching() >> received(0, 0) << gained(("c",), 0, 1)
        playbook = playbook >> Reset(D, 2) << CancelPiece(D, 1) << DISPROVED << Recover(D)
        playbook = playbook >> LinkUp("b") << told("b")
        assert playbook
        assert not playbook.machine.may_serve(D, 0, PIECE)


class TestWhatIsUnderWay:
    def test_answers_to_what_was_asked_before_say_nothing(self) -> None:
        playbook = begun_anew(fetching()) >> failed(0, PeerOutcome.CORRUPT) >> failed(1, PeerOutcome.GONE)
        playbook = playbook >> joined("b", generation=2) << ReleaseLink("c") << told("b", generation=2)
        playbook = playbook >> digests(0, 1, generation=2) >> ("b", holds(0, 1, generation=2))
        assert playbook << asked(2, "b", 0) << asked(3, "b", 1)

    def test_a_slot_that_is_in_use_is_not_lost(self) -> None:
        playbook = fetching() >> lease(7, 2, 4) << asked_origin(2, 2, 4)
        playbook = playbook >> Reset(D, 2)
        assert playbook.machine.slots.used() == {"docker.io": 1}
        playbook.machine.handle(range_ended(2, Outcome.BROKEN), playbook.now)
        assert playbook.machine.slots.used() == {"docker.io": 0}


class TestAgain:
    def test_it_may_be_disproved_again(self) -> None:
        playbook = begun_anew(fetching()) >> joined("b", "c", generation=2) << told("b", generation=2)
        playbook = playbook << told("c", generation=2) >> digests(0, generation=2)
        playbook = playbook >> ("b", holds(0, generation=2)) << asked(2, "b", 0)
        playbook = playbook >> Reset(D, 3) << CancelPiece(D, 2) << DISPROVED << Recover(D)
        assert playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN

    def test_with_nobody_who_reads_it_ends_after_a_while(self) -> None:
        playbook = disproved(fetching()) >> Passes(59.9)
        assert playbook >> Passes(0.1) << left("b", "c") << Ended(D, Phase.ABANDONED, discard=False)

    def test_what_was_received_is_not_told(self) -> None:
        playbook = fetching() >> received(0, 0) << gained(("c",), 0, 1) >> Passes(0.1)
        playbook = playbook >> Reset(D, 2) << CancelPiece(D, 1) << DISPROVED << Recover(D)
        playbook = playbook >> PiecesHeld(D) << Prepare(D, SIZE) << JOIN >> Prepared(D)
        playbook = playbook >> joined(generation=2) << ReleaseLink("b") << ReleaseLink("c")
        assert playbook >> Passes(1.0) << progress(starving=True, generation=2)
